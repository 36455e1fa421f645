"""How often a model of dialogues finds the reply that was given likelier than nine others.

    python tests/benchmarks/dialogue_choice.py WORKDIR...

Hits@1 of 10, as of PersonaChat (Zhang et al. 2018), which has 20, by log-likelihood per character,
on 1,000 test rows of dialogue_chitchat. It is kept in WORKDIR/dialogue_choice.json and not worked
out again.
"""

import json
import pathlib
import sys

import jax
import numpy as np

from t5lite import evaluate
from t5lite import tasks
from t5lite.data import task_rows
from t5lite.data import tokenizer as tokenizer_lib
from t5lite.decoding import ranking
from t5lite.tasks import calibration

TASK = 'dialogue_chitchat'
FILE = 'dialogue_choice.json'
ROWS, CANDIDATES = 1000, 10


def rows() -> tuple[list[str], list[list[str]], np.ndarray]:
  """Returns the inputs, the candidates of each, and which of them is right."""
  task, rng = tasks.find(TASK, ()), np.random.default_rng(0)
  examples = list(task_rows.open(task, task.test, 'decoder').documents())
  assert len({one.targets for one in examples}) > ROWS
  texts, candidates, right = [], [], rng.integers(CANDIDATES, size=ROWS)
  for number, place in zip(rng.permutation(len(examples))[:ROWS], right, strict=True):
    given, target = examples[number].inputs[0], examples[number].targets
    others: list[str] = []
    while len(others) < CANDIDATES - 1:
      other = examples[rng.integers(len(examples))].targets
      if other not in given and other not in [target, *others]:
        others.append(other)
    texts.append(given)
    candidates.append([*others[:place], target, *others[place:]])
  return texts, candidates, right


def main(*workdirs: str) -> None:
  missing = [path for path in (pathlib.Path(each) / FILE for each in workdirs) if not path.exists()]
  if not missing:
    return
  texts, candidates, right = rows()
  for path in missing:
    workdir = path.parent
    config, mesh, params, _ = evaluate.load(workdir)
    tokenizer = tokenizer_lib.load(config.data.tokenizer)
    with jax.set_mesh(mesh):
      found = ranking.rank(
        config, params, tokenizer, texts, candidates, longest=config.data.input_length
      )
    share = float(np.mean([one.best_by_length for one in found] == right))
    path.write_text(json.dumps({'hits@1': share}) + '\n')
    low, high = calibration.interval(share * ROWS, ROWS)
    print(f'{workdir}  hits@1 {share:.3f}  95 % {low:.3f} to {high:.3f}', flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
