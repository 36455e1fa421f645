"""How often a compiled program runs its loops."""

import re

from t5lite.planning import hlo


def trip_count(
  module: hlo.Module, loop: hlo.Instruction, computation: hlo.Computation
) -> int | None:
  """Returns how often a `while` runs its body; None if the program does not say."""
  if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
    return int(known[1])
  condition = loop.called('condition')[0]
  test = module.roots[condition]
  body = module.computations[loop.called('body')[0]]
  around = module.computations[condition]
  if test.opcode != 'compare' or 'direction=LT' not in test.attributes:
    return None
  counter = around[test.operands[0]]
  if counter.opcode != 'get-tuple-element' or (index := counter.number('index')) is None:
    return None
  first = computation.get(loop.operands[0])
  start = _constant(computation, first.operands[index]) if first else None
  limit = _constant(around, test.operands[1])
  root = module.roots[loop.called('body')[0]]
  step = _step(module, body, root.operands[index]) if root.opcode == 'tuple' else None
  if limit is None or not step:
    return None
  return max(0, -(-(limit - (start or 0)) // step))


def _constant(computation: hlo.Computation, name: str) -> int | None:
  """Returns the whole number that an instruction is, or copies."""
  i = computation[name]
  if i.opcode == 'constant' and re.fullmatch(r'-?\d+', i.arguments):
    return int(i.arguments)
  if i.opcode in ('copy', 'bitcast', 'convert') and i.operands:
    return _constant(computation, i.operands[0])
  return None


def _step(module: hlo.Module, computation: hlo.Computation, name: str) -> int | None:
  """Returns what a loop's counter grows by: the constant of the addition that makes it."""
  i = computation[name]
  if i.opcode == 'fusion':
    inner = i.called('calls')[0]
    return _step(module, module.computations[inner], module.roots[inner].name)
  if i.opcode in ('copy', 'bitcast'):
    return _step(module, computation, i.operands[0])
  if i.opcode != 'add':
    return None
  steps = [_constant(computation, operand) for operand in i.operands]
  return next((step for step in steps if step is not None), None)
