"""Which mesh axes a collective runs over, from the groups of devices that its HLO names.

XLA writes the groups in three ways: `{{0,1},{2,3}}`, `[2,4]<=[4,2]T(1,0)` (iota: 0, 1, 2, ... in
that shape, transposed, then cut into rows) and `mesh['a'=2,'b'=4] {'b'}`, where an axis may be cut
as `'b':(2)2`, its factor of 2 behind a factor of 2. A permute has pairs of devices instead. The
numbers are positions in the mesh's device order.
"""

import math
import re

import numpy as np

from t5lite.planning import hlo

NUMBERS = re.compile(r'-?\d+')


def first_group(instruction: hlo.Instruction, num_devices: int) -> np.ndarray:
  """Returns the positions of the first group's devices; of a permute, of its first pair's.

  Raises:
    ValueError: the groups are written in another way.
  """
  text = instruction.attributes
  if pairs := re.search(r'source_target_pairs=\{(\{.*?\})\}', text):
    return np.array(_numbers(pairs[1].partition('}')[0]))
  found = re.search(r'replica_groups=(mesh\[.*?\] \{[^}]*\}|\{\{.*?\}\}|\{\}|\[[^ ]*)', text)
  if not found or found[1] == '{}':
    return np.arange(num_devices)
  groups = found[1].rstrip(', ')
  if groups.startswith('{{'):
    return np.array(_numbers(groups.partition('}')[0]))
  if groups.startswith('mesh['):
    return _mesh(groups)
  if iota := re.fullmatch(r'\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', groups):
    shape, of = _numbers(iota[1]), _numbers(iota[2])
    order = _numbers(iota[3]) if iota[3] else range(len(of))
    return np.arange(math.prod(of)).reshape(of).transpose(order).reshape(shape)[0]
  raise ValueError(f'unknown form of replica groups: {groups[:80]}')


def _mesh(groups: str) -> np.ndarray:
  """Returns the first group of `mesh['a'=2,'b'=4] {'b'}`."""
  mesh, axes = re.fullmatch(r'mesh\[([^\]]*)\] \{([^}]*)\}', groups).groups()  # pyright: ignore
  sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
  if 'device_ids' in groups or not sizes:
    raise ValueError(f'unknown form of replica groups: {groups[:80]}')
  chosen = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes)
  offsets = np.zeros(1, int)
  for name, before, size in chosen:
    names = list(sizes)
    stride = math.prod(sizes[other] for other in names[names.index(name) + 1 :])
    count = int(size or sizes[name])
    stride *= sizes[name] // (int(before or 1) * count)
    offsets = (offsets[:, None] + stride * np.arange(count)).ravel()
  return offsets


def _numbers(text: str) -> list[int]:
  return [int(n) for n in NUMBERS.findall(text)]


def axes(group: np.ndarray, mesh_shape: dict[str, int]) -> tuple[str, ...]:
  """Returns the mesh axes along which the devices of a group differ."""
  places = np.array(np.unravel_index(group, tuple(mesh_shape.values())))
  varies = (places != places[:, :1]).any(axis=1)
  return tuple(axis for axis, differs in zip(mesh_shape, varies, strict=True) if differs)
