"""Estimates what a compiled program's instructions move to and from HBM."""

import collections
from collections.abc import Iterable

from t5lite.planning import hlo

# Opcodes that move nothing, or whose parts are counted where they stand.
FREE = frozenset(
  'parameter constant tuple get-tuple-element bitcast while conditional call after-all '
  'partition-id replica-id opt-barrier iota'.split()
)


def hbm_bytes(module: hlo.Module, i: hlo.Instruction, computation: hlo.Computation) -> int:
  """Returns what an instruction reads from HBM and writes to it.

  An operand that is only sliced, or updated in place, counts with its slices.
  """
  if i.opcode in FREE or i.opcode.endswith('-done'):
    return 0
  operands = [computation[name] for name in i.operands]
  if i.opcode in ('copy-start', 'slice-start'):  # results: (to, from, context)
    moved = min(shape.num_bytes for shape in i.shapes[:2])
    return sum(moved for shape in i.shapes[:2] if not shape.memory)
  made = hlo.results(i, computation)
  if '"__cublas$' in i.attributes:  # a scratch buffer comes behind the product
    made = made[:1]
  written = sum(shape.hbm_bytes for shape in made)
  if i.opcode == 'dynamic-slice':
    return 2 * written
  if i.opcode == 'dynamic-update-slice':
    return 2 * operands[1].shapes[0].hbm_bytes
  if i.opcode in ('fusion', 'fusion-start'):
    read, spared = _fusion_reads(module.computations[i.called('calls')[0]], operands)
    return read + max(0, written - spared)
  distinct = {operand.name: operand for operand in operands if operand.opcode != 'constant'}
  return written + sum(_hbm(operand) for operand in distinct.values())


def _hbm(i: hlo.Instruction) -> int:
  return sum(shape.hbm_bytes for shape in i.shapes)


def _fusion_reads(inner: hlo.Computation, operands: list[hlo.Instruction]) -> tuple[int, int]:
  """Returns the bytes that a fusion reads, and those of its result that stay as they were."""
  users = collections.defaultdict(list)
  for i in inner.values():
    for name in set(i.operands):
      users[name].append(i)
  parameters = {int(i.arguments): i for i in inner.values() if i.opcode == 'parameter'}
  read = spared = 0
  wholly = set()  # an operand can be given twice, and is read once
  for number, operand in enumerate(operands):
    whole = _hbm(operand)
    slices = list(_slices_of(parameters[number], users, inner)) if whole else []
    if not slices or None in slices:
      read += 0 if operand.name in wholly else whole
      wholly.add(operand.name)
      continue
    for kind, size in filter(None, slices):
      if kind == 'dynamic-slice':
        read += min(whole, size)
      else:
        spared += max(0, whole - size)
  return read, spared


def _slices_of(
  i: hlo.Instruction, users: dict[str, list[hlo.Instruction]], inner: hlo.Computation
) -> Iterable[tuple[str, int] | None]:
  """Yields (opcode, bytes) of each slice or update of an array; None for any other use."""
  for user in users[i.name]:
    if user.opcode == 'bitcast':
      yield from _slices_of(user, users, inner)
    elif user.opcode == 'dynamic-slice' and user.operands[0] == i.name:
      yield user.opcode, user.shapes[0].num_bytes
    elif user.opcode == 'dynamic-update-slice' and user.operands[0] == i.name:
      yield user.opcode, inner[user.operands[1]].shapes[0].num_bytes
    else:
      yield None
