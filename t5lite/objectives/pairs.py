"""What an objective makes of tokens: inputs and targets of each example, before any batch layout.

Letters: N examples, L raw tokens, I inputs, T targets.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Ragged(NamedTuple):
  """Rows of different lengths; what stands behind a row is undefined."""

  tokens_NxL: np.ndarray  # int32
  lengths_N: np.ndarray

  @property
  def valid_NxL(self) -> np.ndarray:
    """True where there is a token."""
    return np.arange(self.tokens_NxL.shape[1])[None] < self.lengths_N[:, None]


class Pairs(NamedTuple):
  """N examples: what is given and what is asked for."""

  inputs: Ragged
  targets: Ragged


def compact(values_NxL: np.ndarray, keep_NxL: np.ndarray, width: int | None = None) -> Ragged:
  """Returns the kept values of each row moved to its front, then 0.

  Args:
    values_NxL: int32.
    keep_NxL: bool.
    width: of the result; None: as long as its longest row.
  """
  lengths_N = keep_NxL.sum(axis=1)
  width = int(lengths_N.max(initial=0)) if width is None else width
  out = np.zeros((len(values_NxL), width), np.int32)
  out[np.arange(width)[None] < lengths_N[:, None]] = values_NxL[keep_NxL]
  return Ragged(out, lengths_N)


def section(rows: Ragged, start_N: np.ndarray, stop_N: np.ndarray) -> Ragged:
  """Returns tokens start ... stop - 1 of each row."""
  place = np.arange(rows.tokens_NxL.shape[1])[None]
  return compact(rows.tokens_NxL, (place >= start_N[:, None]) & (place < stop_N[:, None]))


def joined(*parts: Ragged) -> Ragged:
  """Returns each row of the first part followed by those of the others."""
  tokens = np.concatenate([part.tokens_NxL for part in parts], axis=1)
  return compact(tokens, np.concatenate([part.valid_NxL for part in parts], axis=1))


def merged(parts: Sequence[tuple[np.ndarray, Ragged]]) -> Ragged:
  """Returns rows of several parts in one: (numbers of the rows, rows) of each."""
  width = max(rows.tokens_NxL.shape[1] for _, rows in parts)
  num = sum(len(numbers) for numbers, _ in parts)
  tokens_NxL, lengths_N = np.zeros((num, width), np.int32), np.zeros(num, int)
  for numbers, rows in parts:
    tokens_NxL[numbers, : rows.tokens_NxL.shape[1]] = rows.tokens_NxL
    lengths_N[numbers] = rows.lengths_N
  return Ragged(tokens_NxL, lengths_N)


def chosen(rows: Ragged, numbers: np.ndarray) -> Ragged:
  """Returns the rows of these numbers."""
  return Ragged(*(x[numbers] for x in rows))


def repeated(tokens: tuple[int, ...], num: int) -> Ragged:
  """Returns `num` rows of the same tokens."""
  rows = np.broadcast_to(np.array(tokens, np.int32), (num, len(tokens)))
  return Ragged(rows, np.full(num, len(tokens)))


def ended(rows: Ragged, token: int) -> Ragged:
  """Returns each row with one more token."""
  tokens = np.pad(rows.tokens_NxL, ((0, 0), (0, 1)))
  tokens[np.arange(len(tokens)), rows.lengths_N] = token
  return Ragged(tokens, rows.lengths_N + 1)


def without_end(rows: Ragged, token: int) -> Ragged:
  """Returns each row without its last token if it is `token`."""
  last_N = np.maximum(rows.lengths_N - 1, 0)
  ends_N = (rows.tokens_NxL[np.arange(len(last_N)), last_N] == token) & (rows.lengths_N > 0)
  return rows._replace(lengths_N=rows.lengths_N - ends_N)
