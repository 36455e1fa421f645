"""What a row of a batch holds: one window of a split, or documents packed together.

`num_rows` and `num_examples` count one epoch. M examples of the rows asked for, L tokens of the
longest.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from t5lite.data import packing
from t5lite.data import splits
from t5lite.objectives import pairs
from t5lite.objectives import supervised


class Raw(NamedTuple):
  """Stored tokens of examples."""

  tokens_MxL: np.ndarray  # int32
  lengths_M: np.ndarray
  inputs_M: np.ndarray  # how many of the tokens are a task's inputs; 0: it is text


class Rows(Protocol):
  """The rows of an epoch, before they are shuffled."""

  num_rows: int
  num_examples: int

  def examples(self, rows_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (example_M, i_M): the examples of the rows, and in which of the rows each is."""
    ...

  def read(self, example_M: np.ndarray) -> Raw:
    """Returns the stored tokens of examples."""
    ...


class Windows:
  """The documents of a split end to end, cut into windows: one example a row, no padding."""

  def __init__(self, split: splits.Split, length: int):
    self._split, self._length = split, length
    self.num_rows = self.num_examples = split.num_tokens // length

  def examples(self, rows_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows_N, np.arange(len(rows_N))

  def read(self, example_M: np.ndarray) -> Raw:
    lengths_M = np.full(len(example_M), self._length)
    tokens_MxL = self._split.read(example_M * self._length, lengths_M)
    return Raw(tokens_MxL, lengths_M, np.zeros_like(lengths_M))


class Documents:
  """Every document an example, packed; one longer than `length` tokens is cut into several.

  Args:
    ended: with the EOS that is stored after it; else the objective ends it.
    sizes: gives the encoder and decoder tokens [N, 2] that examples of these raw lengths take.
    room: for such tokens in a row.
    seed: of the packing.
  """

  def __init__(
    self,
    split: splits.Split,
    length: int,
    *,
    ended: bool,
    sizes: Callable[[np.ndarray], np.ndarray],
    room: tuple[int, int],
    seed: int,
  ):
    stored_D = split.lengths()
    starts_D = np.cumsum(stored_D) - stored_D
    self._split = split
    self._starts, self._lengths = cut(starts_D, stored_D if ended else stored_D - 1, length)
    self._plan = packing.plan(sizes(self._lengths), room, seed)
    self.num_rows, self.num_examples = len(self._plan), len(self._starts)

  def examples(self, rows_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return self._plan.pieces(rows_N)

  def read(self, example_M: np.ndarray) -> Raw:
    lengths_M = self._lengths[example_M]
    tokens_MxL = self._split.read(self._starts[example_M], lengths_M)
    return Raw(tokens_MxL, lengths_M, np.zeros_like(lengths_M))


class Supervised:
  """The examples of a task: one a row, or packed.

  Args:
    fit: how many of so many input and target tokens there is room for.
    trim: which input tokens are left out where there are too many.
    eos: ends the targets, of which some may be left out too.
    sizes: gives the encoder and decoder tokens [N, 2] that so many input and target tokens take.
    room: for such tokens in a row.
    seed: of the packing; None: one example a row.
  """

  def __init__(
    self,
    split: splits.Split,
    *,
    fit: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    trim: supervised.Trim,
    eos: int,
    sizes: Callable[[np.ndarray, np.ndarray], np.ndarray],
    room: tuple[int, int],
    seed: int | None,
  ):
    self._split, self._trim, self._eos = split, trim, eos
    self._lengths, self._inputs = split.lengths(), split.lengths('inputs')
    self._starts = np.cumsum(self._lengths) - self._lengths
    self._kept = fit(self._inputs, self._lengths - self._inputs)
    self._plan = None if seed is None else packing.plan(sizes(*self._kept), room, seed)
    self.num_examples = len(self._starts)
    self.num_rows = self.num_examples if self._plan is None else len(self._plan)

  def examples(self, rows_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if self._plan is None:
      return rows_N, np.arange(len(rows_N))
    return self._plan.pieces(rows_N)

  def read(self, example_M: np.ndarray) -> Raw:
    lengths_M, inputs_M = self._lengths[example_M], self._inputs[example_M]
    kept_inputs_M, kept_targets_M = (kept[example_M] for kept in self._kept)
    tokens_MxL = self._split.read(self._starts[example_M], lengths_M)
    if ((kept_inputs_M == inputs_M) & (kept_inputs_M + kept_targets_M == lengths_M)).all():
      return Raw(tokens_MxL, lengths_M, inputs_M)
    place = np.arange(tokens_MxL.shape[1])[None]
    last_M = self._trim.num_last(kept_inputs_M)
    kept_MxL = (place < (kept_inputs_M - last_M)[:, None]) | (place >= (inputs_M - last_M)[:, None])
    kept_MxL &= place < (inputs_M + kept_targets_M)[:, None]
    tokens_MxL, lengths_M = pairs.compact(tokens_MxL, kept_MxL)
    tokens_MxL[np.arange(len(lengths_M)), lengths_M - 1] = self._eos
    return Raw(tokens_MxL, lengths_M, kept_inputs_M)


def cut(starts_D: np.ndarray, lengths_D: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the starts and lengths of the pieces of documents: of `most` tokens, then the rest.

  A rest of one token, which no objective could learn from, takes another from the piece before.
  """
  counts_D = -(-lengths_D // most)
  document_N = np.repeat(np.arange(len(lengths_D)), counts_D)
  number_N = np.arange(len(document_N)) - (np.cumsum(counts_D) - counts_D)[document_N]
  left_N = lengths_D[document_N] - number_N * most
  takes_N = (left_N == 1) & (number_N > 0)
  gives_N = left_N == most + 1
  return (
    starts_D[document_N] + number_N * most - takes_N,
    np.minimum(left_N, most) + takes_N - gives_N,
  )
