"""Models: agreement with the papers' equations, and the properties that every one must keep."""

import dataclasses
import functools
import itertools
import math

import families
import jax
from jax import extend
import jax.numpy as jnp
import numpy as np
import pytest

from t5lite import losses
from t5lite import models
from t5lite import presets
from t5lite.models import decode
from t5lite.models import layers

LENGTHS = {'encoder': 9, 'decoder': 8}
ROWS = [[(4, 5), (3, 2)], [(7, 8)]]  # (inputs, targets) of each example of each row


@functools.cache
def compiled(model):
  return jax.jit(functools.partial(models.apply, model))


@functools.cache
def params_of(name):
  """Returns random float64 parameters and the same in float32."""
  params = families.random_params(families.MODELS[name])
  return params, jax.tree.map(jnp.float32, params)


def rows_of(model):
  """Returns rows of random examples of ROWS's lengths."""
  return [
    [families.example(model, *length, seed=10 * b + i) for i, length in enumerate(row)]
    for b, row in enumerate(ROWS)
  ]


def batch_of(name):
  """Returns the rows as a packed batch."""
  model = families.MODELS[name]
  return families.batch_of(rows_of(model), LENGTHS, packed=True)


def assert_close(got, expected, tolerance):
  """The largest difference is below `tolerance` times the largest number."""
  got, expected = np.asarray(got), np.asarray(expected)
  assert np.abs(got - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize('name', families.MODELS)
def test_logits_agree_with_the_papers(name):
  """Float32 against float64; packed rows with padding, against one example at a time without."""
  model, (params64, params) = families.MODELS[name], params_of(name)
  logits = compiled(model)(params, batch_of(name))
  for example, got in families.pieces(model, rows_of(model), logits):
    assert_close(got, families.reference_logits(name, params64, example), 1e-5)


@pytest.mark.parametrize('name', ['t5_1_1', 'bert', 'gpt2'])
def test_packed_rows_equal_unpacked_rows(name):
  """Unpacked rows carry no segment ids: their padding is found from the tokens."""
  model, (_, params) = families.MODELS[name], params_of(name)
  rows = rows_of(model)
  alone = [[example] for row in rows for example in row]
  packed = compiled(model)(params, batch_of(name))
  unpacked = compiled(model)(params, families.batch_of(alone, LENGTHS, packed=False))
  pairs = zip(
    families.pieces(model, rows, packed), families.pieces(model, alone, unpacked), strict=True
  )
  for (_, got), (_, expected) in pairs:
    assert_close(got, expected, 1e-5)


@pytest.mark.parametrize('name', ['t5_1_1', 'gpt2', 'modern_decoder'])
def test_a_token_does_not_change_the_past(name):
  """Bit for bit: the same program runs on both batches."""
  run = functools.partial(compiled(families.MODELS[name]), params_of(name)[1])
  batch = batch_of(name)
  if 'decoder_causal_attention' in batch:
    batch['decoder_causal_attention'][:] = 0
  before = run(batch)[1]  # the row that holds one example
  batch['decoder_input_tokens'][:, 4] += 1
  after = run(batch)[1]
  np.testing.assert_array_equal(after[:4], before[:4])
  assert np.all(np.any(after[4:] != before[4:], axis=-1))


def test_a_prefix_sees_itself_both_ways_and_nothing_later():
  run = functools.partial(compiled(families.MODELS['gpt2']), params_of('gpt2')[1])
  batch = batch_of('gpt2')
  batch['decoder_causal_attention'][:] = np.arange(8) < 5

  def changed_by(token):
    tokens = batch['decoder_input_tokens'].copy()
    tokens[:, token] += 1
    return np.any(run(batch | {'decoder_input_tokens': tokens}) != run(batch), axis=-1)[1].tolist()

  assert changed_by(4) == [True] * 8
  assert changed_by(5) == [False] * 5 + [True] * 3


def test_other_examples_and_padding_change_nothing():
  """Of a packed row, an example's neighbours; of any row, what stands in its padding."""
  for name in ('t5_1_1', 'bert', 'modern_decoder'):
    run = functools.partial(compiled(families.MODELS[name]), params_of(name)[1])
    batch = batch_of(name)
    side = 'encoder' if name == 'bert' else 'decoder'
    mine = batch[f'{side}_segment_ids'] == 1
    other = {
      key: np.where(batch[f'{key.split("_")[0]}_segment_ids'] == 1, array, 3)
      for key, array in batch.items()
      if key.endswith('_tokens')
    }
    assert any(np.any(batch[key] != other[key]) for key in other)
    np.testing.assert_array_equal(run(batch | other)[mine], run(batch)[mine])


def test_dropout_keeps_the_expectation():
  x = jnp.arange(1.0, 5.0)
  keys = jax.random.split(jax.random.key(0), 20_000)
  draws = jax.vmap(lambda key: layers.dropout(x, 0.3, key))(keys)
  np.testing.assert_allclose(jnp.mean(draws == 0, axis=0), 0.3, atol=0.015)  # 4.6 standard errors
  np.testing.assert_allclose(jnp.mean(draws, axis=0) / x, 1, atol=0.02)
  np.testing.assert_allclose(jnp.max(draws, axis=0), x / 0.7, rtol=1e-6)


def test_random_bits_are_uniform_and_independent():
  """Each of the 32 bits is even; neighbours in any dimension, and other keys, do not correlate."""
  x = jnp.zeros((64, 16, 128))
  bits = np.asarray(layers.random_bits(jax.random.key(0), x))
  again, other = (np.asarray(layers.random_bits(jax.random.key(n), x)) for n in (0, 1))
  np.testing.assert_array_equal(bits, again)
  bound = 5 / math.sqrt(bits.size)
  for bit in range(32):
    assert abs(np.mean(bits >> bit & 1) - 0.5) < bound / 2
  value = bits / 2**32 - 0.5
  for moved in (*(np.roll(value, 1, axis=dim) for dim in range(3)), other / 2**32 - 0.5):
    assert abs(np.corrcoef(value.ravel(), moved.ravel())[0, 1]) < bound


def test_dropout_is_off_without_a_key():
  model, (_, params) = families.MODELS['t5_1_1'], params_of('t5_1_1')
  dropping = compiled(dataclasses.replace(model, dropout=0.2))
  batch = batch_of('t5_1_1')
  clean = compiled(model)(params, batch)
  np.testing.assert_array_equal(dropping(params, batch), clean)
  one, again, other = (dropping(params, batch, jax.random.key(n)) for n in (1, 1, 2))
  np.testing.assert_array_equal(one, again)
  assert np.mean(one != clean) > 0.99
  assert np.mean(one != other) > 0.99


QUICK = [('scan', 'full')]
PROGRAMS = [
  program if program in QUICK else pytest.param(*program, marks=pytest.mark.slow)
  for program in itertools.product(
    ('scan', 'unroll'), ('none', 'minimal', 'dots', 'offload', 'full')
  )
][1:]


@functools.cache
def gradients(layers, remat):
  """Returns (loss and gradients of a GPT-2, its compiled program)."""
  model = dataclasses.replace(families.MODELS['gpt2'], layers=layers, remat=remat)
  batch = batch_of('gpt2')

  def loss(params):
    logits = models.apply(model, params, batch)
    return losses.cross_entropy(logits, batch['decoder_input_tokens'], jnp.ones((2, 8))).loss

  params = params_of('gpt2')[1]
  program = jax.jit(jax.value_and_grad(loss)).lower(params).compile()
  return program(params), program


@pytest.mark.parametrize('layers, remat', PROGRAMS)
def test_remat_and_unrolling_do_not_change_gradients(layers, remat):
  """And the programs do differ: loops only where scanned, more GELUs where recomputed."""
  expected, _ = gradients('scan', 'none')
  got, program = gradients(layers, remat)
  np.testing.assert_allclose(got[0], expected[0], rtol=1e-6)
  assert_close(families.flat(got[1]), families.flat(expected[1]), 1e-5)
  assert (' while(' in program.as_text()) == (layers == 'scan')
  if remat != 'none':
    plain = gradients(layers, 'none')[1].as_text()
    gelu = ' tanh('
    assert program.as_text().count(gelu) > plain.count(gelu)


SHAPE = dict(vocab_size=1000, num_layers=2, d_model=64, d_ff=160, num_heads=4, head_dim=32)
LARGER = {
  't5_1_0': presets.t5_1_0(**SHAPE),
  't5_1_1': presets.t5_1_1(**SHAPE),
  'bert': presets.bert(vocab_size=1000, num_layers=2, d_model=64, max_length=40),
  'gpt2': presets.gpt2(vocab_size=1000, num_layers=2, d_model=64, num_heads=4, max_length=40),
  'modern_decoder': presets.modern(architecture='decoder', num_kv_heads=2, **SHAPE),
  'modern_encoder': presets.modern(architecture='encoder', num_kv_heads=2, **SHAPE),
  'switch': dataclasses.replace(presets.t5_1_0(**SHAPE), num_experts=4, init_scale=0.1),
}


@functools.cache
def initial(name):
  return jax.jit(functools.partial(models.init, LARGER[name]))(jax.random.key(0))


QUICK = ['t5_1_1']
SOME = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LARGER]


