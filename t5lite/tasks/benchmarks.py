"""The other tasks of T5's paper (Raffel et al. 2020, appendix D), XSum, IMDb and CoNLL-2003.

The rows are those of tensorflow-datasets. Texts are read as they are: T5 puts spaces around the
punctuation of SQuAD, which its metrics leave out anyway.
"""

from collections.abc import Iterator
from typing import Any

from t5lite.config import Task


def _summary(name: str, article: str, summary: str) -> Task:
  return Task(
    name=name,
    source=f'tfds:{name}',
    inputs=f'summarize: {{{article}}}',
    targets=f'{{{summary}}}',
    metrics=('rouge',),
  )


def _translation(name: str, pair: str, language: str) -> Task:
  """Returns a task from English; `pair` is the dataset's: its other language, then English."""
  year, code = name.partition('_')[0], pair.partition('-')[0]
  return Task(
    name=name,
    source=f'tfds:{year}_translate/{pair}',
    inputs=f'translate English to {language}: {{en}}',
    targets=f'{{{code}}}',
    metrics=('bleu', 'chrf'),
  )


ENTITIES = ('PER', 'ORG', 'LOC', 'MISC')  # in the order of the dataset


def squad(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
  """Yields the row with the texts of its answers, and the first of them with its place."""
  answers, starts = row['answers']['text'], row['answers']['answer_start']
  answer, start = (answers[0], starts[0]) if answers else ('', 0)
  if not row['context'].startswith(answer, start):  # spaces before the context were taken away
    start = row['context'].find(answer)
  yield {**row, 'answers': answers, 'answer': answer, 'start': start}


TASKS = (
  Task(
    name='squad',
    source='tfds:squad/v1.1',
    inputs='question: {question} context: {context}',
    targets='{answer}',
    texts=('{question}', '{context}'),
    span='start',
    references='answers',
    metrics=('exact_match', 'token_f1'),
    preprocess='t5lite.tasks.benchmarks:squad',
    test='validation',  # SQuAD's own is not public
  ),
  Task(
    name='conll2003',
    source='tfds:conll2003',
    inputs='tag entities: {tokens}',
    targets='{ner}',
    words='tokens',
    labels=('O', *(f'{place}-{kind}' for kind in ENTITIES for place in 'BI')),
    metrics=('entity_f1', 'accuracy'),
    validation='dev',
  ),
  _summary('cnn_dailymail', 'article', 'highlights'),
  _summary('xsum', 'document', 'summary'),
  _translation('wmt14_en_de', 'de-en', 'German'),
  _translation('wmt14_en_fr', 'fr-en', 'French'),
  _translation('wmt16_en_ro', 'ro-en', 'Romanian'),
  Task(
    name='imdb',
    source='tfds:imdb_reviews',
    inputs='imdb review: {text}',
    targets='{label}',
    labels=('negative', 'positive'),
    texts=('{text}',),
    metrics=('accuracy',),
    validation='',  # it has none
  ),
)
