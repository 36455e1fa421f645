"""Which mesh axes a collective runs over, from the groups of devices that its HLO names.

XLA writes the groups in three ways: `{{0,1},{2,3}}`, `[2,4]<=[4,2]T(1,0)` (iota: 0, 1, 2, ... in
that shape, transposed, then cut into rows) and `mesh['a'=2,'b'=4] {'b'}`, where an axis may be cut
as `'b':(2)2`, its factor of 2 behind a factor of 2. A permute has pairs of devices instead. The
numbers are positions in the mesh's device order.
"""

from collections.abc import Iterable
import itertools
import math
import re

import numpy as np

from t5lite.planning import hlo

NUMBERS = re.compile(r'-?\d+')


def all_groups(instruction: hlo.Instruction, num_devices: int) -> list[np.ndarray]:
  """Returns the positions of each group's devices; of a permute, of each pair's.

  Raises:
    ValueError: the groups are written in another way.
  """
  text = instruction.attributes
  if pairs := re.search(r'source_target_pairs=\{(\{.*?\})\}', text):
    return _listed(pairs[1])
  found = re.search(r'replica_groups=(mesh\[.*?\] \{[^}]*\}|\{\{.*?\}\}|\{\}|\[[^ ]*)', text)
  if not found or found[1] == '{}':
    return [np.arange(num_devices)]
  groups = found[1].rstrip(', ')
  if groups.startswith('{{'):
    return _listed(groups)
  if groups.startswith('mesh['):
    return _mesh(groups)
  if iota := re.fullmatch(r'\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', groups):
    shape, of = _numbers(iota[1]), _numbers(iota[2])
    order = _numbers(iota[3]) if iota[3] else range(len(of))
    return _cut(of, order, shape[-1])
  raise ValueError(f'unknown form of replica groups: {groups[:80]}')


def _mesh(groups: str) -> list[np.ndarray]:
  """Returns the groups of `mesh['a'=2,'b'=4] {'b'}`."""
  mesh, axes = re.fullmatch(r'mesh\[([^\]]*)\] \{([^}]*)\}', groups).groups()  # pyright: ignore
  sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
  if 'device_ids' in groups or not sizes:
    raise ValueError(f'unknown form of replica groups: {groups[:80]}')
  chosen = []  # axis, and the products of its factors before and up to the end of the part
  for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes):
    chosen.append((name, int(before or 1), int(before or 1) * int(size or sizes[name])))
  dims = []  # axis, the product before it, and the size of each factor that an axis is cut into
  for name, size in sizes.items():
    cuts = sorted({1, size, *(cut for axis, *ends in chosen if axis == name for cut in ends)})
    dims += [(name, low, high // low) for low, high in itertools.pairwise(cuts)]
  inner = [
    d
    for axis, low, high in chosen
    for d, (name, before, _) in enumerate(dims)
    if name == axis and low <= before < high
  ]
  outer = [d for d in range(len(dims)) if d not in inner]
  shape = [size for *_, size in dims]
  return _cut(shape, outer + inner, math.prod(shape[d] for d in inner))


def _cut(shape: list[int], order: Iterable[int], length: int) -> list[np.ndarray]:
  """Returns 0, 1, 2, ... in that shape, transposed, in rows of that length."""
  places = np.arange(math.prod(shape)).reshape(shape).transpose(tuple(order))
  return list(places.reshape(-1, length))


def _listed(groups: str) -> list[np.ndarray]:
  """Returns the groups of `{{0,1},{2,3}}`."""
  return [np.array(_numbers(group)) for group in re.findall(r'\{([\d,]+)\}', groups)]


def _numbers(text: str) -> list[int]:
  return [int(n) for n in NUMBERS.findall(text)]


def axes(group: np.ndarray, mesh_shape: dict[str, int]) -> tuple[str, ...]:
  """Returns the mesh axes along which the devices of a group differ."""
  places = np.array(np.unravel_index(group, tuple(mesh_shape.values())))
  varies = (places != places[:, :1]).any(axis=1)
  return tuple(axis for axis, differs in zip(mesh_shape, varies, strict=True) if differs)


def num_nodes(groups: list[np.ndarray], node_size: int | None) -> int:
  """Returns how many nodes the group that spans the most of them does; 1 if there are none."""
  if node_size is None:
    return 1
  return max(len(set((group // node_size).tolist())) for group in groups)
