"""The launchers for Slurm and Kubernetes, and the page about all of them."""

from collections.abc import Iterable
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

import stand_ins
from t5lite import errors
from t5lite import main

ROOT = pathlib.Path(__file__).parents[1]
DOCS = (ROOT / 'docs/launching.md').read_text()
SCRIPTS = ['launch/tpu_vm.sh', 'launch/tpu_worker.sh', 'launch/slurm.sbatch']


class Slurm:
  """A checkout, and a srun that ends with the code it is told."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    note = f'#!{sys.executable}\nimport json, os, sys\nwith open("{{0}}", "a") as calls:\n'
    note += '  print(json.dumps(sys.argv[1:]), file=calls)\nsys.exit(int(os.environ["{0}"]))\n'
    for name in ('srun', 'scontrol'):
      stand_ins.program(folder / 'bin' / name, note.format(name))
    stand_ins.program(folder / '.venv/bin/t5lite', '#!/bin/sh\n')

  def job(self, *arguments: str, srun: int = 0, scontrol: int = 0, **environment: str):
    """Returns exit code, errors, and the calls of srun and scontrol of one run of the script."""
    variables = {'PATH': f'{self.folder}/bin:{os.environ["PATH"]}', 'SLURM_JOB_ID': '7'}
    variables |= {'SLURM_JOB_NAME': 't5lite', 'SLURM_CPUS_PER_TASK': '8'}
    variables |= {'srun': str(srun), 'scontrol': str(scontrol)} | environment
    command = ['bash', str(ROOT / 'launch/slurm.sbatch'), *arguments]
    done = subprocess.run(
      command, cwd=self.folder, env=variables, capture_output=True, text=True, check=False
    )
    calls = [stand_ins.noted(self.folder / name) for name in ('srun', 'scontrol')]
    return done.returncode, done.stderr, *calls


@pytest.fixture
def slurm(tmp_path):
  return Slurm(tmp_path)


def test_slurm_hands_its_arguments_to_every_process(slurm):
  code, error, (srun,), scontrol = slurm.job(*stand_ins.AWKWARD)
  assert (code, error, scontrol) == (0, '', [])
  assert srun[srun.index('t5lite') :] == [
    't5lite',
    'train',
    '--coordinator=auto',
    *stand_ins.AWKWARD,
  ]
  assert {'--cpus-per-task=8', '--kill-on-bad-exit=0'} <= set(srun)


@pytest.mark.parametrize('code', [0, 1, 64, 65, 66, 67, 73, 75, 139])
def test_slurm_requeues_what_was_preempted_and_nothing_else(slurm, code):
  requeued = [['requeue', '7']] if code == 75 else []
  for _ in range(5):
    assert slurm.job(srun=code)[::3] == (code, requeued)


def test_slurm_requeues_lost_peers_three_times_in_a_row(slurm):
  codes = [69, 134, 137, 75, 69, 137, 134, 69]
  done = [slurm.job(srun=code) for code in codes]
  assert [bool(scontrol) for *_, scontrol in done] == [True] * 7 + [False]
  assert [code for code, *_ in done] == codes
  assert re.fullmatch(
    r't5lite: a process was lost four times in a row: t5lite-7.losses: .*\n', done[-1][1]
  )


def test_slurm_says_what_is_missing(slurm):
  assert slurm.job(srun=75, scontrol=1)[:2] == (
    75,
    't5lite: cannot requeue: job 7: submit the same command again: training goes on\n',
  )
  code, error, *calls = slurm.job(SLURM_JOB_ID='')
  assert (code, calls) == (64, [[], []]) and error.startswith('t5lite: not in a Slurm job: ')
  (slurm.folder / '.venv/bin/t5lite').unlink()
  code, error, *calls = slurm.job(PATH=f'{slurm.folder}/bin:/usr/bin:/bin')
  assert (code, calls) == (64, [[], []]) and error.startswith('t5lite: no t5lite: ')


def test_slurm_asks_for_one_process_a_gpu_that_can_be_requeued():
  text = (ROOT / 'launch/slurm.sbatch').read_text()
  asked = dict(re.findall(r'^#SBATCH --([a-z-]+)=?(.*)$', text, re.MULTILINE))
  assert asked['ntasks-per-node'] == asked['gpus-per-node']
  assert not {'gpus-per-task', 'gpu-bind', 'no-requeue'} & set(asked)
  assert asked['requeue'] == '' and asked['open-mode'] == 'append'
  assert re.fullmatch(r'TERM@\d+', asked['signal'])  # no B: before it: not to the script


def jobset() -> dict:
  return yaml.safe_load((ROOT / 'launch/gke_jobset.yaml').read_text())


def test_jobset_runs_one_pod_for_each_host_of_the_slice():
  it = jobset()
  assert (it['apiVersion'], it['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
  (slice,) = it['spec']['replicatedJobs']
  job = slice['template']['spec']
  pod = job['template']['spec']
  (container,) = pod['containers']
  chips = container['resources']['limits']['google.com/tpu']
  x, y = map(int, pod['nodeSelector']['cloud.google.com/gke-tpu-topology'].split('x'))
  assert job['completions'] == job['parallelism'] == x * y // chips
  assert job['completionMode'] == 'Indexed'
  volumes = {volume['name'] for volume in pod['volumes']}
  assert {mount['name'] for mount in container['volumeMounts']} == volumes
  command, verb = container['command']
  assert (command, verb) == ('t5lite', 'train')
  assert_train_takes(container['args'])


def test_jobset_stops_at_codes_that_a_restart_does_not_mend():
  it = jobset()
  (rule,) = it['spec']['failurePolicy']['rules']
  assert (rule['action'], rule['onJobFailureReasons']) == ('FailJobSet', ['PodFailurePolicy'])
  assert it['spec']['failurePolicy']['maxRestarts'] >= 10
  job = it['spec']['replicatedJobs'][0]['template']['spec']
  (rule,) = job['podFailurePolicy']['rules']
  assert (rule['action'], rule['onExitCodes']['operator']) == ('FailJob', 'In')
  assert rule['onExitCodes']['containerName'] == job['template']['spec']['containers'][0]['name']
  again = {75, 69}  # all else that t5lite says is for its user
  codes = {kind.code for kind in errors.UserError.__subclasses__()} | {errors.UserError.code}
  assert set(rule['onExitCodes']['values']) == codes - again
  # A pod alone cannot join its peers again: the first failure ends the Job, and JobSet begins anew.
  assert job['backoffLimit'] == 0
  assert job['template']['spec']['restartPolicy'] == 'Never'


def test_names_of_the_page_fill_the_jobset():
  ((*words, _, _, _, _, _),) = commands(DOCS, 'sed')  # | kubectl apply -f -
  filled = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
  assert 'REPLACE' in repr(jobset()) and 'REPLACE' not in repr(yaml.safe_load(filled))
  args = yaml.safe_load(filled)['spec']['replicatedJobs'][0]['template']['spec']['template']
  assert '--config=configs/t5_base.py' in args['spec']['containers'][0]['args']


def assert_train_takes(arguments: Iterable[str]) -> None:
  """Fails unless `t5lite train` knows all of the flags."""
  assert main.parse('train', list(arguments)).config


def commands(text: str, name: str) -> list[list[str]]:
  """Returns the words of the commands of a page's bash blocks that begin with `name`."""
  blocks = re.findall(r'^```bash\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
  lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
  found = [shlex.split(line, comments=True) for line in lines if line.startswith(name)]
  assert found, f'no {name}'
  return found


def test_commands_of_the_page_are_taken():
  place = dict(word.split('=') for word in commands(DOCS, 'export')[0][1:])
  for words in commands(DOCS, 'bash launch/tpu_vm.sh'):
    words.insert(words.index('--') if '--' in words else len(words), '--dry-run')
    done = subprocess.run(words, cwd=ROOT, env=os.environ | place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if words[2] == 'run':
      assert_train_takes(words[words.index('--') + 1 :])
  for words in commands(DOCS, 'sbatch'):
    assert (ROOT / words[1]).is_file()
    assert_train_takes(words[2:])
  for words in commands(DOCS, 'xpk workload create'):
    given = dict(word.split('=', 1) for word in words if '=' in word)
    command, verb, *arguments = shlex.split(given['--command'])
    assert (command, verb) == ('t5lite', 'train')
    assert_train_takes(arguments)
    assert given['--restart-on-exit-codes'] == '69,75'


@pytest.mark.parametrize('script', SCRIPTS)
def test_scripts_are_read_without_complaint(script):
  subprocess.run(['bash', '-n', script], cwd=ROOT, check=True)
  if shellcheck := shutil.which('shellcheck'):
    subprocess.run([shellcheck, '--external-sources', script], cwd=ROOT, check=True)
