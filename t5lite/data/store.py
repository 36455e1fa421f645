"""Tokenised text on disk: array_record shards of fixed-size blocks, read at any position.

A store is a directory:
  index.json                          what it holds; written last: a store without it is not done
  KEY-00000-of-00004.array_record     tokens of whole documents, each ended by EOS; BLOCK a record
  KEY-00000-of-00004.documents.npy    for each document: its tokens, how many of them are given
                                      (of a task's example: its inputs; of text: 0), the UTF-8 bytes
                                      of the rest, its hash
KEY says which text and which tokenizer; equal keys are equal stores, byte for byte.

A position counts as if every shard filled its last block, so that block = position // BLOCK.
N ranges, L tokens of the longest.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import hashlib
import io
import json
import pathlib
from typing import Any

from array_record.python import array_record_data_source
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
import numpy as np

from t5lite import errors

FORMAT = 2
BLOCK = 4096  # tokens a record
OPTIONS = 'group_size:1,zstd:1'
INDEX = 'index.json'
DOCUMENT = np.dtype([('tokens', '<u4'), ('inputs', '<u4'), ('bytes', '<u4'), ('hash', '<u8')])

REMEDY = 'delete that directory and prepare it again'


def token_type(vocabulary_size: int) -> np.dtype:
  """Returns uint16 where the ids fit, else uint32."""
  return np.dtype('<u2') if vocabulary_size <= 2**16 else np.dtype('<u4')


def digest(tokenizer_digest: str, shard_digests: Sequence[str]) -> str:
  """Returns the digest of what a store holds; shard_digests: of the files of documents."""
  return hashlib.sha256('\n'.join([tokenizer_digest, *shard_digests]).encode()).hexdigest()


def tokens_path(directory: pathlib.Path, key: str, shard: int, num_shards: int) -> pathlib.Path:
  return directory / f'{key}-{shard:05d}-of-{num_shards:05d}.array_record'


def documents_path(directory: pathlib.Path, key: str, shard: int, num_shards: int) -> pathlib.Path:
  return tokens_path(directory, key, shard, num_shards).with_suffix('.documents.npy')


class ShardWriter:
  """Writes the tokens of documents, one after another, as blocks.

  Raises:
    DiskError: the file cannot be written.
  """

  def __init__(self, path: pathlib.Path, dtype: np.dtype):
    self._path = path
    self._rest = np.zeros(0, dtype)
    with self._disk_errors():
      self._writer = array_record_module.ArrayRecordWriter(str(path), OPTIONS)

  def append(self, tokens: np.ndarray) -> None:
    tokens = np.concatenate([self._rest, tokens.astype(self._rest.dtype)])
    whole = len(tokens) // BLOCK * BLOCK
    with self._disk_errors():
      for start in range(0, whole, BLOCK):
        self._writer.write(tokens[start : start + BLOCK].tobytes())
    self._rest = tokens[whole:]

  def close(self) -> None:
    with self._disk_errors():
      if len(self._rest):
        self._writer.write(self._rest.tobytes())
      self._writer.close()

  @contextlib.contextmanager
  def _disk_errors(self) -> Iterator[None]:
    try:
      yield
    except RuntimeError as error:  # that is what its C++ raises
      remedy = 'free some space, or choose another directory'
      raise errors.DiskError('cannot write tokens', f'{self._path} ({error})', remedy) from error


@dataclasses.dataclass
class Instruction:
  """What ArrayRecordDataSource wants to know of a file, so that it need not open all of them."""

  filename: str
  skip: int
  take: int
  examples_in_shard: int


class Store:
  """A finished store.

  Attributes:
    digest: of the texts and the tokenizer.
    starts: position of the first token of each shard.
  """

  def __init__(self, directory: pathlib.Path, index: Mapping[str, Any]):
    self.directory = directory
    self._dtype = np.dtype(index['dtype'])
    self._digests: list[str] = index['shards']
    self.digest = digest(index['tokenizer'], self._digests)
    num_shards = len(self._digests)
    files = [(directory, index['key'], shard, num_shards) for shard in range(num_shards)]
    self._document_paths = [documents_path(*file) for file in files]
    self._paths = [tokens_path(*file) for file in files]
    for path in self._paths + self._document_paths:
      if not path.is_file():
        raise errors.DataError('file missing from a token store', path, REMEDY)
    blocks = [-(-tokens // BLOCK) for tokens in index['tokens']]
    self.starts = np.cumsum([0, *blocks])[:-1] * BLOCK
    self._blocks = array_record_data_source.ArrayRecordDataSource(
      [Instruction(str(path), 0, n, n) for path, n in zip(self._paths, blocks, strict=True)]
    )

  def documents(self) -> Iterator[np.ndarray]:
    """Yields the DOCUMENTs of each shard.

    Raises:
      DataError: they are not those that were written.
    """
    for path, expected in zip(self._document_paths, self._digests, strict=True):
      content = path.read_bytes()
      if hashlib.sha256(content).hexdigest() != expected:
        raise errors.DataError('damaged token store', path, REMEDY)
      yield np.load(io.BytesIO(content))

  def read(self, positions_NxL: np.ndarray) -> np.ndarray:
    """Returns the int32 tokens at positions that mostly follow each other along a row.

    Raises:
      DataError: a shard is damaged.
    """
    blocks_NxL = positions_NxL // BLOCK
    enters = blocks_NxL[:, 1:] != blocks_NxL[:, :-1]
    wanted = np.unique(np.concatenate([blocks_NxL[:, 0], blocks_NxL[:, 1:][enters]]))
    loaded_UxB = np.zeros((len(wanted), BLOCK), self._dtype)
    for row, record in zip(loaded_UxB, self._records(wanted.tolist()), strict=True):
      tokens = np.frombuffer(record, self._dtype)
      row[: len(tokens)] = tokens
    return loaded_UxB[np.searchsorted(wanted, blocks_NxL), positions_NxL % BLOCK].astype(np.int32)

  def _records(self, blocks: Sequence[int]) -> Sequence[bytes]:
    try:
      return self._blocks.__getitems__(blocks)
    except RuntimeError as error:
      where = f'{self._damaged(blocks)} ({error})'
      raise errors.DataError('damaged token store', where, REMEDY) from error

  def _damaged(self, blocks: Sequence[int]) -> pathlib.Path:
    """Returns the shard of the first block that cannot be read: the reader does not tell."""
    for block in blocks:
      try:
        self._blocks[block]
      except RuntimeError:
        return self._paths[int(np.searchsorted(self.starts, block * BLOCK, 'right')) - 1]
    return self.directory


def read_index(directory: pathlib.Path) -> dict[str, Any]:
  """Returns the index of a store; raises DataError if it is damaged or of another format."""
  path = directory / INDEX
  try:
    index = json.loads(path.read_text())
  except ValueError as error:
    raise errors.DataError('damaged index of a token store', path, REMEDY) from error
  if not isinstance(index, dict) or index.get('format') != FORMAT:
    raise errors.DataError(f'not the index of a token store of format {FORMAT}', path, REMEDY)
  return index


def open(directory: pathlib.Path, tokenizer_digest: str) -> Store:
  """Returns the store of a directory.

  Raises:
    DataError: it is damaged, of another format, or made with another tokenizer.
  """
  index = read_index(directory)
  if index['tokenizer'] != tokenizer_digest:
    where = f'{directory} has tokenizer {index["tokenizer"][:12]}, not {tokenizer_digest[:12]}'
    remedy = 'set data.tokenizer to the one it was prepared with, or prepare it again'
    raise errors.DataError('token store of another tokenizer', where, remedy)
  return Store(directory, index)
