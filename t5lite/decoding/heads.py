"""What the head of an encoder answers to the rows of a task: labels of texts, of words, spans.

Letters: B batch, T tokens of a row, V outputs of the head, K beginning and end.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
from typing import NamedTuple

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
MISSING = 0  # label of a word that has no token in the row: behind its end, or no text to the model


class Row(NamedTuple):
  """What the head says of an example: behind [CLS], of its inputs' tokens, unless there is no room.

  Attributes:
    logits_TV: of the whole row.
    num_inputs: tokens of the inputs in it.
    wanted: tokens of the inputs, those too that are left out.
  """

  logits_TV: np.ndarray
  num_inputs: int
  wanted: int


def labels(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: tokenizer_lib.Tokenizer,
  examples: Sequence[rendering.Example],
  num_labels: int,
) -> list[np.ndarray]:
  """Returns the logits [V] of each example's labels, at its first token."""
  rows = _rows(config, params, tokenizer, examples)
  return [row.logits_TV[0, :num_labels] for row in rows]


def tags(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: tokenizer_lib.Tokenizer,
  examples: Sequence[rendering.Example],
  num_labels: int,
) -> list[list[int]]:
  """Returns the number of the likeliest label of each word."""
  found = []
  rows = _rows(config, params, tokenizer, examples)
  for example, row in zip(examples, rows, strict=True):
    text = tokenizer.align(example.inputs[-1])
    best_T = row.logits_TV[1 : 1 + row.num_inputs, :num_labels].argmax(axis=-1)
    tokens = [text.at(place) for place, _ in example.tags]
    found.append([int(best_T[i]) if 0 <= i < len(best_T) else MISSING for i in tokens])
  return found


def spans(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: tokenizer_lib.Tokenizer,
  examples: Sequence[rendering.Example],
) -> list[str]:
  """Returns the likeliest span of each example's last text; '' if nothing of it is in the row."""
  found = []
  rows = _rows(config, params, tokenizer, examples)
  for example, row in zip(examples, rows, strict=True):
    text = tokenizer.align(example.inputs[-1])
    first = 1 + row.wanted - len(text.ids)
    logits_TK = row.logits_TV[first : 1 + row.num_inputs]
    answer = ''
    if len(logits_TK):
      start, end = best_span(logits_TK)
      answer = example.inputs[-1][text.starts[start] : text.ends[end]].strip()
    found.append(answer)
  return found


def best_span(logits_TK: np.ndarray, longest: int = LONGEST) -> tuple[int, int]:
  """Returns the first and the last token of the span with the largest sum of logits."""
  place_T = np.arange(len(logits_TK))
  length_TT = place_T[None] - place_T[:, None] + 1
  sums_TT = logits_TK[:, None, 0] + logits_TK[None, :, 1]
  sums_TT = np.where((length_TT >= 1) & (length_TT <= longest), sums_TT, -np.inf)
  start, end = divmod(int(sums_TT.argmax()), len(logits_TK))
  return start, end


def _rows(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: tokenizer_lib.Tokenizer,
  examples: Sequence[rendering.Example],
) -> Iterator[Row]:
  mesh, size = jax.sharding.get_mesh(), config.data.batch_size
  here = sharding.local_rows(mesh, size)
  for start in range(0, len(examples), size):
    part = list(examples[start : start + size])
    batch, inputs_N, wanted_N = _batch(config, tokenizer, part + part[:1] * (size - len(part)))
    batch = {name: x[here] for name, x in batch.items()}
    logits_BTV = np.asarray(_logits(config.model, params, sharding.to_device(batch, size, mesh)))
    for number in range(len(part)):
      yield Row(logits_BTV[number], int(inputs_N[number]), int(wanted_N[number]))


def _batch(
  config: config_lib.Config,
  tokenizer: tokenizer_lib.Tokenizer,
  examples: Sequence[rendering.Example],
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
  """Returns a batch with an example in each row, its inputs' tokens, and how many were wanted."""
  config = dataclasses.replace(config, data=dataclasses.replace(config.data, examples='windows'))
  vocabulary = tokenizer.vocabulary
  texts = iter(tokenizer.encode([text for example in examples for text in example.inputs]))
  given = [
    objectives.supervised.separated(vocabulary, [next(texts) for _ in example.inputs])
    for example in examples
  ]
  sizes_N = np.array(list(map(len, given)))
  inputs_N, _ = objectives.supervised.cut(config, vocabulary, sizes_N, np.full(len(given), 2))
  tokens_NxL = np.zeros((len(given), inputs_N.max() + 2), np.int32)  # a mark, not known, and EOS
  for row, ids, length in zip(tokens_NxL, given, inputs_N, strict=True):
    row[:length] = ids[:length]
  keys_N = np.zeros(len(given), np.uint64)
  batch = objectives.batch(config, vocabulary, tokens_NxL, inputs_N + 2, keys_N, inputs_N=inputs_N)
  return batch, inputs_N, sizes_N


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: config_lib.Model, params: models.Params, batch: models.Batch) -> jax.Array:
  return decode.whole(models.apply(model, params, batch))
