"""What holds of every objective with every architecture: layout, packing, independence, lengths."""

import dataclasses

import numpy as np
import objective_cases as cases
import pytest

from t5lite import errors
from t5lite import objectives

EVERY = pytest.mark.parametrize(('architecture', 'name'), cases.KINDS)
SIDES = ('encoder', 'decoder')


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
  assert one.keys() == other.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def documents(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Documents of 2 to 29 tokens, each with its end of text."""
  tokens, lengths_N = cases.text(np.random.default_rng(seed).integers(2, 30, num), seed)
  tokens[np.arange(num), lengths_N - 1] = cases.EOS
  return tokens, lengths_N


@EVERY
def test_a_batch_has_the_shapes_that_the_config_says(architecture, name):
  config = cases.config(architecture, name, 64, 96)
  length = objectives.window_length(config, cases.VOCABULARY)
  batch = cases.made(config, *cases.text([length] * 5))
  for key, values in batch.items():
    assert values.dtype == (np.float32 if key.endswith('weights') else np.int32), key
    if key != 'encoder_prediction_positions':
      width = 96 if architecture == 'encoder_decoder' and key.startswith('decoder') else 64
      assert values.shape == (5, width), key
  expected = {
    'encoder_decoder': {
      'encoder_input_tokens', 'decoder_input_tokens', 'decoder_target_tokens',
      'decoder_loss_weights',
    },
    'decoder': {'decoder_input_tokens', 'decoder_target_tokens', 'decoder_loss_weights'},
    'encoder': {
      'encoder_input_tokens', 'encoder_target_tokens', 'encoder_loss_weights',
      'encoder_prediction_positions',
    },
  }[architecture]  # fmt: skip
  if architecture == 'decoder' and name not in ('causal_lm', 'text_infilling'):
    expected |= {'decoder_causal_attention'}
  assert set(batch) == expected


@EVERY
def test_an_example_does_not_depend_on_its_batch(architecture, name):
  """Nor on the width of its batch, nor on what stands behind it."""
  config = cases.config(architecture, name)
  tokens, lengths_N = documents(20)
  whole = cases.made(config, tokens, lengths_N)
  for i in range(len(tokens)):
    alone = cases.made(config, tokens[i : i + 1, : lengths_N[i]], lengths_N[i : i + 1], first_key=i)
    assert_equal(alone, {key: values[i : i + 1] for key, values in whole.items()})


@EVERY
def test_another_key_gives_another_example(architecture, name):
  config = cases.config(architecture, name)
  tokens, lengths_N = cases.text([60])
  tokens, lengths_N = np.repeat(tokens, 20, axis=0), np.repeat(lengths_N, 20)
  batch = cases.made(config, tokens, lengths_N)
  rows = np.concatenate([values for _, values in sorted(batch.items())], axis=1)
  num_different = len(np.unique(rows, axis=0))
  # Few splits of a prefix, and a single span always ends the text: some are alike.
  assert num_different == 1 if name == 'causal_lm' else num_different > 5


@EVERY
def test_packing_is_the_examples_side_by_side(architecture, name):
  config = cases.config(architecture, name, 256, 128, examples='documents')
  tokens, lengths_N = documents(24)
  rows_N = np.arange(24) % 8  # three a row, the examples of a row apart in the batch
  packed = cases.made(config, tokens, lengths_N, rows_N=rows_N, num_rows=9)
  alone = [
    cases.made(
      config, tokens[i : i + 1], lengths_N[i : i + 1], first_key=i, rows_N=np.zeros(1, int)
    )
    for i in range(24)
  ]
  for side in SIDES:
    names = [key for key in packed if key.startswith(side) and 'prediction' not in key]
    for row in range(8):
      members = [alone[i] for i in np.flatnonzero(rows_N == row)]
      used = [part[f'{side}_segment_ids'][0] == 1 for part in members if names]
      for key in names:
        parts = [part[key][0][mask] for part, mask in zip(members, used, strict=True)]
        if key.endswith('segment_ids'):
          parts = [part * number for number, part in enumerate(parts, 1)]
        side_by_side = np.concatenate(parts)
        width = packed[key].shape[1]
        expected = np.pad(side_by_side, (0, width - len(side_by_side)))
        np.testing.assert_array_equal(packed[key][row], expected, err_msg=f'{key} row {row}')
    for key in names:
      assert not packed[key][8].any(), 'a row without examples is padding'


@EVERY
def test_positions_begin_anew_in_every_segment(architecture, name):
  config = cases.config(architecture, name, 256, 128, examples='documents')
  tokens, lengths_N = documents(12)
  packed = cases.made(config, tokens, lengths_N, rows_N=np.arange(12) // 4)
  for side in SIDES:
    if f'{side}_positions' not in packed:
      assert architecture != 'encoder_decoder'
      continue
    for positions, segments in zip(
      packed[f'{side}_positions'], packed[f'{side}_segment_ids'], strict=True
    ):
      assert set(segments) == {0, 1, 2, 3, 4}
      for number in (1, 2, 3, 4):
        mine = positions[segments == number]
        np.testing.assert_array_equal(mine, np.arange(len(mine)))
      np.testing.assert_array_equal(np.sort(segments[segments > 0]), segments[segments > 0])


@EVERY
@pytest.mark.parametrize('examples', ['windows', 'documents'])
def test_lengths_are_the_most_that_an_example_takes(architecture, name, examples):
  """For every length of text, over many draws: never exceeded, and reached."""
  config = cases.config(architecture, name, examples=examples)
  raw_N = np.repeat(np.arange(1, 40), 150)
  batch = cases.made(config, *cases.text(raw_N), rows_N=np.arange(len(raw_N)))
  said = dict(zip(SIDES, objectives.lengths(config, cases.VOCABULARY, raw_N), strict=True))
  if architecture == 'decoder':
    said = {'decoder': said['encoder']}
  for side in SIDES:
    if f'{side}_segment_ids' not in batch:
      assert architecture != 'encoder_decoder'
      continue
    used_N = batch[f'{side}_segment_ids'].sum(axis=1)  # one segment, number 1
    assert (used_N <= said[side]).all()
    most = used_N.reshape(39, 150).max(axis=1)
    if name == 'prefix_lm' and architecture == 'encoder_decoder':
      most[0] = said[side][0]  # of a text of one token all is target, or it has none
    slack = 1 if name in ('ul2', 'prefix_lm') else 0  # drawn, with a rare extreme
    assert (said[side].reshape(39, 150)[:, 0] - most <= slack).all()


@EVERY
@pytest.mark.parametrize('room', [100, 60])
def test_a_window_is_the_longest_that_fits(architecture, name, room):
  """The encoder, and a decoder that is shorter."""
  config = cases.config(architecture, name, 100, room)
  length = objectives.window_length(config, cases.VOCABULARY)
  inputs, targets = objectives.lengths(config, cases.VOCABULARY, np.array([length, length + 1]))
  assert inputs[0] <= 100 and targets[0] <= room
  assert inputs[1] > 100 or (targets[1] > room and name != 'span_corruption')


@EVERY
def test_rows_filled_to_the_last_token_do_not_overflow(architecture, name):
  """As the packing plan fills them: by what `lengths` says of each document."""
  config = cases.config(architecture, name, 64, 64, examples='documents')
  random = np.random.default_rng(0)
  lengths_N = np.minimum(random.geometric(0.15, 400), 30)
  sizes = np.stack(objectives.lengths(config, cases.VOCABULARY, lengths_N), axis=1)
  rows, used, row = [], np.zeros(2, int), 0
  for size in sizes:
    if (used + size > 64).any():
      row, used = row + 1, np.zeros(2, int)
    used = used + size
    rows.append(row)
  batch = cases.made(config, *cases.text(lengths_N), rows_N=np.array(rows))
  assert all(values.shape[0] == row + 1 for values in batch.values())


@EVERY
def test_the_loss_is_on_targets_and_never_on_padding(architecture, name):
  config = cases.config(architecture, name, 256, 128, examples='documents')
  tokens, lengths_N = documents(12)
  batch = cases.made(config, tokens, lengths_N, rows_N=np.arange(12) // 4)
  side = 'encoder' if architecture == 'encoder' else 'decoder'
  weights = batch[f'{side}_loss_weights']
  assert set(np.unique(weights)) == {0, 1}
  assert not weights[batch[f'{side}_segment_ids'] == 0].any()
  assert not weights[batch[f'{side}_target_tokens'] == 0].any()
  # Every example is learned from.
  for number in (1, 2, 3, 4):
    assert (weights * (batch[f'{side}_segment_ids'] == number)).sum(axis=1).all()


@pytest.mark.parametrize(
  ('architecture', 'name'), [kind for kind in cases.KINDS if kind[0] != 'encoder']
)
def test_each_token_of_a_decoder_predicts_the_next(architecture, name):
  config = cases.config(architecture, name, 256, 128, examples='documents')
  batch = cases.made(config, *documents(12), rows_N=np.arange(12) // 4)
  segments = batch['decoder_segment_ids']
  inputs = cases.streams(batch['decoder_input_tokens'] + 1, segments)  # + 1: a 0 may be a token
  targets = cases.streams(batch['decoder_target_tokens'] + 1, segments)
  for given, asked in zip(inputs, targets, strict=True):
    assert given[1:] == asked[:-1]
    if architecture == 'encoder_decoder':
      assert given[0] == 0 + 1


def test_a_row_that_overflows_is_an_error():
  config = cases.config('decoder', 'causal_lm', 8, examples='documents')
  with pytest.raises(ValueError, match='10 tokens in a row of width=8'):
    cases.made(config, *cases.text([5, 5]), rows_N=np.zeros(2, int))


@EVERY
def test_a_vocabulary_larger_than_the_model_is_refused(architecture, name):
  config = cases.config(architecture, name, 64, 64)
  objectives.check(config, cases.VOCABULARY)
  small = dataclasses.replace(config.model, vocab_size=999)
  with pytest.raises(errors.ConfigError, match='1000 tokens .*model.vocab_size=1000 or more'):
    objectives.check(dataclasses.replace(config, model=small), cases.VOCABULARY)
