"""Reads the text of a compiled program (XLA's HLO) into computations and instructions.

Only what `program` measures is read: opcodes, shapes, operands and the text of the attributes.
"""

from collections.abc import Iterator
import dataclasses
import functools
import math
import re

BITS = {
  'pred': 8,
  **{f'{kind}{bits}': bits for kind in 'su' for bits in (2, 4, 8, 16, 32, 64)},
  **{'f16': 16, 'bf16': 16, 'f32': 32, 'f64': 64, 'c64': 64, 'c128': 128},
  **{name: 8 for name in ('f8e4m3fn', 'f8e5m2', 'f8e4m3', 'f8e3m4', 'f8e4m3b11fnuz')},
}
# What runs another computation as one instruction; of the last two only the start names it.
FUSIONS = ('fusion', 'fusion-start', 'async-start')
SHAPE = re.compile(r'\b([a-z]+[0-9][a-z0-9]*|pred)\[([0-9,]*)\](\{[^}]*\})?')
HEADER = re.compile(r'^(ENTRY )?%?([\w.\-]+) (?:\(|\{)')
INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.*)$')
NAME = re.compile(r'%([\w.\-]+)')


@dataclasses.dataclass(frozen=True)
class Shape:
  """An array's type and where it lives."""

  dtype: str
  dims: tuple[int, ...]
  memory: int  # TPU's S(n): 0 is HBM, 1 VMEM, others scalars, flags and the host

  @property
  def num_bytes(self) -> int:
    return math.prod(self.dims) * BITS[self.dtype] // 8

  @property
  def hbm_bytes(self) -> int:
    return 0 if self.memory else self.num_bytes


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation."""

  name: str
  opcode: str
  shapes: tuple[Shape, ...]  # of the result; more than one for a tuple
  operands: tuple[str, ...]
  arguments: str  # text between the parentheses
  attributes: str  # text behind them
  is_root: bool

  def called(self, *keys: str) -> list[str]:
    """Returns the computations under these attributes, e.g. 'calls', 'body'."""
    pattern = rf'\b(?:{"|".join(keys)})=%?([\w.\-]+)'
    return re.findall(pattern, self.attributes)

  def number(self, key: str) -> int | None:
    """Returns the whole number `key` of the attributes; None if it is not there."""
    found = re.search(rf'"?\b{key}"?[=:]"?(\d+)', self.attributes)
    return int(found[1]) if found else None

  def dims_of(self, key: str) -> tuple[int, ...]:
    """Returns the list of numbers `key={1,2}`; empty if it is not there."""
    found = re.search(rf'\b{key}=\{{([\d,]*)\}}', self.attributes)
    return tuple(int(n) for n in found[1].split(',') if n) if found else ()


Computation = dict[str, Instruction]


def results(i: Instruction, computation: Computation) -> tuple[Shape, ...]:
  """Returns the shapes of what an instruction makes.

  On GPU, the start of an asynchronous one returns its operands before them, a fusion's a context
  behind them.
  """
  operands = tuple(shape for name in i.operands for shape in computation[name].shapes)
  if not i.opcode.endswith('-start') or i.shapes[: len(operands)] != operands:
    return i.shapes
  made = i.shapes[len(operands) :]
  return made[:-1] if len(made) > 1 and i.opcode in FUSIONS else made or i.shapes


@dataclasses.dataclass(frozen=True)
class Module:
  """A compiled program."""

  computations: dict[str, Computation]
  entry: str

  @functools.cached_property
  def roots(self) -> dict[str, Instruction]:
    """The root of each computation."""
    lines = self.computations.items()
    return {name: next(i for i in body.values() if i.is_root) for name, body in lines if body}

  def within(
    self, i: Instruction, computation: Computation
  ) -> Iterator[tuple[Instruction, Computation]]:
    """Yields an instruction of `computation`, and those of the fusions in it, each with its own."""
    yield i, computation
    if i.opcode in FUSIONS:
      for name in i.called('calls'):
        inner = self.computations[name]
        for j in inner.values():
          yield from self.within(j, inner)


def parse(text: str) -> Module:
  """Returns the program of `compiled.as_text()`.

  Raises:
    ValueError: it has no entry computation, so it is not such a text.
  """
  computations: dict[str, Computation] = {}
  entry, current = None, None
  for line in text.splitlines():
    if not line.startswith((' ', '}')) and line.rstrip().endswith('{') and '->' in line:
      header = HEADER.match(line)
      if header:
        current = computations.setdefault(header[2], {})
        entry = header[2] if header[1] else entry
    elif line.startswith('}'):
      current = None
    elif current is not None and (found := INSTRUCTION.match(line)):
      instruction = _instruction(found[2], found[3], is_root=bool(found[1]))
      current[instruction.name] = instruction
  if entry is None:
    raise ValueError('no ENTRY computation: not the text of a compiled program')
  return Module(computations, entry)


def _instruction(name: str, text: str, *, is_root: bool) -> Instruction:
  """Returns the instruction of `TYPE OPCODE(ARGUMENTS), ATTRIBUTES`."""
  end = _closing(text, 0) + 1 if text.startswith('(') else text.index(' ')
  result, rest = text[:end], text[end:].lstrip()
  open_ = rest.index('(')
  close = _closing(rest, open_)
  arguments = rest[open_ + 1 : close]
  return Instruction(
    name=name,
    opcode=rest[:open_],
    shapes=tuple(shapes(result)),
    operands=tuple(NAME.findall(arguments)),
    arguments=arguments,
    attributes=rest[close + 1 :],
    is_root=is_root,
  )


def _closing(text: str, start: int) -> int:
  """Returns the index of the parenthesis that closes the one at `start`."""
  depth = 0
  for found in re.compile(r'[()]').finditer(text, start):
    depth += 1 if found[0] == '(' else -1
    if not depth:
      return found.start()
  raise ValueError(f'parentheses do not close: {text[:80]}')


def shapes(text: str) -> list[Shape]:
  """Returns the array shapes in the text of a type."""
  found = []
  for dtype, dims, layout in SHAPE.findall(text):
    if dtype in BITS:
      memory = re.search(r'S\((\d+)\)', layout)
      sizes = tuple(int(n) for n in dims.split(',') if n)
      found.append(Shape(dtype, sizes, int(memory[1]) if memory else 0))
  return found
