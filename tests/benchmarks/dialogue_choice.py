"""How often a model of dialogues knows which of ten replies was given to what came before.

    python tests/benchmarks/dialogue_choice.py WORKDIR...

Hits@1 of 10, as of PersonaChat (Zhang et al. 2018), which has 20, on 1,000 test rows of
dialogue_chitchat. The reply chosen is that of which the inputs tell most: whose log-likelihood is
most above that without inputs (Li et al. 2016, mutual information). By likelihood alone short and
common replies win. It is kept in WORKDIR/dialogue_choice.json and not worked out again.
"""

from collections.abc import Sequence
import json
import pathlib
import sys

import jax
import numpy as np
from sklearn.feature_extraction import text as text_lib

from t5lite import evaluate
from t5lite import tasks
from t5lite.data import task_rows
from t5lite.data import tokenizer as tokenizer_lib
from t5lite.decoding import ranking
from t5lite.tasks import calibration
from t5lite.tasks import rendering

TASK = tasks.find('dialogue_chitchat')
FILE = 'dialogue_choice.json'
ROWS, CANDIDATES = 1000, 10


def examples(split: str) -> list[rendering.Example]:
  return list(task_rows.open(TASK, split, 'decoder').documents())


def rows(split: str) -> tuple[list[str], list[list[str]], np.ndarray]:
  """Returns the inputs, the candidates of each, and which of them is right."""
  rng, known = np.random.default_rng(0), examples(split)
  assert len({one.targets for one in known}) > ROWS
  texts, candidates, right = [], [], rng.integers(CANDIDATES, size=ROWS)
  for number, place in zip(rng.permutation(len(known))[:ROWS], right, strict=True):
    given, target = known[number].inputs[0], known[number].targets
    others: list[str] = []
    while len(others) < CANDIDATES - 1:
      other = known[rng.integers(len(known))].targets
      if other not in given and other not in [target, *others]:
        others.append(other)
    texts.append(given)
    candidates.append([*others[:place], target, *others[place:]])
  return texts, candidates, right


def chosen(
  workdir: pathlib.Path, texts: Sequence[str], candidates: Sequence[Sequence[str]]
) -> np.ndarray:
  """Returns which candidates a model chooses."""
  config, mesh, params, _ = evaluate.load(workdir)
  tokenizer, longest = tokenizer_lib.load(config.data.tokenizer), config.data.input_length
  without = [TASK.inputs.format(input='')] * len(texts)
  with jax.set_mesh(mesh):
    behind, alone = (
      ranking.rank(config, params, tokenizer, given, candidates, longest=longest)
      for given in (texts, without)
    )
  gains = [
    [
      one.log_likelihood - other.log_likelihood
      for one, other in zip(a.scores, b.scores, strict=True)
    ]
    for a, b in zip(behind, alone, strict=True)
  ]
  return np.argmax(gains, axis=1)


def most_alike(texts: Sequence[str], candidates: Sequence[Sequence[str]]) -> np.ndarray:
  """Returns which candidates share most words with the inputs, by tf-idf."""
  vectors = text_lib.TfidfVectorizer(sublinear_tf=True)
  vectors.fit([one.inputs[0] for one in examples(TASK.train)])
  given = vectors.transform(texts)
  cosines = [
    (vectors.transform(each) @ row.T).toarray()[:, 0]
    for row, each in zip(given, candidates, strict=True)
  ]
  return np.argmax(cosines, axis=1)


def main(*workdirs: str) -> None:
  missing = [path for path in map(pathlib.Path, workdirs) if not (path / FILE).exists()]
  if not missing:
    return
  texts, candidates, right = rows(TASK.test)
  print(f'tf-idf  hits@1 {np.mean(most_alike(texts, candidates) == right):.3f}', flush=True)
  for path in missing:
    share = float(np.mean(chosen(path, texts, candidates) == right))
    (path / FILE).write_text(json.dumps({'hits@1': share}) + '\n')
    low, high = calibration.interval(share * ROWS, ROWS)
    print(f'{path}  hits@1 {share:.3f}  95 % {low:.3f} to {high:.3f}', flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
