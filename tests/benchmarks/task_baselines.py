"""What needs no language model: the simple baselines of the tasks of t5lite/tasks/starter.py.

    python tests/benchmarks/task_baselines.py OUT.json

For classification the commonest label, and tf-idf with logistic regression; for text the input
itself, its first words, as many as a target has on average, and the commonest answer.
"""

import collections
import json
import pathlib
import sys

import numpy as np
from sklearn import feature_extraction
from sklearn import linear_model
from sklearn import pipeline

from t5lite import config as config_lib
from t5lite import tasks
from t5lite.data import task_rows
from t5lite.tasks import metrics
from t5lite.tasks import rendering


def examples(task: config_lib.Task, split: str) -> list[rendering.Example]:
  """Returns the rows of a split; as an encoder's, so that inputs are bare."""
  return list(task_rows.open(task, split, 'encoder').documents())


def answers(task: config_lib.Task) -> dict[str, list[str]]:
  """Returns the answers of each baseline to the test rows."""
  train, test = examples(task, task.train), examples(task, task.test)
  texts = [one.inputs[0] for one in test]
  commonest = collections.Counter(one.targets for one in train).most_common(1)[0][0]
  found = {'commonest answer': [commonest] * len(test)}
  if task.labels:
    model = pipeline.make_pipeline(
      feature_extraction.text.TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2)),
      linear_model.LogisticRegression(C=10, max_iter=200),
    )
    model.fit([one.inputs[0] for one in train], [one.targets for one in train])
    return found | {'tf-idf and logistic regression': list(model.predict(texts))}
  words = round(float(np.mean([len(one.targets.split()) for one in train])))
  first = [' '.join(text.split()[:words]) for text in texts]
  return found | {'copy of the input': texts, 'first words': first}


def main(output: str) -> None:
  results = {}
  for task in tasks.starter.TASKS:
    references = [one.references for one in examples(task, task.test)]
    results[task.name] = {}
    for name, given in answers(task).items():
      values = {}
      for metric in task.metrics:
        several = references if metric in metrics.MANY else [one[0] for one in references]
        values |= metrics.compute(metric, given, several)
      results[task.name][name] = {k: v for k, v in values.items() if '/' not in k}
      shown = '  '.join(f'{key} {value:.4g}' for key, value in results[task.name][name].items())
      print(f'{task.name}  {name}  {shown}', flush=True)
  pathlib.Path(output).write_text(json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
  main(*sys.argv[1:])
