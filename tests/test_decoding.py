"""Decoding: the cache changes nothing, sampling follows the softmax, gaps are filled."""

import dataclasses
import functools

import families
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5lite import config
from t5lite import decoding
from t5lite import errors
from t5lite import models
from t5lite import meshes
from t5lite.data import tokenizer
from t5lite.decoding import loop
from t5lite.decoding import prompts
from t5lite.decoding import sampling

LENGTH = 24  # of the rows that are computed anew for every token
GREEDY = sampling.Sampler()
KEY = jax.random.key(0)
MODELS = {
  't5_1_1': families.MODELS['t5_1_1'],
  'gpt2': dataclasses.replace(families.MODELS['gpt2'], max_length=32),
  'modern_decoder': families.MODELS['modern_decoder'],
}


@functools.cache
def params_of(model):
  """Returns random parameters; the last tokens, which are sentinels, are likely to end a span."""
  params = families.random_params(model)
  if 'lm_head' in params:
    params['lm_head']['kernel'][:, -100:] *= 2
  return jax.tree.map(jnp.float32, params)


@functools.cache
def recompute(model):
  return jax.jit(functools.partial(models.apply, model))


def padded(tokens):
  return np.pad(tokens, (0, LENGTH - len(tokens)))[None]


def without_cache(model, params, prompt, inputs, num, given):
  """Returns the likeliest tokens and their log probabilities, every step from scratch.

  The first `given` tokens of the decoder see each other both ways.
  """
  found = []
  for _ in range(num):
    batch = {'decoder_input_tokens': padded(prompt)}
    batch['decoder_causal_attention'] = padded(np.ones(given, int))
    if inputs is not None:
      batch['encoder_input_tokens'] = padded(inputs)
    logits = recompute(model)(params, batch)[0, len(prompt) - 1]
    found.append(jax.nn.log_softmax(logits).max())
    prompt = np.append(prompt, int(logits.argmax()))
  return prompt[-num:], found


SLOWER = [('t5_1_1', True), ('modern_decoder', True)]
CASES = [(name, False) for name in MODELS] + [('gpt2', True)]
CASES += [pytest.param(*case, marks=pytest.mark.slow) for case in SLOWER]


@pytest.mark.parametrize('name, prefix', CASES)
def test_the_cache_changes_nothing(name, prefix):
  """Prompts of several lengths at once, against one at a time with no cache."""
  model, rng = MODELS[name], np.random.default_rng(1)
  # Half the weights: at their full size they magnify float32's rounding, to 2.4e-5 on one CPU.
  params = jax.tree.map(lambda x: x / 2, params_of(model))
  texts = [rng.integers(1, 29, length) for length in (7, 2, 12)]
  prompts, inputs = texts, None
  if model.architecture == 'encoder_decoder':
    prompts, inputs = [np.array([0]), np.array([0, 5, 6]), np.array([0, 3])], texts
  outputs = loop.run(
    model,
    params,
    prompts,
    inputs=inputs,
    max_tokens=9,
    choice=GREEDY,
    stops=[-1],
    key=KEY,
    prefix=prefix,
  )
  for b, (tokens, log_probabilities) in enumerate(outputs):
    given = prefix * len(prompts[b])
    expected = without_cache(model, params, prompts[b], inputs and inputs[b], 9, given)
    np.testing.assert_array_equal(tokens, expected[0])
    np.testing.assert_allclose(log_probabilities, expected[1], atol=1e-5)


def generate(name, prompts, **options):
  """Returns greedy continuations of 9 tokens, unless the options say otherwise."""
  defaults = dict(max_tokens=9, sampler=GREEDY, key=KEY, eos=-1)
  return decoding.generate(MODELS[name], params_of(MODELS[name]), prompts, **(defaults | options))


PROMPTS = [np.array([3, 9, 4]), np.array([7]), np.array([11, 2, 8, 8, 20])]


def test_neighbours_do_not_matter():
  expected = generate('gpt2', PROMPTS)
  others = [np.array([5, 5]), np.arange(1, 13)]
  np.testing.assert_array_equal(generate('gpt2', [PROMPTS[0], *others])[0], expected[0])
  np.testing.assert_array_equal(generate('gpt2', [*others, PROMPTS[2]])[2], expected[2])


def test_a_text_ends_at_eos():
  """The row whose fourth token is taken for the end stops there; the others go on."""
  before = generate('gpt2', PROMPTS)
  eos = int(before[0][3])
  first = [tokens.tolist().index(eos) if eos in tokens else 9 for tokens in before]
  assert min(first) < max(first)
  for tokens, expected, length in zip(
    generate('gpt2', PROMPTS, eos=eos), before, first, strict=True
  ):
    np.testing.assert_array_equal(tokens, expected[:length])


