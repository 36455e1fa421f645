"""From the row of a task to its text."""

from collections.abc import Callable, Collection, Iterable, Mapping
import importlib
import itertools
from typing import Any, NamedTuple

from t5lite import config
from t5lite import errors

Row = Mapping[str, Any]


class Example(NamedTuple):
  """A row as text.

  Attributes:
    inputs: what is given; of an encoder, its texts.
    targets: what is asked for.
    references: all right answers, the target among them.
    label: the number of the target among the task's labels, for an encoder; -1: it has none.
    tags: of each word, for an encoder: where it begins in the inputs, and its label's number.
    span: where the target begins and ends in the last of the inputs, for an encoder; (): nowhere.
    group: the same in rows that exact match counts as one; '': each by itself.
  """

  inputs: tuple[str, ...]
  targets: str
  references: tuple[str, ...]
  label: int = -1
  tags: tuple[tuple[int, int], ...] = ()
  span: tuple[int, ...] = ()
  group: str = ''


def example(task: config.Task, row: Row, *, for_encoder: bool) -> Example:
  """Returns the text of a row.

  Raises:
    DataError: the row lacks a field, has no target or one outside the labels.
  """
  if task.words:
    return _tagged(task, row, for_encoder=for_encoder)
  templates = task.texts if for_encoder and task.texts else (task.inputs,)
  inputs = tuple(_fill(task, 'inputs', template, row) for template in templates)
  targets = _target(task, row)
  if not any(text.strip() for text in inputs):
    raise _error(task, 'row without inputs', row, 'remove it, or mend the template')
  references = (targets,)
  if task.references:
    references = _references(task, row) or references
  label = task.labels.index(targets) if for_encoder and task.labels else -1
  span = _span(task, row, inputs[-1], targets) if for_encoder and task.span else ()
  group = _fill(task, 'group', task.group, row) if task.group else ''
  return Example(inputs, targets, references, label, span=span, group=group)


def _references(task: config.Task, row: Row) -> tuple[str, ...]:
  name = task.references
  found = _value(task, name, row)
  if not isinstance(found, Collection) or not all(isinstance(each, str) for each in found):
    raise _error(task, f'field {name!r} is no list of texts', row, 'mend the row')
  if isinstance(found, str):
    raise _error(task, f'field {name!r} is one text', row, 'make it a list of right answers')
  return tuple(found)


def _tagged(task: config.Task, row: Row, *, for_encoder: bool) -> Example:
  """Returns the text of a row whose words have labels."""
  name = task.targets.strip('{}')
  words, found = (_list(task, row, field) for field in (task.words, name))
  tags = [_named(task, tag, row, name) for tag in found]
  if len(words) != len(tags) or not all(word.strip() for word in map(str, words)):
    what = f'{len(words)} words with {len(tags)} labels'
    raise _error(task, what, row, 'give each word a label, and no empty word')
  if strays := [tag for tag in tags if tag not in task.labels]:
    raise _stray(task, strays[0], row)
  text, targets = ' '.join(map(str, words)), ' '.join(tags)
  if not for_encoder:
    text = _fill(task, 'inputs', task.inputs, {**row, task.words: text, name: targets})
    return Example((text,), targets, (targets,))
  ends = itertools.accumulate(len(str(word)) + 1 for word in words)
  starts = [0, *ends][: len(words)]
  numbers = [task.labels.index(tag) for tag in tags]
  return Example((text,), targets, (targets,), tags=tuple(zip(starts, numbers, strict=True)))


def _list(task: config.Task, row: Row, name: str) -> list[Any]:
  value = _value(task, name, row)
  if isinstance(value, str) or not isinstance(value, Iterable) or not (found := list(value)):
    raise _error(task, f'field {name!r} is no list with words', row, 'mend the row')
  return found


