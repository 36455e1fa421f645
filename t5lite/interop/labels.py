"""The names of a head's labels: those of config.json, and those of the task that a run learns."""

from collections.abc import Mapping, Sequence
from typing import Any

from t5lite import config as config_lib
from t5lite import errors
from t5lite import tasks

ONE_OF_ALL = 'single_label_classification'  # transformers' name of what our heads answer


def names(hf: Mapping[str, Any], where: object) -> tuple[str, ...]:
  """Returns the labels of a config.json, in the order of the head's outputs.

  Without names there are as many as it says, or transformers' two.

  Raises:
    CheckpointError: what it says is no list of labels; it names the key.
  """
  given, count = hf.get('id2label'), hf.get('num_labels')
  if given is None:
    count = 2 if count is None else count
    if type(count) is not int or count < 1:
      raise _refused(f'{where}: num_labels={count!r}')
    return unnamed(count)
  keys = [str(i) for i in range(len(given))] if isinstance(given, dict) else []
  if not keys or set(keys) != given.keys() or not all(isinstance(x, str) for x in given.values()):
    raise _refused(f'{where}: id2label={given!r}')
  return tuple(given[key] for key in keys)


def unnamed(count: int) -> tuple[str, ...]:
  """Returns what transformers calls labels that have no names."""
  return tuple(f'LABEL_{i}' for i in range(count))


def of_run(config: config_lib.Config) -> tuple[str, ...]:
  """Returns the labels of a run's head: those of its task, if it has one for each output."""
  task = tasks.only(config)
  given = task.labels if task else ()
  return given if len(given) == config.model.num_labels else unnamed(config.model.num_labels)


def to_huggingface(config: config_lib.Config) -> dict[str, Any]:
  """Returns what a config.json says of the labels of a run's head."""
  said = [(i, name) for i, name in enumerate(of_run(config))]
  return {'id2label': {str(i): name for i, name in said}, 'label2id': {n: i for i, n in said}}


def order(given: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
  """Returns which of the given labels each output is to be: the wanted ones in their order.

  Case does not count. Labels without names, or with numbers for names, stay in their order, where
  there are enough. None: they are other labels.
  """
  count = len(given)
  if tuple(given) in (unnamed(count), tuple(map(str, range(count)))):
    return list(range(count)) if count >= len(wanted) else None
  for spelling in (str, str.casefold):
    places = {spelling(name): i for i, name in enumerate(given)}
    if len(places) == count == len(wanted) and places.keys() == set(map(spelling, wanted)):
      return [places[spelling(name)] for name in wanted]
  return None


def other_head(hf: Mapping[str, Any]) -> str:
  """Returns what a config.json says of its head that ours is not; '': nothing.

  A text may have several labels, or a number; ModernBERT's may be read from the mean of all tokens.
  """
  if (kind := hf.get('problem_type') or ONE_OF_ALL) != ONE_OF_ALL:
    return f'problem_type={kind!r}'
  pooling = hf.get('classifier_pooling') or 'cls'
  read = 'ForSequenceClassification' in str(hf.get('architectures'))
  return f'classifier_pooling={pooling!r}' if read and pooling != 'cls' else ''


def order_for(task: config_lib.Task, hf: Mapping[str, Any], where: object) -> list[int]:
  """Returns the `order` of a config.json's labels that a task asks for.

  Raises:
    CheckpointError: they are other labels, or another kind of head.
  """
  if said := other_head(hf):
    remedy = f'only {ONE_OF_ALL!r} of the first token does a task'
    remedy += '; --set=model.num_labels=0 leaves the head out'
    raise errors.CheckpointError('not a head for labels', f'{where}: {said}', remedy)
  given = names(hf, where)
  found = order(given, task.labels)
  if found is None:
    raise errors.CheckpointError(
      'a head for other labels',
      f'{where}: {", ".join(given)}; task {task.name!r}: {", ".join(task.labels)}',
      "write the task's names into id2label, or leave the head out: --set=model.num_labels=0",
    )
  return found


def _refused(where: str) -> errors.CheckpointError:
  return errors.CheckpointError('not a list of labels', where, 'give one that transformers wrote')