def test_sampling_is_a_function_of_the_key():
  sampler = sampling.Sampler(temperature=1.0)
  neighbour = [*PROMPTS[:2], np.array([5, 5])]
  one, again, near = (
    generate('gpt2', prompts, sampler=sampler) for prompts in (PROMPTS, PROMPTS, neighbour)
  )
  other = generate('gpt2', PROMPTS, sampler=sampler, key=jax.random.key(1))
  np.testing.assert_array_equal(one, again)
  np.testing.assert_array_equal(one[:2], near[:2])
  assert all(np.any(a != b) for a, b in zip(one, other, strict=True))


def test_sampling_follows_the_softmax():
  """Chi-square of 20,000 draws from 8 tokens; 7 degrees of freedom exceed 35 once in 90,000."""
  logits_V = jnp.array([0.0, 1.0, -1.0, 2.0, 0.5, -2.0, 1.5, 0.2])
  rows_BV = jnp.tile(logits_V, (20_000, 1))
  keys_B = jax.random.split(KEY, len(rows_BV))
  draws_B = sampling.Sampler(temperature=0.7).choose(rows_BV, jnp.int32(3), keys_B)
  expected_V = 20_000 * jax.nn.softmax(logits_V / 0.7)
  seen_V = np.bincount(draws_B, minlength=8)
  assert np.sum((seen_V - expected_V) ** 2 / expected_V) < 35
  steps = [sampling.Sampler(temperature=1.0).choose(rows_BV, jnp.int32(s), keys_B) for s in (0, 1)]
  assert np.mean(steps[0] == steps[1]) < 0.5


@pytest.mark.parametrize(
  'restriction, kept',
  [
    (dict(top_k=2), [0, 0, 1, 1]),
    (dict(top_k=9), [1, 1, 1, 1]),
    (dict(top_p=0.4), [0, 0, 0, 1]),
    (dict(top_p=0.41), [0, 0, 1, 1]),
    (dict(top_p=0.75), [1, 0, 1, 1]),
    (dict(top_k=3, top_p=0.75), [0, 0, 1, 1]),  # of the three, 0.4 and 0.3 make up 0.78
    (dict(min_p=0.4), [1, 0, 1, 1]),
    (dict(min_p=0.5), [0, 0, 1, 1]),
    (dict(min_p=1.0), [0, 0, 0, 1]),
  ],
)
def test_restrictions_leave_out_the_unlikely(restriction, kept):
  share_V = jnp.array([0.199, 0.1, 0.3, 0.401])  # not 0.4: there, rounding would decide
  logits_BV = jnp.log(share_V)[None]
  got = sampling.Sampler(temperature=1.0, **restriction).restrict(logits_BV)
  np.testing.assert_array_equal(np.isfinite(got), np.array([kept], bool))


def test_the_likeliest_needs_no_key():
  logits_BV = jax.random.normal(KEY, (50, 9))
  for sampler in (GREEDY, sampling.Sampler(temperature=1.0, top_k=1)):
    got = sampler.choose(logits_BV, jnp.int32(0), jax.random.split(KEY, 50))
    np.testing.assert_array_equal(got, jnp.argmax(logits_BV, axis=-1))


def sharded(model, params, mesh):
  """Returns the parameters split over the mesh as `models.init` would split them."""
  shapes = jax.eval_shape(lambda: models.init(model, KEY))
  split = jax.sharding.NamedSharding
  return jax.tree.map(
    lambda x, shape: jax.device_put(x, split(mesh, shape.sharding.spec)), params, shapes
  )


MESHES = [config.Parallel(data=4, model=2), config.Parallel(sequence=2, data=2, model=2)]


