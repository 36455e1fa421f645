"""What is installed: the import, the pinned versions, the wheel and the source archive."""

import ast
import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
from typing import Any
import zipfile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
import pytest

ROOT = pathlib.Path(__file__).parents[1]
CONSTRAINTS = {name: ROOT / f'launch/constraints-{name}.txt' for name in ('3.11', '3.12')}
THIS_PYTHON = '3.11' if sys.version_info < (3, 12) else '3.12'  # 3.12 and newer
# Never in an environment made by launch/, but for the tests beside torch: what users of older
# stacks were hurt by.
BANNED = {
  'tensorflow',
  'tensorflow-cpu',
  'tf-nightly',
  'keras',
  'torch',
  'seqio',
  't5',
  't5x',
  'clu',
}


def test_import_is_quick_and_leaves_jax_alone():
  program = """
import sys, time
start = time.process_time()
import t5lite
assert 'jax' not in sys.modules and 'numpy' not in sys.modules
print(time.process_time() - start)
"""
  out = subprocess.run([sys.executable, '-c', program], cwd=ROOT, check=True, capture_output=True)
  assert float(out.stdout) < 0.2


@pytest.mark.parametrize('python', CONSTRAINTS)
def test_constraints_are_plain_pins_of_allowed_packages(python):
  lines = CONSTRAINTS[python].read_text().splitlines()
  assert [line for line in lines if not re.fullmatch(r'[\w.-]+==[\w.]+', line)] == []
  assert len(pins(python)) == len(lines), 'a package is pinned twice'
  assert not pins(python).keys() & BANNED


@pytest.mark.parametrize('python', CONSTRAINTS)
def test_constraints_pin_what_setup_asks_for(python):
  extras = [extra for extra in EXTRAS if extra != 'parity']  # the one for peers, torch among them
  asked = [requirement for extra in ('', *extras) for requirement in asked_by(extra)]
  pinned = pins(python)
  assert [str(r) for r in asked if r.name not in pinned] == []
  assert [str(r) for r in asked if not r.specifier.contains(pinned[r.name])] == []


def test_all_that_is_installed_for_it_is_pinned_and_allowed():
  needed = closure([*asked_by(''), *asked_by('dev')])
  assert len(needed) > 80, 'the walk stopped early'
  assert needed - pins(THIS_PYTHON).keys() == set()
  assert not needed & BANNED


@pytest.mark.slow
def test_wheel_and_source_archive_are_whole(tmp_path):
  source = tmp_path / 'source'
  shutil.copytree(
    ROOT,
    source,
    ignore=shutil.ignore_patterns('.git', '.venv*', 'runs', '__pycache__', '*.egg-info'),
  )
  build = [sys.executable, '-m', 'build', '--outdir', str(tmp_path), str(source)]
  subprocess.run(build, check=True, capture_output=True, timeout=600)  # the wheel from the archive
  (archive,), (wheel,) = tmp_path.glob('*.tar.gz'), tmp_path.glob('*.whl')

  with tarfile.open(archive) as tar:
    archived = {name.partition('/')[2] for name in tar.getnames()}
  tracked = subprocess.run(
    ['git', 'ls-files'], cwd=ROOT, check=True, capture_output=True, text=True
  )
  assert set(tracked.stdout.split()) - archived <= {'.gitignore'}

  with zipfile.ZipFile(wheel) as file:
    packed = set(file.namelist())
    file.extractall(tmp_path / 'site')
  package = {path.relative_to(ROOT).as_posix() for path in ROOT.glob('t5lite/**/*.py')}
  assert package | {'t5lite/py.typed', 't5lite/insight/rating.js'} <= packed
  (metadata,) = (tmp_path / 'site').glob('*.dist-info')
  assert 't5lite = t5lite.main:main' in (metadata / 'entry_points.txt').read_text()
  licences = {path.name for path in (metadata / 'licenses').rglob('*') if path.is_file()}
  assert licences == {'LICENSE', 'NOTICE', 'LICENSE.sotu-moby.txt'}

  program = """
from t5lite.data import corpus
assert 'site' in str(corpus.TEXT), corpus.TEXT
assert corpus.TOKENIZER.is_file() and corpus.TEXT.with_name('NOTICE').is_file()
assert len(corpus.documents()) > 1000
"""
  subprocess.run([sys.executable, '-c', program], cwd=tmp_path / 'site', check=True)


def literal(name: str) -> Any:
  """Returns a list or dict that setup.py assigns to `name`."""
  for statement in ast.parse((ROOT / 'setup.py').read_text()).body:
    if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
      return ast.literal_eval(statement.value)
  raise KeyError(name)


def asked_by(extra: str) -> list[Requirement]:
  """Returns what setup.py asks for, '' without extras; an extra within an extra is spelled out."""
  texts = EXTRAS[extra] if extra else literal('REQUIRED')
  found = []
  for requirement in map(normalized, texts):
    if requirement.name == 't5lite':
      found += [inner for name in requirement.extras for inner in asked_by(name)]
    else:
      found.append(requirement)
  return found


def pins(python: str) -> dict[str, str]:
  """Returns the version of each package in the constraints for that Python."""
  lines = CONSTRAINTS[python].read_text().splitlines()
  return {normalized(line).name: line.partition('==')[2] for line in lines}


def closure(wanted: list[Requirement]) -> set[str]:
  """Returns the names of the installed packages that these bring, they included."""
  found: set[tuple[str, str]] = set()
  queue = list(wanted)
  while queue:
    requirement = queue.pop()
    for extra in {'', *requirement.extras} - {
      extra for name, extra in found if name == requirement.name
    }:
      found.add((requirement.name, extra))
      below = map(normalized, importlib.metadata.requires(requirement.name) or [])
      queue += [r for r in below if not r.marker or r.marker.evaluate({'extra': extra})]
  return {name for name, _ in found}


def normalized(text: str) -> Requirement:
  """Returns the requirement, its name as the package index compares names."""
  requirement = Requirement(text)
  requirement.name = str(canonicalize_name(requirement.name))
  return requirement


EXTRAS = literal('EXTRAS')
