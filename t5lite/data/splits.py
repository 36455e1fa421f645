"""The documents of a store that are for training, or held out, as one stream of tokens.

Which side a document is on is fixed by a hash of its text: neither its place, nor the seed, nor the
batch size moves it, and copies of a document are on the same side.

N ranges, L tokens of the longest.
"""

import dataclasses
from typing import Literal

import numpy as np

from t5lite.data import store as store_lib

Side = Literal['train', 'held_out', 'all']


@dataclasses.dataclass(frozen=True)
class Split:
  """Documents of one side in stored order, end to end: position 0 is their first token.

  Attributes:
    run_ends: the documents of the other side cut the store into runs; where each ends in the split.
    shifts: position in the store less position in the split, of each run.
    num_documents: how many documents there are.
    num_bytes: UTF-8 bytes of their text; of a task's examples: of their targets.
    num_targets: the tokens of these bytes, with the EOS after each document.
  """

  store: store_lib.Store
  side: Side
  held_out: float
  run_ends: np.ndarray
  shifts: np.ndarray
  num_documents: int
  num_bytes: int
  num_targets: int

  @property
  def num_tokens(self) -> int:
    """Tokens, with the EOS after each document."""
    return int(self.run_ends[-1]) if len(self.run_ends) else 0

  def lengths(self, of: Literal['tokens', 'inputs'] = 'tokens') -> np.ndarray:
    """Returns the tokens of each document, its EOS included; or how many of them are given."""
    lengths = [
      shard[of][_chosen(shard, self.side, self.held_out)] for shard in self.store.documents()
    ]
    return np.concatenate(lengths).astype(np.int64)

  def read(self, starts_N: np.ndarray, lengths_N: np.ndarray) -> np.ndarray:
    """Returns tokens_NxL int32, what follows each start; beyond its length a row is undefined."""
    offsets_L = np.arange(lengths_N.max())
    positions_NxL = starts_N[:, None] + np.minimum(offsets_L[None], lengths_N[:, None] - 1)
    run_N = np.searchsorted(self.run_ends, starts_N, 'right')
    stored_NxL = positions_NxL + self.shifts[run_N][:, None]
    crosses_N = starts_N + lengths_N > self.run_ends[run_N]
    if crosses_N.any():
      crossing = positions_NxL[crosses_N]
      stored_NxL[crosses_N] = crossing + self.shifts[self._runs(crossing)]
    return self.store.read(stored_NxL)

  def _runs(self, positions: np.ndarray) -> np.ndarray:
    return np.searchsorted(self.run_ends, positions, 'right')


def open(store: store_lib.Store, side: Side, held_out: float) -> Split:
  """Returns a side of a store; held_out: the share of its documents on the other one."""
  ends, shifts = [], []
  position = num_documents = num_bytes = num_targets = 0
  for start, shard in zip(store.starts, store.documents(), strict=True):
    chosen = _chosen(shard, side, held_out)
    tokens = shard['tokens'].astype(np.int64)
    stops = start + np.cumsum(tokens)
    turns = np.diff(chosen, prepend=False, append=False).nonzero()[0]
    first, last = turns[::2], turns[1::2] - 1  # of each run of chosen documents
    run_starts, run_stops = (stops - tokens)[first], stops[last]
    run_ends = position + np.cumsum(run_stops - run_starts)
    ends.append(run_ends)
    shifts.append(run_stops - run_ends)
    position = int(run_ends[-1]) if len(run_ends) else position
    num_documents += int(chosen.sum())
    num_bytes += int(shard['bytes'][chosen].sum(dtype=np.int64))
    num_targets += int((tokens - shard['inputs'])[chosen].sum())
  return Split(
    store=store,
    side=side,
    held_out=held_out,
    run_ends=np.concatenate(ends),
    shifts=np.concatenate(shifts),
    num_documents=num_documents,
    num_bytes=num_bytes,
    num_targets=num_targets,
  )


def _chosen(documents: np.ndarray, side: Side, held_out: float) -> np.ndarray:
  """Returns a boolean for each DOCUMENT: is it on that side?"""
  if side == 'all':
    return np.ones(len(documents), bool)
  is_held_out = documents['hash'] < np.uint64(held_out * 2**64)
  return is_held_out if side == 'held_out' else ~is_held_out
