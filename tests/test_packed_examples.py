"""What each example of a packed row says: its text, and nothing of what it is to predict."""

import numpy as np
import objective_cases as cases
import pytest

Batch = dict[str, np.ndarray]
WITH_DECODER = pytest.mark.parametrize(
  ('architecture', 'name'), [kind for kind in cases.KINDS if kind[0] != 'encoder']
)


def segment(batch: Batch, key: str, row: int, number: int) -> list[int]:
  side = key.split('_')[0]
  return batch[key][row][batch[f'{side}_segment_ids'][row] == number].tolist()


def given_and_asked(batch: Batch, row: int, number: int) -> tuple[list[int], list[int]]:
  """The inputs of an example, and the tokens that have weight in its loss."""
  targets = segment(batch, 'decoder_target_tokens', row, number)
  weights = segment(batch, 'decoder_loss_weights', row, number)
  asked = [token for token, weight in zip(targets, weights, strict=True) if weight]
  if 'encoder_input_tokens' in batch:
    return segment(batch, 'encoder_input_tokens', row, number), asked
  first = segment(batch, 'decoder_input_tokens', row, number)[0]
  return [first, *targets[: weights.index(1)]], asked


def rebuilt(name: str, inputs: list[int], targets: list[int]) -> list[int]:
  """The text that an example was made of."""
  if name == 'causal_lm':
    assert inputs == [cases.EOS]
    return targets
  mode, inputs = (inputs[0], inputs[1:]) if name == 'ul2' else (None, inputs)
  if name == 'prefix_lm' or mode == cases.S:
    return inputs + targets
  if name == 'text_infilling':
    assert inputs[-1] == targets[-1] == cases.EOS
    return targets[:-1]
  return cases.refilled(inputs, targets)


@WITH_DECODER
def test_short_texts_are_rebuilt(architecture, name):
  """Of 1, 2, 3, ... tokens; one stack has no token before a text of one token to predict it."""
  config = cases.config(architecture, name, examples='documents')
  shortest = 2 if (architecture, name) == ('decoder', 'prefix_lm') else 1
  lengths_N = np.resize(np.arange(shortest, 13), 480)
  tokens, _ = cases.text(lengths_N)
  batch = cases.made(config, tokens, lengths_N, rows_N=np.arange(480) % 120)
  for i, length in enumerate(lengths_N):
    inputs, targets = given_and_asked(batch, i % 120, i // 120 + 1)
    assert rebuilt(name, inputs, targets) == tokens[i, :length].tolist()


def test_a_text_of_one_token_takes_no_place_in_one_stack():
  config = cases.config('decoder', 'prefix_lm', examples='documents')
  batch = cases.made(config, *cases.text([1, 5]), rows_N=np.zeros(2, int))
  assert batch['decoder_loss_weights'].sum() > 0
  assert set(batch['decoder_segment_ids'][0]) == {0, 2}


def visible(batch: Batch, row: int, number: int, place: int) -> set[int]:
  """The tokens that the prediction at a place of an example can depend on."""
  inputs = segment(batch, 'decoder_input_tokens', row, number)
  both_ways = [False] * len(inputs)
  if 'decoder_causal_attention' in batch:
    both_ways = segment(batch, 'decoder_causal_attention', row, number)
  seen = {token for s, token in enumerate(inputs) if s <= place or both_ways[s]}
  if 'encoder_input_tokens' in batch:
    seen.update(segment(batch, 'encoder_input_tokens', row, number))
  return seen


@pytest.mark.parametrize(
  ('architecture', 'name'),
  [(a, name) for a, name in cases.KINDS if a != 'encoder' and name != 'text_infilling'],
)
def test_no_text_is_asked_for_where_it_is_seen(architecture, name):
  """No two tokens of a text are alike, so one that is seen before it is predicted is a leak."""
  config = cases.config(architecture, name, examples='documents')
  random = np.random.default_rng(0)
  texts = np.arange(cases.FIRST_TEXT, cases.SIZE - 100, dtype=np.int32)
  tokens = np.stack([random.permutation(texts)[:40] for _ in range(120)])
  lengths_N = random.integers(2, 41, 120)
  batch = cases.made(config, tokens, lengths_N, rows_N=np.arange(120) % 60)
  num_asked = 0
  for row, number in ((i % 60, i // 60 + 1) for i in range(120)):
    targets = segment(batch, 'decoder_target_tokens', row, number)
    weights = segment(batch, 'decoder_loss_weights', row, number)
    for place, (target, weight) in enumerate(zip(targets, weights, strict=True)):
      if weight and not cases.VOCABULARY.special[target]:
        num_asked += 1
        assert target not in visible(batch, row, number, place)
  assert num_asked > 240


@pytest.mark.parametrize('whole_word', [False, True])
def test_masked_texts_each_stand_between_cls_and_sep(whole_word):
  config = cases.config('encoder', 'mlm', examples='documents', whole_word=whole_word)
  tokens, lengths_N = cases.text(np.resize(np.arange(1, 20), 90))
  batch = cases.made(config, tokens, lengths_N, rows_N=np.arange(90) % 18)
  num_asked = 0
  for i, length in enumerate(lengths_N):
    at = i % 18, i // 18 + 1
    targets, inputs = (segment(batch, f'encoder_{x}_tokens', *at) for x in ('target', 'input'))
    weights = segment(batch, 'encoder_loss_weights', *at)
    assert targets == [cases.CLS, *tokens[i, :length], cases.SEP]
    assert weights[0] == weights[-1] == 0
    assert sum(weights) <= max(1, round(0.15 * int(length)))
    kept = [weight == 0 for weight in weights]
    assert np.array(inputs)[kept].tolist() == np.array(targets)[kept].tolist()
    num_asked += sum(weights)
  assert num_asked > 45


def test_prediction_positions_of_packed_rows_are_where_the_weights_are():
  config = cases.config('encoder', 'mlm', examples='documents')
  batch = cases.made(
    config, *cases.text(np.resize(np.arange(1, 20), 90)), rows_N=np.arange(90) % 18
  )
  positions_BxM = batch['encoder_prediction_positions']
  for positions, weights in zip(positions_BxM, batch['encoder_loss_weights'], strict=True):
    at = np.flatnonzero(weights)
    np.testing.assert_array_equal(positions, np.pad(at, (0, len(positions) - len(at))))
