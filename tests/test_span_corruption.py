"""Span corruption against T5's definition, written plainly from paper and reference code."""

import collections
import itertools

import numpy as np
import objective_cases as cases
import pytest

from t5lite import errors
from t5lite import objectives
from t5lite.objectives import pairs
from t5lite.objectives import span_corruption

SETTINGS = [(0.15, 3.0), (0.5, 3.0), (0.15, 8.0), (0.3, 1.0), (0.5, 64.0)]


def plain_counts(length: int, density: float, mean: float) -> tuple[int, int]:
  """Noise tokens and spans of T5's random_spans_noise_mask."""
  noise = min(max(round(length * density), 1), length - 1)
  return noise, max(round(noise / mean), 1)


def plain_segments(items: int, parts: int, random: np.random.Generator) -> list[int]:
  """T5's random_segmentation: shuffled marks say where a segment begins; item 0 always begins."""
  marks = [True] * (parts - 1) + [False] * (items - parts)
  random.shuffle(marks)
  lengths = [1]
  for begins in marks:
    if begins:
      lengths.append(0)
    lengths[-1] += 1
  return lengths


def plain_mask(length: int, density: float, mean: float, random) -> tuple[bool, ...]:
  """T5's random_spans_noise_mask of one example."""
  noise, spans = plain_counts(length, density, mean)
  text = plain_segments(length - noise, spans, random)
  noise = plain_segments(noise, spans, random)
  mask = []
  for unmasked, masked in zip(text, noise, strict=True):
    mask += [False] * unmasked + [True] * masked
  return tuple(mask)


def plain_pair(tokens: list[int], mask: tuple[bool, ...]) -> tuple[list[int], list[int]]:
  """Inputs and targets of a masked text: a sentinel for each run that is left out."""

  def side(left_out: bool) -> list[int]:
    out, sentinels = [], iter(cases.SENTINELS.tolist())
    for masked, run in itertools.groupby(zip(tokens, mask, strict=True), key=lambda pair: pair[1]):
      out += [next(sentinels)] if masked == left_out else [token for token, _ in run]
    return [*out, cases.EOS]

  return side(True), side(False)


def masks(length: int, density: float, mean: float, num: int) -> list[tuple[bool, ...]]:
  lengths_N = np.full(num, length)
  mask = span_corruption.noise_mask(lengths_N, length, cases.keys(num), density, mean)
  return [tuple(row) for row in mask.tolist()]


def test_the_paper_s_example():
  """Figure 2 of Raffel et al. 2020; its targets end with a sentinel as its text ends unmasked."""
  words = 'Thank you for inviting me to your party last week .'.split()
  mask = np.array([[word in ('for', 'inviting', 'last') for word in words]])
  rows = pairs.Ragged(10 + np.arange(len(words), dtype=np.int32)[None], np.array([len(words)]))
  name = dict(enumerate(words, 10)) | {cases.EOS: '</s>'}
  name |= dict(zip(cases.SENTINELS.tolist(), ('<X>', '<Y>', '<Z>'), strict=False))
  sides = [
    ' '.join(name[token] for token in side.tokens_NxL[0, : side.lengths_N[0]])
    for side in (
      span_corruption.collapse(rows, mask, cases.VOCABULARY),
      span_corruption.collapse(rows, ~mask, cases.VOCABULARY),
    )
  ]
  assert sides == [
    'Thank you <X> me to your party <Y> week . </s>',
    '<X> for inviting <Y> last <Z> </s>',
  ]


def test_every_segmentation_is_as_likely():
  """5 of 12 tokens in 2 spans: 4 ways to split the noise times 6 to split the text."""
  num = 24_000
  random = np.random.default_rng(0)
  ours = collections.Counter(masks(12, 0.4, 2.5, num))
  plain = {plain_mask(12, 0.4, 2.5, random) for _ in range(2000)}
  assert len(plain) == 4 * 6 and set(ours) == plain
  assert all(abs(count - num / 24) < 5 * (num / 24) ** 0.5 for count in ours.values())


