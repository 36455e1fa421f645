"""The eight tasks of SuperGLUE (Wang et al. 2019), written as T5 does (Raffel et al. 2020).

The rows are those of tensorflow-datasets' `super_glue`. As in GLUE, test splits have no labels and
the validation split is what is measured. Unlike T5, WSC asks whether the pronoun means the noun
(T5 asks for the noun, and learns from the true rows alone), and a row of ReCoRD gives one example,
not one for each right answer: every answer counts as right when it is judged.
"""

from collections.abc import Iterator
import re
from typing import Any

from t5lite.config import MetricName
from t5lite.config import Task

TRUTH = ('False', 'True')
Rows = Iterator[dict[str, Any]]


def _task(
  name: str,
  inputs: str,
  texts: tuple[str, ...],
  labels: tuple[str, ...],
  *metrics: MetricName,
  source: str = '',
  preprocess: str = '',
  group: str = '',
) -> Task:
  """Returns a task whose labels stand in the order of the dataset's."""
  return Task(
    name=f'superglue_{name}',
    source=f'tfds:super_glue/{source or name}',
    inputs=f'{name} {inputs}',
    targets='{label}',
    labels=labels,
    texts=texts,
    metrics=metrics,
    preprocess=preprocess and f't5lite.tasks.superglue:{preprocess}',
    group=group,
    test='validation',
  )


def multirc(row: dict[str, Any]) -> Rows:
  """Yields the row without its paragraph's HTML."""
  yield {**row, 'paragraph': re.sub('</?b>', '', row['paragraph'].replace('<br>', ' '))}


def wsc(row: dict[str, Any]) -> Rows:
  """Yields the row with its noun between * and its pronoun between #."""
  first, second = row['span1_index'], row['span2_index']
  text = _marked(row['text'], row['span1_text'], first, '*')
  second += 2 * (first < second)  # the marks are words too
  yield {**row, 'text': _marked(text, row['span2_text'], second, '#')}


def _marked(text: str, span: str, index: int, mark: str) -> str:
  """Returns a text with marks around the span that begins at a word; unchanged if it does not."""
  before = re.match(rf'(?:\S+\s){{{index}}}', text)
  if not before or not text.startswith(span, before.end()):
    return text
  start, stop = before.end(), before.end() + len(span)
  return f'{text[:start]}{mark} {span} {mark}{text[stop:]}'


def record(row: dict[str, Any]) -> Rows:
  """Yields the row with its entities in one line, its highlights as sentences, and an answer."""
  passage = re.sub(r'([.?!"\'])\n@highlight\n', r'\1 ', row['passage'])
  yield {
    **row,
    'passage': passage.replace('\n@highlight\n', '. '),
    'entities': ', '.join(row['entities']),
    'answer': row['answers'][0] if row['answers'] else '',
  }


TASKS = (
  _task(
    'boolq',
    'passage: {passage} question: {question}',
    ('{question}', '{passage}'),
    TRUTH,
    'accuracy',
  ),
  _task(
    'cb',
    'hypothesis: {hypothesis} premise: {premise}',
    ('{premise}', '{hypothesis}'),
    ('entailment', 'contradiction', 'neutral'),
    'f1',
    'accuracy',
  ),
  _task(
    'copa',
    'choice1: {choice1} choice2: {choice2} premise: {premise} question: {question}',
    ('{premise} What is the {question}?', 'choice1: {choice1} choice2: {choice2}'),
    ('choice1', 'choice2'),
    'accuracy',
  ),
  _task(
    'multirc',
    'question: {question} answer: {answer} paragraph: {paragraph}',
    ('{question} {answer}', '{paragraph}'),
    TRUTH,
    'f1',
    'exact_match',
    preprocess='multirc',
    group='{paragraph} {question}',
  ),
  Task(
    name='superglue_record',
    source='tfds:super_glue/record',
    inputs='record query: {query} entities: {entities} passage: {passage}',
    targets='{answer}',
    references='answers',
    metrics=('token_f1', 'exact_match'),
    preprocess='t5lite.tasks.superglue:record',
    test='validation',
  ),
  _task(
    'rte',
    'hypothesis: {hypothesis} premise: {premise}',
    ('{premise}', '{hypothesis}'),
    ('entailment', 'not_entailment'),
    'accuracy',
  ),
  _task(
    'wic',
    'sentence1: {sentence1} sentence2: {sentence2} word: {word}',
    ('{word}: {sentence1}', '{sentence2}'),
    TRUTH,
    'accuracy',
  ),
  _task(
    'wsc', 'text: {text}', ('{text}',), TRUTH, 'accuracy', source='wsc.fixed', preprocess='wsc'
  ),
)