def _span(task: config.Task, row: Row, text: str, target: str) -> tuple[int, int]:
  start = _value(task, task.span, row)
  if not isinstance(start, int) or start < 0 or not text.startswith(target, start):
    what = f'target {target!r} is not at {task.span}={start!r}'
    raise _error(task, what, row, 'give the character of the last text at which it begins')
  return start, start + len(target)


def _target(task: config.Task, row: Row) -> str:
  if task.labels:  # `{label}` of a row with a number: the label of that number
    row = {name: _named(task, value, row, name) for name, value in row.items()}
  text = _fill(task, 'targets', task.targets, row)
  if not text.strip():
    raise _error(task, 'row without a target', row, 'remove it, or mend the template')
  if task.labels and text not in task.labels:
    raise _stray(task, text, row)
  return text


def _stray(task: config.Task, label: Any, row: Row) -> errors.DataError:
  what = f'label {label!r} is none of {", ".join(task.labels)}'
  return _error(task, what, row, 'mend the row, or add it to the labels of the task')


def _named(task: config.Task, value: Any, row: Row, name: str) -> Any:
  if type(value) is not int or f'{{{name}}}' not in task.targets:
    return value
  if not 0 <= value < len(task.labels):
    what = f'label {value} of {len(task.labels)}'
    raise _error(task, what, row, 'choose a split that has labels, or mend the row')
  return task.labels[value]


def _fill(task: config.Task, part: str, template: str, row: Row) -> str:
  try:
    return template.format_map(_Fields(row))
  except KeyError as error:
    what = f'no field {error} for the {part}'
    remedy = f'its fields are {", ".join(row)}: mend the template'
    raise _error(task, what, row, remedy) from error
  except (AttributeError, IndexError, TypeError, ValueError) as error:
    what = f'{error} for the {part}={template!r}'
    raise _error(task, what, row, 'mend the row or the template') from error


class _Fields(dict[str, Any]):
  """A row that a template reads."""

  def __getitem__(self, name: str) -> Any:
    value = super().__getitem__(name)
    if value is None:
      raise ValueError(f'field {name!r} is null')
    return value


def _value(task: config.Task, name: str, row: Row) -> Any:
  if name not in row:
    remedy = f'its fields are {", ".join(row)}: name one of them'
    raise _error(task, f'no field {name!r}', row, remedy)
  return row[name]


def _error(task: config.Task, what: str, row: Row, remedy: str) -> errors.DataError:
  shown = repr(dict(row))
  shown = shown if len(shown) <= 200 else shown[:200] + '...'
  return errors.DataError(what, f'task {task.name!r}, row {shown}', remedy)


def preprocess(task: config.Task) -> Callable[[Row], Iterable[Row]]:
  """Returns the function that gives the task's rows of a row.

  Raises:
    ConfigError: there is no such function.
  """
  if not task.preprocess:
    return _itself
  module, _, name = task.preprocess.partition(':')
  try:
    return getattr(importlib.import_module(module), name)
  except (ImportError, AttributeError) as error:
    where = f'task {task.name!r}: preprocess={task.preprocess!r} ({error})'
    remedy = "use 'package.module:function' of what is installed, or in PYTHONPATH"
    raise errors.ConfigError('no such function', where, remedy) from error


def rows(task: config.Task, function: Callable[[Row], Iterable[Row]], row: Row) -> list[Row]:
  """Returns what the task's function makes of a row.

  Raises:
    DataError: the row lacks a field that it reads, or it fails.
  """
  try:
    return list(function(row))
  except KeyError as error:
    remedy = f'its fields are {", ".join(row)}: choose rows that have it'
    raise _error(task, f'no field {error} for {task.preprocess}', row, remedy) from error
  except Exception as error:  # a user's function may raise anything
    what = f'{task.preprocess} raises {type(error).__name__}: {error}'
    raise _error(task, what, row, 'mend the function or the row') from error


def _itself(row: Row) -> Iterable[Row]:
  return (row,)
