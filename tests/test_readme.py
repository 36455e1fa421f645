"""The README's code blocks run as they stand, on a smaller model."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from t5lite import config

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
SMALLER = ['train.steps=4', 'model.d_model=64', 'data.batch_size=4', 'eval.batches=1']


def blocks(language: str) -> list[str]:
  return re.findall(rf'^```{language}\n(.*?)^```', README, re.MULTILINE | re.DOTALL)


def run(command: list[str], folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
  environment = dict(os.environ, PYTHONPATH=str(ROOT), XDG_CACHE_HOME=str(folder / 'cache'))
  del environment['XLA_FLAGS']  # one device, as a reader has
  return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path):
  """A directory with the configs where the README has them."""
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  return tmp_path


def test_python_blocks_run(folder):
  (block,) = blocks('python')
  check = 'assert logits.shape == (4, 128, 8192), logits.shape\n'
  done = run([sys.executable, '-c', block + check], folder)
  assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_commands_run(folder):
  (block,) = blocks('bash')
  commands = block.strip().splitlines()
  assert len(commands) >= 5
  for command in commands:
    name, *arguments = shlex.split(command)
    assert name == 't5lite'
    if arguments[0] == 'train':
      arguments += [f'--set={override}' for override in SMALLER]
    done = run([sys.executable, '-m', 't5lite', *arguments], folder)
    assert done.returncode == 0, f'{command}: {done.stderr}'
  assert (folder / 'runs/t5/report.html').is_file()


def test_first_commands_are_scripts_that_are_there():
  (block,) = blocks('sh')
  scripts = [line.split()[1] for line in block.strip().splitlines()]
  assert scripts == ['launch/quickstart.sh', 'launch/test.sh']
  assert all((ROOT / script).is_file() for script in scripts)


def test_the_task_in_the_docs_is_a_config(tmp_path):
  text = (ROOT / 'docs/tasks.md').read_text()
  (block,) = re.findall(r'^```python\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
  (tmp_path / 'config.py').write_text(block)
  run = config.load(tmp_path / 'config.py')
  assert [task.name for task in run.tasks] == ['reviews'] and run.eval.tasks == ('reviews',)