@pytest.mark.parametrize(('density', 'mean'), SETTINGS)
def test_spans_are_as_long_and_where_the_reference_puts_them(density, mean):
  num, length = 2000, 150
  random = np.random.default_rng(0)
  plain = [plain_mask(length, density, mean, random) for _ in range(num)]
  ours = masks(length, density, mean, num)

  def run_lengths(all_masks) -> np.ndarray:
    runs = [
      (masked, len(list(run))) for mask in all_masks for masked, run in itertools.groupby(mask)
    ]
    binned = np.zeros((2, 12))
    for masked, run in runs:
      binned[int(masked), min(run.bit_length() if run > 8 else run, 11)] += 1
    return binned

  a, b = run_lengths(ours), run_lengths(plain)
  np.testing.assert_array_equal(a.sum(axis=1), b.sum(axis=1))  # the same number of runs
  assert (np.abs(a - b) <= 6 * np.sqrt(a + b) + 1).all()
  where, expected = np.mean(ours, axis=0), np.mean(plain, axis=0)
  assert np.abs(where - expected).max() < 6 * (0.5 / num) ** 0.5


@pytest.mark.parametrize(('density', 'mean'), SETTINGS)
def test_the_share_and_the_mean_span_are_as_asked(density, mean):
  for length in (2, 3, 20, 568):
    noise, spans = plain_counts(length, density, mean)
    for mask in masks(length, density, mean, 50):
      runs = [masked for masked, _ in itertools.groupby(mask)]
      assert (sum(mask), sum(runs)) == (noise, spans)
      assert not mask[0] and mask[-1]  # begins with text, ends with a span


def test_many_spans_of_a_dense_text_still_have_text_between():
  """T5's code asks for more spans than there is text here, and fails."""
  first_spans = set()
  for mask in masks(20, 0.9, 1.0, 50):
    runs = [len(list(run)) for _, run in itertools.groupby(mask)]
    assert runs[::2] == [1, 1] and sum(runs[1::2]) == 18
    first_spans.add(runs[1])
  assert len(first_spans) > 10
  (inputs,), (targets,) = span_corruption.lengths(np.array([20]), 0.9, 1.0)
  assert (inputs, targets) == (2 + 2 + 1, 18 + 2 + 1)


@pytest.mark.parametrize(('density', 'mean'), SETTINGS)
def test_inputs_and_targets_are_the_plain_ones_of_the_mask(density, mean):
  """For texts of all lengths in one batch, with undefined tokens behind each."""
  tokens, lengths_N = cases.text(np.arange(1, 120))
  rows = pairs.Ragged(tokens, lengths_N)
  keys = cases.keys(len(tokens))
  mask = span_corruption.noise_mask(lengths_N, tokens.shape[1], keys, density, mean)
  made = span_corruption.corrupt(rows, keys, cases.VOCABULARY, density, mean)
  for i, length in enumerate(lengths_N):
    text = tokens[i, :length].tolist()
    inputs, targets = (side.tokens_NxL[i, : side.lengths_N[i]].tolist() for side in made)
    assert (inputs, targets) == plain_pair(text, tuple(mask[i, :length]))


@pytest.mark.parametrize('architecture', ['encoder_decoder', 'decoder'])
def test_inputs_and_targets_rebuild_the_text(architecture):
  tokens, lengths_N = cases.text(np.arange(2, 90))
  batch = cases.made(cases.config(architecture), tokens, lengths_N)
  for i, length in enumerate(lengths_N):
    if architecture == 'decoder':
      stream = [batch['decoder_input_tokens'][i, 0], *batch['decoder_target_tokens'][i]]
      given = batch['decoder_causal_attention'][i].sum()
      inputs, targets = stream[:given], [token for token in stream[given:] if token]
    else:
      (inputs,) = cases.streams(batch['encoder_input_tokens'][i : i + 1])
      (targets,) = cases.streams(batch['decoder_target_tokens'][i : i + 1])
    assert cases.refilled(inputs, targets) == tokens[i, :length].tolist()
    named = [token for token in inputs if token in cases.IS_SENTINEL]
    assert named == cases.SENTINELS[: len(named)].tolist()


def test_a_text_of_one_token_stays_whole():
  tokens, lengths_N = cases.text([1, 1])
  batch = cases.made(cases.config(), tokens, lengths_N)
  assert cases.streams(batch['encoder_input_tokens'])[0] == [tokens[0, 0], cases.EOS]
  assert cases.streams(batch['decoder_target_tokens'])[0] == [cases.SENTINELS[0], cases.EOS]


