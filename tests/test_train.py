"""The loop and its step: microbatches by weight, a step logged behind the next, divergence told."""

import dataclasses
import functools
import json
import pathlib
import types

import families
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_model_meshes as meshes

from t5lite import checkpoint
from t5lite import config as config_lib
from t5lite import errors
from t5lite import flops
from t5lite import interop
from t5lite import jsonl
from t5lite import main
from t5lite import sharding
from t5lite import stored
from t5lite import train

ROOT = pathlib.Path(__file__).parents[1]
SMALL = (
  *('model.num_layers=1', 'model.d_model=64', 'data.batch_size=8', 'eval.batches=1'),
  *('eval.every=0', 'train.sample_every=0', 'checkpoint.every=0', 'train.log_every=1'),
)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.getbasetemp() / 'cache'))


def small(*overrides: str) -> config_lib.Config:
  return config_lib.load(ROOT / 'configs/tiny_gpt.py', [*SMALL, *overrides])


SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in ('bert', 't5_moe')]


@pytest.mark.parametrize('name', ['t5_1_1', *SLOWER])
def test_microbatches_count_by_their_tokens(name):
  """As the whole batch does: rows of all lengths, one of them with no target at all."""
  whole = meshes.config_of(name, dropout=0.0)
  parts = dataclasses.replace(whole, train=dataclasses.replace(whole.train, microbatches=4))
  batch = meshes.batch_of(whole.model)
  side = 'encoder' if name == 'bert' else 'decoder'
  weights = batch[f'{side}_loss_weights']
  weights[0] = 0
  weights[1, 2:] = 0
  params = families.random_params(whole.model)
  params = jax.tree.map(jnp.float32, params)
  results = [
    jax.jit(functools.partial(train.gradients, config))(params, batch, jax.random.key(0))
    for config in (whole, parts)
  ]
  (expected, sums), (got, summed) = results
  np.testing.assert_allclose(families.flat(summed), families.flat(sums), rtol=1e-5)
  difference = np.abs(families.flat(got) - families.flat(expected))
  assert difference.max() < 1e-5 * np.abs(families.flat(expected)).max()


def test_microbatches_take_rows_of_every_device(mesh):
  rows = jax.device_put(
    jnp.arange(16), jax.sharding.NamedSharding(mesh, sharding.RULES.spec('batch'))
  )
  parts = jax.jit(functools.partial(train.microbatches, parts=2))(rows)
  assert sorted(np.ravel(parts)) == list(range(16))
  assert parts.sharding.spec == jax.sharding.PartitionSpec(None, *sharding.RULES.spec('batch'))


def test_step_t_is_logged_while_the_next_runs(monkeypatch, tmp_path):
  """And the loop sends nothing to the device, and fetches nothing, by the way."""
  events = []
  compiled_step, log = train.compiled_step, train.log

  def watched_step(*arguments):
    step = compiled_step(*arguments)

    def run(state, batch):
      events.append(f'step {sum(e.startswith("step") for e in events) + 1}')
      with pytest.raises(Exception, match='Disallowed host-to-device'):
        jnp.zeros(1) + np.ones(1)
      return step(state, batch)

    return run

  def watched_log(this, measured):
    events.append(f'log {measured.step}')
    log(this, measured)

  monkeypatch.setattr(train, 'compiled_step', watched_step)
  monkeypatch.setattr(train, 'log', watched_log)
  train.run(small('train.steps=4'), tmp_path)
  assert events == ['step 1', 'step 2', 'log 1', 'step 3', 'log 2', 'step 4', 'log 3', 'log 4']


def test_a_diverged_run_is_told_and_saves_nothing_of_it(tmp_path):
  rate = ('optim.learning_rate=1e30', 'optim.warmup_steps=0')
  config = small('train.steps=9', 'checkpoint.every=1', *rate)
  with pytest.raises(errors.DivergedError, match='not finite: .* last checkpoint at step 1: lower'):
    train.run(config, tmp_path)
  assert errors.DivergedError.code == 67 and stored.steps(tmp_path) == [1]


