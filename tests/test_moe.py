"""Sparse mlps: routing and losses against float64 numpy, token by token; what must not matter."""

import dataclasses
import functools
import math

import families
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5lite import config as config_lib
from t5lite import decoding
from t5lite import errors
from t5lite import losses
from t5lite import models
from t5lite import presets
from t5lite import meshes
from t5lite import sharding
from t5lite import train
from t5lite.models import decode
from t5lite.models import moe
from t5lite.planning import search
from t5lite.planning import topologies

EXPERTS = 4
T5 = dataclasses.replace(families.MODELS['t5_1_1'], num_layers=2, num_decoder_layers=4)
GPT2 = dataclasses.replace(families.MODELS['gpt2'], max_length=32)
BATCH, LENGTH, WIDTH = 3, 12, 14
UNEVEN = np.array([LENGTH, 9, 4])  # tokens of the rows; the rest is padding


def sparse(model, **changes):
  return dataclasses.replace(model, **(dict(num_experts=EXPERTS, layers='scan') | changes))


@functools.cache
def params_of(model):
  return jax.tree.map(jnp.float32, families.random_params(model))


def mlp_of(model, seed=0):
  """Returns a sparse mlp's parameters, random, of one layer."""
  kind = 'encoder' if model.architecture == 'encoder' else 'decoder'
  layers = families.random_params(model, seed)[kind]['layers']
  return jax.tree.map(lambda x: x[0], layers['blocks'][f'layer_{model.moe_every - 1}']['mlp'])


def run(model, params, x_BTD, is_text_BxT=None, key=None):
  """Returns the output and the routing of a sparse mlp on a bare device; a key: in training."""
  model = models.resolved(model)
  definition = nnx.graphdef(nnx.eval_shape(lambda: moe.SparseMlp(model, nnx.Rngs(0))))
  params = jax.tree.map(jnp.float32, params)
  return nnx.merge(definition, params)(jnp.float32(x_BTD), is_text_BxT, key)


def expert_mlp(model, p, x):
  """Returns what expert parameters make of a token [D], as Switch's or GPT-2's mlp."""
  affine = lambda x, p: x @ p['kernel'] + p.get('bias', 0)
  tanh_gelu = lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
  act = {'relu': lambda x: np.maximum(x, 0), 'gelu_tanh': tanh_gelu}[model.activation]
  hidden = affine(x, p['input'])
  hidden = act(affine(x, p['gate'])) * hidden if model.gated else act(hidden)
  return affine(hidden, p['output'])


def reference(model, params, x_TD, length, places):
  """Returns the output [T, D] of a row and its load-balance loss, z-loss and dropped choices.

  Fedus et al. 2022, equations 1 to 6; Lepikhin et al. 2021, algorithm 1, without its random part;
  Zoph et al. 2022, equation 5. One token, one choice at a time.
  """
  k, y_TD = model.experts_per_token, np.zeros_like(x_TD)
  shares, chosen, log_zs = [], [], []
  for t in range(length):
    logits = x_TD[t] @ params['router']['kernel']
    z = np.exp(logits).sum()
    shares.append(np.exp(logits) / z)
    log_zs.append(np.log(z))
    chosen.append(sorted(range(EXPERTS), key=lambda e, t=t: -shares[t][e])[:k])
  taken, dropped, counts = [0] * EXPERTS, 0, np.zeros(EXPERTS)
  for choice in range(k):
    for t in range(length):
      expert = chosen[t][choice]
      counts[expert] += 1
      if taken[expert] == places:
        dropped += 1
        continue
      taken[expert] += 1
      gate = shares[t][expert] / (1 if k == 1 else sum(shares[t][e] for e in chosen[t]))
      p = jax.tree.map(lambda x, e=expert: x[e], params['experts'])
      y_TD[t] += gate * expert_mlp(model, p, x_TD[t])
  balance = EXPERTS * np.sum(counts / (k * length) * np.mean(shares, axis=0))
  return y_TD, balance, np.mean(np.square(log_zs)), dropped / (k * length)


