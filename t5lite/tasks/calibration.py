"""How far probabilities can be trusted, and how sure a rate is.

Letters: N rows, K classes.
"""

from collections.abc import Sequence
import math
import statistics
from typing import NamedTuple

import numpy as np

from t5lite import errors


class Bin(NamedTuple):
  """A point of the reliability diagram: the rows of like confidence."""

  confidence: float  # mean probability of the predicted class
  accuracy: float
  num_rows: int


def reliability(
  probabilities_NxK: np.ndarray, labels_N: Sequence[int] | np.ndarray, num_bins: int = 10
) -> list[Bin]:
  """Returns the bins that have rows, the least confident first (Guo et al. 2017, section 2).

  Bins are equal parts of confidence 0 to 1, each with its upper end; the predicted class is the
  likeliest.

  Raises:
    DataError: not probabilities, not one label a row, or a label that is no class.
  """
  probabilities_NxK, labels_N = np.asarray(probabilities_NxK, np.float64), np.asarray(labels_N)
  _check(probabilities_NxK, labels_N)
  confidence_N = np.minimum(probabilities_NxK.max(axis=1), 1)
  correct_N = probabilities_NxK.argmax(axis=1) == labels_N
  bin_N = np.ceil(np.round(confidence_N * num_bins, 9)).astype(int)  # 0.7 * 10 is a bit above 7
  return [
    Bin(float(confidence_N[here].mean()), float(correct_N[here].mean()), int(here.sum()))
    for here in (bin_N == number for number in np.unique(bin_N))
  ]


def expected_error(bins: Sequence[Bin]) -> float:
  """Returns the expected calibration error: the mean gap of confidence and accuracy, by rows."""
  gaps = [abs(one.confidence - one.accuracy) * one.num_rows for one in bins]
  return sum(gaps) / sum(one.num_rows for one in bins)


def _check(probabilities_NxK: np.ndarray, labels_N: np.ndarray) -> None:
  shape = probabilities_NxK.shape
  if len(shape) != 2 or not all(shape) or labels_N.shape != shape[:1]:
    where = f'probabilities {shape}, labels {labels_N.shape}'
    raise errors.DataError('not one label a row', where, 'give probabilities [N, K], labels [N]')
  sums_N, least = probabilities_NxK.sum(axis=1), probabilities_NxK.min()
  if not (least >= 0 and np.allclose(sums_N, 1, atol=1e-3)):
    where = f'the least is {least:.4g}, sums of rows from {sums_N.min():.4g} to {sums_N.max():.4g}'
    raise errors.DataError('not probabilities', where, 'give the softmax over the classes')
  if labels_N.min() < 0 or labels_N.max() >= shape[1]:
    where = f'from {labels_N.min()} to {labels_N.max()} of {shape[1]} classes'
    raise errors.DataError('label is no class', where, f'use 0 to {shape[1] - 1}')


def interval(wins: float, trials: int, level: float = 0.95) -> tuple[float, float]:
  """Returns the bounds of a rate of `wins` in `trials`, by Wilson's score (1927).

  A tie may count as half a win: the bounds are then a bit wider than they need be. Without a trial,
  they are all there can be: 0 and 1.

  Raises:
    DataError: more wins than trials, or fewer than none.
  """
  if not 0 <= wins <= trials:
    raise errors.DataError('not a rate', f'{wins} of {trials}', 'give wins from 0 to all trials')
  if not trials:
    return 0.0, 1.0
  z, rate = statistics.NormalDist().inv_cdf((1 + level) / 2), wins / trials
  middle = rate + z * z / (2 * trials)
  spread = z * math.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2)
  whole = 1 + z * z / trials
  return max((middle - spread) / whole, 0.0), min((middle + spread) / whole, 1.0)
