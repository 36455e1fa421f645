"""The table of docs/tasks.md: the runs of launch/starter_tasks.sh beside the simple baselines.

    python tests/benchmarks/task_table.py RUNS

Baselines are worked out once and kept in RUNS/baselines.json.
"""

import json
import pathlib
import sys

import task_baselines

from t5lite import tasks

HEADLINE = {  # the metric that a task is compared by
  'classify_debian_section': 'accuracy',
  'translate_en_de_debian': 'bleu',
  'summarize_debian': 'rougeL',
  'dialogue_chitchat': 'rougeL',
  'qa_quiz_closed_book': 'token_f1',
}
DIALOGUE, HITS = 'dialogue_chitchat', 'hits@1'  # of dialogue_choice.py, whose file it is in
RUNS = {
  'T5': 't5-pretrained-{}',
  'T5, not pre-trained': 't5-scratch-{}',
  'T5, one for all tasks': 't5-all',
  'GPT': 'gpt-pretrained-{}',
  'GPT, not pre-trained': 'gpt-scratch-{}',
  'BERT': 'bert-pretrained-{}',
  'BERT, not pre-trained': 'bert-scratch-{}',
}
BASELINES = (
  *('commonest answer', 'tf-idf and logistic regression'),
  *('copy of the input', 'first words'),
)


def results(runs: pathlib.Path) -> dict[str, dict[str, float]]:
  """Returns {row: {task: its headline metric, HITS: of dialogues}}, without what is not there."""
  baselines = runs / 'baselines.json'
  if not baselines.exists():
    task_baselines.main(str(baselines))
  given = json.loads(baselines.read_text())
  table = {
    name: {task: given[task][name][HEADLINE[task]] for task in HEADLINE if name in given[task]}
    for name in BASELINES
  }
  for name, folder in RUNS.items():
    table[name] = {}
    for task in HEADLINE:
      path = runs / folder.format(task) / 'tasks' / f'{task}-test.json'
      if path.exists():
        table[name][task] = json.loads(path.read_text())['values'][HEADLINE[task]]
    choice = runs / folder.format(DIALOGUE) / 'dialogue_choice.json'
    if choice.exists():
      table[name][HITS] = json.loads(choice.read_text())[HITS]
  return table


def main(runs: str) -> None:
  assert HEADLINE.keys() == {task.name for task in tasks.starter.TASKS}
  table = results(pathlib.Path(runs))  # which says what it works out
  heads = [*(f'{task}, {metric}' for task, metric in HEADLINE.items()), f'{DIALOGUE}, {HITS}']
  print('| | ' + ' | '.join(heads) + ' |')
  print('| --- |' + ' --- |' * len(heads))
  for name, values in table.items():
    cells = [f'{values[task]:.3f}' if task in values else '-' for task in (*HEADLINE, HITS)]
    print(f'| {name} | ' + ' | '.join(cells) + ' |')


if __name__ == '__main__':
  main(*sys.argv[1:])
