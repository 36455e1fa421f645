"""Log-likelihoods: those of the logits, of each pair alone; which candidate they prefer."""

import dataclasses
import functools
import re

import families
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5lite import config as config_lib
from t5lite import decoding
from t5lite import errors
from t5lite import losses
from t5lite import meshes
from t5lite import models
from t5lite import objectives
from t5lite.data import tokenizer
from t5lite.decoding import likelihood
from t5lite.decoding import ranking

LENGTH = 24  # of the rows that are computed one by one
PLAIN = np.zeros(29, bool)
VOCABULARY = objectives.Vocabulary(
  size=29, pad=0, eos=1, unk=2, mask=27, cls=25, sep=26, sentinels=np.array([28], np.int32),
  modes={}, word_start=PLAIN, special=PLAIN,
)  # fmt: skip
TOKENIZER = tokenizer.load('corpus')
# Lengths are rounded up to more than the tables hold.
TABLE = dict(max_length=25)
MODELS = {
  't5_1_1': families.MODELS['t5_1_1'],
  'gpt2': dataclasses.replace(families.MODELS['gpt2'], **TABLE),
  'modern_decoder': families.MODELS['modern_decoder'],
  'bert': dataclasses.replace(families.MODELS['bert'], **TABLE),
  'modern_encoder': families.MODELS['modern_encoder'],
}
MODELS['experts'] = dataclasses.replace(
  MODELS['gpt2'], num_experts=2, experts_per_token=1, eval_expert_capacity=0.5
)
USUAL = {'encoder_decoder': 'span_corruption', 'decoder': 'causal_lm', 'encoder': 'mlm'}


def run_of(name, objective='', **changes):
  """Returns the config of a run that trains the model."""
  model = dataclasses.replace(MODELS[name], **changes)
  return config_lib.Config(
    model=model,
    objective=config_lib.Objective(name=objective or USUAL[model.architecture]),
    data=config_lib.Data(
      batch_size=8, input_length=16, target_length=8 * (model.architecture == 'encoder_decoder')
    ),
    optim=config_lib.Optim(name='adamw', learning_rate=1e-3, schedule='constant'),
    train=config_lib.Train(steps=1),
  )


@functools.cache
def params_of(model):
  """Returns half of random parameters: at full size they magnify float32's rounding."""
  return jax.tree.map(lambda x: jnp.float32(x / 2), families.random_params(model))


def pairs_of(*lengths):
  rng = np.random.default_rng(3)
  draw = lambda size: rng.integers(3, 25, size).astype(np.int32)
  return [likelihood.Pair(draw(inputs), draw(targets)) for inputs, targets in lengths]


PAIRS = pairs_of((7, 3), (1, 1), (12, 9), (3, 14), (5, 5))


def score(run, pairs):
  return likelihood.score(run, params_of(run.model), VOCABULARY, pairs)


@functools.cache
def compiled(model):
  return jax.jit(functools.partial(models.apply, models.roomy(model)))


def log_shares(model, batch):
  """Returns log softmax [T, V] of the only row, padded to LENGTH."""
  batch = {name: np.pad(x, (0, LENGTH - len(x)))[None] for name, x in batch.items()}
  return np.asarray(jax.nn.log_softmax(compiled(model)(params_of(model), batch)[0]))


def one_by_one(run, pair):
  """Returns log softmax [T, V] at the targets of a pair, from the definition."""
  inputs, targets = pair
  num_inputs, num_targets = len(inputs), len(targets)
  match run.model.architecture:
    case 'encoder_decoder':
      batch = {'encoder_input_tokens': inputs}
      batch['decoder_input_tokens'] = np.array([0, *targets[:-1]])
      return log_shares(run.model, batch)[:num_targets]
    case 'decoder':
      batch = {'decoder_input_tokens': np.array([*inputs, *targets[:-1]])}
      both_ways = num_inputs * (run.objective.name == 'prefix_lm')
      batch['decoder_causal_attention'] = np.ones(both_ways, int)
      return log_shares(run.model, batch)[num_inputs - 1 :][:num_targets]
    case 'encoder':
      rows = []
      for place in range(num_targets):
        text = np.array([*inputs, *targets, VOCABULARY.sep])
        text[num_inputs + place] = VOCABULARY.mask
        rows.append(log_shares(run.model, {'encoder_input_tokens': text})[num_inputs + place])
      return np.array(rows)