# Not of Switch: its small layers leave of a token what makes the tied output name that token.
@pytest.mark.parametrize('name', SOME[:-1])
def test_initial_loss_is_near_ln_of_the_vocabulary(name):
  """Within 0.7 nats: logits of unit variance add 0.5 to ln V; BERT's and GPT-2's are smaller."""
  model, rng = LARGER[name], np.random.default_rng(0)
  tokens = rng.integers(1, model.vocab_size, (3, 8, 32))
  batch = {'encoder_input_tokens': tokens[0], 'decoder_input_tokens': tokens[1]}
  logits = compiled(model)(initial(name), batch)
  sums = losses.cross_entropy(logits, jnp.asarray(tokens[2]), jnp.ones((8, 32)))
  assert abs(sums.loss / sums.weight - math.log(model.vocab_size)) < 0.7


# Standard deviations as each paper or its code has them; D = 64, F = 160, N H = 128, L = 2.
DEVIATIONS = {
  't5_1_0': {
    'token_embed': 1,
    'query': 1 / math.sqrt(64 * 32),  # takes up attention's 1 / sqrt(H)
    'key': 1 / math.sqrt(64),
    'value': 1 / math.sqrt(64),
    'attention/output': 1 / math.sqrt(128),
    'input': 1 / math.sqrt(64),
    'mlp/output': 1 / math.sqrt(160),
    'relative_bias': 1 / math.sqrt(64),
  },
  'bert': {'': 0.02},
  'gpt2': {'position_embed': 0.01, 'output': 0.02 / math.sqrt(4), '': 0.02},
  'modern_decoder': {
    'token_embed': 1 / math.sqrt(64),
    'attention/output': 1 / math.sqrt(128 * 4),
    'mlp/output': 1 / math.sqrt(160 * 4),
    '': 1 / math.sqrt(64),
  },
}
DEVIATIONS['t5_1_1'] = {'gate': 1 / 8, 'lm_head': 1 / 8, **DEVIATIONS['t5_1_0']}
DEVIATIONS['modern_encoder'] = DEVIATIONS['modern_decoder']
DEVIATIONS['switch'] = {
  **{part: math.sqrt(0.1) * std for part, std in DEVIATIONS['t5_1_0'].items()},
  **{'token_embed': 1, 'relative_bias': 1 / 8},
  **{'experts/output': math.sqrt(0.1 / 160), 'router': math.sqrt(0.1 / 64)},
}


