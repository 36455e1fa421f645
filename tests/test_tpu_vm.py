"""launch/tpu_vm.sh and its part on the workers: what they ask of gcloud, and when they go on.

A stand-in for gcloud notes what it is asked; what is to run on a worker runs here, in a home of
its own.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest

import stand_ins

ROOT = pathlib.Path(__file__).parents[1]
SENT = ('configs', 'launch', 't5lite')
COPIED = 'nothing copied yet'  # but the slice is there
TPU = ['--name=my-slice', '--zone=us-east5-b']

GCLOUD = """#!{python}
import json, os, pathlib, shutil, subprocess, sys
folder, arguments = pathlib.Path({folder!r}), sys.argv[1:]
with open(folder / 'calls', 'a') as calls:
  print(json.dumps(arguments), file=calls)
values = dict(word.split('=', 1) for word in arguments if '=' in word)
chosen = values.get('--worker', '')
homes = [folder / name for name in (['0', '1'] if chosen == 'all' else [chosen])]
codes = [int(os.environ.get('GCLOUD_CODE', '0'))]
match arguments[3]:
  case 'ssh':
    run = lambda home: subprocess.run(['bash', '-c', values['--command']], cwd=home).returncode
    codes = [run(home) for home in homes]
  case 'scp':
    for home in homes:
      shutil.copy(arguments[4], home)
  case 'describe':
    print(os.environ['STATE'])
sys.exit(max(codes))
"""
# Ends with the next code of the file `codes`; `wait` is until it is told to stop.
T5LITE = """#!{python}
import json, pathlib, signal, sys
root = pathlib.Path(__file__).parents[2]
with open(root / 'runs', 'a') as runs:
  print(json.dumps(sys.argv[1:]), file=runs)
code, *rest = (root / 'codes').read_text().split()
(root / 'codes').write_text(' '.join(rest))
if code == 'wait':
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
  print('step 1', flush=True)
  signal.pause()
