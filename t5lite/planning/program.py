"""What one device does in a step, counted in the compiled program, loops times their length.

XLA's own cost analysis counts a loop's body once, which is useless for scanned layers.
"""

from collections.abc import Iterator
import dataclasses
import math
import re
from typing import Any

from t5lite.planning import chips
from t5lite.planning import groups
from t5lite.planning import hlo
from t5lite.planning import loops
from t5lite.planning import matmuls
from t5lite.planning import traffic

COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
  'ragged-all-to-all',
)
# Bytes that a device must send for each byte of `num_bytes`, in a group of n devices, however it is
# done (Thakur et al. 2005, section 4).
WIRE = {
  'all-gather': lambda n: (n - 1) / n,
  'reduce-scatter': lambda n: (n - 1) / n,
  'all-reduce': lambda n: 2 * (n - 1) / n,
  'all-to-all': lambda n: (n - 1) / n,
  'ragged-all-to-all': lambda n: (n - 1) / n,
  'collective-permute': lambda n: 1.0,
}


@dataclasses.dataclass(frozen=True)
class Collective:
  """A collective operation of the program."""

  kind: str
  axes: tuple[str, ...]  # mesh axes that it runs over
  num_devices: int  # of a group
  asynchronous: bool  # other work goes on meanwhile
  count: int  # times a step
  num_bytes: int  # of the whole arrays on one device, each time: gathered, or before the reduction
  largest: int  # bytes of the largest of these arrays
  source: str  # the operation of the JAX program that it comes from
  num_nodes: int = 1  # slices or nodes that a group spans

  @property
  def network(self) -> str:
    """'ici', within a slice or a node (there: NVLink), or 'dcn', where a group spans some."""
    return 'ici' if self.num_nodes == 1 else 'dcn'

  @property
  def total_bytes(self) -> int:
    return self.count * self.num_bytes

  @property
  def wire_bytes(self) -> float:
    """What a device must send in a step, at the least."""
    return self.total_bytes * WIRE[self.kind](self.num_devices)

  @property
  def dcn_bytes(self) -> float:
    """What of that must leave its slice or node, shared by the group's devices there."""
    if self.num_nodes == 1:
      return 0.0
    own = self.kind in ('all-to-all', 'ragged-all-to-all', 'collective-permute')
    sharing = 1 if own else self.num_devices / self.num_nodes
    return self.total_bytes * WIRE[self.kind](self.num_nodes) / sharing


@dataclasses.dataclass(frozen=True)
class Program:
  """One device's work in a step."""

  flops: int = 0  # of matrix products
  hbm_bytes: int = 0  # each instruction reads its operands and writes its result
  cycles: int = 0  # the compiler's estimate, without collectives; 0 where it makes none
  kernel_seconds: float = 0.0  # each instruction but collectives at the larger of its two roofs
  collectives: tuple[Collective, ...] = ()
  unknown_loops: tuple[str, ...] = ()  # counted once, as their length is not in the program

  def __add__(self, other: 'Program') -> 'Program':
    pairs = zip(_fields(self), _fields(other), strict=True)
    return Program(*(mine + theirs for mine, theirs in pairs))

  def times(self, count: int) -> 'Program':
    repeated = tuple(dataclasses.replace(c, count=c.count * count) for c in self.collectives)
    return Program(
      self.flops * count,
      self.hbm_bytes * count,
      self.cycles * count,
      self.kernel_seconds * count,
      repeated,
      self.unknown_loops,
    )


def _fields(program: Program) -> Iterator[Any]:
  return (getattr(program, field.name) for field in dataclasses.fields(program))


def measure(
  text: str,
  mesh_shape: dict[str, int],
  slices: int = 1,
  node_size: int | None = None,
  chip: chips.Chip | None = None,
) -> Program:
  """Returns the work in `compiled.as_text()`, compiled for a mesh of this shape.

  Args:
    slices: of TPUs. The program of several names the devices of one; what crosses goes through the
      host.
    node_size: devices of a node. The program of several nodes names the devices of all.
    chip: for the seconds of the kernels.
  """
  return _Reader(hlo.parse(text), mesh_shape, slices, node_size, chip).computation()


