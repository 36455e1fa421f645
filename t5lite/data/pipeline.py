"""From a config to its batches: opens the sources, splits them, mixes them."""

from collections.abc import Sequence
import functools
import hashlib
import math
from typing import Literal

import numpy as np

from t5lite import config as config_lib
from t5lite import errors
from t5lite import objectives
from t5lite.data import dataset
from t5lite.data import mixture
from t5lite.data import prepare
from t5lite.data import rows as rows_lib
from t5lite.data import splits
from t5lite.data import task_rows
from t5lite.data import tokenizer as tokenizer_lib
from t5lite import tasks

# Objectives that put an end of their own to a document.
ENDS_TEXT = ('span_corruption', 'text_infilling', 'mlm')


def open(config: config_lib.Config, side: Literal['train', 'held_out']) -> dataset.Dataset:
  """Returns the batches to train on, or those held out; tokenises what is not tokenised yet.

  Held-out text is eval.source, or a share of the documents of each set of data.source. Which and in
  what order depends on neither train.seed nor data.batch_size; nor does its corruption.

  Raises:
    ConfigError: the tokenizer does not fit the objective or the model.
    DataError: text is missing, damaged or too little.
  """
  tokenizer = tokenizer_lib.load(config.data.tokenizer)
  objectives.check_vocabulary(config, tokenizer.vocabulary)
  if side == 'held_out' and config.eval.source:
    entries, wanted = ((config.eval.source, 1.0, math.inf),), 'all'
  else:
    entries, wanted = config.data.mixture, side
  sets = []
  for number, (name, _, _) in enumerate(entries):
    if tasks.is_task(name):
      split = _task_split(config, tokenizer, name, wanted)
    else:
      objectives.check_lengths(config, tokenizer.vocabulary)
      store = prepare.open_store(name, tokenizer, config.data.cache)
      split = splits.open(store, wanted, config.data.held_out)
    seed = _seed(config.train.seed if side == 'train' else side, number)
    if tasks.is_task(name):
      rows = _task_rows(config, tokenizer, tasks.find(name, config.tasks), split, seed)
    else:
      rows = _rows(config, tokenizer.vocabulary, split, seed)
    _check_rows(name, split, rows)
    sets.append(dataset.Set(split, rows, seed, shuffled=side == 'train'))
  mixed = _mixture(config, entries, [each.rows.num_rows for each in sets], side)
  return dataset.Dataset(config, tokenizer, sets, mixed)


def _task_split(
  config: config_lib.Config, tokenizer: tokenizer_lib.Tokenizer, name: str, side: splits.Side
) -> splits.Split:
  """Returns a task's training examples, or its examples for validation."""
  task = tasks.find(name, config.tasks)
  objectives.check_task(config, tokenizer.vocabulary, task)
  whole = side == 'all' or bool(task.validation)
  split = task.train if side == 'train' or not whole else task.validation
  errors.check(
    bool(split), 'task without rows to train on', f'task {task.name!r}', 'name its train'
  )
  source = task_rows.open(task, split, config.model.architecture)
  store = prepare.cached_store(source, tokenizer, config.data.cache)
  return splits.open(store, 'all' if whole else side, config.data.held_out)


def batch(config: config_lib.Config, step: int) -> dataset.Batch:
  """Returns the global batch of a training step, on any machine."""
  return _train(config).batch(step)


@functools.lru_cache(maxsize=1)
def _train(config: config_lib.Config) -> dataset.Dataset:
  return open(config, 'train')


def _seed(*parts: object) -> int:
  """Returns a number below 2**64 made of the parts."""
  return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), 'little')


def _rows(
  config: config_lib.Config, vocabulary: objectives.Vocabulary, split: splits.Split, seed: int
) -> rows_lib.Rows:
  length = objectives.window_length(config, vocabulary)
  if config.data.examples == 'windows':
    return rows_lib.Windows(split, length)

  def sizes(lengths_N: np.ndarray) -> np.ndarray:
    return np.stack(objectives.lengths(config, vocabulary, lengths_N), axis=1)

  return rows_lib.Documents(
    split,
    length,
    ended=config.objective.name not in ENDS_TEXT,
    sizes=sizes,
    room=(config.data.input_length, config.data.target_length),
    seed=seed,
  )


def _task_rows(
  config: config_lib.Config,
  tokenizer: tokenizer_lib.Tokenizer,
  task: config_lib.Task,
  split: splits.Split,
  seed: int,
) -> rows_lib.Rows:
  vocabulary = tokenizer.vocabulary

  def sizes(inputs_N: np.ndarray, targets_N: np.ndarray) -> np.ndarray:
    return np.stack(objectives.supervised.lengths(config, vocabulary, inputs_N, targets_N), axis=1)

  return rows_lib.Supervised(
    split,
    fit=functools.partial(objectives.supervised.cut, config, vocabulary),
    trim=objectives.supervised.trim(
      task, tokenizer.encode, for_encoder=config.model.architecture == 'encoder'
    ),
    eos=vocabulary.eos,
    sizes=sizes,
    room=(config.data.input_length, config.data.target_length),
    seed=seed if config.data.examples == 'documents' else None,
  )


def _check_rows(name: str, split: splits.Split, rows: rows_lib.Rows) -> None:
  """Raises DataError if there is nothing on that side of the split, or too little."""
  if rows.num_rows:
    return
  kind = {'train': 'training', 'held_out': 'held-out', 'all': 'evaluation'}[split.side]
  more = {'train': 'lower', 'held_out': 'raise', 'all': ''}[split.side]
  remedy = f'{more} data.held_out={split.held_out}, or add text' if more else 'add text'
  where = f'{name} gives {split.num_documents} documents with {split.num_tokens} tokens'
  raise errors.DataError(f'too little {kind} text for one example', where, remedy)


def _mixture(
  config: config_lib.Config,
  entries: Sequence[tuple[str, float, float]],
  sizes: Sequence[int],
  side: Literal['train', 'held_out'],
) -> mixture.Mixture:
  """Returns the mixture of sets with so many rows an epoch; held-out rows come once each.

  Rates are shares of the rows, full of tokens or nearly, so they are shares of the tokens.
  """
  most = config.data.most_examples or max(sizes)
  counted = [min(size, most) for size in sizes]  # Raffel et al. 2020, section 3.5.2
  rates = mixture.rates([weight for _, weight, _ in entries], counted, config.data.temperature)
  epochs = [epochs if side == 'train' else 1 for _, _, epochs in entries]
  limits = [size * epochs for size, epochs in zip(sizes, epochs, strict=True)]
  mixed = mixture.Mixture(rates, limits)
  batch_size = config.data.batch_size
  if side == 'train':
    dataset.check_reaches(config.train.steps, mixed.num_rows // batch_size)
  elif mixed.num_rows < batch_size:
    where = f'{mixed.num_rows} examples for data.batch_size={batch_size}'
    remedy = 'lower it, raise data.held_out (a task: add validation rows), or set eval.source'
    raise errors.DataError('held-out text fills no batch', where, remedy)
  return mixed
