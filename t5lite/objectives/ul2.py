"""UL2's mixture of denoisers (Tay et al. 2022, section 3.1 and table 1).

Each example draws one of seven, all equally likely: regular span corruption (R), extreme (X: long
spans or many), and sequential (S: the end of the text, a quarter of it on average). A mode token in
front of the input says which kind it is.
"""

from typing import NamedTuple

import numpy as np

from t5lite.objectives import pairs
from t5lite.objectives import prefix_lm
from t5lite.objectives import random
from t5lite.objectives import span_corruption
from t5lite.objectives.vocabulary import Vocabulary


class Denoiser(NamedTuple):
  """Span corruption, or with `mean` 0 a prefix and its continuation."""

  mode: str
  mean: float  # tokens of a span
  density: float  # share of the tokens that are targets; of S: on average

  def lengths(self, lengths_N: np.ndarray, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Returns the most that inputs and targets can take, mode tokens included."""
    modes = len(vocabulary.modes[self.mode])
    if self.mean:
      inputs_N, targets_N = span_corruption.lengths(lengths_N, self.density, self.mean)
      return inputs_N + modes, targets_N
    longest_N = np.maximum((lengths_N * (2 * self.density)).astype(int), 1)
    return np.maximum(lengths_N - 1, 0) + modes, longest_N

  def sum_lengths(self, lengths_N: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Returns the most that inputs and targets together can take."""
    if self.mean:
      return np.add(*self.lengths(lengths_N, vocabulary))
    return lengths_N + len(vocabulary.modes[self.mode])  # the longer one, the shorter the other


DENOISERS = (
  Denoiser('[R]', 3, 0.15),
  Denoiser('[R]', 8, 0.15),
  Denoiser('[X]', 3, 0.5),
  Denoiser('[X]', 8, 0.5),
  Denoiser('[X]', 64, 0.15),
  Denoiser('[X]', 64, 0.5),
  Denoiser('[S]', 0, 0.25),
)


def choose(keys_N: np.ndarray) -> np.ndarray:
  """Returns which denoiser each example draws."""
  return (random.uniform(keys_N, 3, 1)[:, 0] * len(DENOISERS)).astype(int)


def denoise(rows: pairs.Ragged, keys_N: np.ndarray, vocabulary: Vocabulary) -> pairs.Pairs:
  """Returns the inputs, behind their mode token, and targets of each example's denoiser."""
  choice_N = choose(keys_N)
  numbers = [np.flatnonzero(choice_N == number) for number in range(len(DENOISERS))]
  parts = [
    (of_it, _denoise(denoiser, pairs.chosen(rows, of_it), keys_N[of_it], vocabulary))
    for of_it, denoiser in zip(numbers, DENOISERS, strict=True)
    if len(of_it)
  ]
  return pairs.Pairs(
    pairs.merged([(of_it, part.inputs) for of_it, part in parts]),
    pairs.merged([(of_it, part.targets) for of_it, part in parts]),
  )


def _denoise(
  denoiser: Denoiser, rows: pairs.Ragged, keys_N: np.ndarray, vocabulary: Vocabulary
) -> pairs.Pairs:
  if denoiser.mean:
    rows = pairs.without_end(rows, vocabulary.eos)  # a document's, as the targets get their own
    part = span_corruption.corrupt(rows, keys_N, vocabulary, denoiser.density, denoiser.mean)
  else:
    part = prefix_lm.cut(rows, keys_N, longest_share=2 * denoiser.density)
  modes = pairs.repeated(vocabulary.modes[denoiser.mode], len(keys_N))
  return part._replace(inputs=pairs.joined(modes, part.inputs))
