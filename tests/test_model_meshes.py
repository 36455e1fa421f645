"""Models on meshes: the same parameters, loss and gradients on each, and 256 chips at once."""

import dataclasses
import functools
import math
import re

import families
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5lite import config
from t5lite import errors
from t5lite import losses
from t5lite import models
from t5lite import presets
from t5lite import meshes
from t5lite import sharding
from t5lite import train
from t5lite.models import scope as scope_lib
from t5lite.planning import program as measured

SHAPE = dict(vocab_size=64, num_layers=2, d_model=16, d_ff=32, num_heads=8, head_dim=4)
EVEN = dict(d_model=16, d_ff=32, num_heads=8, num_kv_heads=8, head_dim=4)
BERT = presets.bert(vocab_size=64, num_layers=2, d_model=64, max_length=16)
GPT2 = presets.gpt2(vocab_size=64, num_layers=2, d_model=16, num_heads=8, max_length=16)
LOCAL = dict(num_kv_heads=4, local_window=3, global_every=2)
MODELS = {
  't5_1_0': presets.t5_1_0(**SHAPE),
  't5_1_1': presets.t5_1_1(**SHAPE),
  'bert': dataclasses.replace(BERT, **EVEN),
  'gpt2': GPT2,
  'modern_decoder': presets.modern(architecture='decoder', **SHAPE, **LOCAL),
  'modern_encoder': presets.modern(architecture='encoder', **SHAPE, **LOCAL),
}
SPARSE = {
  't5_moe': dataclasses.replace(MODELS['t5_1_1'], num_experts=4),
  'bert_moe': dataclasses.replace(MODELS['bert'], num_experts=4, moe_every=1),
  'gpt2_moe': dataclasses.replace(GPT2, num_experts=8, experts_per_token=2, router_jitter=0.1),
}
MODELS |= SPARSE
# Of other worlds: a bias for each layer; two rotary bases, no biases, no norm in the first layer.
BIASES = dict(norm='layer', embedding_norm=True, local_rotary_base=100.0)
IMPORTED = {
  'umt5': dataclasses.replace(MODELS['t5_1_1'], relative_per_layer=True),
  'modernbert': dataclasses.replace(MODELS['modern_encoder'], **BIASES),
}
MODELS |= IMPORTED
OBJECTIVES = {'encoder_decoder': 'span_corruption', 'decoder': 'causal_lm', 'encoder': 'mlm'}
MESHES = [  # of sharding.AXES: replica, expert, data, sequence, model
  *((1, 1, 1, 1, 1), (1, 1, 8, 1, 1), (1, 1, 4, 1, 2), (1, 1, 2, 1, 4), (2, 1, 2, 1, 2)),
  *((1, 1, 1, 4, 1), (1, 1, 2, 2, 2), (2, 1, 1, 2, 2)),
  *((1, 4, 2, 1, 1), (1, 2, 2, 1, 2), (2, 4, 1, 1, 1)),
]


def config_of(name, **changes):
  """Returns a config whose dropout is on and whose layers are scanned."""
  model = dataclasses.replace(MODELS[name], **(dict(dropout=0.1, layers='scan') | changes))
  target_length = 8 if model.architecture == 'encoder_decoder' else 0
  return config.Config(
    model=model,
    objective=config.Objective(name=OBJECTIVES[model.architecture]),
    data=config.Data(batch_size=8, input_length=12, target_length=target_length),
    optim=config.Optim(name='adamw', learning_rate=1e-3, schedule='constant'),
    train=config.Train(steps=1, z_loss=1e-4, label_smoothing=0.1),
  )


def batch_of(model, num_rows=8):
  """Returns a packed batch of random examples with targets and loss weights."""
  lengths = [[(5, 4), (4, 3)], [(9, 8)]]
  rows = [
    [families.example(model, *length, seed=10 * b + i) for i, length in enumerate(lengths[b % 2])]
    for b in range(num_rows)
  ]
  batch = families.batch_of(rows, {'encoder': 12, 'decoder': 8}, packed=True)
  side = 'encoder' if model.architecture == 'encoder' else 'decoder'
  tokens = batch[f'{side}_input_tokens']
  batch[f'{side}_target_tokens'] = np.roll(tokens, -1, axis=1)
  batch[f'{side}_loss_weights'] = np.float32(tokens > 0)
  if side == 'encoder':
    chosen = np.array([1, 3, 6, 0], np.int32)  # three positions of each row, and a place left over
    asked = np.isin(np.arange(12), chosen[:3])
    batch['encoder_loss_weights'] = np.tile(np.float32(asked), (num_rows, 1))
    batch['encoder_prediction_positions'] = np.tile(chosen, (num_rows, 1))
  return batch


