"""Which tensor of a Hugging Face model holds which of t5lite's arrays: one table for both ways.

t5lite stacks the layers of a stack along a first dimension L; Hugging Face has a tensor for each.
A torch Linear keeps its matrix as [out, in], t5lite and GPT-2's Conv1D as [in, out].
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


Shape = tuple[int, ...]


class Entry(NamedTuple):
  """A tensor by its name; with `{}` in it, one for each layer."""

  name: str
  paths: tuple[str, ...]  # the arrays in it, one behind another along their last dimension
  transposed: bool = False
  first: int = 0  # the first layer that has one; in the layers before, the arrays are ones
  before: int = 0  # rows of zeros before the array's, for positions that no token has


class Slot(NamedTuple):
  """One tensor: a whole array, or its part of one layer."""

  name: str
  entry: Entry
  layer: int | None
  shape: Shape


def slots(entries: Sequence[Entry], shapes: Mapping[str, Shape]) -> list[Slot]:
  """Returns every tensor of a model whose arrays have these shapes; each array has its place."""
  placed = [path for entry in entries for path in entry.paths]
  assert sorted(placed) == sorted(shapes), set(placed) ^ set(shapes)
  return [slot for entry in entries for slot in _slots_of(entry, shapes)]


def _slots_of(entry: Entry, shapes: Mapping[str, Shape]) -> list[Slot]:
  parts = [shapes[path] for path in entry.paths]
  stacked = '{}' in entry.name
  rows = [part[1:] if stacked else part for part in parts]
  shape = (*rows[0][:-1], sum(row[-1] for row in rows))
  shape = shape[::-1] if entry.transposed else shape
  shape = (entry.before + shape[0], *shape[1:])
  if not stacked:
    return [Slot(entry.name, entry, None, shape)]
  return [Slot(entry.name.format(i), entry, i, shape) for i in range(entry.first, parts[0][0])]


def joined(slot: Slot, parts: Sequence[np.ndarray]) -> np.ndarray:
  """Returns the tensor of a slot, from its entry's arrays, or their parts of its layer."""
  x = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
  x = x.T if slot.entry.transposed else x
  return np.pad(x, ((slot.entry.before, 0), (0, 0))) if slot.entry.before else x


def divided(slot: Slot, x: np.ndarray, widths: Sequence[int]) -> list[np.ndarray]:
  """Returns what a tensor holds of each of its entry's arrays: undoes `joined`.

  Args:
    slot: its place.
    x: the tensor.
    widths: the arrays' last dimensions.
  """
  x = x[slot.entry.before :]
  x = x.T if slot.entry.transposed else x
  return np.split(x, np.cumsum(widths)[:-1], axis=-1)


def linear(name: str, path: str) -> list[Entry]:
  return [Entry(f'{name}.weight', (f'{path}.kernel',), transposed=True)]


def biased(name: str, path: str) -> list[Entry]:
  return [*linear(name, path), Entry(f'{name}.bias', (f'{path}.bias',))]


def norm(name: str, path: str) -> list[Entry]:
  return [Entry(f'{name}.weight', (f'{path}.scale',)), Entry(f'{name}.bias', (f'{path}.bias',))]
