"""The loss against a float64 reference; fused with the output layer, against logits that exist."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5lite import config as config_lib
from t5lite import losses
from t5lite import models
from t5lite import presets

BATCH, LENGTH, WIDTH, VOCAB = 2, 19, 64, 11
FAMILIES = {
  'tied': presets.gpt2(vocab_size=VOCAB, num_layers=1, d_model=WIDTH, num_heads=1),
  'free': presets.t5_1_1(
    vocab_size=VOCAB, num_layers=1, d_model=WIDTH, d_ff=4, num_heads=1, head_dim=2
  ),
  'bias': presets.bert(vocab_size=VOCAB, num_layers=1, d_model=WIDTH),
}
OBJECTIVES = {'tied': 'causal_lm', 'free': 'span_corruption', 'bias': 'mlm'}


def case(name):
  """Returns (model, output layer, targets, weights, of which some are 0)."""
  model = dataclasses.replace(FAMILIES[name], dtype='float32')
  rng = np.random.default_rng(0)
  shape = (VOCAB, WIDTH) if models.output_letters(model) == 'VD' else (WIDTH, VOCAB)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  bias_V = draw(VOCAB) if name == 'bias' else None
  targets_BxT = jnp.asarray(rng.integers(0, VOCAB, (BATCH, LENGTH)))
  weights_BxT = jnp.asarray(rng.integers(0, 3, (BATCH, LENGTH)), jnp.float32)
  return (
    model,
    models.Output(draw(BATCH, LENGTH, WIDTH), draw(*shape), bias_V),
    targets_BxT,
    weights_BxT,
  )


@pytest.mark.parametrize('options', [{}, dict(z_loss=0.1), dict(label_smoothing=0.2)], ids=str)
def test_cross_entropy_is_its_definition(options):
  """Smoothing by s gives the target 1 - s and the others s / (V - 1), less their entropy."""
  rng = np.random.default_rng(1)
  logits_RV = rng.normal(0, 3, (7, VOCAB))
  targets_R, weights_R = rng.integers(0, VOCAB, 7), rng.integers(0, 3, 7)
  log_z_R = np.log(np.exp(logits_RV).sum(axis=1))
  smoothing = options.get('label_smoothing', 0)
  wanted_RV = np.where(
    np.arange(VOCAB) == targets_R[:, None], 1 - smoothing, smoothing / (VOCAB - 1)
  )
  own_entropy_RV = wanted_RV * np.log(np.maximum(wanted_RV, 1e-30))
  objective_R = (own_entropy_RV - wanted_RV * (logits_RV - log_z_R[:, None])).sum(axis=1)
  objective_R += options.get('z_loss', 0) * log_z_R**2
  expected = losses.Sums(
    loss=np.sum(weights_R * (log_z_R - logits_RV[np.arange(7), targets_R])),
    objective=np.sum(weights_R * objective_R),
    correct=np.sum(weights_R * (logits_RV.argmax(axis=1) == targets_R)),
    weight=np.sum(weights_R),
  )
  got = losses.cross_entropy(
    jnp.float32(logits_RV), jnp.asarray(targets_R), jnp.float32(weights_R), **options
  )
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), got, expected)


@pytest.mark.parametrize('options', [{}, dict(z_loss=0.1, label_smoothing=0.2)], ids=str)
@pytest.mark.parametrize('chunk_rows', [512, 19, 8])  # one, even, and 38 rows as 5 x 8 less 2
@pytest.mark.parametrize('name', FAMILIES)
def test_loss_of_output_is_the_loss_of_its_logits(name, chunk_rows, options, monkeypatch):
  """All sums, and the objective's gradients by the input, the kernel and the bias."""
  monkeypatch.setattr(losses, 'CHUNK_ROWS', chunk_rows)
  model, output, targets_BxT, weights_BxT = case(name)
  config = config_lib.Config(
    model=model,
    objective=config_lib.Objective(name=OBJECTIVES[name]),
    data=config_lib.Data(
      batch_size=BATCH, input_length=LENGTH, target_length=LENGTH if name == 'free' else 0
    ),
    optim=config_lib.Optim(name='adamw', learning_rate=1e-3, schedule='constant'),
    train=config_lib.Train(steps=1, **options),
  )

  def plain(output):
    letters = models.output_letters(model)
    logits_BTV = jnp.einsum(f'BTD,{letters}->BTV', output.x_BTD, output.kernel)
    logits_BTV = logits_BTV if output.bias_V is None else logits_BTV + output.bias_V[None, None]
    sums = losses.cross_entropy(logits_BTV, targets_BxT, weights_BxT, **options)
    return 3 * sums.objective, sums

  def fused(output):
    sums = losses.of_output(config, output, targets_BxT, weights_BxT)
    return 3 * sums.objective, sums

  (_, expected_sums), expected = jax.value_and_grad(plain, has_aux=True)(output)
  (_, sums), gradient = jax.value_and_grad(fused, has_aux=True)(output)
  close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
  jax.tree.map(close, sums, expected_sums)
  jax.tree.map(close, gradient, expected)
  jax.tree.map(close, losses.of_output(config, output, targets_BxT, weights_BxT), expected_sums)