def loss(config, params, batch):
  sums = losses.of_batch(config, params, batch, jax.random.key(7))
  return sums.objective / sums.weight


@functools.cache
def on_one_device(name):
  """Returns parameters and their loss and gradients where no mesh is set."""
  config = config_of(name)
  params = jax.jit(functools.partial(models.init, config.model))(jax.random.key(0))
  run = jax.jit(jax.value_and_grad(functools.partial(loss, config)))
  return params, run(params, batch_of(config.model))


def make_mesh(sizes):
  parallel = config.Parallel(**dict(zip(sharding.AXES, sizes, strict=True)))
  return meshes.make(parallel, jax.devices()[: math.prod(sizes)])


QUICK = (('gpt2', (2, 1, 2, 1, 2)), ('t5_1_1', (1, 1, 2, 2, 2)), ('gpt2_moe', (1, 2, 2, 1, 2)))
CASES = [
  (name, mesh) if (name, mesh) in QUICK else pytest.param(name, mesh, marks=pytest.mark.slow)
  for name in MODELS
  for mesh in MESHES
  if (name not in SPARSE or mesh[3] == 1) and (name not in IMPORTED or mesh == MESHES[6])
]


@pytest.mark.parametrize('name, sizes', CASES)
def test_loss_is_same_on_every_mesh(name, sizes):
  """And so are the parameters and the gradients, with dropout on; within 1e-5 of the largest."""
  config, mesh = config_of(name), make_mesh(sizes)
  params, (expected, gradients) = on_one_device(name)
  with jax.set_mesh(mesh):
    here = jax.jit(functools.partial(models.init, config.model))(jax.random.key(0))
    batch = sharding.to_device(batch_of(config.model), 8, mesh)
    got = jax.jit(jax.value_and_grad(functools.partial(loss, config)))(here, batch)
  np.testing.assert_allclose(families.flat(here), families.flat(params), rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(got[0], expected, rtol=1e-5)
  difference = np.abs(families.flat(got[1]) - families.flat(gradients))
  assert difference.max() < 1e-5 * np.abs(families.flat(gradients)).max()


def test_parameters_are_split_as_the_rules_say(mesh):
  P, fsdp = jax.sharding.PartitionSpec, 'data'
  params = jax.eval_shape(lambda: models.init(MODELS['t5_1_1'], jax.random.key(0)))
  layer = params['decoder']['layers']
  assert params['token_embed']['embedding'].sharding.spec == P('model', fsdp)
  assert layer['attention']['query']['kernel'].sharding.spec == P(None, fsdp, 'model')
  assert layer['cross_attention']['output']['kernel'].sharding.spec == P(None, 'model', fsdp)
  assert layer['mlp']['output']['kernel'].sharding.spec == P(None, 'model', fsdp)


@pytest.mark.parametrize(
  'parallel, forward, gradient',
  [
    (dict(data=8), ['all-gather'], ['all-gather', 'reduce-scatter']),
    (dict(data=1, model=8), ['all-reduce'], ['all-reduce']),
    (
      dict(data=4, model=2),
      ['all-gather', 'all-reduce'],
      ['all-gather', 'all-reduce', 'reduce-scatter'],
    ),
    (dict(data=2, sequence=4), ['all-gather'], ['all-gather', 'reduce-scatter']),
  ],
)
def test_embedding_needs_no_more_collectives_than_its_table(parallel, forward, gradient):
  """One gather of columns (FSDP), one sum over parts of the vocabulary; backward one scatter."""
  mesh = meshes.make(config.Parallel(**parallel))

  def look_up(table, ids):
    return sharding.look_up(table, ids, 'V')

  def summed(table, ids):
    return jnp.sum(jnp.sin(look_up(table, ids)))

  with jax.set_mesh(mesh):
    table = jax.device_put(jnp.ones((64, 32)), sharding.parameter_spec('VD'))
    ids = jax.device_put(jnp.zeros((8, 16), int), sharding.activation_spec('BT'))
    assert collectives(look_up, table, ids) == forward
    assert collectives(jax.grad(summed), table, ids) == gradient


@pytest.mark.parametrize('sizes', [(1, 1, 8, 1, 1), (2, 1, 2, 1, 2), (2, 2, 2, 1, 1)])
def test_gradients_of_the_bias_are_added_up_as_its_table(sizes):
  """Devices never add up the map of all pairs of tokens, which is far larger."""
  text = scope_lib.Tokens(jnp.arange(32))
  kind = scope_lib.Kind(causal=False, max_distance=20)

  def summed(table_PN, score_BKRS):
    scope = scope_lib.whole(scope_lib.Facts(kind, text, text, table_PN))
    return jnp.sum(jnp.sin(score_BKRS + scope_lib.offset(scope, score_BKRS.shape, 2)))

  with jax.set_mesh(mesh := make_mesh(sizes)):
    table = jax.device_put(jnp.ones((16, 8)), sharding.parameter_spec('PN'))
    score = jax.device_put(jnp.ones((16, 4, 64, 32)), sharding.activation_spec('BKRS'))
    program = jax.jit(jax.grad(summed)).lower(table, score).compile().as_text()
  (reduced,) = measured.measure(program, dict(mesh.shape)).collectives
  assert reduced.kind == 'all-reduce' and reduced.largest <= table.nbytes


def collectives(function, *arguments) -> list[str]:
  """Returns the names of the collectives of the compiled function, sorted."""
  text = jax.jit(function).lower(*arguments).compile().as_text()
  return sorted(re.findall(r' (all-\w+|reduce-scatter|collective-permute)(?:-start)?\(', text))


@pytest.mark.parametrize('name, microbatches', [*((name, 1) for name in MODELS), ('t5_1_1', 2)])
def test_step_compiles_for_256_chips(name, microbatches):
  """Lowers a train step for TPUs that are not there; the state stays split as it was."""
  experts = {'num_experts': 8} if name in SPARSE else {}
  config = config_of(name, dtype='bfloat16', remat='full', d_model=64, vocab_size=1024, **experts)
  config = dataclasses.replace(
    config, train=dataclasses.replace(config.train, microbatches=microbatches)
  )
  kinds = (jax.sharding.AxisType.Explicit,) * 5
  sizes = (2, 8, 4, 1, 4) if experts else (2, 1, 32, 1, 4)
  mesh = jax.sharding.AbstractMesh(sizes, sharding.AXES, axis_types=kinds)
  rows = jax.sharding.NamedSharding(mesh, sharding.RULES.on(mesh).spec('batch', None))
  batch = {
    key: jax.ShapeDtypeStruct((128, *array.shape[1:]), array.dtype, sharding=rows)
    for key, array in batch_of(config.model).items()
  }
  with jax.sharding.use_abstract_mesh(mesh):
    state = sharding.shard_like(jax.eval_shape(lambda: train.init_state(config)), mesh)
    traced = jax.jit(functools.partial(train.train_step, config)).trace(state, batch)
    text = traced.lower(lowering_platforms=('tpu',)).as_text()
    after, _ = traced.out_info
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
  assert 'num_partitions = 256' in text


@pytest.mark.parametrize(
  'parallel, message',
  [
    (dict(data=1, model=8), 'model.num_heads=4 over 8 devices: use 8, or a mesh of data=8; '),
    (dict(data=1, sequence=8), 'data.input_length=12 over 8 devices: use 8 or 16, or a mesh of '),
    (dict(data=8, replica=1), 'data.batch_size / train.microbatches=4 over 8 devices: use 8, or '),
  ],
)
def test_a_mesh_that_does_not_divide_is_refused_with_those_that_do(parallel, message):
  few_heads = dataclasses.replace(config_of('gpt2').model, num_heads=4, num_kv_heads=4)
  run = dataclasses.replace(config_of('gpt2'), model=few_heads)
  if parallel['data'] == 8:
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, batch_size=4))
  mesh = meshes.make(config.Parallel(**parallel))
  with pytest.raises(errors.ConfigError) as error:
    meshes.check_divides(run, mesh)
  assert f'dimension does not divide over the mesh: {message}' in str(error.value)
  fitting = [*meshes.legal(jax.devices(), run)]
  assert fitting
  for parallel in fitting:
    meshes.check_divides(run, meshes.make(parallel))