CASES = [('t5_1_1', ''), ('gpt2', ''), ('gpt2', 'prefix_lm'), ('bert', '')]
SLOWER = [('modern_decoder', 'prefix_lm'), ('modern_encoder', ''), ('experts', '')]
CASES += [pytest.param(*case, marks=pytest.mark.slow) for case in SLOWER]


@pytest.mark.parametrize('name, objective', CASES)
def test_scores_are_the_sums_of_log_softmax(name, objective):
  """Pairs of several lengths at once, against one at a time; greedy ones among them."""
  run, pairs = run_of(name, objective), list(PAIRS)
  for pair in PAIRS[:2]:
    likeliest = pair.targets
    for _ in likeliest:  # the first is right after one round, the second after two, ...
      likeliest = one_by_one(run, pair._replace(targets=likeliest)).argmax(axis=1)
    pairs.append(pair._replace(targets=likeliest))
  greedy = set()
  for got, pair in zip(score(run, pairs), pairs, strict=True):
    shares_TxV = one_by_one(run, pair)
    expected = shares_TxV[np.arange(len(pair.targets)), pair.targets].sum()
    assert got.log_likelihood == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert got.num_tokens == len(pair.targets)
    assert got.is_greedy == np.array_equal(shares_TxV.argmax(axis=1), pair.targets)
    greedy.add(got.is_greedy)
  assert greedy == {True, False}


def test_what_a_decoder_generates_is_greedy():
  run, prompts = run_of('gpt2'), [pair.inputs for pair in PAIRS]
  made = decoding.generate(
    run.model,
    params_of(run.model),
    prompts,
    max_tokens=6,
    sampler=decoding.Sampler(),
    key=jax.random.key(0),
    eos=-1,
  )
  pairs = [likelihood.Pair(*pair) for pair in zip(prompts, made, strict=True)]
  assert all(one.is_greedy for one in score(run, pairs))
  others = [pair._replace(targets=np.append(pair.targets[:-1], 3)) for pair in pairs]
  assert not any(one.is_greedy for one in score(run, others))


@pytest.mark.parametrize('name', ['t5_1_1', 'bert', 'experts'])
def test_companions_do_not_matter(name, monkeypatch):
  """Alone, with others, and in batches of few rows: of another length, filled up or full."""
  run = run_of(name)
  expected = score(run, PAIRS)
  np.testing.assert_allclose(score(run, PAIRS[:1]), expected[:1], rtol=1e-5)
  twice = score(run, [*PAIRS[::-1], *PAIRS[1:3]])
  np.testing.assert_allclose(twice, [*expected[::-1], *expected[1:3]], rtol=1e-5)
  monkeypatch.setattr(likelihood, 'TOKENS', 70)
  np.testing.assert_allclose(score(run, PAIRS), expected, rtol=1e-5)
  monkeypatch.setattr(likelihood, 'SHORTEST', 8)
  np.testing.assert_allclose(score(run, PAIRS), expected, rtol=1e-5)