CASES = {  # places: ceil(12 k / 4 * capacity), at most 12
  'top1': (sparse(T5), 4),
  'top1_tight': (sparse(T5, expert_capacity=0.5), 2),
  'top1_relu': (sparse(T5, activation='relu', gated=False, expert_capacity=1.0), 3),
  'top2': (sparse(T5, experts_per_token=2, expert_capacity=1.0), 6),
  'top2_tight': (sparse(GPT2, experts_per_token=2, expert_capacity=0.3), 2),
  'top3_ample': (sparse(GPT2, experts_per_token=3, expert_capacity=4.0), 12),
}


@pytest.mark.parametrize('name', CASES)
def test_the_sparse_mlp_is_the_papers(name):
  """Output, both losses and the share of dropped choices, of rows that end in padding."""
  model, places = CASES[name]
  params = mlp_of(model)
  x_BTD = np.random.default_rng(1).normal(size=(BATCH, LENGTH, WIDTH)).astype(np.float32)
  is_text = np.arange(LENGTH)[None] < UNEVEN[:, None]
  y_BTD, routing = run(model, params, x_BTD, is_text)
  drops = 0
  for b, length in enumerate(UNEVEN):
    wanted, *numbers = reference(model, params, np.float64(x_BTD[b]), length, places)
    np.testing.assert_allclose(y_BTD[b], wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose([x[b] for x in routing], numbers, rtol=1e-5, atol=1e-7)
    drops += numbers[-1]
  assert (drops > 0) == (name != 'top3_ample')


def test_capacity_is_the_even_share_times_the_factor_rounded_up():
  for factor, length, wanted in ((1.0, 40, 10), (1.1, 40, 11), (1.1, 41, 12), (9.0, 40, 40)):
    assert moe.capacity(sparse(T5, expert_capacity=factor), length) == wanted
  assert moe.capacity(sparse(T5, expert_capacity=0.01), 1) == 1


def test_evaluation_has_its_own_capacity():
  x_BTD = np.random.default_rng(1).normal(size=(BATCH, LENGTH, WIDTH))
  model, params = sparse(T5, expert_capacity=0.5, eval_expert_capacity=2.0), mlp_of(sparse(T5))
  for capacity, key in ((0.5, jax.random.key(0)), (2.0, None)):
    wanted, _ = run(sparse(T5, expert_capacity=capacity), params, x_BTD)
    np.testing.assert_array_equal(run(model, params, x_BTD, key=key)[0], wanted)


def test_jitter_is_uniform_around_one_and_reaches_the_router_alone():
  factor_BTD = moe.jitter(jnp.ones((BATCH, 100, 128)), 0.2, jax.random.key(0))
  assert 0.8 <= jnp.min(factor_BTD) < 0.801 and 1.199 < jnp.max(factor_BTD) <= 1.2
  assert abs(jnp.mean(factor_BTD) - 1) < 0.002
  assert abs(jnp.std(factor_BTD) - 0.2 / math.sqrt(3)) < 0.002
  x_BTD = np.random.default_rng(1).normal(size=(BATCH, LENGTH, WIDTH))
  # One choice of one expert has a gate of 1: what reaches the expert is what there was.
  model = sparse(T5, num_experts=1, expert_capacity=1.0)
  params = mlp_of(model)
  noisy = dataclasses.replace(model, router_jitter=0.5)
  plain, here = (run(m, params, x_BTD, key=jax.random.key(0)) for m in (model, noisy))
  np.testing.assert_array_equal(here[0], plain[0])
  assert not np.allclose(here[1].z_loss, plain[1].z_loss, rtol=1e-3)
  evaluated = run(noisy, params, x_BTD)
  jax.tree.map(np.testing.assert_array_equal, evaluated, run(model, params, x_BTD))


def test_evenly_spread_tokens_have_a_load_balance_loss_of_one():
  model = sparse(T5, d_model=EXPERTS)
  params = mlp_of(model)
  params['router']['kernel'] = 3.0 * np.eye(EXPERTS)
  x_BTD = np.eye(EXPERTS)[np.arange(LENGTH) % EXPERTS][None]
  _, routing = run(model, params, x_BTD)
  np.testing.assert_allclose(routing.load_balance, [1.0], rtol=1e-6)
  _, routing = run(model, params, np.eye(EXPERTS)[np.zeros(LENGTH, int)][None])
  share = np.exp(3) / (np.exp(3) + 3)
  np.testing.assert_allclose(routing.load_balance, [EXPERTS * share], rtol=1e-6)


def test_what_padding_holds_changes_nothing():
  """Neither its tokens nor its length, where the capacity is ample, nor where experts are full."""
  rng = np.random.default_rng(2)
  x_BTD = rng.normal(size=(BATCH, LENGTH, WIDTH))
  is_text = np.arange(LENGTH)[None] < np.array([7, 7, 7])[:, None]
  other = np.where(is_text[..., None], x_BTD, 9 * rng.normal(size=x_BTD.shape))
  first = np.roll(other, 5, axis=1)  # padding on the left
  for capacity in (0.3, 8.0):
    model = sparse(T5, expert_capacity=capacity)
    params = mlp_of(model)
    expected, wanted = run(model, params, x_BTD, is_text)
    for y_BTD, routing in (
      run(model, params, other, is_text),
      (lambda y, r: (jnp.roll(y, -5, axis=1), r))(
        *run(model, params, first, np.roll(is_text, 5, 1))
      ),
    ):
      np.testing.assert_array_equal(y_BTD[:, :7], expected[:, :7])
      np.testing.assert_array_equal(y_BTD[:, 7:], 0)
      jax.tree.map(np.testing.assert_array_equal, routing, wanted)
  short, routing = run(model, params, x_BTD[:, :7], None)
  np.testing.assert_allclose(short, expected[:, :7], rtol=1e-6)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), routing, wanted)


