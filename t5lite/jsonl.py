"""A JSON-lines log that outlives kills: records with a `step`, appended, rewound, read."""

from collections.abc import Iterator, Mapping
import contextlib
import json
import os
import pathlib
from typing import Any

from t5lite import errors


class Log:
  """A JSON-lines file that is appended to, each line flushed."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    with disk_errors(path):
      self._file = path.open('a', encoding='utf-8')

  def append(self, record: Mapping[str, Any]) -> None:
    with disk_errors(self._path):
      self._file.write(json.dumps(record, allow_nan=False) + '\n')
      self._file.flush()

  def close(self) -> None:
    with disk_errors(self._path):
      self._file.close()


def records(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the objects of a JSON-lines log; a last line that is half-written is left out.

  Raises:
    DataError: another line is not an object with a step.
  """
  found, lines = [], path.read_bytes().split(b'\n')
  for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is half-written
    try:
      record = json.loads(line)
    except ValueError:
      record = None
    if not isinstance(record, dict) or not isinstance(record.get('step'), int):
      raise errors.DataError(
        'damaged log', f'{path}:{number} {line[:40]!r}', 'remove that line, or move the file away'
      )
    found.append(record)
  return found


def rewind(path: pathlib.Path, step: int) -> list[dict[str, Any]]:
  """Drops what a log holds after `step`, and a half-written line; returns the records that stay.

  The file is replaced in one move: a kill in between leaves the old one.
  """
  if not path.exists():
    return []
  kept = [record for record in records(path) if record['step'] <= step]
  temporary = path.with_name(path.name + '.tmp')
  with disk_errors(path):
    with temporary.open('w', encoding='utf-8') as file:
      file.writelines(json.dumps(record) + '\n' for record in kept)
      file.flush()
      os.fsync(file.fileno())
    temporary.replace(path)
  return kept


def replace(path: pathlib.Path, text: str) -> None:
  """Writes a file in one move; raises DiskError if that fails."""
  temporary = path.with_name(path.name + '.tmp')
  with disk_errors(path):
    temporary.write_text(text, encoding='utf-8')
    temporary.replace(path)


@contextlib.contextmanager
def disk_errors(path: pathlib.Path) -> Iterator[None]:
  """Raises DiskError in place of an OSError inside."""
  try:
    yield
  except OSError as error:
    raise errors.DiskError(
      'cannot write a file', f'{path} ({error.strerror})', 'free some space or change --workdir'
    ) from error
