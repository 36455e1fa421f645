"""Held-out numbers are what they say: worked out again from the logits and the text."""

import collections
import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from t5lite import config as config_lib
from t5lite import data
from t5lite import errors
from t5lite import evaluate
from t5lite import main
from t5lite import models
from t5lite import meshes
from t5lite import train

ROOT = pathlib.Path(__file__).parents[1]
SMALL = ('model.num_layers=1', 'model.d_model=64', 'data.batch_size=8', 'eval.batches=2')


def small(family: str) -> config_lib.Config:
  decoder = ['model.num_decoder_layers=1'] if family == 'tiny_t5' else []
  return config_lib.load(ROOT / f'configs/{family}.py', [*SMALL, *decoder])


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.getbasetemp() / 'cache'))


SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in ('tiny_bert', 'tiny_t5')]


@pytest.mark.parametrize('family', ['tiny_gpt', *SLOWER])
def test_metrics_are_those_of_the_logits(family):
  """On 8 devices, against the logits of one."""
  config, side = small(family), 'encoder' if family == 'tiny_bert' else 'decoder'
  mesh, held_out = meshes.make(config.parallel), data.open(config, 'held_out')
  with jax.set_mesh(mesh):
    params = jax.jit(models.init, static_argnums=0)(config.model, jax.random.key(0))
    got = evaluate.Evaluator(config, mesh).measure(params)
  params, losses, hits, targets = jax.device_get(params), [], [], []
  for step in range(2):
    batch = held_out.batch(step)
    logits = np.float64(jax.jit(models.apply, static_argnums=0)(config.model, params, batch))
    asked = batch[f'{side}_loss_weights'] > 0
    target_N, logits_NV = batch[f'{side}_target_tokens'][asked], logits[asked]
    losses.extend(np.log(np.exp(logits_NV).sum(axis=1)) - logits_NV[range(len(target_N)), target_N])
    hits.extend(logits_NV.argmax(axis=1) == target_N)
    targets.extend(target_N.tolist())
  shares = [count / len(targets) for count in collections.Counter(targets).values()]
  loss, num_bytes = np.mean(losses), held_out.bytes_per_token
  expected = {
    'eval/loss': loss,
    'eval/perplexity': math.exp(loss),
    'eval/bits_per_byte': loss / math.log(2) / num_bytes,
    'eval/accuracy': np.mean(hits),
    'eval/tokens': len(targets),
    'eval/unigram_entropy': -sum(share * math.log(share) for share in shares),
  }
  assert got == pytest.approx(expected, rel=1e-5)
  assert 3 < num_bytes < 5  # of English text with 8,192 pieces


def test_the_entropy_of_equals_is_the_logarithm_of_their_number():
  assert evaluate.entropy(collections.Counter('abcd')) == pytest.approx(math.log(4))
  assert evaluate.entropy(collections.Counter('aaab')) == pytest.approx(
    -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
  )


def test_the_command_gives_the_numbers_of_the_run(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'xla'))
  overrides = [*SMALL, 'train.steps=1', 'train.sample_every=0']
  train.run(config_lib.load(ROOT / 'configs/tiny_gpt.py', overrides), tmp_path / 'run')
  record = [json.loads(line) for line in (tmp_path / 'run/metrics.jsonl').read_text().splitlines()]
  logged = next(values for values in record if 'eval/loss' in values)
  capsys.readouterr()
  arguments = ['evaluate', f'--workdir={tmp_path}/run', f'--output={tmp_path}/out.json']
  assert main.main(arguments) == 0
  assert (
    f'step 1  held-out loss {logged["eval/loss"]:.3f} (unigram entropy' in capsys.readouterr().out
  )
  written = json.loads((tmp_path / 'out.json').read_text())
  assert written['eval/loss'] == pytest.approx(logged['eval/loss'], rel=1e-6)


@pytest.mark.slow
def test_a_run_of_eight_devices_is_used_on_one(tmp_path):
  """In a process of its own; the run's mesh cannot be made there."""
  overrides = [*SMALL, 'train.steps=1', 'train.sample_every=0', 'parallel.model=2']
  overrides += ['model.num_experts=4', 'model.moe_every=1', 'parallel.expert=4']
  train.run(config_lib.load(ROOT / 'configs/tiny_gpt.py', overrides), tmp_path / 'run')
  records = [json.loads(line) for line in (tmp_path / 'run/metrics.jsonl').read_text().splitlines()]
  logged = next(values for values in records if 'eval/loss' in values)
  environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'XLA_FLAGS': ''}
  for command in (['evaluate', f'--output={tmp_path}/out.json'], ['generate', '--prompt=The']):
    words = [sys.executable, '-m', 't5lite', command[0], f'--workdir={tmp_path}/run', *command[1:]]
    subprocess.run(words, env=environment, check=True)
  written = json.loads((tmp_path / 'out.json').read_text())
  assert written['eval/loss'] == pytest.approx(logged['eval/loss'], rel=1e-5)


def test_a_run_is_used_on_its_own_mesh_or_the_plainest_that_fits():
  config = small('tiny_gpt')
  on = lambda count, **sizes: meshes.for_use(
    dataclasses.replace(config, parallel=config_lib.Parallel(**sizes)), jax.devices()[:count]
  )
  own = on(8, model=2).shape
  assert (own['data'], own['model']) == (4, 2)
  assert on(1, data=4, model=2).size == 1
  assert on(4, data=4, model=2).shape['data'] == 4
  with pytest.raises(errors.ConfigError, match='batch_size .*=8 over 6 devices'):
    on(6)