sys.exit(int(code))
"""


class Cloud:
  """A gcloud that reaches two workers, and what to run there in place of t5lite."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.homes = [folder / '0', folder / '1']
    stand_ins.program(
      folder / 'bin/gcloud', GCLOUD.format(python=sys.executable, folder=str(folder))
    )
    stand_ins.program(folder / 'bin/sleep', '#!/bin/sh\n')
    for home in self.homes:
      stand_ins.program(home / 't5lite/.venv/bin/t5lite', T5LITE.format(python=sys.executable))
      shutil.copytree(ROOT / 'launch', home / 't5lite/launch')

  def bash(self, *arguments: str, cwd=ROOT, **environment: str) -> tuple[int, str, str]:
    """Runs bash with gcloud in its PATH; returns its exit code and what it wrote, by stream."""
    unset = ('TPU_NAME', 'TPU_ZONE', 'TPU_TYPE')
    variables = {name: value for name, value in os.environ.items() if name not in unset}
    variables |= {'PATH': f'{self.folder}/bin:{os.environ["PATH"]}'} | environment
    command = [shutil.which('bash') or 'bash', *arguments]
    done = subprocess.run(
      command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr

  def tpu(self, verb: str, *arguments: str, cwd=ROOT) -> list[list[str]]:
    """Returns what a verb, which must succeed, has asked of gcloud."""
    code, _, error = self.bash('launch/tpu_vm.sh', verb, *TPU, *arguments, cwd=cwd)
    assert code == 0, error
    return stand_ins.noted(self.folder / 'calls')

  def ends_with(self, *codes: object) -> None:
    for home in self.homes:
      (home / 't5lite/codes').write_text(' '.join(map(str, codes)))

  def wait_for(self, name: str) -> list[str]:
    """Returns the text of a file of t5lite on each worker, once it is not empty."""
    paths = [home / 't5lite' / name for home in self.homes]
    for _ in range(500):
      if all(path.exists() and path.stat().st_size for path in paths):
        return [path.read_text() for path in paths]
      time.sleep(0.02)
    raise AssertionError(f'no {name}')


@pytest.fixture
def cloud(tmp_path):
  cloud = Cloud(tmp_path)
  yield cloud
  for home in cloud.homes:  # a test that failed may have left one that waits
    cloud.bash('launch/tpu_worker.sh', 'stop', cwd=home / 't5lite')


CREATE = ['create', '--type=v6e-32']
PLAIN = ['compute', 'tpus', 'tpu-vm']
QUEUED = ['compute', 'tpus', 'queued-resources']


@pytest.mark.parametrize(
  ('arguments', 'call'),
  [
    (CREATE, '--accelerator-type=v6e-32 --version=v2-alpha-tpuv6e'),
    ([*CREATE, '--spot', '--version=x'], '--accelerator-type=v6e-32 --version=x --spot'),
    (
      [*CREATE, '--queued', '--spot', '--project=p', '--', '--network=n'],
      '--accelerator-type=v6e-32 --runtime-version=v2-alpha-tpuv6e --spot --network=n',
    ),
    (['delete'], '--quiet'),
    (['delete', '--queued'], '--force --quiet'),
  ],
)
def test_slice_is_made_and_deleted_by_these_calls(cloud, arguments, call):
  is_queued = '--queued' in arguments
  expected = [*(QUEUED if is_queued else PLAIN), arguments[0], 'my-slice']
  if is_queued and arguments[0] == 'create':
    expected += ['--node-id=my-slice']
  expected += ['--zone=us-east5-b', *(['--project=p'] if '--project=p' in arguments else [])]
  assert cloud.tpu(*arguments) == [[*expected, *call.split()]]


@pytest.mark.parametrize(
  ('kind', 'version'),
  [
    ('v5litepod-16', 'v2-alpha-tpuv5-lite'),
    ('v5p-16', 'v2-alpha-tpuv5'),
    ('v4-16', 'tpu-ubuntu2204-base'),
  ],
)
def test_version_follows_the_type(cloud, kind, version):
  environment = {'TPU_NAME': 'a', 'TPU_ZONE': 'b', 'TPU_TYPE': kind}
  code, _, error = cloud.bash('launch/tpu_vm.sh', 'create', **environment)
  assert code == 0, error
  assert f'--version={version}' in stand_ins.noted(cloud.folder / 'calls')[0]


@pytest.mark.parametrize(
  'arguments',
  [[*CREATE, '--queued'], ['delete'], ['logs', '--worker=1'], ['run', '--', *stand_ins.AWKWARD]],
)
def test_dry_run_prints_what_a_run_calls(cloud, arguments):
  words = [arguments[0], *TPU, '--dry-run', *arguments[1:]]
  code, out, error = cloud.bash('launch/tpu_vm.sh', *words, PATH=os.environ['PATH'])
  assert (code, error, stand_ins.noted(cloud.folder / 'calls')) == (0, '', [])
  stand_ins.program(cloud.folder / 'bin/tail', '#!/bin/sh\n')  # logs would follow for ever
  cloud.ends_with(0)
  cloud.bash('-c', out)
  printed = stand_ins.noted(cloud.folder / 'calls')
  cloud.wait_for('train.exit' if arguments[0] == 'run' else 'codes')
  cloud.ends_with(0)
  assert printed == cloud.tpu(*arguments) != []


def test_all_that_has_gone_wrong_is_a_line(cloud):
  def says(*arguments: str, **environment: str) -> tuple[int, str]:
    code, out, error = cloud.bash('launch/tpu_vm.sh', *arguments, **environment)
    assert out == '' and re.fullmatch(r't5lite: [^\n]+: [^\n]+: [^\n]+\n', error)
    return code, error.split(': ')[1] + ': ' + error.split(': ')[2]

  name, zone = TPU
  assert says('launch') == (64, 'unknown verb: launch')
  assert says('run', zone, '--', '--config=x') == (64, 'missing flag: --name')
  assert says('logs', name) == (64, 'missing flag: --zone')
  assert says('create', *TPU) == (64, 'missing flag: --type')
  assert says('create', *TPU, '--spoot') == (64, 'wrong flag: --spoot')
  assert says('run', *TPU) == (64, 'missing arguments: run')
  assert says('delete', *TPU, '--', 'x') == (64, 'unexpected argument: x')
  assert stand_ins.noted(cloud.folder / 'calls') == []
  assert says('delete', *TPU, GCLOUD_CODE='3')[0] == 69
  (cloud.folder / 'bin/gcloud').unlink()
  for tool in ('bash', 'dirname'):
    (cloud.folder / 'bin' / tool).symlink_to(shutil.which(tool) or tool)
  assert says('delete', *TPU, PATH=f'{cloud.folder}/bin') == (69, 'no gcloud: PATH')


def test_usage_names_every_verb_and_flag(cloud):
  code, out, error = cloud.bash('launch/tpu_vm.sh', '--help')
  assert (code, error) == (0, '')
  text = (ROOT / 'launch/tpu_vm.sh').read_text()
  (verbs,) = re.findall(r'^  (create \| .*)\) ;;$', text, re.MULTILINE)
  taken = re.findall(r'^    (--[a-z_-]+)=?\*?\)', text, re.MULTILINE)
  assert len(taken) >= 9
  assert set(verbs.split(' | ')) == set(re.findall(r'^  ([a-z]+) ', out, re.MULTILINE))
  assert set(taken) - {'--'} == set(re.findall(r'^  (--[a-z-]+)', out, re.MULTILINE))


def test_copy_brings_the_checkout_and_installs_it(cloud):
  checkout = cloud.folder / 'a checkout'
  for folder in SENT:
    shutil.copytree(ROOT / folder, checkout / folder)
  for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, checkout)
  (checkout / 'configs/__pycache__').mkdir(exist_ok=True)
  (checkout / 'configs/__pycache__/junk.pyc').touch()
  python = '#!/bin/sh\ncase "$*" in "-m pip install"*) echo "$@" >pip ;; *) exec {} "$@" ;; esac\n'
  for home in cloud.homes:
    stand_ins.program(home / 't5lite/.venv/bin/python', python.format(sys.executable))
    (home / 't5lite/t5lite').mkdir()
    (home / 't5lite/t5lite/gone.py').touch()
  scp, ssh = cloud.tpu('copy', cwd=checkout)
  assert not pathlib.Path(scp[4]).parent.exists()
  assert scp[:4] + scp[5:] == [*PLAIN, 'scp', 'my-slice:', '--zone=us-east5-b', '--worker=all']
  assert ssh[:7] == [*PLAIN, 'ssh', 'my-slice', '--zone=us-east5-b', '--worker=all']
  sent = {name for name in files(ROOT) if '__pycache__' not in name.parts}
  for home in cloud.homes:
    assert files(home / 't5lite') == sent
    installed = (home / 't5lite/pip').read_text()
    assert re.search(r'--constraint launch/constraints.* .\[tpu\]$', installed)


