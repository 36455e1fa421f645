"""Batches by number: `Dataset.batch(t)` is a pure function of the config and t.

Everything is found by its number: the rows of a step in the mixture, a row of a set in its shuffled
epoch, the examples of a row in the split, the randomness of an example in a key of its own. So a
process makes only its rows, and to go on at step t costs what step 0 costs.

N rows asked for, M examples in them, L tokens of the longest.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import functools
import gc
import hashlib
import signal

import grain
import numpy as np

from t5lite import config as config_lib
from t5lite import errors
from t5lite import objectives
from t5lite.data import mixture as mixture_lib
from t5lite.data import rows as rows_lib
from t5lite.data import splits as splits_lib
from t5lite.data import tokenizer as tokenizer_lib
from t5lite.data import workers

Batch = dict[str, np.ndarray]
ALL = slice(None)
PREFETCH = 4  # batches made ahead, by each worker


@dataclasses.dataclass(frozen=True)
class Set:
  """One source of a mixture, on one side of its split.

  Attributes:
    seed: of the order of its rows and of the keys of its examples.
    shuffled: each epoch anew; else rows come as they are stored.
  """

  split: splits_lib.Split
  rows: rows_lib.Rows
  seed: int
  shuffled: bool

  def examples(self, index_N: np.ndarray) -> 'Examples':
    """Returns the examples of rows that are counted on and on through the epochs."""
    epoch_N, row_N = np.divmod(index_N, self.rows.num_rows)
    if self.shuffled:
      row_N = np.array([self._order[int(index)] for index in index_N], np.int64)
    example_M, i_M = self.rows.examples(row_N)
    raw = self.rows.read(example_M)
    number_M = epoch_N[i_M] * self.rows.num_examples + example_M
    keys_M = np.uint64(self.seed) + number_M.astype(np.uint64)  # wraps; objectives mix the bits
    return Examples(raw, keys_M, i_M)

  @functools.cached_property
  def _order(self) -> grain.MapDataset:
    return grain.MapDataset.range(self.rows.num_rows).shuffle(seed=self.seed % 2**32)


@dataclasses.dataclass(frozen=True)
class Examples:
  """Raw examples, each with the key of its randomness and its row of the batch."""

  raw: rows_lib.Raw
  keys_M: np.ndarray
  row_M: np.ndarray


class Dataset:
  """The batches of one side of the data.

  Attributes:
    tokenizer: as the config says.
    num_batches: held out: whole batches that there are; for training None.
    bytes_per_token: UTF-8 bytes of text, or of a task's targets, for one of their tokens, the EOS
      of each document included.
    fingerprint: of the texts, the tokenizer and the split.
  """

  def __init__(
    self,
    config: config_lib.Config,
    tokenizer: tokenizer_lib.Tokenizer,
    sets: Sequence[Set],
    mixture: mixture_lib.Mixture,
  ):
    self.tokenizer = tokenizer
    self._config, self._vocabulary = config, tokenizer.vocabulary
    self._sets, self._mixture = sets, mixture
    splits = [each.split for each in sets]
    num_bytes = sum(split.num_bytes for split in splits)
    self.bytes_per_token = num_bytes / sum(split.num_targets for split in splits)
    identity = [(split.store.digest, split.side, split.held_out) for split in splits]
    self.fingerprint = hashlib.sha256(repr(identity).encode()).hexdigest()
    self._last = mixture.num_rows // config.data.batch_size
    self.num_batches = None if sets[0].shuffled else self._last

  def batch(self, step: int, rows: slice = ALL) -> Batch:
    """Returns the batch of a step, or those rows of it.

    Raises:
      DataError: the data ends before that step, or a file is damaged.
    """
    check_reaches(step + 1, self._last)
    batch_size = self._config.data.batch_size
    row_N = step * batch_size + np.arange(batch_size)[rows]
    set_N, index_N = self._mixture.locate(row_N)
    parts = []
    for number in np.unique(set_N):
      here_N = np.flatnonzero(set_N == number)
      part = self._sets[number].examples(index_N[here_N])
      parts.append(dataclasses.replace(part, row_M=here_N[part.row_M]))
    examples = _joined(parts)
    packed = self._config.data.examples == 'documents'
    return objectives.batch(
      self._config,
      self._vocabulary,
      examples.raw.tokens_MxL,
      examples.raw.lengths_M,
      examples.keys_M,
      inputs_N=examples.raw.inputs_M,
      rows_N=examples.row_M if packed else None,
      num_rows=len(row_N),
    )

  def iterate(
    self, first_step: int, rows: slice = ALL, last_step: int | None = None
  ) -> Iterator[tuple[int, Batch]]:
    """Yields (step, batch) from first_step up to, not including, last_step. Close it when done.

    Batches are made ahead, in a thread or in data.workers processes; a script that asks for those
    needs the `if __name__ == '__main__'` of Python's multiprocessing.
    """
    steps = range(first_step, self._last if last_step is None else last_step)
    batches = grain.MapDataset.source(steps).map(functools.partial(self._numbered, rows=rows))
    num_workers = self._config.data.workers
    if num_workers and self.num_batches is None:  # an evaluation is over before workers start
      workers.allow_grain_workers()
      in_step = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
      options = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=PREFETCH)
      made = batches.to_iter_dataset(in_step).mp_prefetch(options, worker_init_fn=_start_worker)
    else:
      made = batches.to_iter_dataset(grain.ReadOptions(1, PREFETCH))
    try:
      with contextlib.closing(iter(made)) as iterator:
        yield from iterator
    finally:
      if num_workers:  # Python warns of semaphores that are freed as garbage while a process starts
        made = iterator = None
        gc.collect()

  def _numbered(self, step: int, rows: slice) -> tuple[int, Batch]:
    return step, self.batch(step, rows)


def check_reaches(steps: int, last: int) -> None:
  """Raises DataError unless the data has batches for so many steps."""
  if steps > last:
    remedy = f'set train.steps={last}, or allow more epochs in data.source'
    raise errors.DataError('data ends too early', f'at step {last} of {steps}', remedy)


def padding_share(batch: Batch) -> float:
  """Returns the share of a batch's positions, encoder and decoder together, that is padding."""
  names = ('encoder_input_tokens', 'decoder_target_tokens')
  sides = {name: f'{name.partition("_")[0]}_segment_ids' for name in names if name in batch}
  filled = [batch.get(segments, batch[name]) for name, segments in sides.items()]
  return sum(int((x == 0).sum()) for x in filled) / sum(x.size for x in filled)


def _joined(parts: Sequence[Examples]) -> Examples:
  """Returns the examples of all parts, ordered by row."""
  row_M = np.concatenate([part.row_M for part in parts])
  order = np.argsort(row_M, kind='stable')
  tokens = [part.raw.tokens_MxL for part in parts]
  longest = max(each.shape[1] for each in tokens)
  tokens = [np.pad(each, ((0, 0), (0, longest - each.shape[1]))) for each in tokens]
  raw = rows_lib.Raw(
    tokens_MxL=np.concatenate(tokens)[order],
    lengths_M=np.concatenate([part.raw.lengths_M for part in parts])[order],
    inputs_M=np.concatenate([part.raw.inputs_M for part in parts])[order],
  )
  return Examples(
    raw, keys_M=np.concatenate([part.keys_M for part in parts])[order], row_M=row_M[order]
  )


def _start_worker(index: int, count: int) -> None:
  del index, count
  workers.end_with_parent()
  for number in (signal.SIGINT, signal.SIGTERM):  # those are for the parent, which ends its workers
    signal.signal(number, signal.SIG_IGN)