@pytest.mark.parametrize('name', SOME)
def test_initial_parameters_are_drawn_as_the_paper_says(name):
  """Mean and standard deviation within 5 standard errors; norms start at 1 and biases at 0."""
  for path, leaf in jax.tree.leaves_with_path(initial(name)):
    path = jax.tree_util.keystr(path, simple=True, separator='/')
    if path.endswith(('scale', 'bias')):
      assert np.all(leaf == float(path.endswith('scale'))), path
      continue
    expected = next(std for part, std in DEVIATIONS[name].items() if part in path)
    assert abs(jnp.std(leaf) / expected - 1) < 5 / math.sqrt(2 * leaf.size), path
    assert abs(jnp.mean(leaf)) < 5 * expected / math.sqrt(leaf.size), path
    assert leaf.dtype == jnp.float32


def equations(jaxpr):
  """Yields every equation, those of inner programs too."""
  for equation in jaxpr.eqns:
    yield equation
    for inner in extend.core.jaxprs_in_params(equation.params):
      yield from equations(inner)


@pytest.mark.parametrize('name', ['t5_1_1', 'bert', 'modern_decoder'])
def test_bfloat16_is_for_matmuls_only(name):
  """Softmax, norms and sums stay float32; so do parameters, gradients and logits."""
  model = dataclasses.replace(families.MODELS[name], dtype='bfloat16')
  apply = functools.partial(models.apply, model)
  params, batch = params_of(name)[1], batch_of(name)
  types = {'dot_general': set(), 'exp': set(), 'rsqrt': set(), 'reduce_sum': set()}
  for equation in equations(jax.make_jaxpr(apply)(params, batch).jaxpr):
    operands = [x.aval for x in equation.invars]
    if equation.primitive.name in types and model.relative_buckets not in operands[0].shape:
      types[equation.primitive.name] |= {x.dtype.name for x in operands}  # but T5's table of biases
  assert types.pop('dot_general') == {'bfloat16'}
  assert types['exp'] == types['rsqrt'] == {'float32'}
  assert 'bfloat16' not in types['reduce_sum']
  gradients = jax.eval_shape(jax.grad(lambda params: jnp.sum(apply(params, batch))), params)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(gradients)} == {'float32'}


