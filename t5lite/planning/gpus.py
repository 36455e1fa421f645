"""GPUs that need not be there: XLA compiles for `KIND:GPUS` of a node or `KIND:NODESxGPUS`.

It asks for a description of the card, which is made here of published numbers. It needs jax's CUDA
plugin with NVIDIA's assembler and device library, and neither a driver nor the other libraries.
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
import pathlib
import re

from jax.experimental import topologies

from t5lite import errors
from t5lite import flops
from t5lite.planning import chips

MOST_OF_A_NODE = 8  # GPUs that NVLink joins in a DGX or HGX
EXAMPLE = 'h100:8, one node, or h100:4x8, four nodes of eight GPUs'
# The share of a card's memory that jax takes for itself, unless XLA_CLIENT_MEM_FRACTION says
# another. Where a newer jax may take more as it goes on, the plan is on the safe side.
PREALLOCATED = 0.75


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
  """Published numbers of a GPU in its node. Sizes are in the units that NVIDIA gives them in."""

  name: str  # as the driver says it; jax's device_kind
  capability: tuple[int, int]
  multiprocessors: int
  lanes: int = 128  # float32 operations of a multiprocessor in a cycle
  boost_ghz: float
  shared_kib: int = 228  # of a multiprocessor; a block can have all but one KiB
  l2_mb: int
  memory_gb: int
  memory_gb_per_second: int
  nvlinks: int
  nvlink_gb_per_second: int  # of all links, both ways
  nic_gbit_per_second: int
  switch_reduces: bool = True


# Multiprocessors, clock, L2: NVIDIA's architecture whitepapers of A100 (2020) and H100 (2022). None
# has them of B200: 148 and 126 MB are as reported of a card (Chips and Cheese 2025), and the clock
# follows from the 600 TFLOPs of float32 of HGX B200's eight.
# Memory, NVLink: the data sheets of A100 80GB SXM, H100 SXM, H200 SXM and DGX B200.
# Shared memory, lanes: CUDA C++ Programming Guide, tables by compute capability.
# NIC: an InfiniBand port for each GPU in DGX A100, DGX H100, DGX H200 and DGX B200.
CARDS = {
  'a100': Card(
    name='NVIDIA A100-SXM4-80GB',
    capability=(8, 0),
    multiprocessors=108,
    lanes=64,
    boost_ghz=1.41,
    shared_kib=164,
    l2_mb=40,
    memory_gb=80,
    memory_gb_per_second=2039,
    nvlinks=12,
    nvlink_gb_per_second=600,
    nic_gbit_per_second=200,
    switch_reduces=False,
  ),
  'h100': Card(
    name='NVIDIA H100 80GB HBM3',
    capability=(9, 0),
    multiprocessors=132,
    boost_ghz=1.98,
    l2_mb=50,
    memory_gb=80,
    memory_gb_per_second=3350,
    nvlinks=18,
    nvlink_gb_per_second=900,
    nic_gbit_per_second=400,
  ),
  'h200': Card(
    name='NVIDIA H200',
    capability=(9, 0),
    multiprocessors=132,
    boost_ghz=1.98,
    l2_mb=50,
    memory_gb=141,
    memory_gb_per_second=4800,
    nvlinks=18,
    nvlink_gb_per_second=900,
    nic_gbit_per_second=400,
  ),
  'b200': Card(
    name='NVIDIA B200',
    capability=(10, 0),
    multiprocessors=148,
    boost_ghz=1.98,
    l2_mb=126,
    memory_gb=180,
    memory_gb_per_second=8000,
    nvlinks=18,
    nvlink_gb_per_second=1800,
    nic_gbit_per_second=400,
  ),
}
KINDS = tuple(CARDS)


def topology(kind: str, shape: tuple[int, ...]) -> chips.Topology:
  """Returns the GPUs of one node, shape (GPUs,), or of several, shape (nodes, GPUs of each).

  Raises:
    ConfigError: the shape is another, or jax's CUDA plugin is not installed.
  """
  name = f'{kind}:{"x".join(map(str, shape))}'
  card, (nodes, gpus) = CARDS[kind], (1, *shape)[-2:]
  errors.check(
    len(shape) <= 2 and 1 <= gpus <= MOST_OF_A_NODE and 1 <= nodes * gpus <= chips.MOST_DEVICES,
    'no such topology',
    name,
    f'use {EXAMPLE}: 1 to {MOST_OF_A_NODE} GPUs a node, {chips.MOST_DEVICES} in all',
  )
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  for there, what in (
    (any('cuda' in plugin.name for plugin in plugins), "jax's CUDA plugin"),
    (bool(toolkits()), "NVIDIA's libdevice"),
  ):
    errors.check(there, 'the GPU compiler is not installed', what, "pip install 't5lite[cuda13]'")
  described = topologies.get_topology_desc(
    platform='cuda',
    topology_name=name,
    target_config=description(card),
    topology=f'1x{nodes}x{gpus}',  # partitions, nodes, GPUs
  )
  return chips.Topology(
    name,
    'cuda',
    list(described.devices),
    chip=chip(card),
    node_size=gpus,
    memory_limit=int(PREALLOCATED * card.memory_gb * chips.GIGA),
    limit_source=f"{PREALLOCATED:.0%} of {card.memory_gb} GB, jax's own share by default",
  )


def toolkits() -> list[pathlib.Path]:
  """Returns the CUDA toolkits where XLA looks that have libdevice: without it, it crashes."""
  spec = importlib.util.find_spec('nvidia')
  packages = [pathlib.Path(place) for place in (spec and spec.submodule_search_locations) or ()]
  given = re.findall(r'--xla_gpu_cuda_data_dir=(\S+)', os.environ.get('XLA_FLAGS', ''))
  roots = [*(root for place in packages for root in place.iterdir()), *map(pathlib.Path, given)]
  roots += [pathlib.Path('/usr/local/cuda'), pathlib.Path('/opt/cuda')]
  return [root for root in roots if (root / 'nvvm/libdevice/libdevice.10.bc').is_file()]


def chip(card: Card) -> chips.Chip:
  """Returns what bounds are computed from; of the network a GPU has a port of its own."""
  bits, ways = 8, 2
  return chips.Chip(
    peak_flops=flops.PEAK_FLOPS[card.name],
    hbm_bandwidth=card.memory_gb_per_second * chips.GIGA,
    ici_bandwidth=card.nvlink_gb_per_second / ways * chips.GIGA,
    dcn_bandwidth=card.nic_gbit_per_second / bits * chips.GIGA,
    clock=None,
    watts=flops.WATTS[card.name],
    watts_source="the card's published maximum",
    switch_reduces=card.switch_reduces,
  )


def description(card: Card) -> str:
  """Returns XLA's GpuTargetConfigProto as text, with the fields that its programs depend on.

  Limits that are the same for all these cards: CUDA C++ Programming Guide, as above.
  """
  kib, mib = 2**10, 2**20
  major, minor = card.capability
  fields = {
    'name': f'"{card.name}"',
    'cuda_compute_capability': f'{{ major: {major} minor: {minor} }}',
    'core_count': card.multiprocessors,
    'fpus_per_core': card.lanes,
    'clock_rate_ghz': card.boost_ghz,
    'threads_per_warp': 32,
    'threads_per_block_limit': 1024,
    'threads_per_core_limit': 2048,
    'block_dim_limit_x': 2**31 - 1,
    'block_dim_limit_y': 2**16 - 1,
    'block_dim_limit_z': 2**16 - 1,
    'registers_per_block_limit': 2**16,
    'registers_per_core_limit': 2**16,
    'shared_memory_per_block': 48 * kib,
    'shared_memory_per_block_optin': (card.shared_kib - 1) * kib,
    'shared_memory_per_core': card.shared_kib * kib,
    'l2_cache_size': card.l2_mb * mib,
    'device_memory_size': int(card.memory_gb * chips.GIGA),
    'memory_bandwidth': int(card.memory_gb_per_second * chips.GIGA),
    'device_interconnect_info': f'{{ active_links: {card.nvlinks} }}',
  }
  body = '\n'.join(f'  {name}: {value}' for name, value in fields.items())
  kind = f'platform_name: "CUDA"\ndevice_description_str: "{card.name}"'
  return f'gpu_device_info {{\n{body}\n}}\n{kind}\n'
