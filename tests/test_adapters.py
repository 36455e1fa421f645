"""Adapters (LoRA) and frozen parts: what is trained, what stays, and the model that comes out."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from t5lite import config as config_lib
from t5lite import errors
from t5lite import meshes
from t5lite import models
from t5lite import optim
from t5lite import presets
from t5lite import sharding
from t5lite import stored
from t5lite import train

SIZES = {'vocab_size': 48, 'num_layers': 2, 'd_model': 64}
MODELS = {
  't5': presets.t5_1_1(**SIZES, d_ff=40, num_heads=2, head_dim=24),
  'gpt': presets.gpt2(**SIZES, num_heads=2, max_length=16),
  'bert': dataclasses.replace(
    presets.bert(**SIZES | {'d_model': 128}, max_length=16), num_labels=2
  ),
  'modernbert': dataclasses.replace(
    presets.modernbert(**SIZES | {'d_model': 128}, d_ff=40), num_labels=2
  ),
}
KINDS = {'t5': 'span_corruption', 'gpt': 'causal_lm', 'bert': 'mlm', 'modernbert': 'mlm'}
HEAD = ('label_head', 'mlm_head')  # of an encoder


def make_config(family: str, rank=0, frozen=(), **parallel) -> config_lib.Config:
  return config_lib.Config(
    model=dataclasses.replace(MODELS[family], lora_rank=rank, dropout=0.0),
    objective=config_lib.Objective(name=KINDS[family]),
    data=config_lib.Data(
      source='task:x', batch_size=8, input_length=16, target_length=16 * (family == 't5')
    ),
    optim=config_lib.Optim(
      name='adamw',
      learning_rate=0.01,
      schedule='constant',
      weight_decay=0.1,
      clip=1.0,
      frozen=frozen,
    ),
    train=config_lib.Train(steps=1),
    parallel=config_lib.Parallel(**parallel),
  )


def make_batch(config: config_lib.Config) -> dict[str, np.ndarray]:
  random = np.random.default_rng(0)
  tokens = lambda: random.integers(1, 48, (8, 16), dtype=np.int32)
  side = 'encoder' if config.model.architecture == 'encoder' else 'decoder'
  batch = {f'{side}_input_tokens': tokens(), f'{side}_target_tokens': tokens()}
  batch[f'{side}_loss_weights'] = np.ones((8, 16), np.float32)
  if side == 'encoder':
    batch['encoder_target_tokens'] %= 2
    batch['encoder_prediction_positions'] = np.zeros((8, 1), np.int32)
    batch['encoder_loss_weights'][:, 1:] = 0
  if config.model.architecture == 'encoder_decoder':
    batch['encoder_input_tokens'] = tokens()
  return batch


def perturbed(params):
  """Parameters in which no array is all 0."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  made = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
  return jax.tree.unflatten(tree, made)


@pytest.mark.parametrize('family', MODELS)
def test_new_adapters_change_nothing(family):
  plain, adapted = make_config(family), make_config(family, rank=3)
  batch, key = make_batch(plain), jax.random.key(0)
  params = models.init(adapted.model, key)
  _, merged = models.without_adapters(adapted.model, params)
  logits = models.apply(adapted.model, params, batch)
  np.testing.assert_array_equal(logits, models.apply(plain.model, merged, batch))
  base = models.init(plain.model, key)
  assert jax.tree.structure(merged) == jax.tree.structure(base)
  jax.tree.map(np.testing.assert_array_equal, merged, base)


@pytest.mark.parametrize('family', MODELS)
def test_merged_adapters_are_the_same_function(family):
  config = make_config(family, rank=3)
  batch, params = make_batch(config), perturbed(models.init(config.model, jax.random.key(0)))
  model, merged = models.without_adapters(config.model, params)
  assert model == make_config(family).model
  logits = models.apply(config.model, params, batch)
  np.testing.assert_allclose(logits, models.apply(model, merged, batch), atol=2e-4)
  unadapted = models.apply(model, dropped(params), batch)
  assert np.abs(logits - unadapted).max() > 0.1


def dropped(params):
  """The parameters with the adapters dropped, not added."""
  if not isinstance(params, dict):
    return params
  return {k: dropped(v) for k, v in params.items() if k not in ('lora_a', 'lora_b')}


def step(config: config_lib.Config):
  mesh = meshes.make(config.parallel)
  with jax.set_mesh(mesh):
    state = jax.jit(lambda: train.init_state(config))()
    batch = sharding.to_device(make_batch(config), 8, mesh)
    new, values = jax.jit(lambda s, b: train.train_step(config, s, b))(state, batch)
  return jax.device_get((state, new, values))


@pytest.mark.parametrize('parallel', [{}, {'data': 4, 'model': 2}], ids=['data', 'model'])
@pytest.mark.parametrize('family', MODELS)
def test_only_adapters_and_the_head_for_labels_are_trained(family, parallel):
  old, new, values = step(make_config(family, rank=4, **parallel))
  before, after = (stored.flat(state.params) for state in (old, new))
  changed = {path for path in before if (before[path] != after[path]).any()}
  # At first B is 0, so A has no gradient yet.
  assert changed == {p for p in before if p.endswith('lora_b') or p.startswith(HEAD)}
  moments = optax.tree.get(new.opt_state, 'mu')
  kept = {path for path, x in stored.flat(moments).items() if hasattr(x, 'shape')}
  assert {path.split('.')[-1] for path in kept if not path.startswith(HEAD)} == {'lora_a', 'lora_b'}
  assert np.isfinite(values['train/loss'])


def test_adapters_learn_the_same_on_every_mesh():
  losses = [
    step(make_config('t5', rank=4, **parallel))[1].params
    for parallel in ({}, {'data': 2, 'model': 2, 'replica': 2})
  ]
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), *losses)


def test_frozen_parameters_stay():
  old, new, _ = step(make_config('t5', frozen=('token_embed.*', 'encoder.*')))
  before, after = (stored.flat(state.params) for state in (old, new))
  for path in before:
    same = (before[path] == after[path]).all()
    assert same == path.startswith(('token_embed.', 'encoder.')), path


@pytest.mark.parametrize(
  ('frozen', 'what'), [(('emcoder.*',), "'emcoder.*'"), (('*',), 'every parameter is frozen')]
)
def test_wrong_patterns_are_named(frozen, what):
  config = make_config('gpt', frozen=frozen)
  with pytest.raises(errors.ConfigError) as caught:
    optim.trained(config, models.init(config.model, jax.random.key(0)))
  assert what in str(caught.value)
