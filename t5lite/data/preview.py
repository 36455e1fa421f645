"""The first batch as text: what the model sees and what it is asked for."""

from collections.abc import Iterator
import functools
import textwrap

import numpy as np

from t5lite import config as config_lib
from t5lite.data import dataset
from t5lite.data import pipeline
from t5lite.data import tokenizer as tokenizer_lib

WIDTH = 100
MOST_PREDICTIONS = 12  # shown of each example of a masked language model


def preview(config: config_lib.Config, count: int) -> str:
  """Returns the first `count` rows of the batch of step 0, decoded, one paragraph an example.

  Raises:
    ConfigError, DataError: as training would.
  """
  source = pipeline.open(config, 'train')
  batch = source.batch(0)
  lines = [
    f'batch of step 0: {", ".join(f"{name} {list(x.shape)}" for name, x in batch.items())}',
    f'padding: {dataset.padding_share(batch):.1%}',
  ]
  describe = _describe
  if config.model.num_labels:
    describe = functools.partial(_labelled, spans=config.model.spans)
  for row in range(min(count, config.data.batch_size)):
    for segment, example in _segments({name: x[row] for name, x in batch.items()}):
      lines += ['', f'row {row}{segment}', *describe(example, source.tokenizer)]
  return '\n'.join(lines)


def _segments(row: dataset.Batch) -> Iterator[tuple[str, dataset.Batch]]:
  """Yields (', document n', its part of the row) of a packed row, or the whole of another."""
  sides = [name.removesuffix('_segment_ids') for name in row if name.endswith('_segment_ids')]
  if not sides:
    yield '', row
    return
  for segment in range(1, max(int(row[f'{side}_segment_ids'].max()) for side in sides) + 1):
    chosen = {side: row[f'{side}_segment_ids'] == segment for side in sides}
    tokens = [name for name in row if name != 'encoder_prediction_positions']
    yield (
      f', document {segment}',
      {name: row[name][chosen[name.partition('_')[0]]] for name in tokens},
    )


def _describe(example: dataset.Batch, tokenizer: tokenizer_lib.Tokenizer) -> list[str]:
  if 'encoder_target_tokens' in example:
    return _masked(example, tokenizer)
  targets = example['decoder_target_tokens'][example['decoder_loss_weights'] > 0]
  if 'encoder_input_tokens' in example:
    inputs = example['encoder_input_tokens']
  elif 'decoder_causal_attention' in example:
    inputs = example['decoder_input_tokens'][example['decoder_causal_attention'] > 0]
  else:  # a causal language model is given nothing but what it has predicted, or a task's inputs
    given = int(np.argmax(example['decoder_loss_weights'] > 0))
    if not given:
      return _paragraph('targets', targets, tokenizer)
    inputs = example['decoder_input_tokens'][: given + 1]
  return _paragraph('inputs', inputs, tokenizer) + _paragraph('targets', targets, tokenizer)


def _labelled(
  example: dataset.Batch, tokenizer: tokenizer_lib.Tokenizer, *, spans: bool
) -> list[str]:
  """Returns the text and the numbers of its labels, or its span."""
  asked = example['encoder_loss_weights'] > 0
  if spans:
    first, last = np.flatnonzero(asked)[[0, -1]]
    span = example['encoder_input_tokens'][first : last + 1]
    return [
      *_paragraph('inputs', example['encoder_input_tokens'], tokenizer),
      *_paragraph('span', span, tokenizer),
    ]
  labels = ', '.join(map(str, example['encoder_target_tokens'][asked]))
  return [*_paragraph('inputs', example['encoder_input_tokens'], tokenizer), f'  label: {labels}']


def _masked(example: dataset.Batch, tokenizer: tokenizer_lib.Tokenizer) -> list[str]:
  """Returns the masked text and, for each token asked for, what is shown in its place."""
  asked = np.flatnonzero(example['encoder_loss_weights'] > 0)
  pairs = [
    f'{place}: {_token(example["encoder_input_tokens"][place], tokenizer)}'
    f' for {_token(example["encoder_target_tokens"][place], tokenizer)}'
    for place in asked[:MOST_PREDICTIONS]
  ]
  more = [f'and {len(asked) - len(pairs)} more'] if len(asked) > len(pairs) else []
  return [
    *_paragraph('inputs', example['encoder_input_tokens'], tokenizer),
    *_wrapped(f'targets ({len(asked)} tokens): {", ".join(pairs + more)}'),
  ]


def _token(id: np.ndarray, tokenizer: tokenizer_lib.Tokenizer) -> str:
  return repr(tokenizer.decode([int(id)]))


def _paragraph(name: str, ids: np.ndarray, tokenizer: tokenizer_lib.Tokenizer) -> list[str]:
  length = int((ids != tokenizer.vocabulary.pad).sum())
  return _wrapped(f'{name} ({length} tokens): {tokenizer.decode(ids)}')


def _wrapped(text: str) -> list[str]:
  lines = text.splitlines() or ['']
  indent = ['  ', *['    '] * (len(lines) - 1)]
  wrapped = [
    textwrap.wrap(line, WIDTH, initial_indent=first, subsequent_indent='    ')
    for line, first in zip(lines, indent, strict=True)
  ]
  return [part for parts in wrapped for part in parts]