def test_a_gradient_that_is_not_finite_is_told_though_the_loss_is(tmp_path):
  config = small('train.steps=9')
  with checkpoint.Checkpointer(tmp_path, config.checkpoint) as checkpointer:
    run = types.SimpleNamespace(config=config, checkpointer=checkpointer)
    values = {'train/loss': np.float32(2), 'train/grad_norm': np.float32('inf')}
    with pytest.raises(errors.DivergedError, match='the gradient is not finite: inf at step 3'):
      train.log(run, train.Measured(3, values, 0.0))


def test_no_steps_save_the_first_state(tmp_path, capsys):
  state = train.run(small('train.steps=0'), tmp_path)
  assert int(state.step) == 0 and stored.steps(tmp_path) == [0]
  assert 'the state before the first step is saved' in capsys.readouterr().out
  train.run(small('train.steps=1'), tmp_path)
  assert int(train.run(small('train.steps=0'), tmp_path).step) == 1
  assert stored.steps(tmp_path) == [0, 1]


def test_init_from_begins_with_the_parameters_of_another_run(tmp_path):
  first = train.run(small('train.steps=2'), tmp_path / 'first')
  path = tmp_path / 'second'
  state = train.run(small('train.steps=0', f'init_from={tmp_path}/first'), path)
  for one, other in zip(*map(jax.tree.leaves, (state.params, first.params)), strict=True):
    np.testing.assert_array_equal(one, other)
  assert int(state.step) == 0 and not any(np.any(x) for x in jax.tree.leaves(state.opt_state))


def test_parameters_of_other_tokens_are_refused(tmp_path):
  """Embeddings of the same shape, whose rows are of other tokens: resumed, imported, init_from."""
  first, imported = tmp_path / 'first', tmp_path / 'imported'
  whole = 'model.d_model=128'  # the width that its heads share, as transformers wants it
  train.run(small('train.steps=0', whole), first)
  interop.export(first, tmp_path / 'out')
  interop.import_model(tmp_path / 'out', imported)
  (tmp_path / 'text.txt').write_text('a few words for a few tokens\n' * 50)
  tokenizer = f'{tmp_path}/other.model'
  flags = [f'--input={tmp_path}/text.txt', '--vocab_size=462', f'--output={tokenizer}']
  assert main.main(['tokenizer', *flags]) == 0
  other = ['train.steps=1', whole, f'data.tokenizer={tokenizer}']
  for workdir in (first, imported):
    with pytest.raises(errors.CheckpointError, match=f'with another tokenizer: {tokenizer}: use'):
      train.run(small(*other), workdir)
    assert stored.steps(workdir) == [0]
  with pytest.raises(
    errors.CheckpointError, match='other tokens: .*: use --set=data.tokenizer=cor'
  ):
    train.run(small(*other, f'init_from={first}'), tmp_path / 'second')
  assert not (tmp_path / 'second').exists()


def test_the_log_has_every_metric(tmp_path, monkeypatch):
  monkeypatch.setitem(flops.WATTS, 'cpu', 100.0)
  config = small('train.steps=2', 'checkpoint.every=2')
  train.run(config, tmp_path)
  records = jsonl.records(tmp_path / 'metrics.jsonl')
  names = {name for record in records for name in record}
  assert names >= {
    *('train/loss', 'train/accuracy', 'train/grad_norm', 'train/learning_rate'),
    *('train/tokens_per_second', 'train/step_seconds', 'train/data_wait_seconds'),
    *('train/tokens_seen', 'train/padding_share', 'train/compile_seconds', 'train/parameters'),
    *('eval/loss', 'eval/perplexity', 'eval/bits_per_byte', 'eval/accuracy'),
    'eval/unigram_entropy',
  }
  kwh = 0.1 * jax.device_count() * records[-1]['train/wall_seconds'] / 3600
  assert records[-1]['train/energy_kwh'] == pytest.approx(kwh)
  manifest = stored.read_manifest(tmp_path)
  assert manifest['tokens_seen'] == records[-1].get('train/tokens_seen', 2 * 8 * 128) == 2 * 8 * 128
  config = config_lib.to_dict(config_lib.load(tmp_path / 'config.json'))
  assert manifest['config'] == json.loads(json.dumps(config))  # which knows no tuples
  assert manifest.keys() >= {'versions', 'mesh', 'tokenizer', 'data'}
