"""The nine tasks of GLUE (Wang et al. 2018), written as T5 does (Raffel et al. 2020, appendix D).

The rows are those of tensorflow-datasets' `glue`. Its test splits have no labels (-1), so what is
reported is measured on the validation split, as in most papers: choose no checkpoint by it. T5 left
out WNLI; here it has the template of the others.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from t5lite.config import MetricName
from t5lite.config import Task

ENTAILMENT = ('entailment', 'not_entailment')
SCORES = tuple(f'{fifth / 5:.1f}' for fifth in range(26))  # of STS-B: 0.0, 0.2, ... 5.0


def _task(
  name: str,
  inputs: str,
  texts: tuple[str, ...],
  labels: tuple[str, ...],
  *metrics: MetricName,
  preprocess: str = '',
) -> Task:
  """Returns a task of sentences, whose labels stand in the order of the dataset's."""
  return Task(
    name=f'glue_{name}',
    source=f'tfds:glue/{name}',
    inputs=f'{name} {inputs}',
    targets='{label}',
    labels=labels,
    texts=texts,
    metrics=metrics,
    preprocess=preprocess,
    test='validation',
  )


def _mnli(name: str, validation: str) -> Task:
  return Task(
    name=name,
    source='tfds:glue/mnli',
    inputs='mnli hypothesis: {hypothesis} premise: {premise}',
    targets='{label}',
    labels=('entailment', 'neutral', 'contradiction'),
    texts=('{premise}', '{hypothesis}'),
    metrics=('accuracy',),
    validation=validation,
    test=validation,
  )


def stsb(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
  """Yields the row with its score as the nearest of SCORES, in words.

  In float32, as T5 rounds: 1.7 is stored a little above, and 5 times that is 8.5 again, so 1.6.
  """
  fifths = np.round(np.float32(row['label']) * np.float32(5))
  yield {**row, 'label': f'{fifths / 5:.1f}'}


SENTENCES = 'sentence1: {sentence1} sentence2: {sentence2}'
BOTH = ('{sentence1}', '{sentence2}')
TASKS = (
  _task(
    'cola', 'sentence: {sentence}', ('{sentence}',), ('unacceptable', 'acceptable'), 'matthews'
  ),
  _task('sst2', 'sentence: {sentence}', ('{sentence}',), ('negative', 'positive'), 'accuracy'),
  _task('mrpc', SENTENCES, BOTH, ('not_equivalent', 'equivalent'), 'f1', 'accuracy'),
  _task(
    'qqp',
    'question1: {question1} question2: {question2}',
    ('{question1}', '{question2}'),
    ('not_duplicate', 'duplicate'),
    'f1',
    'accuracy',
  ),
  _task(
    'stsb', SENTENCES, BOTH, SCORES, 'pearson', 'spearman', preprocess='t5lite.tasks.glue:stsb'
  ),
  _mnli('glue_mnli', 'validation_matched'),
  _mnli('glue_mnli_mismatched', 'validation_mismatched'),
  _task(
    'qnli',
    'question: {question} sentence: {sentence}',
    ('{question}', '{sentence}'),
    ENTAILMENT,
    'accuracy',
  ),
  _task('rte', SENTENCES, BOTH, ENTAILMENT, 'accuracy'),
  _task('wnli', SENTENCES, BOTH, ('not_entailment', 'entailment'), 'accuracy'),
)
