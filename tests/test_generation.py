"""Generation: beams, samples and batches, stop strings, and texts that are shown as they grow."""

import dataclasses
import itertools

import families
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5lite import decoding
from t5lite import errors
from t5lite import meshes
from t5lite import models
from t5lite.decoding import batches
from t5lite.decoding import sampling
from t5lite.decoding import texts
from test_decoding import KEY, MESHES, TOKENIZER, causal, filling_config, params_of, sharded

SAMPLER = sampling.Sampler(temperature=1.0)
MODEL = dataclasses.replace(families.MODELS['gpt2'], max_length=64)
PROMPTS = [np.array(row) for row in ([3, 9, 4], [7], [11, 2, 8, 8, 20], [5, 5], range(1, 13))]


def scored(prompts=PROMPTS, model=MODEL, **options) -> list[decoding.Output]:
  defaults = dict(max_tokens=6, sampler=SAMPLER, key=KEY, eos=4)
  return decoding.scored(model, params_of(model), prompts, **(defaults | options))


def tokens_of(outputs) -> list[list[int]]:
  return [output.tokens.tolist() for output in outputs]


def test_a_wide_beam_finds_the_best_of_all_texts():
  """As many beams as there are beginnings: every text of two tokens, against a sum over all."""
  model, (prompt, *_) = MODEL, PROMPTS
  size, eos, penalty = model.vocab_size, 4, 0.7
  rows = np.array([[*prompt, token, 0] for token in range(size)])
  logits = models.apply(model, params_of(model), {'decoder_input_tokens': jnp.array(rows)})
  log_share = np.array(jax.nn.log_softmax(logits, axis=-1))
  first_V, second_VV = log_share[0, len(prompt) - 1], log_share[:, len(prompt)]
  scores = {(eos,): first_V[eos]}
  for one, two in itertools.product(set(range(size)) - {eos}, range(size)):
    scores[one, two] = (first_V[one] + second_VV[one, two]) / 2**penalty
  best = sorted(scores, key=scores.__getitem__, reverse=True)[:size]
  beam = decoding.Beam(num_beams=size, length_penalty=penalty)
  got = scored([prompt], max_tokens=2, sampler=beam, num_samples=size, eos=eos)
  expected = [list(text[:-1] if text[-1] == eos else text) for text in best]
  assert tokens_of(got) == expected
  np.testing.assert_allclose([one.score for one in got], [scores[t] for t in best], rtol=1e-5)


@pytest.mark.parametrize(
  'sampler', [SAMPLER, decoding.Beam(num_beams=3), sampling.Sampler(repetition_penalty=1.5)]
)
def test_batches_change_nothing(sampler):
  """One prompt at a time, against two and against all."""
  together = scored(sampler=sampler)
  for size in (1, 2, 7):
    assert tokens_of(scored(sampler=sampler, batch_size=size)) == tokens_of(together)
  assert len(set(map(str, tokens_of(together)))) > 2


def test_samples_are_a_function_of_their_number():
  """Three of each prompt, of which the first two are those that two would be; all differ."""
  three, two = (tokens_of(scored(num_samples=n, eos=-1)) for n in (3, 2))
  assert [text for i, text in enumerate(three) if i % 3 < 2] == two
  assert tokens_of(scored(eos=-1)) == three[::3]
  assert len(set(map(str, three))) == 3 * len(PROMPTS)


@pytest.mark.parametrize('name', ['gpt2', 't5_1_1'])
def test_layers_apart_are_the_layers_of_the_stack(name):
  """Unrolled, against scanned; parameters that are apart already are taken, too."""
  model = dataclasses.replace(families.MODELS[name], max_length=64 if name == 'gpt2' else 0)
  unrolled = dataclasses.replace(model, layers='unroll')
  expected = tokens_of(scored(model=model, eos=-1))
  assert tokens_of(scored(model=unrolled, eos=-1)) == expected
  params = decoding.apart(unrolled, params_of(model))
  options = dict(max_tokens=6, sampler=SAMPLER, key=KEY, eos=-1)
  assert tokens_of(decoding.scored(unrolled, params, PROMPTS, **options)) == expected


