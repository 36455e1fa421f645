"""Devices that need not be there: their descriptions by topology name, and their published numbers.

A topology is `KIND:SHAPE`, e.g. `v5e:4x4` or `v5p:4x4x4`: what libtpu compiles for without a TPU.
"""

import dataclasses
import importlib.util
import math
import re
from typing import Any

import jax
from jax.experimental import topologies

from t5lite import compiler
from t5lite import errors
from t5lite import flops

KINDS = ('v4', 'v5e', 'v5p', 'v6e', 'tpu7x')
MOST_CHIPS = 8192  # of a topology: a mistyped shape shows at once
GIGA = 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published numbers of one JAX device. Rates are a second; bandwidths are bytes, one way."""

  peak_flops: float  # dense bfloat16; t5lite.flops has the sources
  hbm_bandwidth: float
  ici_bandwidth: float  # of all its links together
  dcn_bandwidth: float  # its share of its host's network
  clock: float  # Hz, of the cycles that the compiler estimates in
  watts: float
  watts_are_assumed: bool


def _chip(
  kind: str, hbm: float, ici: float, dcn: float, clock: float, watts: float, assumed: bool = True
) -> Chip:
  """Returns a Chip of gigabytes a second, gigabits a second of DCN, gigahertz and watts."""
  bits = 8
  return Chip(
    flops.PEAK_FLOPS[kind], hbm * GIGA, ici * GIGA, dcn * GIGA / bits, clock * GIGA, watts, assumed
  )


# HBM, ICI (half of the bidirectional figure) and DCN (a pod's or a host's, divided): Google Cloud's
# TPU documentation, the page of each version, read 2026-11. A TPU7x chip is two devices.
# Clock: v4 1.05 GHz (Jouppi et al. 2023, table 4). Others are derived: peak FLOP/s over what the
# matrix units do in a cycle (v5e 4 of 128 x 128, v5p 8; v6e and TPU7x 4 of 256 x 256 a device).
# Watts: v4 is the documentation's mean. No figure is published for the others: assumed.
CHIPS = {
  'TPU v4': _chip('TPU v4', hbm=1228, ici=300, dcn=50, clock=1.05, watts=170, assumed=False),
  'TPU v5 lite': _chip('TPU v5 lite', hbm=819, ici=200, dcn=25, clock=1.5, watts=200),
  'TPU v5': _chip('TPU v5', hbm=2765, ici=600, dcn=50, clock=1.75, watts=400),
  'TPU v6 lite': _chip('TPU v6 lite', hbm=1640, ici=400, dcn=100, clock=1.75, watts=300),
  'TPU7x': _chip('TPU7x', hbm=7380 / 2, ici=600 / 2, dcn=50, clock=2.2, watts=450),
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices to compile for."""

  name: str  # as it was asked for
  platform: str  # 'tpu' or 'cpu'
  slices: int
  devices: list[Any]

  @property
  def device_kind(self) -> str:
    return self.devices[0].device_kind


def cpu(count: int) -> Topology:
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
  return Topology(f'cpu:{count}', 'cpu', 1, devices[:count])


def tpu(name: str, slices: int = 1) -> Topology:
  """Returns the devices of a TPU topology that need not be there.

  Raises:
    ConfigError: libtpu is not installed, or knows no such topology.
  """
  found = re.fullmatch(r'([a-z0-9]+):(\d+(?:x\d+){1,2})', name)
  example = 'use KIND:SHAPE, e.g. v5e:4x4, v6e:16x16 or v5p:4x4x4'
  if not found or found[1] not in KINDS:
    raise errors.ConfigError('no such topology', name, f'{example}; kinds: {", ".join(KINDS)}')
  shape = tuple(map(int, found[2].split('x')))
  errors.check(
    1 <= math.prod(shape) <= MOST_CHIPS and slices >= 1,
    'no such topology',
    f'{name}, slices={slices}',
    f'use 1 to {MOST_CHIPS} chips and one slice or more',
  )
  errors.check(
    importlib.util.find_spec('libtpu') is not None,
    'the TPU compiler is not installed',
    'libtpu',
    "pip install 't5lite[tpu]'",
  )
  compiler.without_tpu()
  options: dict[str, Any] = {'num_slices': slices} if slices > 1 else {}
  if found[1] == 'v4':
    options['chip_config_name'] = 'megacore'  # both cores of a chip are one device, as in training
  if math.prod(shape) == 1:
    options['chips_per_host_bounds'] = (1, 1, 1)
  try:
    described = topologies.get_topology_desc(platform='tpu', topology_name=name, **options)
  except jax.errors.JaxRuntimeError as error:
    raise errors.ConfigError('no such topology', f'{name} ({error})', example) from error
  return Topology(name, 'tpu', slices, list(described.devices))


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
