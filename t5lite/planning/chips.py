"""What is known of a device that need not be there: its published numbers and its topology."""

import dataclasses
from typing import Any

GIGA = 1e9
MOST_DEVICES = 8192  # of a topology: a mistyped shape shows at once


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published numbers of one JAX device. Rates are a second; bandwidths are bytes, one way."""

  peak_flops: float  # dense bfloat16; t5lite.flops has the sources
  hbm_bandwidth: float
  ici_bandwidth: float  # of all its links together: TPU's ICI, NVLink
  dcn_bandwidth: float  # its share of its host's network
  clock: float | None  # Hz, of the cycles that the compiler estimates in; None: it estimates none
  watts: float
  watts_source: str
  switch_reduces: bool = False  # the switch between the devices can add up, as NVLink SHARP does


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices to compile for."""

  name: str  # as it was asked for
  platform: str  # 'tpu', 'cuda' or 'cpu'
  devices: list[Any]
  chip: Chip | None = None  # None: nothing is published of them
  slices: int = 1  # of TPUs: the program of several names the devices of one
  node_size: int | None = None  # GPUs of a node, which NVLink joins; the program names all devices
  memory_limit: int | None = None  # bytes that a program may use; None: the compiler says, if any
  limit_source: str = ''

  @property
  def device_kind(self) -> str:
    return self.devices[0].device_kind