def test_no_prompts_are_no_texts():
  assert scored([]) == []


def test_a_score_is_the_log_probability_of_the_text():
  (output,) = scored(PROMPTS[:1], eos=-1)
  row = np.append(PROMPTS[0], output.tokens).astype(np.int32)
  logits = models.apply(MODEL, params_of(MODEL), {'decoder_input_tokens': row[None]})
  shares = jax.nn.log_softmax(logits, axis=-1)[0, len(PROMPTS[0]) - 1 : -1]
  expected = np.take_along_axis(np.array(shares), output.tokens[:, None], axis=1).sum()
  assert output.score == pytest.approx(expected, rel=1e-4)


def test_scores_of_beams_are_those_of_their_texts():
  """Beams take over the cache of others: each text is read anew."""
  beam = decoding.Beam(num_beams=4, length_penalty=0.5)
  outputs = scored(sampler=beam, num_samples=4, eos=-1)
  assert len(set(map(str, tokens_of(outputs)))) > 8
  for i, output in enumerate(outputs):
    prompt = PROMPTS[i // 4]
    row = np.append(prompt, output.tokens).astype(np.int32)
    logits = models.apply(MODEL, params_of(MODEL), {'decoder_input_tokens': row[None]})
    shares = np.array(jax.nn.log_softmax(logits, axis=-1))[0, len(prompt) - 1 : -1]
    expected = np.take_along_axis(shares, output.tokens[:, None], axis=1).sum() / 6**0.5
    assert output.score == pytest.approx(expected, rel=1e-4)


def test_a_nucleus_is_that_of_the_sorted_vocabulary():
  share_BV = jax.nn.softmax(3 * jax.random.normal(KEY, (40, 501)), axis=-1)
  for top_p in (0.05, 0.5, 0.9, 0.999):
    order_BV = np.sort(share_BV, axis=1)[:, ::-1].astype(np.float64)
    count_B1 = (np.cumsum(order_BV, axis=1) < top_p).sum(axis=1, keepdims=True)
    least_B1 = np.take_along_axis(order_BV, count_B1, axis=1)
    kept_BV = share_BV >= sampling.nucleus(share_BV, top_p)
    np.testing.assert_array_equal(kept_BV, share_BV >= least_B1)


def test_draws_never_hit_what_is_left_out():
  """At both ends of the numbers, with whole blocks left out before and behind."""
  logits_BV = jnp.full((1, 2000), -jnp.inf).at[0, jnp.array([700, 701, 1100])].set(0.0)
  numbers = [0.0, 0.3333, 0.3334, 0.6666, 0.6667, 1 - 2**-24]
  got = [int(sampling.draw(logits_BV, jnp.array([number]))[0]) for number in numbers]
  assert got == [700, 700, 701, 701, 1100, 1100]
  at_the_end = jnp.array([3.0])  # where rounding may lead
  assert int(sampling.passed(jnp.array([[0.0, 1.0, 2.0, 0.0]]), at_the_end)[0][0]) == 2


def test_repeated_tokens_are_penalised_once():
  scores_BV = jnp.array([[1.0, -1.0, 2.0, 0.5], [3.0, -2.0, 1.0, -0.5]])
  tokens_BxS = jnp.array([[1, 1, 2, 4], [0, 4, 3, 0]])  # 4 is no token
  got = sampling.penalized(scores_BV, tokens_BxS, 2.0)
  np.testing.assert_array_equal(got, [[1.0, -2.0, 1.0, 0.5], [1.5, -2.0, 1.0, -1.0]])


def test_many_lengths_are_few_shapes():
  """Every prompt once, in batches of one number of rows, at most half of it more than asked for."""
  rng = np.random.default_rng(0)
  prompts = [rng.integers(1, 9, length) for length in rng.integers(1, 400, 333)]
  cut = batches.cut(prompts, None, 32)
  assert len({batch.prompts_BxP.shape for batch in cut}) <= 8
  assert {len(batch.first_B) for batch in cut} == {31}
  seen = []
  for batch in cut:
    for row, number in enumerate(batch.number_B[: batch.num_prompts]):
      seen.append(number)
      first = batch.first_B[row]
      np.testing.assert_array_equal(batch.prompts_BxP[row, first:], prompts[number])
      assert not batch.prompts_BxP[row, :first].any()
  assert sorted(seen) == list(range(333))
  assert sum(batch.prompts_BxP.size for batch in cut) < 1.5 * sum(map(len, prompts))


@pytest.mark.slow
@pytest.mark.parametrize('parallel', MESHES)
@pytest.mark.parametrize('architecture', ['decoder', 'encoder_decoder'])
@pytest.mark.parametrize(
  'sampler',
  [
    decoding.Beam(num_beams=3, repetition_penalty=1.2, no_repeat_ngram_size=2),
    sampling.Sampler(temperature=1.0, top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.2),
  ],
)
def test_a_mesh_changes_neither_beams_nor_samples(parallel, architecture, sampler):
  name = {'decoder': 'modern_decoder', 'encoder_decoder': 't5_1_1'}[architecture]
  even = dict(vocab_size=32, d_model=16, d_ff=24, num_heads=4, num_kv_heads=2)
  even |= {} if architecture == 'decoder' else dict(num_kv_heads=4, layers='unroll')
  model = dataclasses.replace(families.MODELS[name], **even)
  options = dict(sampler=sampler, num_samples=2)
  expected = scored(model=model, **options)
  mesh, params = meshes.make(parallel), params_of(model)
  with jax.set_mesh(mesh):
    options |= dict(max_tokens=6, key=KEY, eos=4)
    got = decoding.scored(model, sharded(model, params, mesh), PROMPTS, **options)
  assert tokens_of(got) == tokens_of(expected)
  np.testing.assert_allclose([x.score for x in got], [x.score for x in expected], rtol=1e-4)


def test_wrong_requests_are_one_clear_line():
  for options, message in (
    (dict(sampler=sampling.Sampler(), num_samples=2), 'greedy has one text: num_samples=2: sample'),
    (dict(sampler=decoding.Beam(num_beams=2), num_samples=3), 'more texts than beams: num_sam'),
    (dict(sampler=sampling.Sampler(min_tokens=7)), 'above the maximum: min_tokens=7, room for 6: '),
    (dict(batch_size=0), 'batch_size=0: use 1 or more'),
    (dict(num_samples=0), 'num_samples=0: use 1 or more'),
  ):
    with pytest.raises(errors.ConfigError, match=message):
      scored(**options)
  for make, message in (
    (lambda: decoding.Beam(num_beams=0), 'beam.num_beams=0: use 1 or more'),
    (lambda: decoding.Beam(repetition_penalty=0.0), 'not a penalty: beam.repetition_penalty=0.0'),
    (
      lambda: sampling.Sampler(no_repeat_ngram_size=-1),
      'sampler.no_repeat_ngram_size=-1: use 0 or more',
    ),
    (lambda: decoding.Beam(min_tokens=-1), 'beam.min_tokens=-1: use 0 or more'),
    (lambda: sampling.Sampler(min_p=1.5), 'sampler.min_p=1.5: use 0 <= min_p <= 1'),
  ):
    with pytest.raises(errors.ConfigError, match=message):
      make()


@pytest.mark.parametrize(
  'sampler', [sampling.Sampler(), sampling.Sampler(temperature=1.0), decoding.Beam(num_beams=3)]
)
def test_no_text_ends_before_its_least_length(sampler):
  """The end of text is the token that comes up most, so that texts end early without a bound."""
  free = np.concatenate(tokens_of(scored(sampler=sampler, eos=-1)))
  eos = int(np.bincount(free).argmax())
  assert min(map(len, tokens_of(scored(sampler=sampler, eos=eos)))) < 4
  longer = dataclasses.replace(sampler, min_tokens=4)
  assert min(map(len, tokens_of(scored(sampler=longer, eos=eos)))) == 4


@pytest.mark.parametrize('size', [2, 3])
@pytest.mark.parametrize(
  'sampler', [sampling.Sampler(), sampling.Sampler(temperature=0.5), decoding.Beam(num_beams=3)]
)
def test_no_sequence_of_tokens_comes_twice(sampler, size):
  """Neither of new tokens nor of the prompt's."""

  def is_repeated(text: list[int], end: int) -> bool:
    ends = range(size, end)
    return any(text[i - size : i] == text[end - size : end] for i in ends)

  def num_repeated(sampler) -> int:
    new = tokens_of(scored(sampler=sampler, eos=-1, max_tokens=20))
    texts = [[*prompt, *tokens] for prompt, tokens in zip(PROMPTS, new, strict=True)]
    return sum(is_repeated(text, len(text) - i) for text in texts for i in range(20))

  assert num_repeated(sampler)
  assert not num_repeated(dataclasses.replace(sampler, no_repeat_ngram_size=size))


@pytest.mark.parametrize('sampler', [sampling.Sampler(), decoding.Beam(num_beams=3)])
def test_a_penalty_spares_the_prompt_where_it_is_asked_to(sampler):
  """So high a penalty that what has it does not come again."""

  def from_prompts(**options) -> int:
    penal = dataclasses.replace(sampler, repetition_penalty=1e6, **options)
    new = tokens_of(scored(sampler=penal, eos=-1))
    assert all(len(set(tokens)) == len(tokens) for tokens in new)
    return sum(
      token in prompt for prompt, tokens in zip(PROMPTS, new, strict=True) for token in tokens
    )

  assert not from_prompts()
  assert from_prompts(penalize_prompt=False)


def test_rows_that_end_are_not_written_on():
  """Asked each 16 tokens; those that ended are left alone."""
  asked = []

  def ended(tokens):
    asked.append(len(tokens))
    return len(asked) % 2 == 1

  outputs = scored(PROMPTS[:4], max_tokens=40, eos=-1, ended=ended)
  assert [len(output.tokens) for output in outputs] == [32, 40, 16, 16]  # the longest prompt first
  assert asked == [16] * 4 + [32] * 2 + [40]


def test_texts_end_before_the_first_stop_string():
  assert texts.cut('one</t>two\nthree', ['\n', '</t>']) == 'one'
  assert texts.cut('one', ['\n', '</t>']) == texts.cut('one', []) == 'one'


def test_only_what_is_settled_is_shown():
  """Half of a stop string, or of a character, waits for the rest; in the end all is shown."""
  growing = ['a', 'ab<', 'ab</t', 'ab</table> x\ufffd', 'ab</table> xé', 'ab</table> xé</t> no']
  got = list(texts.pieces(growing, ['</t>']))
  assert got == ['a', 'b', '</table> x', 'é']
  assert list(texts.pieces(['a<', 'a</'], ['</t>'])) == ['a', '</']
  assert list(texts.pieces(['', ''], ['x'])) == []


@pytest.mark.parametrize('architecture', ['decoder', 'encoder_decoder'])
def test_a_stream_is_the_text_in_pieces(architecture):
  """With a string of the text itself for the end, and without."""
  run = filling_config('encoder_decoder')
  run = causal(run) if architecture == 'decoder' else run
  params, prompt = params_of(run.model), 'It was the best'
  options = dict(max_tokens=30, sampler=SAMPLER, key=KEY)
  whole = None
  for stops in ([], ['?']):
    stops = [whole[40:43]] if stops else []
    (expected,) = decoding.write(run, params, TOKENIZER, [prompt], stops=stops, **options)
    pieces = list(decoding.stream(run, params, TOKENIZER, prompt, stops=stops, **options))
    assert ''.join(pieces) == expected and len(pieces) > 1
    whole = whole or expected
  assert expected == whole[: whole.index(stops[0])] and len(expected) < len(whole)


def test_a_prompt_longer_than_the_table_is_told_by_its_number():
  model = dataclasses.replace(MODEL, max_length=16)
  with pytest.raises(errors.ConfigError, match='prompt 4: 18 tokens, new ones included, with'):
    decoding.scored(model, {}, PROMPTS, max_tokens=6, sampler=SAMPLER, key=KEY, eos=1)