class _Reader:
  """Adds up a module's computations from the entry down."""

  def __init__(
    self,
    module: hlo.Module,
    mesh_shape: dict[str, int],
    slices: int,
    node_size: int | None,
    chip: chips.Chip | None,
  ):
    self.module = module
    self.mesh_shape = mesh_shape
    self.slices = slices
    self.node_size = node_size
    self.chip = chip
    self.num_devices = math.prod(mesh_shape.values()) // slices
    self.done: dict[str, Program] = {}

  def computation(self, name: str | None = None) -> Program:
    """Returns the work of one run of a computation, by default the entry."""
    name = name or self.module.entry
    if name not in self.done:
      computation, channels = self.module.computations[name], set()
      work = (self.instruction(i, computation, channels) for i in computation.values())
      self.done[name] = sum(work, Program())
    return self.done[name]

  def instruction(
    self, i: hlo.Instruction, computation: hlo.Computation, channels: set[str]
  ) -> Program:
    """Returns the work of an instruction. `channels`: collectives counted in this computation."""
    if i.opcode == 'while':
      count = loops.trip_count(self.module, i, computation)
      work = self.computation(i.called('body')[0]).times(count or 1)
      return work + Program(unknown_loops=() if count else (i.name,))
    if i.opcode == 'call':
      return self.computation(i.called('to_apply')[0])
    if i.opcode == 'conditional':
      branches = hlo.NAME.findall(i.attributes.partition('branch_computations=')[2])
      names = i.called('true_computation', 'false_computation') or branches
      return max(map(self.computation, names), key=lambda work: (work.flops, work.cycles))
    flops = matmuls.flops(self.module, i, computation)
    hbm_bytes = traffic.hbm_bytes(self.module, i, computation)
    collectives = tuple(self.collectives(i, computation, channels))
    seconds = 0.0
    if self.chip and not collectives:
      seconds = max(flops / self.chip.peak_flops, hbm_bytes / self.chip.hbm_bandwidth)
    cycles = i.number('estimated_cycles') or 0
    return Program(flops, hbm_bytes, cycles, seconds, collectives)

  def collectives(
    self, i: hlo.Instruction, computation: hlo.Computation, channels: set[str]
  ) -> Iterator[Collective]:
    """Yields the collectives of an instruction, in fusions too.

    An asynchronous one on TPU stands in its first, middle and last fusion: its channel tells.
    """
    if i.opcode == 'send' and 'xla_megascale' in i.attributes:
      yield self._between_slices(i, computation)
    for inner, around in self.module.within(i, computation):
      kind = inner.opcode.removesuffix('-start')
      if kind not in COLLECTIVES:
        continue
      # Different collectives can share a channel: its shape tells them apart.
      channel = f'{kind} {inner.number("channel_id") or inner.name} {inner.shapes[-1].dims}'
      if channel in channels:
        continue
      channels.add(channel)
      fused = inner is not i
      if fused and kind == 'all-reduce' and _scatters(i, inner):
        kind = 'reduce-scatter'
      yield self._collective(kind, inner, around, i)

  def _collective(
    self, kind: str, i: hlo.Instruction, computation: hlo.Computation, outer: hlo.Instruction
  ) -> Collective:
    every_group = groups.all_groups(i, self.num_devices)
    group = every_group[0]
    operands = [shape for name in i.operands for shape in computation[name].shapes]
    scale = len(group) if kind == 'all-gather' else 1
    sizes = [scale * shape.num_bytes for shape in operands]
    source = re.search(r'op_name="([^"]*)"', i.attributes)
    return Collective(
      kind=kind,
      axes=groups.axes(group, self.mesh_shape),
      num_devices=len(group),
      asynchronous=(
        i.opcode.endswith('-start')
        or outer.opcode.endswith('-start')
        or 'async_collective_fusion_config' in i.attributes
      ),
      count=1,
      num_bytes=sum(sizes),
      largest=max(sizes),
      source=source[1] if source else '',
      num_nodes=groups.num_nodes(every_group, self.node_size),
    )

  def _between_slices(self, i: hlo.Instruction, computation: hlo.Computation) -> Collective:
    """Returns what a device hands to its host for the other slices, already summed over its own."""
    kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', i.attributes)
    assert kind, i.attributes
    size = sum(shape.num_bytes for shape in computation[i.operands[0]].shapes)
    return Collective(
      kind=kind[1].lower().replace('_', '-'),
      axes=('replica',),
      num_devices=self.slices,
      asynchronous=True,
      count=1,
      num_bytes=size,
      largest=size,
      source='',
      num_nodes=self.slices,
    )


def _scatters(fusion: hlo.Instruction, reduction: hlo.Instruction) -> bool:
  """Returns whether a fusion keeps only parts of what it reduces: that is how TPUs scatter."""
  kept = sum(shape.num_bytes for shape in fusion.shapes)
  return kept < sum(shape.num_bytes for shape in reduction.shapes)
