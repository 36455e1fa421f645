"""Tokenises a source into a token store: in parallel, resumably, deterministically.

A part of the source becomes a shard, written under another name and then renamed: what was finished
before a kill is kept, and the result is byte for byte that of an undisturbed run.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures import process
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import multiprocessing
import pathlib
import signal
import sys
import time

import numpy as np

from t5lite import errors
from t5lite.data import marks
from t5lite.data import sources
from t5lite.data import store
from t5lite.data import tokenizer as tokenizer_lib
from t5lite.data import workers
from t5lite.objectives import supervised
from t5lite.tasks import rendering

CHUNK = 4_000_000  # characters tokenised at once
LONG = 2.0  # seconds worth a line


@dataclasses.dataclass(frozen=True)
class Job:
  """A source to tokenise, with what identifies the result."""

  source: sources.Source
  parts: list[list[sources.Span]]
  tokenizer_path: str
  tokenizer_digest: str
  dtype: np.dtype
  key: str

  @classmethod
  def of(cls, source: sources.Source, tokenizer: tokenizer_lib.Tokenizer) -> 'Job':
    parts = source.parts()
    sizes = [[span.size for span in part] for part in parts]
    made = [store.FORMAT, store.BLOCK, tokenizer.digest, source.fingerprint(), sizes]
    return cls(
      source=source,
      parts=parts,
      tokenizer_path=str(tokenizer.path),
      tokenizer_digest=tokenizer.digest,
      dtype=store.token_type(tokenizer.vocabulary.size),
      key=hashlib.sha256(json.dumps(made).encode()).hexdigest()[:16],
    )

  def size(self, part: int) -> int:
    return sum(span.size for span in self.parts[part])


def run(job: Job, directory: pathlib.Path, processes: int = 1) -> None:
  """Makes `directory` the token store of a source, going on with what is there.

  Raises:
    DataError: the source is damaged or has no text, or the directory holds another store.
    DiskError: the directory cannot be written.
  """
  if _is_finished(job, directory):
    return
  with _disk_errors(directory), _locked(directory):
    if _is_finished(job, directory):  # by the process that held the lock
      return
    _write_shards(job, directory, processes)
    _write_index(job, directory)


def _is_finished(job: Job, directory: pathlib.Path) -> bool:
  if not (directory / store.INDEX).exists():
    return False
  if store.read_index(directory)['key'] != job.key:
    remedy = 'choose another directory: this one is the store of another text or tokenizer'
    raise errors.DataError('directory in use', directory, remedy)
  return True


@contextlib.contextmanager
def _disk_errors(directory: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    remedy = 'free some space, or choose another directory: data.cache or --output'
    raise errors.DiskError('cannot write tokens', f'{directory} ({error})', remedy) from error


@contextlib.contextmanager
def _locked(directory: pathlib.Path) -> Iterator[None]:
  """Keeps other processes out; the lock ends with this process, kill -9 included."""
  directory.mkdir(parents=True, exist_ok=True)
  with (directory / '.lock').open('w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _write_shards(job: Job, directory: pathlib.Path, processes: int) -> None:
  """Writes the shards that are missing and prints a line that says how far it is."""
  missing = [i for i in range(len(job.parts)) if not _paths(job, directory, i)[0].exists()]
  total = sum(map(job.size, range(len(job.parts))))
  done = total - sum(map(job.size, missing))
  with _progress(job.source.name, directory) as show:
    show(done, total)
    for part in _each(functools.partial(_write_shard, job, directory), missing, processes):
      done += job.size(part)
      show(done, total)


def _each(write: Callable[[int], int], parts: Iterable[int], processes: int) -> Iterator[int]:
  """Yields each part when it is written."""
  if processes <= 1:  # sentencepiece uses all cores by threads
    yield from map(write, parts)
    return
  context = multiprocessing.get_context('spawn')
  with futures.ProcessPoolExecutor(processes, context, initializer=_start_worker) as pool:
    try:
      for future in futures.as_completed([pool.submit(write, part) for part in parts]):
        yield future.result()
    except process.BrokenProcessPool as error:
      remedy = 'run it again: it goes on from here; with fewer processes if memory was short'
      raise errors.DataError('a tokenising process died', error, remedy) from error
    finally:
      pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
  workers.end_with_parent()
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C: no traceback of every process


def _paths(job: Job, directory: pathlib.Path, part: int) -> tuple[pathlib.Path, pathlib.Path]:
  """Returns the files of a shard: of its tokens and of its documents."""
  shard = (directory, job.key, part, len(job.parts))
  return store.tokens_path(*shard), store.documents_path(*shard)


def _write_shard(job: Job, directory: pathlib.Path, part: int) -> int:
  """Writes the shard of a part; returns the part."""
  tokenizer = _tokenizer(job.tokenizer_path)
  tokens_path, documents_path = _paths(job, directory, part)
  writing = tokens_path.with_suffix('.tmp')
  writer, documents = store.ShardWriter(writing, job.dtype), [np.zeros(0, store.DOCUMENT)]
  for texts in _chunks(job, part):
    tokens, described = _tokenise(texts, tokenizer)
    writer.append(tokens)
    documents.append(described)
  writer.close()
  with _written(documents_path) as file:
    np.save(file, np.concatenate(documents))
  writing.replace(tokens_path)
  return part


@functools.cache
def _tokenizer(path: str) -> tokenizer_lib.Tokenizer:
  return tokenizer_lib.load(path)


def _chunks(job: Job, part: int) -> Iterator[list[rendering.Example]]:
  """Yields the documents of a part that are not blank, in lists of about CHUNK characters.

  A text is an example without inputs.
  """
  chunk, size = [], 0
  for span in job.parts[part]:
    for document in job.source.read(span):
      if isinstance(document, str):
        document = rendering.Example((), document, ())
      if not document.targets or document.targets.isspace():
        continue
      chunk.append(document)
      size += len(document.targets) + sum(map(len, document.inputs))
      if size >= CHUNK:
        yield chunk
        chunk, size = [], 0
  if chunk:
    yield chunk


def _tokenise(
  examples: list[rendering.Example], tokenizer: tokenizer_lib.Tokenizer
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the tokens of documents, EOS after each, and the array of DOCUMENTs.

  A text of which the tokenizer leaves nothing is no document. Two inputs, an encoder's, have its
  separator between them.
  """
  eos = np.array([tokenizer.vocabulary.eos], np.int32)
  texts = [text for example in examples for text in (*example.inputs, example.targets)]
  encoded = iter(tokenizer.encode(texts))
  kept = []
  for example in examples:
    inputs = [next(encoded) for _ in example.inputs]
    targets = next(encoded)
    given = supervised.separated(tokenizer.vocabulary, inputs) if inputs else eos[:0]
    if (
      example.label >= 0 or example.tags or example.span
    ):  # what an encoder is asked for is no text
      targets = marks.of_example(tokenizer, example, len(given))
    if len(targets):
      kept.append((example, len(given), [given, targets, eos]))
  documents = np.zeros(len(kept), store.DOCUMENT)
  documents['tokens'] = [sum(map(len, parts)) for _, _, parts in kept]
  documents['inputs'] = [num_inputs for _, num_inputs, _ in kept]
  documents['bytes'] = [len(example.targets.encode()) for example, _, _ in kept]
  documents['hash'] = [_hash('\0'.join((*e.inputs, e.targets)).encode()) for e, _, _ in kept]
  return np.concatenate([eos[:0], *(part for _, _, parts in kept for part in parts)]), documents


