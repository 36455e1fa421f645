"""Topologies by name: `v5e:4x4`, `h100:4x8`, `cpu:8`."""

import re

import jax

from t5lite import errors
from t5lite.planning import chips
from t5lite.planning import gpus
from t5lite.planning import tpus


def named(name: str, slices: int = 1) -> chips.Topology:
  """Returns the devices of a TPU or GPU topology that need not be there.

  Raises:
    ConfigError: there is none of that name, or its compiler is not installed.
  """
  found = re.fullmatch(r'([a-z0-9]+):(\d+(?:x\d+)*)', name)
  kind, shape = (found[1], tuple(map(int, found[2].split('x')))) if found else ('', ())
  if kind in tpus.KINDS:
    return tpus.topology(kind, shape, slices)
  kinds = ', '.join((*tpus.KINDS, *gpus.KINDS))
  remedy = f'use KIND:SHAPE, e.g. v5e:4x4, v5p:4x4x4, {gpus.EXAMPLE}; kinds: {kinds}'
  errors.check(kind in gpus.KINDS, 'no such topology', name, remedy)
  errors.check(
    slices == 1,
    'GPUs have no slices',
    f'--slices={slices}',
    f'leave it out and give the nodes in the shape: {name.replace(":", f":{slices}x")}',
  )
  return gpus.topology(kind, shape)


def cpu(count: int) -> chips.Topology:
  """Returns this machine's simulated CPU devices.

  Raises:
    ConfigError: there are not as many.
  """
  devices = jax.devices('cpu')
  errors.check(
    len(devices) >= count,
    'fewer simulated devices than asked for',
    f'cpu:{count}, {len(devices)} there',
    f'set XLA_FLAGS=--xla_force_host_platform_device_count={count}',
  )
  return chips.Topology(f'cpu:{count}', 'cpu', devices[:count])
