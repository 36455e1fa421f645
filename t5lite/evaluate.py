"""Evaluation on held-out text: loss, bits per byte, accuracy, and the baseline to beat."""

import collections
from collections.abc import Iterator, Sequence
import dataclasses
import functools
import json
import math
import pathlib
from typing import Literal, NamedTuple

import jax
import numpy as np

from t5lite import config as config_lib
from t5lite import data
from t5lite import decoding
from t5lite import errors
from t5lite import jsonl
from t5lite import judging
from t5lite import losses
from t5lite import models
from t5lite import samples
from t5lite import stored
from t5lite import tasks
from t5lite import meshes
from t5lite import sharding
from t5lite.data import tokenizer as tokenizer_lib


OF_TEXT = ('loss', 'accuracy', 'perplexity', 'bits_per_byte')  # that a checkpoint can be best by


class Evaluator:
  """Measures parameters on the same held-out batches each time; opens the text at once."""

  def __init__(self, config: config_lib.Config, mesh: jax.sharding.Mesh):
    self._config = config
    self._mesh = mesh
    self._dataset = data.open(config, 'held_out')
    for name in config.eval.tasks:  # a wrong one shows before the first step
      judging.rows_of(config, name, 'validation', most=1)
    check_best(config)
    self._sums = jax.jit(functools.partial(losses.of_batch, config))

  def measure(self, params: models.Params) -> dict[str, float]:
    """Returns the metrics under `eval/`; losses are nats per target token, dropout is off.

    `eval/unigram_entropy` is the loss of the best model without context: the entropy of the
    frequencies of the very targets that are predicted. `eval/bits_per_byte` divides the loss by the
    bytes of an average token of the held-out text. `eval/TASK/METRIC` are of eval.tasks.
    """
    return self._of_text(params) | self._of_tasks(params)

  def _of_tasks(self, params: models.Params) -> dict[str, float]:
    tokenizer, most = self._dataset.tokenizer, self._config.eval.examples
    values = {}
    for name in self._config.eval.tasks:
      judged = judging.judge(self._config, params, tokenizer, name, 'validation', most)
      values |= {f'eval/{judged.name}/{key}': value for key, value in judged.summary().items()}
    return values

  def _of_text(self, params: models.Params) -> dict[str, float]:
    total = None
    counts = collections.Counter()
    rows = sharding.local_rows(self._mesh, self._config.data.batch_size)
    for step in range(self._num_batches()):
      batch = self._dataset.batch(step)
      counts.update(target_counts(batch))
      batch = {name: x[rows] for name, x in batch.items()}
      on_devices = sharding.to_device(batch, self._config.data.batch_size, self._mesh)
      sums = jax.device_get(self._sums(params, on_devices))
      sums = np.array([sums.loss, sums.correct, sums.weight], np.float64)
      total = sums if total is None else total + sums
    assert total is not None, 'data.open gives one batch or more'
    loss = total[0] / total[2]
    bits_per_byte = loss / math.log(2) / self._dataset.bytes_per_token
    in_text = {} if self._config.model.num_labels else {'eval/bits_per_byte': bits_per_byte}
    return {
      'eval/loss': loss,
      'eval/unigram_entropy': entropy(counts),
      'eval/perplexity': math.exp(min(loss, 700)),
      'eval/accuracy': total[1] / total[2],
      **in_text,
      'eval/tokens': total[2],
    }

  def samples(self, params: models.Params) -> list[tuple[str, str]]:
    """Returns (name, text) of what the model makes of the first held-out examples."""
    return samples.of_batch(self._config, params, self._dataset.tokenizer, self._dataset.batch(0))

  def _num_batches(self) -> int:
    available = self._dataset.num_batches
    assert available is not None, 'held-out text ends'
    return min(self._config.eval.batches, available)


def check_best(config: config_lib.Config) -> None:
  """Raises ConfigError if `checkpoint.best` names nothing that an evaluation gives."""
  if not config.checkpoint.best:
    return
  known = [f'eval/{name}' for name in OF_TEXT]
  if config.model.num_labels:
    known.remove('eval/bits_per_byte')
  for each in config.eval.tasks:
    task = tasks.find(each, config.tasks)
    known += [f'eval/{task.name}/{name}' for name in judging.values_of(config, task)]
  where, remedy = f'checkpoint.best={config.checkpoint.best!r}', f'use one of {", ".join(known)}'
  errors.check(config.checkpoint.best in known, 'no such metric', where, remedy)


