"""The scripts of launch/: what they say when they cannot start, and what a second run keeps."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = 'import setuptools\nsetuptools.setup(name="t5lite", version="0", py_modules=[])\n'
ENTER = 'set -euo pipefail; source launch/environment.sh; enter_environment; command -v python'


def bash(*arguments: str, cwd: pathlib.Path = ROOT, **environment: str) -> tuple[int, str, str]:
  """Runs bash with the arguments; returns its exit code and what it wrote, by stream."""
  unset = ('PYTHON', 'T5LITE_VENV', 'XLA_FLAGS')  # a user's machine: no 8 simulated devices
  variables = {name: value for name, value in os.environ.items() if name not in unset}
  done = subprocess.run(
    [shutil.which('bash') or 'bash', *arguments],
    cwd=cwd,
    env=variables | environment,
    capture_output=True,
    text=True,
    timeout=1500,
  )
  return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize('arguments', [['t6'], ['--help'], ['t5', 'bert'], ['bert', '']])
def test_quickstart_names_its_families(arguments):
  usage = 'usage: bash launch/quickstart.sh [t5|bert|gpt]\n'
  assert bash('launch/quickstart.sh', *arguments) == (64, '', usage)


@pytest.fixture
def checkout(tmp_path):
  """A checkout of nothing but the environment script and a package that needs nothing."""
  folder = tmp_path / 'a check out'
  (folder / 'launch').mkdir(parents=True)
  shutil.copy(ROOT / 'launch/environment.sh', folder / 'launch')
  (folder / 'setup.py').write_text(PACKAGE)
  for name in ('constraints-3.11.txt', 'constraints-3.12.txt'):
    (folder / 'launch' / name).touch()
  return folder


def test_no_python_is_said_in_one_line(checkout):
  bin = checkout / 'bin'
  bin.mkdir()
  code, out, error = bash('-c', ENTER, cwd=checkout, PATH=str(bin))
  assert (code, out) == (69, '')
  assert re.fullmatch(r't5lite: no Python 3.11 or newer: PATH: install one.*PYTHON.*\n', error)

  old = checkout / 'python3.10'
  old.write_text(f'#!/bin/sh\n{sys.executable} -c "import sys; sys.version_info = (3, 10); $2"\n')
  old.chmod(0o755)
  code, out, error = bash('-c', ENTER, cwd=checkout, PYTHON=str(old))
  assert (code, out) == (69, '')
  assert re.fullmatch(r't5lite: no Python 3.11 or newer: /.*/python3.10: .*\n', error)


def test_python_without_ensurepip_is_said_in_one_line(checkout):
  (checkout / 'broken').mkdir()
  (checkout / 'broken/ensurepip.py').write_text('raise ImportError')
  python = {'PYTHON': sys.executable, 'PYTHONPATH': str(checkout / 'broken')}
  code, out, error = bash('-c', ENTER, cwd=checkout, **python)
  assert (code, out) == (69, '')
  assert re.fullmatch(r't5lite: this Python cannot make.*: /.*: .*python3-venv.*\n', error)


@pytest.mark.slow
def test_environment_is_kept_moved_and_mended(checkout):
  def enter(**environment: str) -> tuple[list[str], str]:
    code, out, error = bash('-c', ENTER, cwd=checkout, **environment)
    assert code == 0, error
    *did, python = out.splitlines()
    return [line.split()[0] for line in did], python

  python = str(checkout / '.venv/bin/python')
  assert enter(PYTHON=sys.executable) == (['Making', 'Installing'], python)
  assert enter() == ([], python)
  (checkout / 'setup.py').write_text(PACKAGE + '\n')
  assert enter() == (['Installing'], python)

  checkout = checkout.rename(checkout.with_name('moved'))
  python = str(checkout / '.venv/bin/python')
  assert enter() == (['Installing'], python)
  (checkout / '.venv/bin/python').unlink()
  (checkout / '.venv/bin/python').symlink_to('/nowhere')
  assert enter(PYTHON=sys.executable) == (['Making', 'Installing'], python)


@pytest.mark.slow
def test_environment_of_another_python_is_refused(checkout):
  other = checkout / 'python'
  other.write_text('#!/bin/sh\necho 3.99\n')
  other.chmod(0o755)
  assert bash('-c', ENTER, cwd=checkout, PYTHON=sys.executable)[0] == 0
  code, out, error = bash('-c', ENTER, cwd=checkout, PYTHON=str(other))
  assert (code, out) == (69, '')
  assert re.fullmatch(r't5lite: the environment has another Python .*: .venv: remove it.*\n', error)


@pytest.mark.slow
def test_quickstart_ends_with_a_report_and_goes_on_from_what_is_there(tmp_path):
  checkout = tmp_path / 'checkout'
  junk = shutil.ignore_patterns('.*', 'runs', '__pycache__', '*.egg-info', 'build', 'dist')
  shutil.copytree(ROOT, checkout, ignore=junk)
  for config in checkout.glob('configs/tiny_*.py'):
    text, count = re.subn(r'\(steps=\d+', '(steps=40', config.read_text())
    assert count == 1
    config.write_text(text)

  def quickstart(*family: str, **environment: str) -> str:
    code, out, error = bash('launch/quickstart.sh', *family, cwd=checkout, **environment)
    assert code == 0, error
    report = out.splitlines()[-1].partition('Open ')[2]
    assert '<svg' in pathlib.Path(report).read_text()
    return out

  out = quickstart(PYTHON=sys.executable)
  assert [line[0] for line in out.splitlines() if re.match(r'\d\. ', line)] == list('12345')
  assert re.search(r'held-out loss [\d.]+ \(unigram entropy [\d.]+\)', out)
  assert '<extra_id_0>\n' in out and 'step 20/40' in out
  again = quickstart()
  assert 'Making' not in again and 'Installing' not in again and '1. Train' not in again
  assert 'nothing to do: 40 of 40 steps are done' in again and 'step 20/40' not in again
  assert '[MASK]\n' in quickstart('bert')
  assert re.search(r'\n\$ t5lite generate .*\n.+\n[^$]*\n5\. ', quickstart('gpt'))