@pytest.mark.parametrize('name', ['t5_1_1', 'gpt2', 'bert'])
def test_a_token_0_is_text_where_padding_is_another(name):
  """RoBERTa's [CLS] is 0 and its padding 1."""
  run = run_of(name)
  pair = likelihood.Pair(np.array([0, 5, 0, 7], np.int32), np.array([9, 4, 11], np.int32))
  vocabulary = dataclasses.replace(VOCABULARY, pad=1)
  (got,) = likelihood.score(run, params_of(run.model), vocabulary, [pair])
  side = 'decoder' if name == 'gpt2' else 'encoder'
  expected = []
  for place, token in enumerate(pair.targets):
    text = {
      't5_1_1': pair.inputs,
      'gpt2': np.array([*pair.inputs, *pair.targets[:-1]]),
      'bert': np.array([*pair.inputs, *pair.targets, VOCABULARY.sep]),
    }[name]
    row = len(pair.inputs) + place
    if name == 'bert':
      text[row] = VOCABULARY.mask
    batch = {f'{side}_input_tokens': text, f'{side}_segment_ids': np.ones(len(text), int)}
    if name == 't5_1_1':
      decoded = np.array([0, *pair.targets[:-1]])
      batch |= {'decoder_input_tokens': decoded, 'decoder_segment_ids': np.ones(3, int)}
    at = {'t5_1_1': place, 'gpt2': row - 1, 'bert': row}[name]
    expected.append(log_shares(run.model, batch)[at, token])
  assert got.log_likelihood == pytest.approx(sum(expected), abs=1e-4)


def test_few_shapes_are_compiled(monkeypatch):
  """300 pairs of up to 60 tokens: in rows of 32 and 64 tokens, in full batches and a rest."""
  monkeypatch.setattr(likelihood, 'TOKENS', 64 * 32)
  before = likelihood._sums._cache_size()
  score(run_of('modern_decoder'), pairs_of(*np.random.default_rng(0).integers(1, 31, (300, 2))))
  assert 2 <= likelihood._sums._cache_size() - before <= 4


def test_logits_of_all_rows_never_exist(monkeypatch):
  """In the compiled program nothing of the vocabulary's size has more rows than a chunk."""
  monkeypatch.setattr(losses, 'CHUNK_ROWS', 20)
  run = run_of('gpt2', vocab_size=311)
  rows, lengths = next(likelihood._batches(run.model, PAIRS))
  batch = likelihood._batch(run, VOCABULARY, PAIRS, rows, lengths)
  assert batch['decoder_input_tokens'].shape == (8, 32)
  text = likelihood._sums.lower(run, params_of(run.model), batch).compile().as_text()
  shapes = re.findall(r'f32\[([\d,]+)\]', text)
  sizes = [
    np.prod([int(n) for n in dims.split(',')]) for dims in shapes if '311' in dims.split(',')
  ]
  assert max(sizes) == 20 * 311


@pytest.mark.slow
@pytest.mark.parametrize('name', ['t5_1_1', 'modern_decoder', 'bert'])
@pytest.mark.parametrize(
  'ways', [dict(data=4, model=2), dict(sequence=2, data=2, model=2)], ids=str
)
def test_a_mesh_changes_nothing(name, ways):
  """Five pairs over four ways of the batch, heads and vocabulary over two."""
  even = dict(vocab_size=32, d_model=16, d_ff=24, num_heads=4, num_kv_heads=2)
  if name != 'modern_decoder':
    even |= dict(num_kv_heads=4)
  run = run_of(name, **even)
  expected, params = score(run, PAIRS), params_of(run.model)
  mesh = meshes.make(config_lib.Parallel(**ways))
  with jax.set_mesh(mesh):
    shapes = jax.eval_shape(lambda: models.init(run.model, jax.random.key(0)))
    split = lambda x, like: jax.device_put(x, jax.sharding.NamedSharding(mesh, like.sharding.spec))
    got = likelihood.score(run, jax.tree.map(split, params, shapes), VOCABULARY, PAIRS)
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def texts_run(name, objective=''):
  return run_of(name, objective, vocab_size=TOKENIZER.vocabulary.size)


TEXTS = [
  'It was the best of times, it was the',
  'We hold these truths to be self-evident, that all',
]
CANDIDATES = [['worst', 'age of wisdom', 'a'], ['men', 'ages of foolishness']]


