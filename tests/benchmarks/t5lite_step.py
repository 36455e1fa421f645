"""Runs t5lite's train step for run.py: t5lite_step.py WORKLOAD_OR_CONFIG

WORKLOAD is t5, gpt or bert (see workloads.py), or the path of a config, whose data are then real.
"""

import dataclasses
import functools
import sys
import time

import workloads

workloads.pin()

import jax
import numpy as np

from t5lite import config as c
from t5lite import data
from t5lite import host_memory
from t5lite import backend
from t5lite import models
from t5lite import presets
from t5lite import meshes
from t5lite import sharding
from t5lite import train


def workload_config(name: str) -> c.Config:
  shape = workloads.WORKLOADS[name]
  model = {
    't5': presets.t5_1_1(
      vocab_size=shape['vocab'], num_layers=8, d_model=512, d_ff=1024, num_heads=6, head_dim=64
    ),
    'gpt': presets.gpt2(vocab_size=shape['vocab'], num_layers=12, d_model=768, num_heads=12),
    'bert': presets.bert(vocab_size=shape['vocab'], num_layers=12, d_model=768),
  }[name]
  model = dataclasses.replace(model, dropout=0.0)
  objective = {'t5': 'span_corruption', 'gpt': 'causal_lm', 'bert': 'mlm'}[name]
  return c.Config(
    model=model,
    objective=c.Objective(name=objective),
    data=c.Data(
      batch_size=shape['batch'], input_length=shape['inputs'], target_length=shape['targets']
    ),
    optim=c.Optim(name='adamw', learning_rate=1e-4, schedule='constant', weight_decay=0.01),
    train=c.Train(steps=1000),
  )


def workload_batch(name: str, step: int) -> dict[str, np.ndarray]:
  inputs, targets, positions = workloads.ids(name, step)
  if name == 't5':
    shifted = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
    weights = np.ones(targets.shape, np.float32)
    return {
      'encoder_input_tokens': inputs,
      'decoder_input_tokens': shifted,
      'decoder_target_tokens': targets,
      'decoder_loss_weights': weights,
    }
  if name == 'gpt':
    weights = np.ones(inputs.shape, np.float32)
    weights[:, -1] = 0
    return {
      'decoder_input_tokens': inputs,
      'decoder_target_tokens': np.roll(inputs, -1, axis=1),
      'decoder_loss_weights': weights,
    }
  weights, masked = np.zeros(inputs.shape, np.float32), inputs.copy()
  np.put_along_axis(weights, positions, 1, axis=1)
  np.put_along_axis(masked, positions, 4, axis=1)
  return {
    'encoder_input_tokens': masked,
    'encoder_target_tokens': inputs,
    'encoder_loss_weights': weights,
    'encoder_prediction_positions': positions,
  }


def main(name: str) -> None:
  backend.start()
  jax.config.update('jax_enable_compilation_cache', False)
  if name in workloads.WORKLOADS:
    config, make = workload_config(name), functools.partial(workload_batch, name)
  else:
    config = c.load(name)
    make = data.open(config, 'train').batch
  config = dataclasses.replace(config, model=models.resolved(config.model))
  mesh = meshes.make(config.parallel)
  rows = config.data.batch_size
  with jax.set_mesh(mesh):
    state = jax.jit(functools.partial(train.init_state, config))()
    step_fn = jax.jit(functools.partial(train.train_step, config), donate_argnums=0)
    start = time.perf_counter()
    step_fn = step_fn.lower(state, sharding.to_device(make(0), rows, mesh)).compile()
    compile_seconds = time.perf_counter() - start
    host_memory.keep_freed()

    def step(number: int) -> float:
      nonlocal state
      state, values = step_fn(state, sharding.to_device(make(number), rows, mesh))
      return float(jax.device_get(values['train/loss']))

    workloads.serve(
      step,
      tokens=train.tokens_per_step(config),
      compile_seconds=compile_seconds,
      version=f'jax {jax.__version__}',
    )


if __name__ == '__main__':
  main(sys.argv[1])