def target_counts(batch: dict[str, np.ndarray]) -> collections.Counter:
  """Returns how often each token is asked for in a batch."""
  side = 'encoder' if 'encoder_target_tokens' in batch else 'decoder'
  asked = batch[f'{side}_target_tokens'][batch[f'{side}_loss_weights'] > 0]
  return collections.Counter(dict(zip(*np.unique(asked, return_counts=True), strict=True)))


def entropy(counts: collections.Counter) -> float:
  """Returns the entropy in nats of the distribution that the counts give."""
  share = np.array(list(counts.values()), np.float64)
  share = share / share.sum()
  return float(-(share * np.log(share)).sum())


def load_config(workdir: str | pathlib.Path) -> config_lib.Config:
  """Returns the config of a workdir.

  Raises:
    CheckpointError: nothing was trained there.
  """
  path = pathlib.Path(workdir) / 'config.json'
  if not path.is_file():
    raise errors.CheckpointError('not a workdir', workdir, 'give the --workdir of t5lite train')
  return config_lib.load(path)


class Trained(NamedTuple):
  """What a workdir holds: its parameters and what made them."""

  config: config_lib.Config
  mesh: jax.sharding.Mesh
  params: models.Params
  step: int


def load(workdir: str | pathlib.Path) -> Trained:
  """Returns the checkpoint of a workdir (`stored.chosen`), sharded over the devices here.

  Raises:
    CheckpointError: there is none, it is damaged, or was trained with another tokenizer.
    ConfigError: its batch or model divides over no mesh of these devices.
  """
  config = load_config(workdir)
  mesh = meshes.for_use(config)
  with jax.set_mesh(mesh):
    traced = jax.eval_shape(lambda: models.init(config.model, jax.random.key(0)))
    abstract = sharding.shard_like(traced, mesh)
  params, manifest = stored.restore_params(workdir, abstract)
  if manifest.get('tokenizer'):
    tokenizer_lib.load_same(config.data.tokenizer, manifest['tokenizer'])
  if config.model.lora_rank:
    with jax.set_mesh(mesh):
      model, params = models.without_adapters(config.model, params)
    config = dataclasses.replace(config, model=model)
  return Trained(config, mesh, params, manifest['step'])


def run(workdir: str | pathlib.Path) -> dict[str, float]:
  """Returns the metrics of a workdir, and the `step` of its checkpoint."""
  config, mesh, params, step = load(workdir)
  with jax.set_mesh(mesh):
    return {'step': step, **Evaluator(config, mesh).measure(params)}


def run_tasks(
  workdir: str | pathlib.Path,
  names: Sequence[str],
  side: Literal['validation', 'test'],
  most: int = 0,
  sampler: decoding.Method = judging.GREEDY,
  seed: int = 0,
) -> Iterator[tuple[int, judging.Judged]]:
  """Yields (step of the checkpoint, result) of a workdir for each task.

  Each is also written to WORKDIR/tasks/NAME-SIDE.json, with every answer.

  Args:
    workdir: of the run.
    names: of the tasks.
    side: which of their rows.
    most: rows of each; 0: all.
    sampler: how answers in text are written.
    seed: of its draws.

  Raises:
    ConfigError: an unknown task, one that the model has no way to do, or a sampler for one that is
      not answered in text.
    DiskError: a result cannot be written.
  """
  config = load_config(workdir)
  for name in names:
    way = judging.way_of(config, tasks.find(name, config.tasks))  # shows before all else
    errors.check(
      way == 'text' or sampler == judging.GREEDY,
      'sampler for an answer that is not written',
      f'task {name!r} is answered by {way}',
      'leave out the flags of --sampler',
    )
  config, mesh, params, step = load(workdir)
  tokenizer = tokenizer_lib.load(config.data.tokenizer)
  folder = pathlib.Path(workdir) / 'tasks'
  with jsonl.disk_errors(folder):
    folder.mkdir(exist_ok=True)
  with jax.set_mesh(mesh):
    for name in names:
      judged = judging.judge(config, params, tokenizer, name, side, most, sampler, seed)
      result = {'step': step, **dataclasses.asdict(judged)}
      path = folder / f'{judged.name}-{side}.json'
      jsonl.replace(path, json.dumps(result, indent=1, ensure_ascii=False) + '\n')
      yield step, judged
