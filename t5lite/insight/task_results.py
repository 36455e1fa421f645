"""The results that `t5lite evaluate --tasks` left in a workdir, read back and checked."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import pathlib
from typing import Any

from t5lite import errors
from t5lite.tasks import metrics

FOLDER = 'tasks'  # of a workdir
SIDES = ('validation', 'test')
WAYS = {'text': 'in text', 'head': "by the encoder's head", 'rank': 'by the likeliest label'}


@dataclasses.dataclass(frozen=True)
class Row:
  """What was given, asked for and answered."""

  inputs: str
  target: str
  references: Sequence[str]
  answer: str
  probabilities: Sequence[float] = ()  # of the task's labels, where the model chose among them


@dataclasses.dataclass(frozen=True)
class Result:
  """A task's result; the fields are those of `judging.Judged`.

  Attributes:
    side: 'validation' or 'test', from the file's name.
  """

  side: str
  step: int
  name: str
  split: str
  way: str
  values: Mapping[str, float]
  signatures: Mapping[str, str]
  rows: Sequence[Row]
  sampler: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  trials: Mapping[str, int] = dataclasses.field(default_factory=dict)

  def is_right(self, row: Row) -> bool:
    """Returns whether the answer is one of the references, as the task's own metric compares."""
    if 'exact_match' in self.values:
      answer = metrics.normalised(row.answer)
      return answer in [metrics.normalised(reference) for reference in row.references]
    return row.answer in row.references


def read_all(workdir: pathlib.Path) -> list[Result]:
  """Returns the results of a workdir by name, none if no task was evaluated there.

  Raises:
    DataError: a file is damaged, or no result of a task.
  """
  return [read(path) for path in sorted((workdir / FOLDER).glob('*.json'))]


def path_of(workdir: str | pathlib.Path, name: str, side: str) -> pathlib.Path:
  return pathlib.Path(workdir) / FOLDER / f'{name}-{side}.json'


def read(path: pathlib.Path) -> Result:
  """Returns the result in a file.

  Raises:
    DataError: it is damaged, or no result of a task.
  """
  remedy = 'evaluate the task again, or move the file away'
  found = read_json(path, 'damaged result of a task', remedy)
  name, _, side = path.stem.rpartition('-')
  try:
    rows = [Row(**row) for row in found['rows']]
    result = Result(**{**found, 'rows': rows, 'side': side})
    _check(result, name)
  except (TypeError, ValueError, KeyError) as error:
    where = f'{path} ({type(error).__name__} {error})'
    raise errors.DataError('not the result of a task', where, remedy) from error
  return result


def read_json(path: pathlib.Path, what: str, remedy: str) -> Any:
  """Returns what a JSON file holds; raises DataError(what, ...) if that cannot be read."""
  try:
    text = path.read_bytes().decode()
    value = json.loads(text)
    json.dumps(value, ensure_ascii=False).encode()  # no half of a surrogate pair, in no page
  except (OSError, ValueError, RecursionError) as error:
    raise errors.DataError(what, f'{path} ({error})', remedy) from error
  return value


def _check(result: Result, name: str) -> None:
  """Raises ValueError for the first field that is not as `evaluate` writes it."""
  _expect(result.side in SIDES and result.name == name, 'the name of the file')
  _expect(type(result.step) is int and isinstance(result.split, str), 'step or split')
  _expect(result.way in WAYS, f'way {result.way!r}')
  _expect(all(map(_is_number, _values(result.values))), 'a value that is no number')
  _expect(all(isinstance(text, str) for text in _values(result.signatures)), 'a signature')
  _expect(len(result.rows) > 0, 'no rows')
  for number, row in enumerate(result.rows):
    texts = [row.inputs, row.target, row.answer, *_list(row.references)]
    _expect(len(texts) > 3 and all(isinstance(text, str) for text in texts), f'row {number}')
    _expect(all(map(_is_number, _list(row.probabilities))), f'probabilities of row {number}')
  sizes = {len(row.probabilities) for row in result.rows}
  _expect(len(sizes) == 1 and 1 not in sizes, 'numbers of labels that differ')


def _expect(ok: bool, what: str) -> None:
  if not ok:
    raise ValueError(what)


def _values(mapping: Mapping[str, Any]) -> list[Any]:
  _expect(isinstance(mapping, dict), 'values or signatures')
  return list(mapping.values())


def _list(value: Any) -> Sequence[Any]:
  _expect(isinstance(value, (list, tuple)), 'a list')
  return value


def _is_number(value: Any) -> bool:
  return type(value) in (int, float) and math.isfinite(value)