def test_bfloat16_is_close_to_float32():
  model, (_, params) = families.MODELS['bert'], params_of('bert')
  half = compiled(dataclasses.replace(model, dtype='bfloat16'))(params, batch_of('bert'))
  assert half.dtype == jnp.float32
  assert_close(half, compiled(model)(params, batch_of('bert')), 0.05)


def test_a_bias_for_each_layer_is_t5s_where_all_are_the_same():
  """In one pass and with a cache: T5's table, given to each layer, is umT5's."""
  shared = families.MODELS['t5_1_1']
  model = dataclasses.replace(shared, relative_per_layer=True)
  params = jax.tree.map(jnp.float32, families.random_params(shared))
  own = jax.tree.map(lambda x: x, params)
  for side, depth in (('encoder', model.num_layers), ('decoder', model.num_decoder_layers)):
    table = own[side].pop('relative_bias')['embedding']
    own[side]['layers']['relative_bias'] = {'embedding': jnp.stack([table] * depth)}
  rows = [[families.example(model, 5, 4, seed=0)], [families.example(model, 9, 8, seed=1)]]
  batch = families.batch_of(rows, {'encoder': 9, 'decoder': 8}, packed=False)
  got, expected = models.apply(model, own, batch), models.apply(shared, params, batch)
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
  own['decoder']['layers']['relative_bias']['embedding'] *= jnp.array([1, 1, 1, 2])[:, None, None]
  got = models.apply(model, own, batch)
  assert np.abs(got - expected).max() > 1e-2  # the last layer's is the last layer's
  cache = decode.start(model, own, jnp.zeros(2, jnp.int32), 8, batch['encoder_input_tokens'])
  _, cache = decode.extend(model, own, cache, batch['decoder_input_tokens'][:, :3])
  logits_BV, _ = decode.extend(model, own, cache, batch['decoder_input_tokens'][:, 3:4])
  np.testing.assert_allclose(logits_BV, got[:, 3], rtol=0, atol=1e-4)
