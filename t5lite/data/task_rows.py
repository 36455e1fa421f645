"""The rows of a task's split as examples in text, to be tokenised or judged."""

from collections.abc import Iterator
import functools
import hashlib
import importlib
import inspect

from t5lite import config as config_lib
from t5lite import errors
from t5lite.data import sources
from t5lite.tasks import rendering


def open(
  task: config_lib.Task, split: str, architecture: config_lib.Architecture
) -> sources.Source:
  """Returns the source of a task's examples (`rendering.Example`) of one split.

  Raises:
    ConfigError: the task's function is not there, or nothing tells its splits apart.
    DataError: the source has no such split, or is not there.
  """
  named = {name: None for name in (task.train, task.validation, task.test) if name}
  errors.check(
    bool(task.split_field) or task.source.startswith('tfds:') or len(named) == 1,
    'rows of no split',  # each would be trained on, and judged by
    f'task {task.name!r}: split_field={task.split_field!r} with the splits {", ".join(named)}',
    "name the field that says a row's split, or one split alone: validation='', test=''",
  )
  rendering.preprocess(task)  # one that is not there shows now
  with_split = task.source
  if task.source.startswith('tfds:'):
    with_split = f'{task.source}@{split}'
  rows = sources.open_rows(with_split)
  read = functools.partial(_examples, task, split, architecture == 'encoder', rows)
  identity = repr((task, split, architecture == 'encoder', _code(task)))
  return sources.Source(
    f'task:{task.name}@{split}',
    rows.spans,
    read,
    identity=hashlib.sha256(identity.encode()).hexdigest(),
  )


def _code(task: config_lib.Task) -> str:
  """Returns the source code of the module that makes the task's rows."""
  if not task.preprocess:
    return ''
  return inspect.getsource(importlib.import_module(task.preprocess.partition(':')[0]))


def _examples(
  task: config_lib.Task, split: str, for_encoder: bool, rows: sources.Source, span: sources.Span
) -> Iterator[rendering.Example]:
  preprocess = rendering.preprocess(task)
  for row in rows.read(span):
    if task.split_field and _split(task, row, span) != split:
      continue
    for made in rendering.rows(task, preprocess, row):
      yield rendering.example(task, made, for_encoder=for_encoder)


def _split(task: config_lib.Task, row: rendering.Row, span: sources.Span) -> str:
  if task.split_field not in row:
    where = f'task {task.name!r}, {span.path} with the fields {", ".join(row)}'
    remedy = "name the field that says a row's split, or '' if there is none"
    raise errors.DataError(f'no field {task.split_field!r}', where, remedy)
  return str(row[task.split_field])