def files(root: pathlib.Path) -> set[pathlib.Path]:
  """Returns the files of the folders that are sent, relative to `root`."""
  paths = [path for folder in SENT for path in (root / folder).rglob('*')]
  return {path.relative_to(root) for path in paths if path.is_file()}


def test_arguments_reach_t5lite_unchanged(cloud):
  cloud.ends_with(0)
  (call,) = cloud.tpu('run', '--', *stand_ins.AWKWARD)
  assert call[:-1] == [*PLAIN, 'ssh', 'my-slice', '--zone=us-east5-b', '--worker=all']
  assert cloud.wait_for('train.exit') == ['0\n', '0\n']
  for home in cloud.homes:
    assert stand_ins.noted(home / 't5lite/runs') == [
      ['train', '--coordinator=auto', *stand_ins.AWKWARD]
    ]


def test_run_is_watched_kept_from_a_second_one_and_stopped(cloud):
  def status() -> list[str]:
    code, out, error = cloud.bash('launch/tpu_vm.sh', 'status', *TPU, STATE='READY')
    assert code == 0, error
    state, *workers = out.splitlines()
    assert state == 'READY' and len(workers) == 2
    return [line.partition(': ')[2] for line in workers]

  assert status() == ['not started'] * 2
  cloud.ends_with('wait', 0)
  cloud.tpu('run', '--', '--config=x')
  assert cloud.wait_for('train.log') == ['step 1\n'] * 2
  assert status() == ['running: step 1'] * 2
  code, _, error = cloud.bash('launch/tpu_vm.sh', 'run', *TPU, '--', '--config=x')
  assert code == 69 and error.count('t5lite: a run is in progress') == 2
  code, _, error = cloud.bash('launch/tpu_vm.sh', 'copy', *TPU)
  assert code == 69 and error.count('t5lite: a run is in progress') == 2
  assert all((home / 't5lite/launch/tpu_worker.sh').is_file() for home in cloud.homes)
  cloud.tpu('stop')
  assert cloud.wait_for('train.exit') == ['75\n'] * 2  # and not again, though it is 75
  assert [len(stand_ins.noted(home / 't5lite/runs')) for home in cloud.homes] == [1, 1]
  for _ in range(100):
    if status() == ['ended with exit code 75: step 1'] * 2:
      break
  assert status() == ['ended with exit code 75: step 1'] * 2
  assert cloud.bash('launch/tpu_vm.sh', 'stop', *TPU)[0] == 69


@pytest.mark.parametrize(
  ('state', 'says'),
  [('SUSPENDED', 'It is gone'), ('FAILED', 'It is gone'), ('PROVISIONING', ''), ('ACTIVE', COPIED)],
)
def test_status_of_a_queued_slice(cloud, state, says):
  for home in cloud.homes:
    shutil.rmtree(home / 't5lite/launch')
  code, out, _ = cloud.bash('launch/tpu_vm.sh', 'status', *TPU, '--queued', STATE=state)
  assert code == 0 and out.startswith(state + '\n')
  assert (says in out) if says else out == state + '\n'
  describe, *others = stand_ins.noted(cloud.folder / 'calls')
  assert describe[:5] == [*QUEUED, 'describe', 'my-slice']
  assert len(others) == (state == 'ACTIVE')


@pytest.mark.parametrize(
  ('codes', 'runs'),
  [
    ([0], 1),
    ([75, 75, 75, 75, 75, 75, 0], 7),
    ([67, 0], 1),
    ([139, 0], 1),
    ([1, 0], 1),
    ([69, 134, 137, 0], 4),
    ([69, 69, 69, 69, 0], 4),
    ([69, 69, 75, 69, 69, 134, 69, 0], 7),
  ],
)
def test_worker_goes_on_as_exit_codes_say(cloud, codes, runs):
  cloud.ends_with(*codes)
  root = cloud.homes[0] / 't5lite'
  code, _, error = cloud.bash('launch/tpu_worker.sh', 'supervise', '--config=x', cwd=root)
  assert (code, error) == (codes[runs - 1], '')
  assert stand_ins.noted(root / 'runs') == [['train', '--coordinator=auto', '--config=x']] * runs
  assert (root / 'train.exit').read_text() == f'{code}\n'
