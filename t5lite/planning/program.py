"""What one device does in a step, counted in the compiled program, loops times their length.

XLA's own cost analysis counts a loop's body once, which is useless for scanned layers.
"""

from collections.abc import Iterator
import dataclasses
import math
import re
from typing import Any

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
  network: str  # 'ici', within a slice, or 'dcn', between slices
  source: str  # the operation of the JAX program that it comes from

  @property
  def total_bytes(self) -> int:
    return self.count * self.num_bytes

  @property
  def wire_bytes(self) -> float:
    """What a device must send in a step, at the least."""
    return self.total_bytes * WIRE[self.kind](self.num_devices)


@dataclasses.dataclass(frozen=True)
class Program:
  """One device's work in a step."""

  flops: int = 0  # of matrix products
  hbm_bytes: int = 0  # each instruction reads its operands and writes its result
  cycles: int = 0  # the compiler's estimate, without collectives; 0 where it makes none
  collectives: tuple[Collective, ...] = ()
  unknown_loops: tuple[str, ...] = ()  # counted once, as their length is not in the program

  def __add__(self, other: 'Program') -> 'Program':
    pairs = zip(_fields(self), _fields(other), strict=True)
    return Program(*(mine + theirs for mine, theirs in pairs))

  def times(self, count: int) -> 'Program':
    repeated = tuple(dataclasses.replace(c, count=c.count * count) for c in self.collectives)
    return Program(
      self.flops * count, self.hbm_bytes * count, self.cycles * count, repeated, self.unknown_loops
    )


def _fields(program: Program) -> Iterator[Any]:
  return (getattr(program, field.name) for field in dataclasses.fields(program))


def measure(text: str, mesh_shape: dict[str, int], slices: int = 1) -> Program:
  """Returns the work in `compiled.as_text()`, compiled for a mesh of this shape on TPU slices.

  The program of several slices names the devices of one; what crosses goes through the host.
  """
  return _Reader(hlo.parse(text), mesh_shape, slices).computation()


class _Reader:
  """Adds up a module's computations from the entry down."""

  def __init__(self, module: hlo.Module, mesh_shape: dict[str, int], slices: int):
    self.module = module
    self.mesh_shape = mesh_shape
    self.slices = slices
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
    cycles = i.number('estimated_cycles') or 0
    return Program(
      flops=matmuls.flops(self.module, i, computation),
      hbm_bytes=traffic.hbm_bytes(self.module, i, computation),
      cycles=cycles,
      collectives=tuple(self.collectives(i, computation, channels)),
    )

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
    group = groups.first_group(i, self.num_devices)
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
        or outer.opcode == 'async-start'
        or 'async_collective_fusion_config' in i.attributes
      ),
      count=1,
      num_bytes=sum(sizes),
      largest=max(sizes),
      network='ici',
      source=source[1] if source else '',
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
      network='dcn',
      source='',
    )


def _scatters(fusion: hlo.Instruction, reduction: hlo.Instruction) -> bool:
  """Returns whether a fusion keeps only parts of what it reduces: that is how TPUs scatter."""
  kept = sum(shape.num_bytes for shape in fusion.shapes)
  return kept < sum(shape.num_bytes for shape in reduction.shapes)
