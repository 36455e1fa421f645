"""What a downstream task is: rows, a template that makes text of them, and metrics."""

import dataclasses
import re
import string
from typing import Literal

from t5lite import errors

TASK = 'task:'  # begins the name of a source that is a task

MetricName = Literal[
  'accuracy', 'f1', 'matthews', 'pearson', 'spearman', 'exact_match', 'token_f1', 'entity_f1',
  'bleu', 'chrf', 'rouge',
]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """A task in text: what is given, what is asked for, and how answers are judged.

  Templates are Python's format strings over the fields of a row: 'summarize: {document}'.
  """

  name: str
  source: str  # of its rows: 'jsonl:GLOB', 'parquet:GLOB' or 'tfds:NAME'; $VARIABLES are read
  inputs: str  # template of what is given
  targets: str  # template of what is asked for
  labels: tuple[str, ...] = ()  # all targets that there are; a whole number in a row counts them
  texts: tuple[str, ...] = ()  # templates of what an encoder reads, one or two; (): `inputs`
  # Field with a list of words, each of which has a label, in the field that `targets` names alone:
  # targets='{ner}'. In templates both lists are texts, with spaces between.
  words: str = ''
  # Field with the character of the last of `texts` at which the target begins: an encoder finds it.
  span: str = ''
  # Where inputs that are too long lose tokens: 'left' keeps the last turns of a dialogue.
  truncation_side: Literal['right', 'left'] = 'right'
  group: str = ''  # template, the same in rows that exact_match counts as one: right if all are
  references: str = ''  # field with the list of all right answers; '': the target alone
  metrics: tuple[MetricName, ...] = ()
  preprocess: str = ''  # MODULE:FUNCTION that gives the task's rows of a row; '': the row itself
  split_field: str = ''  # field that names a row's split; '': the source has splits (tfds), or one
  train: str = 'train'  # the names of the splits; '': there is none
  validation: str = 'validation'  # '': data.held_out of the training rows
  test: str = 'test'

  def __post_init__(self):
    where = f'task {self.name!r}'
    errors.check(
      re.fullmatch(r'[\w.-]+', self.name) is not None,
      'not a name',
      where,
      'use letters, digits, and _, - or . between them',
    )
    templates = {'inputs': self.inputs, 'targets': self.targets}
    for number, text in enumerate(self.texts):
      templates[f'texts[{number}]'] = text
    if self.group:
      templates['group'] = self.group
    for name, template in templates.items():
      try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field]
      except ValueError as error:
        what = f'not a template ({error})'
        raise errors.ConfigError(what, f'{where}: {name}={template!r}', 'write {FIELD}') from error
      errors.check(
        bool(fields),
        'template without a field',
        f'{where}: {name}={template!r}',
        'name a field of the rows in braces: {text}',
      )
    errors.check(
      len(self.texts) <= 2,
      'an encoder reads one text or two',
      f'{where}: {len(self.texts)} texts',
      'join some of them in one template',
    )
    errors.check(
      len(set(self.labels)) == len(self.labels) != 1,
      'not a list of labels',
      f'{where}: labels={self.labels}',
      'give two or more, each once',
    )
    self._check_tokens(where)
    errors.check(
      self.truncation_side == 'right' or not (self.words or self.span),
      'words and spans count from the start of their text',
      f'{where}: truncation_side={self.truncation_side!r}',
      'leave it out',
    )
    errors.check(
      self.preprocess == '' or all(self.preprocess.partition(':')),
      'not a function',
      f'{where}: preprocess={self.preprocess!r}',
      "use 'package.module:function'",
    )

  def _check_tokens(self, where: str) -> None:
    """Raises ConfigError unless what is asked for of words or of a span is whole."""
    if self.words:
      errors.check(
        re.fullmatch(r'{\w+}', self.targets) is not None,
        'words need a field of labels',
        f'{where}: words={self.words!r} targets={self.targets!r}',
        "name it alone: targets='{FIELD}'",
      )
      errors.check(
        bool(self.labels) and not any(re.search(r'\s', label) for label in self.labels),
        'words need labels without spaces',
        f'{where}: labels={self.labels}',
        'name the labels of the words',
      )
      errors.check(
        not self.texts and not self.references,
        'an encoder reads the words alone',
        f'{where}: words={self.words!r} texts={self.texts} references={self.references!r}',
        'leave texts and references out',
      )
    errors.check(
      'entity_f1' not in self.metrics or bool(self.words),
      'entities are of words',
      f'{where}: metrics={self.metrics}',
      'name the field with the words, or leave entity_f1 out',
    )
    errors.check(
      not self.group or ('exact_match' in self.metrics and not self.references),
      'groups are for exact_match, of one right answer a row',
      f'{where}: group={self.group!r} metrics={self.metrics} references={self.references!r}',
      'leave group out, or name exact_match and no references',
    )
    errors.check(
      not self.span or bool(self.texts and not self.labels),
      'a span is a part of a text',
      f'{where}: span={self.span!r} texts={self.texts} labels={self.labels}',
      'give texts, the last of which holds the targets, and no labels',
    )

  @property
  def fixed(self) -> str:
    """The text of the inputs' template at the side that tokens are left out at, which stays."""
    parts = list(string.Formatter().parse(self.inputs))
    if self.truncation_side == 'left':
      return parts[0][0]
    return parts[-1][0] if parts[-1][1] is None else ''
