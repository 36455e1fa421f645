"""launch/starter_tasks.sh from nothing to its table, with a stand-in for the hours of training."""

import json
import lzma
import os
import pathlib
import subprocess
import sys

import pytest

import stand_ins
from t5lite import tasks

ROOT = pathlib.Path(__file__).parents[1]
# Of the script's environment: installs nothing, and is Python otherwise.
PYTHON = f"""#!/bin/sh
if [ "$1 $2" = '-m pip' ]; then exit 0; fi
exec {sys.executable} "$@"
"""
# Takes the flags that t5lite takes, of runs that begin with one that is there; trains nothing.
T5LITE = f"""#!{sys.executable}
import json, os, pathlib, sys

from t5lite import config
from t5lite import main

name, *arguments = sys.argv[1:]
f = main.parse(name, arguments)
with open(os.environ['CALLS'], 'a') as file:
  file.write(json.dumps([name, *arguments]) + '\\n')
if name == 'tokenizer':
  pathlib.Path(f.output).touch()
elif name == 'train':
  made = config.load(f.config, f.set)
  assert pathlib.Path(made.data.tokenizer).is_file() or made.data.tokenizer == 'corpus'
  assert not made.init_from or (pathlib.Path(made.init_from) / 'config.json').is_file()
  pathlib.Path(f.workdir).mkdir(exist_ok=True)
  config.save(made, f'{{f.workdir}}/config.json')
else:
  (task,) = f.tasks
  folder = pathlib.Path(f.workdir)
  assert f'task:{{task}}' in (folder / 'config.json').read_text()
  (folder / 'tasks').mkdir(exist_ok=True)
  values = dict.fromkeys(('accuracy', 'bleu', 'rougeL', 'token_f1'), 0.5)
  (folder / f'tasks/{{task}}-test.json').write_text(json.dumps({{'values': values}}))
  (folder / 'dialogue_choice.json').write_text(json.dumps({{'hits@1': 0.25}}))
"""


@pytest.mark.slow
def test_the_script_makes_the_table_and_judges_once(tmp_path):
  sections = tasks.starter.SECTIONS
  for task in tasks.starter.TASKS:
    rows = [
      {
        'input': f'a package for {sections[i % 3]}',
        'target': sections[i % 3] if task.labels else 'it is for all',
        'split': ('train', 'test')[i % 2],
      }
      for i in range(24)
    ]
    with lzma.open(tmp_path / f'{task.name}.jsonl.xz', 'wt') as file:
      file.writelines(json.dumps(row) + '\n' for row in rows)
  (tmp_path / 'text.txt').write_text('A text. ' * 9)
  stand_ins.program(tmp_path / 'venv/bin/python', PYTHON)
  stand_ins.program(tmp_path / 'venv/bin/t5lite', T5LITE)
  calls = tmp_path / 'calls'
  environment = {'T5LITE_VENV': str(tmp_path / 'venv'), 'CALLS': str(calls)}

  def run() -> list[str]:
    done = subprocess.run(
      ['bash', 'launch/starter_tasks.sh', tmp_path / 'text.txt', tmp_path, tmp_path / 'runs'],
      cwd=ROOT,
      env=os.environ | environment,
      capture_output=True,
      text=True,
      check=False,
      timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-13:]

  table = run()
  first = [name for name, *_ in stand_ins.noted(calls)]
  assert (first.count('train'), first.count('evaluate')) == (27, 27)
  assert table[0].startswith('| | classify_debian_section, accuracy | translate_en_de_debian, bleu')
  assert table[0].endswith('| qa_quiz_closed_book, token_f1 | dialogue_chitchat, hits@1 |')
  assert '| tf-idf and logistic regression | 1.000 | - | - | - | - | - |' in table
  for name in ('T5', 'T5, not pre-trained', 'T5, one for all tasks', 'GPT', 'GPT, not pre-trained'):
    assert f'| {name} | 0.500 | 0.500 | 0.500 | 0.500 | 0.500 | 0.250 |' in table
  for name in ('BERT', 'BERT, not pre-trained'):
    assert f'| {name} | 0.500 | - | - | - | - | - |' in table

  assert run() == table
  assert [name for name, *_ in stand_ins.noted(calls)] == ['train'] * 27  # which go on, if they can
