"""Files of prompts, and of what was written for them: text, or JSON lines."""

from collections.abc import Sequence
import json
import pathlib
from typing import Any

from t5lite import errors

Row = dict[str, Any]
PROMPT, OUTPUT = 'prompt', 'output'  # fields


def is_jsonl(name: str | None) -> bool:
  return bool(name) and name.endswith('.jsonl')


def read(name: str) -> list[Row]:
  """Returns an object with a prompt for each line of a file.

  Raises:
    DataError: it cannot be read, or a line has no prompt; it names the line.
  """
  lines = _lines(pathlib.Path(name))
  rows = []
  for number, line in enumerate(lines, 1):
    where = f'{name}:{number} {line[:60]}'
    row = _object(where, line) if is_jsonl(name) else {PROMPT: line}
    if not row[PROMPT].strip():
      raise errors.DataError('empty prompt', where, 'write something to go on from')
    rows.append(row)
  if not rows:
    raise errors.DataError('no prompts', name, 'give a file with a prompt on each line')
  return rows


def _lines(path: pathlib.Path) -> list[str]:
  try:
    lines = path.read_text(encoding='utf-8').split('\n')
  except (OSError, UnicodeDecodeError) as error:
    remedy = 'give a UTF-8 file with a prompt on each line'
    raise errors.DataError('cannot read prompts', f'{path} ({error})', remedy) from error
  return lines[:-1] if not lines[-1] else lines


def _object(where: str, line: str) -> Row:
  try:
    row = json.loads(line)
  except ValueError:
    row = None
  if not isinstance(row, dict) or not isinstance(row.get(PROMPT), str):
    remedy = 'write an object such as {"prompt": "text"}'
    raise errors.DataError('not a row with a prompt', where, remedy)
  if OUTPUT in row:
    remedy = 'rename that field: what the model writes goes there'
    raise errors.DataError('row has an output already', where, remedy)
  return row


def lines(rows: Sequence[Row], texts: Sequence[str]) -> list[str]:
  """Returns the rows as JSON with their texts, equally many of each row, as output."""
  each = len(texts) // len(rows)
  filled = ({**rows[i // each], OUTPUT: text} for i, text in enumerate(texts))
  return [json.dumps(row, ensure_ascii=False) for row in filled]


def check_output(name: str) -> None:
  """Raises ConfigError for a file that cannot be written, as far as that shows."""
  path = pathlib.Path(name)
  if not is_jsonl(name) or path.is_dir():
    raise errors.ConfigError('not a JSONL file', f'--output={name}', 'name it x.jsonl')
  if not path.absolute().parent.is_dir():
    raise errors.ConfigError('no such directory', f'--output={name}', 'make it first')


def write(name: str, lines: Sequence[str]) -> None:
  """Writes a file, in one move; raises DiskError if that fails."""
  path = pathlib.Path(name)
  temporary = path.with_name(path.name + '.tmp')
  try:
    temporary.write_text(''.join(line + '\n' for line in lines), encoding='utf-8')
    temporary.replace(path)
  except OSError as error:
    where, remedy = f'{path} ({error.strerror})', 'free some space or change --output'
    raise errors.DiskError('cannot write the output', where, remedy) from error