@pytest.mark.slow
@pytest.mark.parametrize('parallel', MESHES)
def test_a_mesh_changes_nothing(parallel):
  """Three prompts over four ways of the batch, heads and vocabulary over two."""
  sizes = dict(vocab_size=32, d_model=16, d_ff=24)
  model = dataclasses.replace(MODELS['modern_decoder'], **sizes)
  params = params_of(model)
  options = dict(max_tokens=9, sampler=sampling.Sampler(temperature=1.0), key=KEY, eos=-1)
  expected = decoding.generate(model, params, PROMPTS, **options)
  mesh = meshes.make(parallel)
  with jax.set_mesh(mesh):
    options['key'] = jax.random.clone(KEY)  # as a command makes it, on the mesh
    got = decoding.generate(model, sharded(model, params, mesh), PROMPTS, **options)
  np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda: generate('gpt2', [PROMPTS[0], np.zeros(0)]), 'empty prompt: prompt 1: give it at'),
    (
      lambda: generate('gpt2', PROMPTS, max_tokens=40),
      'prompt 0: 43 tokens, new ones included, with model.m',
    ),
    (lambda: generate('gpt2', PROMPTS, max_tokens=0), 'max_tokens=0: use 1 or more'),
    (lambda: sampling.Sampler(top_p=0), 'sampler.top_p=0: use 0 < top_p <= 1'),
    (lambda: sampling.Sampler(temperature=-1), 'sampler.temperature=-1: use 0 or more'),
  ],
)
def test_wrong_input_is_one_clear_line(call, message):
  with pytest.raises(errors.UserError, match=message) as error:
    call()
  assert '\n' not in str(error.value)


def test_an_encoder_does_not_generate():
  with pytest.raises(errors.ConfigError, match='use fill'):
    decoding.generate(
      families.MODELS['bert'], {}, PROMPTS, max_tokens=1, sampler=GREEDY, key=KEY, eos=1
    )


def filling_config(architecture):
  """Returns a config whose vocabulary is the one that ships, and random parameters."""
  name, objective = {'encoder': ('bert', 'mlm'), 'encoder_decoder': ('t5_1_1', 'span_corruption')}[
    architecture
  ]
  model = dataclasses.replace(families.MODELS[name], vocab_size=TOKENIZER.vocabulary.size)
  model = dataclasses.replace(model, max_length=32 if name == 'bert' else 0)
  return config.Config(
    model=model,
    objective=config.Objective(name=objective),
    data=config.Data(batch_size=8, input_length=16, target_length=8 * (name == 't5_1_1')),
    optim=config.Optim(name='adamw', learning_rate=1e-3, schedule='constant'),
    train=config.Train(steps=1),
  )


TOKENIZER = tokenizer.load('corpus')
TEXT = 'It was the [MASK] of times, it was <extra_id_0> of wisdom.'


def test_masks_are_filled_by_the_softmax():
  """The probabilities are those of the logits at the mask, and the pieces its likeliest."""
  config = filling_config('encoder')
  text = 'It was the [MASK] of times, it was the age of [MASK].'
  gaps = decoding.fill(config, params_of(config.model), TOKENIZER, text, top_k=3)
  special = TOKENIZER.vocabulary
  ids = np.array([special.cls, *TOKENIZER.encode_marked(text), special.sep])
  batch = {'encoder_input_tokens': ids[None]}
  share_SV = jax.nn.softmax(recompute(config.model)(params_of(config.model), batch)[0])
  places = np.flatnonzero(ids == special.mask)
  assert len(gaps) == len(places) == 2
  for gap, place in zip(gaps, places, strict=True):
    best = np.argsort(-share_SV[place])[:3]
    assert gap.mark == '[MASK]'
    assert [candidate.text for candidate in gap.candidates] == [TOKENIZER.decode([i]) for i in best]
    probabilities = [candidate.probability for candidate in gap.candidates]
    np.testing.assert_allclose(probabilities, share_SV[place][best], rtol=1e-4)


def test_spans_are_filled_with_their_joint_probability():
  """Each candidate's is the product over its pieces, behind the best candidates before it."""
  config = filling_config('encoder_decoder')
  model, vocabulary = config.model, TOKENIZER.vocabulary
  stops = [vocabulary.eos, *vocabulary.sentinels]
  gaps = decoding.fill(config, params_of(model), TOKENIZER, TEXT, top_k=3, max_tokens=4)
  assert [gap.mark for gap in gaps] == ['[MASK]', '<extra_id_0>']
  text = TEXT.replace('<extra_id_0>', '<extra_id_1>').replace('[MASK]', '<extra_id_0>')
  inputs = np.append(TOKENIZER.encode_marked(text), vocabulary.eos)
  prompt, lengths = np.array([0]), set()
  for gap, sentinel in zip(gaps, vocabulary.sentinels, strict=False):
    prompt = np.append(prompt, sentinel)
    batch = {'encoder_input_tokens': padded(inputs), 'decoder_input_tokens': padded(prompt)}
    batch['decoder_causal_attention'] = padded(np.zeros(0, int))
    logits_TV = recompute(model)(params_of(model), batch)[0]
    first = jax.nn.softmax(logits_TV[len(prompt) - 1])
    expected = []
    for token in np.argsort(-first)[:3]:
      span, probability = [int(token)], float(first[token])
      while span[-1] not in stops and len(span) < 4:
        (token,), (log_share,) = without_cache(
          model, params_of(model), np.append(prompt, span), inputs, 1, 0
        )
        span.append(int(token))
        probability *= float(np.exp(log_share))
      expected.append((probability, span[:-1] if span[-1] in stops else span))
    expected.sort(reverse=True)
    lengths |= {len(span) for _, span in expected}
    assert [candidate.text for candidate in gap.candidates] == [
      TOKENIZER.decode(span) for _, span in expected
    ]
    probabilities = [candidate.probability for candidate in gap.candidates]
    np.testing.assert_allclose(probabilities, [p for p, _ in expected], rtol=1e-4)
    prompt = np.append(prompt, expected[0][1]).astype(int)  # also behind an empty span
  assert len(lengths) > 1, 'no span ended, or all at once'


