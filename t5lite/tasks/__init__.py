"""Downstream tasks: the ones that ship, by name, and how a row becomes text.

data.source = 'task:summarize_debian'            one that ships
data.source = 'task:mine'                 one of the config's `tasks`
"""

from collections.abc import Sequence
import difflib

from t5lite import config
from t5lite import errors
from t5lite.tasks import benchmarks
from t5lite.tasks import glue
from t5lite.tasks import starter
from t5lite.tasks import superglue

SHIPPED = {
  task.name: task for task in (*starter.TASKS, *glue.TASKS, *superglue.TASKS, *benchmarks.TASKS)
}


def is_task(source: str) -> bool:
  """Returns whether an entry of data.source names a task."""
  return source.startswith(config.TASK)


def only(run: config.Config) -> config.Task | None:
  """Returns the task that is all a run learns; None: it learns text, or several tasks.

  Raises:
    ConfigError: there is none of its name.
  """
  names = [name for name, _, _ in run.data.mixture]
  return find(names[0], run.tasks) if len(names) == 1 and is_task(names[0]) else None


def find(name: str, own: Sequence[config.Task] = ()) -> config.Task:
  """Returns the task of a name, with or without `task:`; the config's own come first.

  Raises:
    ConfigError: there is none.
  """
  name = name.removeprefix(config.TASK)
  known = SHIPPED | {task.name: task for task in own}
  near = difflib.get_close_matches(name, known, n=1)
  remedy = f'did you mean {near[0]}?' if near else f'use one of {", ".join(sorted(known))}'
  errors.check(name in known, 'no such task', repr(name), remedy)
  return known[name]