def _hash(text: bytes) -> int:
  return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), 'little')


def _write_index(job: Job, directory: pathlib.Path) -> None:
  paths = [_paths(job, directory, part)[1] for part in range(len(job.parts))]
  tokens = [int(np.load(path)['tokens'].sum(dtype=np.int64)) for path in paths]
  if not sum(tokens):
    raise errors.DataError('no text in the source', job.source.name, 'give files with documents')
  index = {
    'format': store.FORMAT,
    'key': job.key,
    'source': job.source.name,
    'tokenizer': job.tokenizer_digest,
    'dtype': job.dtype.str,
    'tokens': tokens,
    'shards': [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths],
  }
  with _written(directory / store.INDEX) as file:
    file.write((json.dumps(index, indent=1) + '\n').encode())


@contextlib.contextmanager
def _written(path: pathlib.Path):
  """Gives a file to write that takes its name when it is whole."""
  writing = path.with_suffix('.tmp')
  with writing.open('wb') as file:
    yield file
  writing.replace(path)


@contextlib.contextmanager
def _progress(name: str, directory: pathlib.Path) -> Iterator[Callable[[int, int], None]]:
  """Gives a function that shows on a terminal how far it is; a file gets a line if it took long."""
  start, live, where = time.monotonic(), sys.stderr.isatty(), f'{name} into {directory}'

  def show(done: int, total: int) -> None:
    if live:
      share = f'{done / max(total, 1):4.0%}'
      print(f'\rtokenising {where} {share}', end='', file=sys.stderr, flush=True)

  try:
    yield show
  finally:
    if live:
      print(file=sys.stderr)
  seconds = time.monotonic() - start
  if seconds >= LONG:
    print(f'tokenised {where} in {seconds:.1f} s', file=sys.stderr, flush=True)