def plain_window(inputs: int, density: float, mean: float) -> tuple[int, int]:
  """T5's random_spans_helper: raw tokens whose inputs fill the encoder, and their targets."""

  def sizes(length: int) -> tuple[int, int]:
    noise = round(length * density)
    spans = round(noise / mean)
    return length - noise + spans + 1, noise + spans + 1

  length = inputs - 1
  while sizes(length + 1)[0] <= inputs:
    length += 1
  return length, sizes(length)[1]


@pytest.mark.parametrize('inputs', [64, 128, 512, 1024])
@pytest.mark.parametrize(('density', 'mean'), SETTINGS[:3])
def test_windows_are_those_of_the_reference(inputs, density, mean):
  expected, targets = plain_window(inputs, density, mean)
  config = cases.config(
    input_length=inputs, target_length=targets, noise_density=density, mean_span_length=mean
  )
  assert objectives.window_length(config, cases.VOCABULARY) == expected
  tokens, lengths_N = cases.text([expected])
  many = cases.vocabulary(sentinels=np.arange(600, 1000, dtype=np.int32)[::-1])
  batch = objectives.batch(config, many, tokens, lengths_N, cases.keys(1))
  assert (batch['encoder_input_tokens'] != 0).all()
  assert (batch['decoder_target_tokens'] != 0).all() and batch['decoder_loss_weights'].all()


def test_the_paper_s_lengths_fill_up():
  assert plain_window(512, 0.15, 3.0) == (568, 114)
  config = cases.config(input_length=512, target_length=114)
  objectives.check(config, cases.VOCABULARY)
  assert objectives.window_length(config, cases.VOCABULARY) == 568


def test_a_short_target_length_names_the_right_one():
  config = cases.config(input_length=512, target_length=113)
  with pytest.raises(errors.ConfigError, match='data.target_length=113.*data.target_length=114'):
    objectives.check(config, cases.VOCABULARY)


def test_a_long_target_length_is_padded_with_weight_0():
  config = cases.config(input_length=512, target_length=120)
  objectives.check(config, cases.VOCABULARY)
  batch = cases.made(config, *cases.text([568] * 3))
  assert (batch['decoder_target_tokens'][:, 114:] == 0).all()
  np.testing.assert_array_equal(
    batch['decoder_loss_weights'], np.broadcast_to(np.arange(120) < 114, (3, 120))
  )


def test_too_few_sentinels_are_refused():
  config = cases.config(input_length=512, target_length=114)  # 28 spans
  few = cases.vocabulary(sentinels=cases.SENTINELS[:27])
  with pytest.raises(errors.ConfigError, match='28 spans, 27 sentinels'):
    objectives.check(config, few)
  objectives.check(config, cases.vocabulary(sentinels=cases.SENTINELS[:28]))


def test_text_infilling_has_the_same_inputs_and_the_whole_text_as_targets():
  tokens, lengths_N = cases.text([60, 7, 33, 2])
  noise = {'noise_density': 0.3, 'mean_span_length': 2.0}
  spans = cases.made(cases.config(**noise), tokens, lengths_N)
  whole = cases.made(cases.config(name='text_infilling', **noise), tokens, lengths_N)
  np.testing.assert_array_equal(whole['encoder_input_tokens'], spans['encoder_input_tokens'])
  for i, length in enumerate(lengths_N):
    text = [*tokens[i, :length], cases.EOS]
    assert whole['decoder_target_tokens'][i, : length + 1].tolist() == text
    assert whole['decoder_loss_weights'][i].sum() == length + 1


def test_a_decoder_reads_the_inputs_of_text_infilling_and_then_writes_the_text():
  """It sees no token before it has read it: what it learns is of use to a causal model."""
  tokens, lengths_N = cases.text([30, 7])
  noise = {'noise_density': 0.3, 'mean_span_length': 2.0}
  apart = cases.made(cases.config(name='text_infilling', **noise), tokens, lengths_N)
  one = cases.made(cases.config('decoder', 'text_infilling', **noise), tokens, lengths_N)
  assert 'decoder_causal_attention' not in one
  for i, length in enumerate(lengths_N):
    given = apart['encoder_input_tokens'][i]
    given = given[given != cases.PAD].tolist()
    text = [*tokens[i, :length].tolist(), cases.EOS]
    stream = [one['decoder_input_tokens'][i, 0], *one['decoder_target_tokens'][i]]
    assert stream[: len(given) + len(text)] == given + text
    asked = np.flatnonzero(one['decoder_loss_weights'][i])
    np.testing.assert_array_equal(asked, len(given) - 1 + np.arange(len(text)))
