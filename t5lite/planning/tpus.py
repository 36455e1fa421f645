"""TPUs that need not be there: libtpu compiles for `KIND:SHAPE`, e.g. `v5e:4x4` or `v5p:4x4x4`."""

import importlib.util
import math
import re
from typing import Any

import jax
from jax.experimental import topologies

from t5lite import compiler
from t5lite import errors
from t5lite import flops
from t5lite.planning import chips

KINDS = ('v4', 'v5e', 'v5p', 'v6e', 'tpu7x')
EXAMPLE = 'v5e:4x4, v6e:16x16 or v5p:4x4x4'
ASSUMED, MEAN = 'assumed: none is published', 'published mean'


def _chip(
  kind: str, hbm: float, ici: float, dcn: float, clock: float, source: str = ASSUMED
) -> chips.Chip:
  """Returns a Chip of gigabytes a second, gigabits a second of DCN and gigahertz."""
  bits = 8
  return chips.Chip(
    peak_flops=flops.PEAK_FLOPS[kind],
    hbm_bandwidth=hbm * chips.GIGA,
    ici_bandwidth=ici * chips.GIGA,
    dcn_bandwidth=dcn * chips.GIGA / bits,
    clock=clock * chips.GIGA,
    watts=flops.WATTS[kind],
    watts_source=source,
  )


# HBM, ICI (half of the bidirectional figure) and DCN (a pod's or a host's, divided): Google Cloud's
# TPU documentation, the page of each version, read 2026-11. A TPU7x chip is two devices.
# Clock: v4 1.05 GHz (Jouppi et al. 2023, table 4). Others are derived: peak FLOP/s over what the
# matrix units do in a cycle (v5e 4 of 128 x 128, v5p 8; v6e and TPU7x 4 of 256 x 256 a device).
CHIPS = {
  'TPU v4': _chip('TPU v4', hbm=1228, ici=300, dcn=50, clock=1.05, source=MEAN),
  'TPU v5 lite': _chip('TPU v5 lite', hbm=819, ici=200, dcn=25, clock=1.5),
  'TPU v5': _chip('TPU v5', hbm=2765, ici=600, dcn=50, clock=1.75),
  'TPU v6 lite': _chip('TPU v6 lite', hbm=1640, ici=400, dcn=100, clock=1.75),
  'TPU7x': _chip('TPU7x', hbm=7380 / 2, ici=600 / 2, dcn=50, clock=2.2),
}


def topology(kind: str, shape: tuple[int, ...], slices: int = 1) -> chips.Topology:
  """Returns the devices of a TPU topology that need not be there.

  Raises:
    ConfigError: libtpu is not installed, or knows no such topology.
  """
  name = f'{kind}:{"x".join(map(str, shape))}'
  remedy = f'use KIND:SHAPE, e.g. {EXAMPLE}'
  errors.check(len(shape) in (2, 3), 'no such topology', name, remedy)
  errors.check(
    1 <= math.prod(shape) <= chips.MOST_DEVICES and slices >= 1,
    'no such topology',
    f'{name}, slices={slices}',
    f'use 1 to {chips.MOST_DEVICES} chips and one slice or more',
  )
  errors.check(
    importlib.util.find_spec('libtpu') is not None,
    'the TPU compiler is not installed',
    'libtpu',
    "pip install 't5lite[tpu]'",
  )
  compiler.without_tpu()
  options: dict[str, Any] = {'num_slices': slices} if slices > 1 else {}
  if kind == 'v4':
    options['chip_config_name'] = 'megacore'  # both cores of a chip are one device, as in training
  if math.prod(shape) == 1:
    options['chips_per_host_bounds'] = (1, 1, 1)
  try:
    described = topologies.get_topology_desc(platform='tpu', topology_name=name, **options)
  except jax.errors.JaxRuntimeError as error:
    raise errors.ConfigError('no such topology', f'{name} ({error})', remedy) from error
  devices = list(described.devices)
  return chips.Topology(name, 'tpu', devices, chip=CHIPS.get(devices[0].device_kind), slices=slices)


def hbm_limit(device: Any) -> int:
  """Returns the bytes of HBM that a program may use, as the TPU compiler says.

  It is asked to compile a program that cannot fit, and its refusal names the limit.
  """
  one = jax.sharding.SingleDeviceSharding(device)
  huge = jax.ShapeDtypeStruct((2**38,), 'float32', sharding=one)
  lowered = jax.jit(lambda x: x + 1).trace(huge).lower(lowering_platforms=('tpu',))
  try:
    lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    return out_of_memory(error)[1]
  raise AssertionError('a terabyte fits')


UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


def out_of_memory(error: Exception) -> tuple[int, int]:
  """Returns (needed, limit) in bytes of the compiler's refusal.

  Raises:
    Exception: `error` itself, if it is about something else.
  """
  size = r'\(?([\d.]+)([KMGT]?)\)?'
  found = re.search(rf'\({size}\) exceeds available HBM \({size}\)', str(error)) or re.search(
    rf'Used {size}i?B? of {size}i?B? hbm', str(error)
  )
  if not found:
    raise error
  needed, unit, limit, limit_unit = found.groups()
  return round(float(needed) * UNITS[unit]), round(float(limit) * UNITS[limit_unit])