def all_experts(model, kept_BTX, params, x_BTD):
  """Returns a sparse mlp's output where all experts see all tokens; `kept_BTX` says which count.

  And its z-loss and load-balance loss, the counts in which have no gradient.
  """
  logits = jnp.einsum('btd,dx->btx', x_BTD, params['router']['kernel'])
  share = jax.nn.softmax(logits)
  chosen = share >= jax.lax.top_k(share, model.experts_per_token)[0][..., -1:]
  gate = share if model.experts_per_token == 1 else share / (share * chosen).sum(-1, keepdims=True)
  product = lambda x, name: jnp.einsum('xbtd,xdf->xbtf', x, params['experts'][name]['kernel'])
  x_XBTD = jnp.tile(x_BTD, (EXPERTS, 1, 1, 1))
  hidden = jax.nn.gelu(product(x_XBTD, 'gate')) * product(x_XBTD, 'input')
  y_BTD = jnp.einsum('btx,xbtd->btd', gate * kept_BTX, product(hidden, 'output'))
  balance_B = EXPERTS * (chosen.mean(1) / model.experts_per_token * share.mean(1)).sum(-1)
  return y_BTD, balance_B, jnp.square(jnp.log(jnp.exp(logits).sum(-1))).mean(1)


@pytest.mark.parametrize('experts_per_token', [1, 2])
def test_the_gradient_is_that_of_all_experts_on_all_tokens(experts_per_token):
  """By input, router and experts, though choices are dropped and all tokens are moved about."""
  model = sparse(T5, experts_per_token=experts_per_token, expert_capacity=0.6)
  params = jax.tree.map(jnp.float32, mlp_of(model))
  x_BTD = jnp.float32(np.random.default_rng(3).normal(size=(BATCH, LENGTH, WIDTH)))
  weights = jnp.float32(np.random.default_rng(4).normal(size=x_BTD.shape))
  logits = jnp.einsum('btd,dx->btx', x_BTD, params['router']['kernel'])
  plan, routing = moe.route(model, logits, jnp.ones((BATCH, LENGTH), bool))
  assert routing.dropped.min() > 0
  places = moe.capacity(model, LENGTH)
  (kept_S,) = np.nonzero(np.ravel(plan.choice_XA) < plan.slot_BO.size)
  row, place = np.divmod(np.ravel(plan.choice_XA)[kept_S], experts_per_token * LENGTH)
  kept_BTX = np.zeros((BATCH, LENGTH, EXPERTS), np.float32)
  kept_BTX[row, place % LENGTH, kept_S // (BATCH * places)] = 1

  def value(params, x_BTD):
    y_BTD, routing = run(model, params, x_BTD)
    return (y_BTD * weights).sum() + routing.load_balance.sum() + routing.z_loss.sum()

  def wanted(params, x_BTD):
    y_BTD, balance_B, z_loss_B = all_experts(model, kept_BTX, params, x_BTD)
    return (y_BTD * weights).sum() + balance_B.sum() + z_loss_B.sum()

  got, expected = (jax.value_and_grad(f, argnums=(0, 1))(params, x_BTD) for f in (value, wanted))
  for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    assert np.abs(other).max() > 0
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def config_of(model, microbatches=1, **changes):
  decoder_only = model.architecture == 'decoder'
  return config_lib.Config(
    model=model,
    objective=config_lib.Objective(name=config_lib.OBJECTIVES_OF[model.architecture][0]),
    data=config_lib.Data(batch_size=4, input_length=12, target_length=0 if decoder_only else 8),
    optim=config_lib.Optim(name='adamw', learning_rate=1e-3, schedule='constant'),
    train=config_lib.Train(steps=1, microbatches=microbatches, **changes),
  )


def batch_of(model):
  """Returns a packed batch whose rows have 4 to 8 target tokens."""
  rows = [[families.example(model, 3 + b, 4 + b, seed=b)] for b in range(4)]
  batch = families.batch_of(rows, {'encoder': 12, 'decoder': 8}, packed=True)
  tokens = batch['decoder_input_tokens']
  batch['decoder_target_tokens'] = np.roll(tokens, -1, axis=1)
  batch['decoder_loss_weights'] = np.float32(tokens > 0)
  return batch


MODELS = {'t5': sparse(T5), 'gpt2': sparse(GPT2, experts_per_token=2, expert_capacity=0.5)}


@pytest.mark.parametrize('name', MODELS)
def test_the_objective_has_the_experts_losses_by_the_weight_of_each_row(name):
  """Summed over the layers of both stacks; and what is logged are the means over the layers."""
  model, batch = MODELS[name], batch_of(MODELS[name])
  params = params_of(model)
  configs = [
    config_of(model, load_balance_loss=a, router_z_loss=b) for a, b in ((0.0, 0.0), (0.3, 0.02))
  ]
  plain, weighted = (
    jax.jit(functools.partial(losses.of_batch, config))(params, batch) for config in configs
  )
  _, routing = jax.jit(functools.partial(models.forward, model))(params, batch)
  weights_B = batch['decoder_loss_weights'].sum(axis=1)
  balance, z_loss, _ = (np.sum(np.float64(x_B) * weights_B) for x_B in routing)
  np.testing.assert_allclose(
    weighted.objective - plain.objective, 0.3 * balance + 0.02 * z_loss, rtol=1e-4
  )
  np.testing.assert_allclose(weighted.loss, plain.loss)
  layers = {'t5': 3, 'gpt2': 1}[name]
  assert balance > 0.9 * layers * weights_B.sum()
  np.testing.assert_allclose(weighted.routing.load_balance, balance / layers, rtol=1e-5)


@pytest.mark.parametrize('name', ['gpt2', pytest.param('t5', marks=pytest.mark.slow)])
def test_microbatches_give_the_gradient_of_the_whole_batch(name):
  model, batch = MODELS[name], batch_of(MODELS[name])
  params, key = params_of(model), jax.random.key(0)
  whole, parts = (
    jax.jit(functools.partial(train.gradients, config_of(model, count)))(params, batch, key)
    for count in (1, 2)
  )
  close(whole[0], parts[0])
  np.testing.assert_allclose(families.flat(parts[1]), families.flat(whole[1]), rtol=1e-5)


def close(one, other):
  largest = np.abs(families.flat(other)).max()
  np.testing.assert_allclose(families.flat(one), families.flat(other), atol=1e-5 * largest)


@pytest.mark.slow
def test_remat_and_unrolling_do_not_change_gradients():
  model, batch, key = sparse(T5, dropout=0.1), batch_of(T5), jax.random.key(0)
  programs = [('scan', 'none'), ('scan', 'full'), ('unroll', 'dots')]
  results = [
    jax.jit(
      functools.partial(
        train.gradients, config_of(dataclasses.replace(model, layers=layers, remat=remat))
      )
    )(params_of(model), batch, key)
    for layers, remat in programs
  ]
  for result in results[1:]:
    close(result[0], results[0][0])


def test_a_step_logs_how_tokens_are_routed():
  model, batch = MODELS['gpt2'], batch_of(MODELS['gpt2'])
  config = config_of(model)
  state = train.first_state(config, params_of(model))
  _, measured = jax.jit(functools.partial(train.train_step, config))(state, batch)
  assert measured['train/load_balance_loss'] > 0.9
  assert measured['train/router_z_loss'] > 0
  assert 0 < measured['train/dropped_share'] < 1
  dense = config_of(dataclasses.replace(model, num_experts=0))
  state = jax.eval_shape(functools.partial(train.init_state, dense))
  _, without = jax.eval_shape(functools.partial(train.train_step, dense), state, batch)
  assert measured.keys() - without.keys() == {
    'train/load_balance_loss',
    'train/router_z_loss',
    'train/dropped_share',
  }


@pytest.mark.parametrize('name', MODELS)
def test_the_cache_changes_nothing(name):
  """Decoding token by token gives the logits of all at once, where no expert is ever full."""
  model = dataclasses.replace(MODELS[name], expert_capacity=float(EXPERTS))
  params = jax.tree.map(lambda x: x / 2, params_of(model))
  rng = np.random.default_rng(5)
  tokens, inputs = (rng.integers(1, 29, (2, n), dtype=np.int32) for n in (9, 6))
  batch = {'decoder_input_tokens': tokens, 'encoder_input_tokens': inputs}
  expected = jax.jit(functools.partial(models.apply, model))(params, batch)
  given = None if model.architecture == 'decoder' else inputs
  # The capacities that decoding is told are small: they must not count.
  model = dataclasses.replace(model, expert_capacity=0.1, eval_expert_capacity=0.1)
  start = jax.jit(functools.partial(decode.start, model), static_argnums=2)
  extend = jax.jit(functools.partial(decode.extend, model))
  cache = start(params, np.zeros(2, np.int32), 9, given)
  logits, cache = extend(params, cache, tokens[:, :4])
  for t in range(4, 10):
    np.testing.assert_allclose(logits, expected[:, t - 1], atol=2e-5)
    if t < 9:
      logits, cache = extend(params, cache, tokens[:, t : t + 1])


def test_generated_text_does_not_depend_on_its_neighbours():
  model, rng = MODELS['gpt2'], np.random.default_rng(6)
  prompts = [rng.integers(1, 29, length) for length in (3, 11, 1)]
  generate = functools.partial(
    decoding.generate,
    model,
    params_of(model),
    max_tokens=8,
    sampler=decoding.Sampler(),
    key=jax.random.key(0),
    eos=-1,
  )
  together = generate(prompts)
  for prompt, tokens in zip(prompts, together, strict=True):
    np.testing.assert_array_equal(generate([prompt])[0], tokens)


def test_tokens_go_to_experts_by_all_to_all():
  """One each way in the layer, and one each way in its gradient; without the axis there is none."""
  model = dataclasses.replace(
    presets.gpt2(vocab_size=64, num_layers=2, d_model=16, num_heads=2, max_length=16),
    num_experts=EXPERTS,
    layers='scan',
  )

  def lowered(expert):
    kinds = (jax.sharding.AxisType.Explicit,) * 5
    mesh = jax.sharding.AbstractMesh(
      (1, expert, 8 // expert, 1, 1), sharding.AXES, axis_types=kinds
    )
    with jax.sharding.use_abstract_mesh(mesh):
      params = sharding.shard_like(
        jax.eval_shape(lambda: models.init(model, jax.random.key(0))), mesh
      )
      rows = jax.sharding.NamedSharding(mesh, sharding.RULES.on(mesh).spec('batch', None))
      tokens = jax.ShapeDtypeStruct((8, 16), jnp.int32, sharding=rows)
      value = lambda params, tokens: models.hidden(
        model, params, {'decoder_input_tokens': tokens}
      ).sum()
      return jax.jit(jax.grad(value)).trace(params, tokens).lower(lowering_platforms=('tpu',))

  text = lowered(4).as_text()
  assert text.count('stablehlo.all_to_all') == 4
  assert lowered(1).as_text().count('stablehlo.all_to_all') == 0


def test_the_router_alone_is_float32_throughout():
  """In a bfloat16 model too, its product and the gradients by input and kernel are exact."""
  model = dataclasses.replace(MODELS['gpt2'], dtype='bfloat16')
  params = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
  tokens = jax.ShapeDtypeStruct((2, 9), jnp.int32)

  def value(params, tokens):
    return models.hidden(model, params, {'decoder_input_tokens': tokens}).astype(jnp.float32).sum()

  text = jax.jit(jax.grad(value)).lower(params, tokens).as_text()
  products = [line for line in text.splitlines() if 'stablehlo.dot_general' in line]
  exact = [line for line in products if 'HIGHEST' in line]
  assert len(exact) == 3 and not any('bf16' in line for line in exact)
  assert sum(f'x{EXPERTS}xf32>' in line for line in exact) == 3


def test_expert_parameters_are_split_over_experts():
  kinds = (jax.sharding.AxisType.Explicit,) * 5
  mesh = jax.make_mesh((1, 2, 2, 1, 2), sharding.AXES, axis_types=kinds)
  P = jax.sharding.PartitionSpec
  model = sparse(presets.gpt2(vocab_size=64, num_layers=2, d_model=16, num_heads=2))
  with jax.set_mesh(mesh):
    params = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
  mlp = params['decoder']['layers']['blocks']['layer_1']['mlp']
  specs = jax.tree.map(lambda x: x.sharding.spec, mlp)
  assert specs['experts']['input']['kernel'] == P(None, 'expert', 'data', 'model')
  assert specs['experts']['output']['kernel'] == P(None, 'expert', 'model', 'data')
  assert specs['experts']['input']['bias'] == P(None, 'expert', 'model')
  assert specs['router']['kernel'] == P(None, ('expert', 'data'), None)


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(experts_per_token=5), 'more experts for a token than there are'),
    (dict(moe_every=4), 'num_layers=2'),
    (dict(expert_capacity=0.0), 'not a capacity factor'),
    (dict(eval_expert_capacity=0.0), 'eval_expert_capacity=0.0'),
    (dict(router_jitter=1.0), 'router_jitter=1.0'),
    (dict(init_scale=0.0), 'init_scale=0.0'),
    (dict(num_experts=-1), 'num_experts=-1'),
    (dict(experts_per_token=0), 'experts_per_token=0'),
  ],
)
def test_wrong_values_are_told(changes, message):
  with pytest.raises(errors.ConfigError, match=message):
    sparse(GPT2, **changes)


def test_experts_that_do_not_fit_the_mesh_are_told():
  devices, parallel = jax.devices(), config_lib.Parallel
  config = config_of(sparse(presets.gpt2(vocab_size=64, num_layers=2, d_model=16, num_heads=2)))
  for changes, message in (
    (dict(expert=8, data=1), 'num_experts=4 over 8'),
    (dict(sequence=8, data=1), 'use parallel.sequence=1'),
  ):
    rows = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=8))
    with pytest.raises(errors.ConfigError, match=message):
      meshes.check_divides(rows, meshes.make(parallel(**changes), devices))


def test_legal_meshes_of_experts_split_them_and_not_the_sequence():
  config = config_of(sparse(presets.gpt2(vocab_size=64, num_layers=2, d_model=16, num_heads=2)))
  config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=8))
  legal = [*meshes.legal(jax.devices(), config)]
  assert {parallel.expert for parallel in legal} == {1, 2, 4}  # of 4 experts
  for parallel in legal:
    meshes.check_divides(config, meshes.make(parallel))
  topology = topologies.cpu(8)
  tried = {one.parallel.expert for one in search.candidates(config, topology)}
  assert tried == {1, 2, 4}
