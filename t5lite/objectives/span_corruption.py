"""Span corruption (Raffel et al. 2020, section 3.1.4), as T5's reference code defines it.

Spans of the text are replaced by one sentinel each; the targets are each sentinel followed by its
span. Both end with the end of text; targets have no last sentinel, as in the reference code.
Text infilling has the same inputs, and the whole text as targets (BART: Lewis et al. 2020, section
2.2, which has one mark for all spans, and empty ones too): the decoder learns to copy. One without
an encoder reads the inputs first, causally, as it will read a prompt.

Letters: N examples, L raw tokens, S spans.
"""

import numpy as np

from t5lite.objectives import pairs
from t5lite.objectives import random
from t5lite.objectives.vocabulary import Vocabulary


def counts(lengths_N: np.ndarray, density: float, mean: float) -> tuple[np.ndarray, np.ndarray]:
  """Returns the noise tokens and the spans of examples of so many tokens."""
  lengths_N = np.asarray(lengths_N)
  noise_N = np.rint(lengths_N * density).astype(int)
  noise_N = np.minimum(np.maximum(noise_N, 1), np.maximum(lengths_N - 1, 0))
  spans_N = np.maximum(np.rint(noise_N / mean).astype(int), 1)
  return noise_N, np.minimum(spans_N, np.minimum(noise_N, lengths_N - noise_N))


def lengths(lengths_N: np.ndarray, density: float, mean: float) -> tuple[np.ndarray, np.ndarray]:
  """Returns how long inputs and targets are, end of text included."""
  lengths_N = np.asarray(lengths_N)
  noise_N, spans_N = counts(lengths_N, density, mean)
  # A text of one token has no span, but a sentinel in the targets that stands for the text.
  return lengths_N - noise_N + spans_N + 1, noise_N + np.maximum(spans_N, lengths_N > 0) + 1


def segment_lengths(
  items_N: np.ndarray, parts_N: np.ndarray, keys_N: np.ndarray, stream: int
) -> np.ndarray:
  """Returns the lengths [N, S] of `parts` non-empty segments of `items`, each split as likely.

  Of the items but the first, parts - 1 chosen at random begin a segment.
  """
  num, most = len(items_N), int(parts_N.max(initial=1))
  place = np.arange(items_N.max(initial=1))[None]
  exists = place < items_N[:, None]
  begins = random.subset(keys_N, stream, exists & (place > 0), parts_N - 1)
  segment = np.cumsum(begins, axis=1) + most * np.arange(num)[:, None]
  return np.bincount(segment[exists], minlength=num * most).reshape(num, most)


def noise_mask(
  lengths_N: np.ndarray, width: int, keys_N: np.ndarray, density: float, mean: float
) -> np.ndarray:
  """Returns bool [N, width], True in the spans; an example begins with text, ends with a span."""
  noise_N, spans_N = counts(lengths_N, density, mean)
  noise_NxS = segment_lengths(noise_N, spans_N, keys_N, 0)
  text_NxS = segment_lengths(lengths_N - noise_N, spans_N, keys_N, 1)
  # Runs of text and noise in turn; the last is what stands behind the example.
  runs = np.stack([text_NxS, noise_NxS], axis=2).reshape(len(lengths_N), -1)
  runs = np.concatenate([runs, (width - lengths_N)[:, None]], axis=1)
  is_noise = np.broadcast_to(np.arange(runs.shape[1]) % 2 == 1, runs.shape)
  return np.repeat(is_noise.ravel(), runs.ravel()).reshape(len(runs), width)


def collapse(rows: pairs.Ragged, mask_NxL: np.ndarray, vocabulary: Vocabulary) -> pairs.Ragged:
  """Returns each row with every run of the mask replaced by the next sentinel, and end of text."""
  valid_NxL = rows.valid_NxL
  mask_NxL = mask_NxL & valid_NxL
  first_NxL = mask_NxL.copy()
  first_NxL[:, 1:] &= ~mask_NxL[:, :-1]
  spans_N = first_NxL.sum(axis=1)
  number = np.arange(spans_N.sum()) - np.repeat(np.cumsum(spans_N) - spans_N, spans_N)
  values = rows.tokens_NxL.copy()
  values[first_NxL] = vocabulary.sentinels[number]
  kept = pairs.compact(values, (first_NxL | ~mask_NxL) & valid_NxL)
  return pairs.ended(kept, vocabulary.eos)


def corrupt(
  rows: pairs.Ragged, keys_N: np.ndarray, vocabulary: Vocabulary, density: float, mean: float
) -> pairs.Pairs:
  """Returns inputs with sentinels for spans, and targets with sentinels for the text between them.

  Args:
    rows: raw tokens.
    keys_N: uint64, one key an example.
    vocabulary: gives the sentinels and the end of text.
    density: share of the tokens in spans.
    mean: tokens of a span, on average.
  """
  mask_NxL = noise_mask(rows.lengths_N, rows.tokens_NxL.shape[1], keys_N, density, mean)
  return pairs.Pairs(collapse(rows, mask_NxL, vocabulary), collapse(rows, ~mask_NxL, vocabulary))
