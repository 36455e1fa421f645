"""Documents of text and JSON-lines files, plain or compressed (.gz, .xz, .bz2).

A large plain file is read in spans of bytes. What a span owns depends on where a line begins, not
on where the span does, so every document is in exactly one.
"""

import bz2
from collections.abc import Iterator
import gzip
import json
import lzma
import os
import sys
from typing import Any, IO
import zlib

from t5lite import errors
from t5lite.data import sources

OPENERS = {'.gz': gzip.open, '.xz': lzma.open, '.bz2': bz2.open}
UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error)


def text(name: str, paths: list[str]) -> sources.Source:
  """Returns the source of text files, with a blank line between documents."""
  return sources.Source(name, _spans(paths), _text)


def jsonl(name: str, paths: list[str]) -> sources.Source:
  """Returns the source of files with one object a line, whose field `text` is the document."""
  return sources.Source(name, _spans(paths), _jsonl)


def jsonl_rows(name: str, paths: list[str]) -> sources.Source:
  """Returns the source of files with one object a line, with all its fields."""
  return sources.Source(name, _spans(paths), _jsonl_rows)


def _spans(paths: list[str]) -> list[sources.Span]:
  spans = []
  for path in paths:
    size = os.path.getsize(path)
    if os.path.splitext(path)[1] in OPENERS:  # readable from its start only
      spans.append(sources.Span(path, 0, sys.maxsize, 4 * size))
      continue
    for start in range(0, size, sources.PART):
      stop = min(start + sources.PART, size)
      spans.append(sources.Span(path, start, stop, stop - start))
  return spans


def _text(span: sources.Span) -> Iterator[str]:
  """Yields the documents whose blank line before them, or start of file, is in the span."""
  document, first = [], 0
  owned = span.start == 0
  for offset, line in _lines(span.path, span.start):
    if line.rstrip(b'\r\n'):
      if owned:
        first = first if document else offset
        document.append(line)
    else:
      if document:
        yield _decode(b''.join(document), span.path, first)
        document = []
      owned = True
      if offset >= span.stop:
        return
  if document:
    yield _decode(b''.join(document), span.path, first)


def _jsonl(span: sources.Span) -> Iterator[str]:
  """Yields the documents whose line begins in the span."""
  for offset, line in _jsonl_lines(span):
    yield _field(line, span.path, offset)


def _jsonl_rows(span: sources.Span) -> Iterator[dict[str, Any]]:
  """Yields the objects whose line begins in the span."""
  for offset, line in _jsonl_lines(span):
    record = _json(line, span.path, offset)
    if not isinstance(record, dict):
      where = f'{span.path}:{_line_number(span.path, offset)}'
      raise errors.DataError('not a JSON object', where, 'mend or remove that line')
    yield record


def _jsonl_lines(span: sources.Span) -> Iterator[tuple[int, bytes]]:
  for offset, line in _lines(span.path, span.start):
    if offset >= span.stop:
      return
    if line.strip():
      yield offset, line


def _lines(path: str, start: int) -> Iterator[tuple[int, bytes]]:
  """Yields (offset, line) of the lines that begin at or after `start`."""
  try:
    with _open(path) as file:
      offset = start
      if start:
        file.seek(start - 1)
        offset += len(file.readline()) - 1  # the rest of the line before, or its newline
      for line in file:
        yield offset, line
        offset += len(line)
  except UNREADABLE as error:
    raise errors.DataError('cannot read file', f'{path} ({error})', 'restore it') from error


def _open(path: str) -> IO[bytes]:
  opener = OPENERS.get(os.path.splitext(path)[1])
  return opener(path, 'rb') if opener else open(path, 'rb')


def _decode(document: bytes, path: str, offset: int) -> str:
  try:
    text = document.decode('utf-8-sig' if offset == 0 else 'utf-8')
  except UnicodeDecodeError as error:
    where = f'{path}:{_line_number(path, offset + error.start)}'
    remedy = 'convert it: iconv -f ENCODING -t UTF-8'
    raise errors.DataError('not UTF-8', where, remedy) from error
  return text.replace('\r\n', '\n').removesuffix('\n')


def _field(line: bytes, path: str, offset: int) -> str:
  def error(what: str, remedy: str) -> errors.DataError:
    return errors.DataError(what, f'{path}:{_line_number(path, offset)}', remedy)

  record = _json(line, path, offset)
  if not isinstance(record, dict) or not isinstance(record.get('text'), str):
    found = f'its fields are {", ".join(record)}' if isinstance(record, dict) else 'it is no object'
    raise error("no field 'text' with a string", f"{found}: rename the text's field to 'text'")
  text = record['text']
  if b'\\ud' in line.lower() and any('\ud800' <= letter <= '\udfff' for letter in text):
    raise error('half of a surrogate pair', 'remove that \\u escape')
  return text


def _json(line: bytes, path: str, offset: int) -> Any:
  try:
    return json.loads(_decode(line, path, offset))
  except json.JSONDecodeError as problem:
    where = f'{path}:{_line_number(path, offset)}'
    what = f'not JSON ({problem})'
    raise errors.DataError(what, where, 'mend or remove that line') from problem


def _line_number(path: str, offset: int) -> int:
  """Returns the 1-based line of a byte; only errors ask for it, so it may take its time."""
  number, position = 1, 0
  with _open(path) as file:
    for line in file:
      position += len(line)
      if position > offset:
        break
      number += 1
  return number
