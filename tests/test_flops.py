"""Model FLOPs against the matmuls of traced and of compiled gradients."""

import dataclasses
import math
import re

import jax
from jax.extend import core
import numpy as np
import pytest

from t5lite import config as config_lib
from t5lite import flops
from t5lite import losses
from t5lite import models
from t5lite import presets
from t5lite.planning import abstract

SIZES = dict(vocab_size=240, num_layers=2, d_model=64, d_ff=96, num_heads=4, head_dim=24)
GROUPED = SIZES | dict(num_kv_heads=2, local_window=8, global_every=2)
BATCH, INPUTS, TARGETS = 4, 40, 24
FAMILIES = {
  't5_1_0': dataclasses.replace(presets.t5_1_0(**SIZES), num_decoder_layers=3),
  't5_1_1': dataclasses.replace(presets.t5_1_1(**SIZES), num_decoder_layers=3),
  'bert': presets.bert(vocab_size=240, num_layers=2, d_model=64),
  'gpt2': presets.gpt2(vocab_size=240, num_layers=2, d_model=64, num_heads=2),
  'modern_decoder': presets.modern(architecture='decoder', **GROUPED),
  'modern_encoder': presets.modern(architecture='encoder', **GROUPED),
  'modernbert': presets.modernbert(
    vocab_size=240, num_layers=2, d_model=64, d_ff=96, local_window=8, global_every=2
  ),
  'modern_encoder_decoder': presets.modern(architecture='encoder_decoder', **GROUPED),
  # Of as many places as choices: the empty ones are no model FLOPs.
  'gpt2_moe': presets.gpt2(vocab_size=240, num_layers=2, d_model=64, num_heads=2),
  't5_moe': dataclasses.replace(presets.t5_1_1(**SIZES), num_decoder_layers=4),
}
LABELS = {
  f'{name}_{kind}': dataclasses.replace(FAMILIES[name], num_labels=3, pooler=kind == 'texts')
  for name in ('bert', 'modernbert')
  for kind in ('texts', 'words')
}
EVEN = dict(num_experts=4, expert_capacity=1.0)
FAMILIES['gpt2_moe'] = dataclasses.replace(FAMILIES['gpt2_moe'], **EVEN, experts_per_token=2)
FAMILIES['t5_moe'] = dataclasses.replace(FAMILIES['t5_moe'], **EVEN)


def make_config(model: config_lib.Model, **changes) -> config_lib.Config:
  model = dataclasses.replace(model, dtype='float32', **changes)
  both = model.architecture == 'encoder_decoder'
  return config_lib.Config(
    model=model,
    objective=config_lib.Objective(name=config_lib.OBJECTIVES_OF[model.architecture][0]),
    data=config_lib.Data(
      batch_size=BATCH, input_length=INPUTS, target_length=TARGETS if both else 0
    ),
    optim=config_lib.Optim(name='adamw', learning_rate=1e-3, schedule='constant'),
    train=config_lib.Train(steps=1),
  )


def traced_gradient(config: config_lib.Config):
  """Returns the traced gradient of the loss of one batch."""
  params = jax.eval_shape(lambda: models.init(config.model, jax.random.key(0)))
  gradient = jax.grad(lambda params, batch: losses.of_batch(config, params, batch).objective)
  return jax.jit(gradient).trace(params, abstract.batch(config))


def jaxpr_flops(jaxpr) -> int:
  """Returns those of the matmuls of a jaxpr, a loop's times its length."""
  total = 0
  for equation in jaxpr.eqns:
    times = equation.params['length'] if equation.primitive.name == 'scan' else 1
    total += times * sum(map(jaxpr_flops, core.jaxprs_in_params(equation.params)))
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      depth = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
      total += 2 * depth * equation.outvars[0].aval.size
  return total


def compiled_flops(text: str) -> int:
  """Returns those of the `dot`s of a compiled program without loops, from its text."""
  assert ' while(' not in text
  shapes = {
    name: [int(n) for n in dims.split(',') if n]
    for name, dims in re.findall(r'(%[\w.-]+) = \w+\[([\d,]*)\]', text)
  }
  dots = re.findall(
    r'(%[\w.-]+) = \S+ dot\([^%]*(%[\w.-]+),.*?lhs_contracting_dims=\{([\d,]+)\}', text
  )
  assert dots
  total = 0
  for name, left, contracted in dots:
    depth = math.prod(shapes[left][int(i)] for i in contracted.split(','))
    total += 2 * depth * math.prod(shapes[name])
  return total


@pytest.mark.parametrize('family', FAMILIES)
def test_model_flops_are_the_matmuls_of_the_traced_gradient(family):
  config = make_config(FAMILIES[family], layers='scan')
  wanted = jaxpr_flops(traced_gradient(config).jaxpr.jaxpr)
  # T5's bias is a product with a one-hot matrix: a look-up, about 0.5 % of this small model.
  assert flops.model_flops(config) == pytest.approx(wanted, rel=0.01 if 't5' in family else 1e-9)


@pytest.mark.parametrize('family', ['t5_1_1', 'bert', 'gpt2'])
def test_model_flops_are_the_matmuls_of_the_compiled_gradient(family):
  config = make_config(FAMILIES[family], layers='unroll')
  wanted = compiled_flops(traced_gradient(config).lower().compile().as_text())
  assert flops.model_flops(config) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize('family', LABELS)
def test_model_flops_of_labels_are_those_of_the_places_that_have_one(family):
  config = make_config(FAMILIES['bert'])
  data = dataclasses.replace(config.data, source='task:glue_mnli')
  model = dataclasses.replace(LABELS[family], dtype='float32', layers='scan')
  config = dataclasses.replace(config, model=model, data=data)
  places = 1 if model.pooler else INPUTS
  tokens = jax.ShapeDtypeStruct((BATCH, INPUTS), np.int32)
  batch = {'encoder_input_tokens': tokens}
  batch['encoder_loss_weights'] = jax.ShapeDtypeStruct((BATCH, places), np.float32)
  batch['encoder_prediction_positions'] = jax.ShapeDtypeStruct((BATCH, places), np.int32)
  batch['encoder_target_tokens'] = batch['encoder_prediction_positions']
  params = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
  gradient = jax.grad(lambda params, batch: losses.of_batch(config, params, batch).objective)
  wanted = jaxpr_flops(jax.jit(gradient).trace(params, batch).jaxpr.jaxpr)
  assert flops.model_flops(config) == pytest.approx(wanted, rel=1e-9)


def test_recomputation_is_not_counted_as_model_flops():
  config = make_config(FAMILIES['gpt2'], layers='scan', remat='full')
  assert jaxpr_flops(traced_gradient(config).jaxpr.jaxpr) > 1.2 * flops.model_flops(config)
  plain = dataclasses.replace(config, model=FAMILIES['gpt2'])
  assert flops.model_flops(config) == flops.model_flops(plain)


def test_every_device_with_a_peak_has_watts():
  assert flops.WATTS.keys() == flops.PEAK_FLOPS.keys()


def test_peak_is_known_by_the_full_name_of_a_device_only():
  assert flops.peak_flops('TPU v5 lite') == 197e12
  assert flops.peak_flops('NVIDIA H100 PCIe') < flops.peak_flops('NVIDIA H100 80GB HBM3')
  assert flops.peak_flops('NVIDIA A100-SXM4-40GB MIG 1g.5gb') is None
  assert flops.peak_flops(jax.devices()[0].device_kind) is None