@pytest.mark.parametrize('name', ['t5_1_1', 'modern_decoder', 'bert'])
def test_the_likeliest_candidate_is_the_best(name):
  """As a whole, and a character: of random weights short ones win the first, not the second."""
  run = texts_run(name)
  params, differ = params_of(run.model), 0
  ranked = ranking.rank(run, params, TOKENIZER, TEXTS, CANDIDATES)
  for text, names, got in zip(TEXTS, CANDIDATES, ranked, strict=True):
    pairs = [ranking.of_texts(run, TOKENIZER, text, ' ' + name) for name in names]
    alone = [likelihood.score(run, params, TOKENIZER.vocabulary, [pair])[0] for pair in pairs]
    np.testing.assert_allclose(got.scores, alone, rtol=1e-5)
    sums = [one.log_likelihood for one in alone]
    assert got.best == np.argmax(sums)
    assert got.best_by_length == np.argmax([x / len(n) for x, n in zip(sums, names, strict=True)])
    differ += got.best != got.best_by_length
  assert differ


def test_texts_are_laid_out_as_the_objective_has_them():
  """The target is what the text goes on with, never another tokenisation of it."""
  special, encode = TOKENIZER.vocabulary, TOKENIZER.encode_marked
  text, target = 'It was the best', ' of times'
  both = encode(text + target)
  t5, gpt, prefix_lm, bert = (
    texts_run(*kind)
    for kind in (('t5_1_1',), ('gpt2',), ('modern_decoder', 'prefix_lm'), ('bert',))
  )
  for run, before, after in (
    (t5, [], [special.eos]),
    (gpt, [special.eos], []),
    (prefix_lm, [], []),
    (bert, [special.cls], []),
  ):
    inputs, targets = ranking.of_texts(run, TOKENIZER, text, target)
    np.testing.assert_array_equal(inputs, [*before, *encode(text), *after])
    np.testing.assert_array_equal(targets, encode('of times'))
    np.testing.assert_array_equal(
      [*inputs[len(before) : len(encode(text)) + len(before)], *targets], both
    )
    space_first = ranking.of_texts(run, TOKENIZER, text + ' ', target[1:])
    if run is not t5:
      np.testing.assert_array_equal(space_first.targets, targets)
  empty = ranking.of_texts(prefix_lm, TOKENIZER, '', ' of times')
  np.testing.assert_array_equal(empty.inputs, [special.eos])
  np.testing.assert_array_equal(empty.targets, encode('of times'))
  marked = ranking.of_texts(t5, TOKENIZER, 'It was <extra_id_0>', '<extra_id_0> the best')
  assert special.sentinels[0] in marked.inputs and special.sentinels[0] == marked.targets[0]


def test_a_target_within_a_word_is_whole():
  """'best' is one token; its end alone is scored as the word, behind what stays of the text."""
  run, encode = texts_run('gpt2'), TOKENIZER.encode_marked
  inputs, targets = ranking.of_texts(run, TOKENIZER, 'It was the be', 'st')
  np.testing.assert_array_equal([*inputs[1:], *targets], encode('It was the best'))
  assert TOKENIZER.decode(targets) == 'best'


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda: score(run_of('gpt2'), [*PAIRS, PAIRS[0]._replace(targets=[])]), 'no targets: pair 5'),
    (lambda: score(run_of('bert'), [PAIRS[0]._replace(inputs=[])]), 'no inputs: pair 0: give it'),
    (lambda: score(run_of('gpt2'), pairs_of((3, 3), (20, 7))), '26 tokens, .* model.max_length=25'),
    (
      lambda: ranking.rank(run_of('gpt2'), {}, TOKENIZER, ['A'], [[]]),
      r"no candidate: \[\] for 'A'",
    ),
    (lambda: ranking.rank(run_of('gpt2'), {}, TOKENIZER, ['A'], [['b', '']]), 'no candidate'),
  ],
)
def test_what_cannot_be_scored_is_one_line(call, message):
  with pytest.raises(errors.UserError, match=message) as error:
    call()
  assert '\n' not in str(error.value)
