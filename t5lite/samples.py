"""Samples of text while a model trains: what it makes of the same held-out examples each time."""

import jax
import numpy as np

from t5lite import config as config_lib
from t5lite import decoding
from t5lite import models
from t5lite import sharding
from t5lite.data import dataset
from t5lite.decoding import heads

COUNT = 2  # examples
PROMPT = 32  # tokens that a decoder is given


def of_batch(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: decoding.Tokenizer,
  batch: dataset.Batch,
) -> list[tuple[str, str]]:
  """Returns (name, text) of the first examples of a batch: input, target, prediction.

  The text of a label is its number, that of a span its tokens.
  """
  make = _filled if config.model.architecture == 'encoder' else _continued
  texts = []
  for row, sample in enumerate(make(config, params, tokenizer, batch)):
    for name, tokens in zip(('input', 'target', 'prediction'), sample, strict=True):
      is_label = config.model.num_labels and not config.model.spans and name != 'input'
      text = ', '.join(map(str, tokens)) if is_label else tokenizer.decode(tokens)
      texts.append((f'{row}/{name}', text))
  return texts


def _continued(config, params, tokenizer, batch) -> list[tuple[np.ndarray, ...]]:
  divide = _whole if config.model.architecture == 'encoder_decoder' else _divided
  prompts, targets = zip(*(divide(batch, row) for row in _rows(batch)), strict=True)
  outputs = decoding.generate(
    config.model,
    params,
    prompts,
    max_tokens=max(map(len, targets)),
    sampler=decoding.Sampler(),
    key=jax.random.key(0),
    eos=tokenizer.vocabulary.eos,
    prefix=config.objective.sees_both_ways,
  )
  return list(zip(prompts, targets, outputs, strict=True))


def _whole(batch: dataset.Batch, row: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the input and the target of the first example of a row."""
  return (
    _first(batch, 'encoder', row, batch['encoder_input_tokens']),
    _first(batch, 'decoder', row, batch['decoder_target_tokens']),
  )


def _divided(batch: dataset.Batch, row: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the beginning of a decoder's first example in a row, and what comes behind it."""
  tokens = _first(batch, 'decoder', row, batch['decoder_input_tokens'])
  targets = _first(batch, 'decoder', row, batch['decoder_target_tokens'])
  asked = _first(batch, 'decoder', row, batch['decoder_loss_weights']) > 0
  length = int(asked.argmax()) + 1  # a task's inputs
  if length == 1:
    length = min(PROMPT, len(tokens))
  if 'decoder_causal_attention' in batch:  # the objective says which tokens are given
    length = int(_first(batch, 'decoder', row, batch['decoder_causal_attention']).sum())
  return tokens[:length], targets[length - 1 : -1]


def _first(batch: dataset.Batch, side: str, row: int, values: np.ndarray) -> np.ndarray:
  """Returns the values of the first example of a row."""
  segments = batch.get(f'{side}_segment_ids')
  text = batch[f'{side}_input_tokens'] > 0 if segments is None else segments == 1
  text = np.where(np.arange(text.shape[1]) == 0, True, text)  # a decoder's input begins with 0
  return values[row][text[row]]


def _filled(config, params, tokenizer, batch) -> list[tuple[np.ndarray, ...]]:
  """Returns the masked text, the text, and the text with the likeliest token at each mask."""
  del tokenizer
  with sharding.whole_rows(params) as params:
    logits = jax.jit(models.apply, static_argnums=0)(config.model, params, batch)
  logits = np.asarray(jax.device_get(logits))
  likeliest = logits.argmax(axis=-1)
  inputs, targets = batch['encoder_input_tokens'], batch['encoder_target_tokens']
  if config.model.spans:
    return [_found(batch, logits, row) for row in _rows(batch)]
  if config.model.num_labels:
    asked = batch['encoder_loss_weights'] > 0
    labels = [[each[row][asked[row]] for each in (targets, likeliest)] for row in _rows(batch)]
    return [(inputs[row], *labels[row]) for row in _rows(batch)]
  filled = np.where(batch['encoder_loss_weights'] > 0, likeliest, targets)
  return list(zip(inputs[:COUNT], targets[:COUNT], filled[:COUNT], strict=True))


def _rows(batch: dataset.Batch) -> range:
  return range(min(COUNT, len(next(iter(batch.values())))))


def _found(batch: dataset.Batch, logits_BTK: np.ndarray, row: int) -> tuple[np.ndarray, ...]:
  """Returns the text of a row, the span that is asked for, and the likeliest one."""
  inputs, marks = batch['encoder_input_tokens'][row], batch['encoder_target_tokens'][row]
  asked = np.flatnonzero(marks)
  segments = batch.get('encoder_segment_ids', batch['encoder_input_tokens'])
  length = np.count_nonzero(segments[row])
  start, end = heads.best_span(logits_BTK[row, :length])
  return inputs, inputs[asked[0] : asked[-1] + 1], inputs[start : end + 1]