def test_what_cannot_be_filled_says_so():
  encoder, both = filling_config('encoder'), filling_config('encoder_decoder')
  for run, text, message in (
    (causal(both), TEXT, 'use generate'),
    (encoder, TEXT.replace('[MASK]', 'best'), r'write \[MASK\]'),
    (both, 'Nothing is missing.', 'write <extra_id_0>'),
    (encoder, TEXT * 9, 'shorten the text'),
    (both, '[MASK] ' * 101, '101 gaps, 100 sentinels'),
  ):
    with pytest.raises(errors.UserError, match=message):
      decoding.fill(run, {}, TOKENIZER, text, top_k=2)


def causal(run):
  """Returns the run's config as a GPT's."""
  return dataclasses.replace(
    run,
    model=dataclasses.replace(MODELS['modern_decoder'], vocab_size=TOKENIZER.vocabulary.size),
    objective=config.Objective(name='causal_lm'),
    data=dataclasses.replace(run.data, target_length=0),
  )


def test_texts_go_in_as_the_objective_has_them():
  """T5's inputs end with the end of text, GPT's begin with it, BERT's stand between its marks."""
  vocabulary = TOKENIZER.vocabulary
  eos, modes = vocabulary.eos, vocabulary.modes
  t5, bert = filling_config('encoder_decoder'), filling_config('encoder')
  prefix_lm, ul2 = (
    dataclasses.replace(t5, objective=config.Objective(name=name)) for name in ('prefix_lm', 'ul2')
  )
  for run, mode, expected in (
    (t5, '[S]', [7, 8, eos]),
    (bert, '[R]', [vocabulary.cls, 7, 8, vocabulary.sep]),
    (causal(t5), '[S]', [eos, 7, 8]),
    (prefix_lm, '[S]', [7, 8]),
    (ul2, '[S]', [*modes['[S]'], 7, 8]),
    (ul2, '[R]', [*modes['[R]'], 7, 8, eos]),
  ):
    got = prompts.of_text(run, vocabulary, np.array([7, 8]), mode=mode)
    np.testing.assert_array_equal(got, expected)


def test_texts_go_on_as_their_tokens_do():
  run, texts = causal(filling_config('encoder_decoder')), ['It was the best', 'of times']
  params, eos = params_of(run.model), TOKENIZER.vocabulary.eos
  options = dict(max_tokens=5, sampler=GREEDY, key=KEY)
  tokens = [np.append(eos, ids) for ids in TOKENIZER.encode(texts)]
  expected = decoding.generate(run.model, params, tokens, eos=eos, **options)
  got = decoding.write(run, params, TOKENIZER, texts, **options)
  assert got == [TOKENIZER.decode(ids) for ids in expected]


@pytest.mark.slow
@pytest.mark.parametrize('architecture', ['encoder', 'encoder_decoder'])
@pytest.mark.parametrize('parallel', MESHES)
def test_gaps_are_filled_on_a_mesh(architecture, parallel):
  run = filling_config(architecture)
  even = dict(d_model=16, d_ff=24, num_heads=4, num_kv_heads=4)
  run = dataclasses.replace(run, model=dataclasses.replace(run.model, **even))
  params = params_of(run.model)
  expected = decoding.fill(run, params, TOKENIZER, TEXT, top_k=3)
  mesh = meshes.make(parallel)
  with jax.set_mesh(mesh):
    got = decoding.fill(run, sharded(run.model, params, mesh), TOKENIZER, TEXT, top_k=3)
  for a, b in zip(got, expected, strict=True):
    assert [one.text for one in a.candidates] == [one.text for one in b.candidates]
    probabilities = [[one.probability for one in gap.candidates] for gap in (a, b)]
    np.testing.assert_allclose(*probabilities, rtol=1e-4)
