"""Where text comes from: `open('jsonl:news/*.jsonl.gz')` gives its documents, without TensorFlow.

A source is `corpus`, the text that ships, or `KIND:WHERE`: `text`, `jsonl`, `parquet` and
`array_record` with a glob, `tfds` with the name of a prepared dataset. It is a list of spans,
stretches of files that can be read apart from each other, the same list on every machine.
`open_rows` gives all fields of a row instead of its text: what tasks are made of.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import difflib
import glob
import hashlib
import json
import math
import os
import pathlib
import re
from typing import Any

from t5lite import errors
from t5lite.data import corpus

KINDS = ('text', 'jsonl', 'parquet', 'array_record', 'tfds')
PART = 8 << 20  # bytes of text, at least, in a part of a source that has several
MOST_PARTS = 1024


@dataclasses.dataclass(frozen=True)
class Span:
  """A stretch of one file: bytes, records or row groups from `start` up to `stop`."""

  path: str
  start: int
  stop: int
  size: int  # in bytes, roughly


@dataclasses.dataclass(frozen=True)
class Source:
  """Documents, to be read span by span.

  Attributes:
    name: the source as the config writes it.
    spans: every document is in exactly one.
    read: gives the documents of a span in order; picklable, so that other processes can read too.
    identity: what the documents are, beside the name and the files.
  """

  name: str
  spans: Sequence[Span]
  read: Callable[[Span], Iterator[Any]]
  identity: str = ''

  def documents(self) -> Iterator[Any]:
    """Yields every document, in stored order."""
    for span in self.spans:
      yield from self.read(span)

  def parts(self) -> list[list[Span]]:
    """Returns the spans in groups of about equal size, some MOST_PARTS of them at most."""
    most = max(PART, math.ceil(sum(span.size for span in self.spans) / MOST_PARTS))
    parts, room = [], 0
    for span in self.spans:
      if span.size > room and room < most:
        parts.append([])
        room = most
      parts[-1].append(span)
      room -= span.size
    return parts

  def fingerprint(self) -> str:
    """Returns a digest that changes when a file does: of names, sizes and times, not contents."""
    files = []
    for path in dict.fromkeys(span.path for span in self.spans):
      status = os.stat(path)
      files.append((os.path.abspath(path), status.st_size, status.st_mtime_ns))
    return hashlib.sha256(json.dumps([self.name, self.identity, files]).encode()).hexdigest()


def open(source: str) -> Source:
  """Returns the source of a name such as `corpus` or `parquet:DIR/*.parquet`.

  Raises:
    DataError: an unknown kind, no such file, or files that hold no text to read.
  """
  from t5lite.data import record_files
  from t5lite.data import text_files

  kind, _, where = source.partition(':')
  if source == 'corpus':
    return text_files.text(source, [str(corpus.TEXT)])
  if kind not in KINDS or not where:
    raise errors.DataError('unknown data source', repr(source), _did_you_mean(kind))
  if kind == 'tfds':
    return record_files.tfds(source, where)
  opener = {
    'text': text_files.text,
    'jsonl': text_files.jsonl,
    'parquet': record_files.parquet,
    'array_record': record_files.array_record,
  }[kind]
  return opener(source, find(where))


def open_rows(source: str) -> Source:
  """Returns the source of all fields of each row, as dicts of plain values.

  Args:
    source: `jsonl:GLOB`, `parquet:GLOB` or `tfds:NAME@SPLIT`; $VARIABLES are those of the
      environment.

  Raises:
    DataError: another kind, no such file, or files that hold no rows.
  """
  from t5lite.data import record_files
  from t5lite.data import text_files

  kind, _, where = source.partition(':')
  if kind == 'tfds':
    return record_files.tfds_rows(source, where)
  if kind not in ('jsonl', 'parquet') or not where:
    remedy = 'use jsonl:GLOB, parquet:GLOB or tfds:NAME'
    raise errors.DataError('not a source of rows', repr(source), remedy)
  opener = text_files.jsonl_rows if kind == 'jsonl' else record_files.parquet_rows
  return opener(source, find(where))


def find(where: str) -> list[str]:
  """Returns the files of a glob, sorted; raises DataError if there are none."""
  path = os.path.expandvars(os.path.expanduser(where))
  unset = re.search(r'\$(\w+)', path)
  if unset:
    what, remedy = 'variable not set', f'export {unset[1]}=DIRECTORY'
    raise errors.DataError(what, where, remedy)
  paths = sorted(glob.glob(path, recursive=True))
  files = [path for path in paths if os.path.isfile(path)]
  if not files:
    is_directory = pathlib.Path(where).expanduser().is_dir()
    remedy = f"name its files: '{where.rstrip('/')}/*'" if is_directory else 'give a path or a glob'
    shown = where if path == where else f'{where} ({path})'
    raise errors.DataError('a directory' if is_directory else 'no such file', shown, remedy)
  return files


def _did_you_mean(kind: str) -> str:
  near = difflib.get_close_matches(kind, ('corpus', *KINDS), n=1)
  form = "'corpus'" if near == ['corpus'] else f"'{near[0]}:WHERE'" if near else None
  return f'did you mean {form}?' if form else f"use 'corpus' or KIND:WHERE, with {', '.join(KINDS)}"
