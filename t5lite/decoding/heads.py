"""What the head of an encoder answers to the rows of a task: labels of texts, of words, spans.

Letters: B batch, T tokens of a row, V outputs of the head, K beginning and end.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools

import jax
import numpy as np

from t5lite import config as config_lib
from t5lite import models
from t5lite import objectives
from t5lite import sharding
from t5lite.data import tokenizer as tokenizer_lib
from t5lite.models import decode
from t5lite.tasks import rendering

LONGEST = 30  # tokens of a span (Devlin et al. 2019, in their code)
TARGETS = 2  # of a row: a mark, which is not known, and the end of text
MISSING = 0  # label of a word that has no token in the row: behind its end, or no text to the model


def labels(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: tokenizer_lib.Tokenizer,
  examples: Sequence[rendering.Example],
  task: config_lib.Task,
) -> list[np.ndarray]:
  """Returns the logits [V] of each example's labels, at its first token."""
  trim = objectives.supervised.trim(task, tokenizer.encode, for_encoder=True)
  whole = _whole(tokenizer, examples)
  inputs = objectives.supervised.trimmed(trim, whole, _kept(config, tokenizer, whole))
  rows = _rows(config, params, tokenizer, inputs)
  return [logits_TV[0, : len(task.labels)] for logits_TV in rows]


def tags(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: tokenizer_lib.Tokenizer,
  examples: Sequence[rendering.Example],
  num_labels: int,
) -> list[list[int]]:
  """Returns the number of the likeliest label of each word."""
  found = []
  rows = _rows(config, params, tokenizer, _whole(tokenizer, examples))
  for example, logits_TV in zip(examples, rows, strict=True):
    text = tokenizer.align(example.inputs[-1])
    best_T = logits_TV[1:, :num_labels].argmax(axis=-1)
    tokens = [text.at(place) for place, _ in example.tags]
    found.append([int(best_T[i]) if 0 <= i < len(best_T) else MISSING for i in tokens])
  return found


def spans(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: tokenizer_lib.Tokenizer,
  examples: Sequence[rendering.Example],
) -> list[str]:
  """Returns the likeliest span of each example's last text; '' where a question leaves it no room.

  A text that does not fit into a row is read in windows, each of which begins in the middle of the
  one before (Devlin et al. 2019, in their code).
  """
  texts = [tokenizer.align(example.inputs[-1]) for example in examples]
  windows = [
    (number, start, num_before, given)
    for number, (example, text) in enumerate(zip(examples, texts, strict=True))
    for start, num_before, given in _windows(config, tokenizer, example, text.ids)
  ]
  rows = _rows(config, params, tokenizer, [given for *_, given in windows])
  best = [(-np.inf, '')] * len(examples)
  for (number, start, num_before, _), logits_TK in zip(windows, rows, strict=True):
    text = texts[number]
    logits_TK = logits_TK[1 + num_before :]
    first, last = best_span(logits_TK)
    score = float(logits_TK[first, 0] + logits_TK[last, 1])
    place = slice(text.starts[start + first], text.ends[start + last])
    best[number] = max(best[number], (score, examples[number].inputs[-1][place].strip()))
  return [answer for _, answer in best]


def _windows(
  config: config_lib.Config,
  tokenizer: tokenizer_lib.Tokenizer,
  example: rendering.Example,
  ids: np.ndarray,
) -> Iterator[tuple[int, int, np.ndarray]]:
  """Yields where a window of the last text begins, and the inputs: how many before it, and all."""
  others = tokenizer.encode(example.inputs[:-1])
  before = objectives.supervised.separated(tokenizer.vocabulary, [*others, ids[:0]])
  most = np.array([len(before) + len(ids)])
  (most,), _ = objectives.supervised.cut(config, tokenizer.vocabulary, most, np.array([TARGETS]))
  room = int(most) - len(before)
  if room < 1 or not len(ids):
    return
  start, stride = 0, max(room // 2, 1)
  while True:
    yield start, len(before), np.concatenate([before, ids[start : start + room]])
    if start + room >= len(ids):
      return
    start += stride


def best_span(logits_TK: np.ndarray, longest: int = LONGEST) -> tuple[int, int]:
  """Returns the first and the last token of the span with the largest sum of logits."""
  place_T = np.arange(len(logits_TK))
  length_TT = place_T[None] - place_T[:, None] + 1
  sums_TT = logits_TK[:, None, 0] + logits_TK[None, :, 1]
  sums_TT = np.where((length_TT >= 1) & (length_TT <= longest), sums_TT, -np.inf)
  start, end = divmod(int(sums_TT.argmax()), len(logits_TK))
  return start, end


def _whole(
  tokenizer: tokenizer_lib.Tokenizer, examples: Sequence[rendering.Example]
) -> list[np.ndarray]:
  """Returns the tokens of each example's inputs."""
  texts = iter(tokenizer.encode([text for example in examples for text in example.inputs]))
  return [
    objectives.supervised.separated(tokenizer.vocabulary, [next(texts) for _ in example.inputs])
    for example in examples
  ]


def _rows(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: tokenizer_lib.Tokenizer,
  inputs: Sequence[np.ndarray],
) -> Iterator[np.ndarray]:
  """Yields the logits [T, V] of [CLS] and of each token of the inputs that fits into a row."""
  mesh, size = jax.sharding.get_mesh(), config.data.batch_size
  here = sharding.local_rows(mesh, size)
  for start in range(0, len(inputs), size):
    part = list(inputs[start : start + size])
    batch, kept_N = _batch(config, tokenizer, part + part[:1] * (size - len(part)))
    batch = {name: x[here] for name, x in batch.items()}
    logits_BTV = np.asarray(_logits(config.model, params, sharding.to_device(batch, size, mesh)))
    for number in range(len(part)):
      yield logits_BTV[number, : 1 + int(kept_N[number])]


def _batch(
  config: config_lib.Config, tokenizer: tokenizer_lib.Tokenizer, inputs: Sequence[np.ndarray]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Returns a batch with an example in each row, as it is in training, and its inputs' tokens."""
  config = dataclasses.replace(config, data=dataclasses.replace(config.data, examples='windows'))
  vocabulary, kept_N = tokenizer.vocabulary, _kept(config, tokenizer, inputs)
  tokens_NxL = np.zeros((len(inputs), kept_N.max() + TARGETS), np.int32)
  for row, ids, length in zip(tokens_NxL, inputs, kept_N, strict=True):
    row[:length] = ids[:length]
  keys_N = np.zeros(len(inputs), np.uint64)
  batch = objectives.batch(
    config, vocabulary, tokens_NxL, kept_N + TARGETS, keys_N, inputs_N=kept_N
  )
  return batch, kept_N


def _kept(
  config: config_lib.Config, tokenizer: tokenizer_lib.Tokenizer, inputs: Sequence[np.ndarray]
) -> np.ndarray:
  """Returns how many tokens of each input fit into a row."""
  sizes_N, targets_N = np.array(list(map(len, inputs))), np.full(len(inputs), TARGETS)
  return objectives.supervised.cut(config, tokenizer.vocabulary, sizes_N, targets_N)[0]


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: config_lib.Model, params: models.Params, batch: models.Batch) -> jax.Array:
  return decode.whole(models.apply(model, params, batch))
