"""Several processes as one run, really started: how they meet, and that it is the run of one."""

from concurrent import futures
import contextlib
import fcntl
import json
import lzma
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from t5lite import errors
from t5lite import jsonl
from t5lite import main
from t5lite import processes
from t5lite import stored

ROOT = pathlib.Path(__file__).parents[1]
SMALL = (
  'model.num_layers=1',
  'model.d_model=64',
  'model.num_heads=8',
  'model.num_kv_heads=8',
  'model.head_dim=8',
  'data.batch_size=8',
  'eval.batches=1',
  'train.sample_every=0',
  'train.log_every=1',
  'train.steps=6',
  'optim.schedule=constant',
  'parallel.model=2',
)


@pytest.fixture
def port() -> int:
  with socket.create_server(('127.0.0.1', 0)) as server:
    return server.getsockname()[1]


@pytest.mark.parametrize(
  'flags, message',
  [
    (['--num_processes=2'], 'missing flag: --coordinator: '),
    (['--process_id=0'], 'missing flag: --coordinator: '),
    (['--coordinator=here:80'], 'missing flag: --num_processes and --process_id: '),
    (['--coordinator=here', '--num_processes=2', '--process_id=0'], 'not an address: '),
    (['--coordinator=here:0', '--num_processes=2', '--process_id=0'], 'not an address: '),
    (['--coordinator=here:80', '--num_processes=2', '--process_id=2'], 'no such process: '),
    (['--coordinator=auto', '--process_id=1'], '--coordinator=auto finds these by itself: '),
  ],
)
def test_wrong_flags_are_one_line(tmp_path, capsys, flags, message):
  workdir = tmp_path / 'run'
  code = main.main(['train', '--config=configs/tiny_gpt.py', f'--workdir={workdir}', *flags])
  said = capsys.readouterr().err
  assert code == 64 and said.startswith(f't5lite: {message}') and said.count('\n') == 1
  assert not workdir.exists()


def test_no_cluster_is_one_line(tmp_path):
  command = [sys.executable, '-m', 't5lite', 'train', *arguments(tmp_path / 'run')]
  done = subprocess.run(
    [*command, '--coordinator=auto'],
    cwd=ROOT,
    env=environment(tmp_path, 1),
    capture_output=True,
    text=True,
  )
  start = 't5lite: no cluster found: --coordinator=auto ('
  assert (done.returncode, done.stderr.count('\n')) == (64, 1) and done.stderr.startswith(start)


def meet(port: int, num_processes: int, *others: tuple[int, int]) -> list[Exception | None]:
  """Lets process 0 and others, (id, how many they think there are), meet; returns the errors."""
  with futures.ThreadPoolExecutor() as pool:
    jobs = [pool.submit(processes._report, '127.0.0.1', port, of, id) for id, of in others]
    jobs.insert(0, pool.submit(processes._gather, '127.0.0.1', port, num_processes))
    return [job.exception() for job in jobs]


def test_processes_meet_in_any_order(port, monkeypatch):
  monkeypatch.setattr(processes, 'PATIENCE', 20)
  assert meet(port, 4, (3, 4), (1, 4), (2, 4)) == [None] * 4


def test_who_does_not_come_is_named(port, monkeypatch):
  monkeypatch.setattr(processes, 'PATIENCE', 2)
  first, other = meet(port, 4, (2, 4))
  assert str(first).startswith('processes did not come: [1, 3] of 4, within 2 s: ')
  assert str(other).startswith(f'process 0 does not take this one: 127.0.0.1:{port} (it left): ')
  assert isinstance(first, errors.PeerError) and first.code == 69


@pytest.mark.parametrize('stranger', [(1, 3), (5, 3), (0, 2)])
def test_a_process_of_another_run_is_told(port, monkeypatch, stranger):
  monkeypatch.setattr(processes, 'PATIENCE', 2)
  first, other = meet(port, 2, stranger)
  name = '{} of {}'.format(*stranger)
  assert f'({name} is not one of [1] of 2, for which it waits)' in str(other)
  assert str(first).startswith('processes did not come: [1] of 2')


def test_a_taken_port_and_no_process_0_are_one_line(port, monkeypatch):
  monkeypatch.setattr(processes, 'PATIENCE', 1)
  with pytest.raises(errors.PeerError, match=f'no way to process 0: 127.0.0.1:{port} \\(.*refused'):
    processes._report('127.0.0.1', port, 2, 1)
  with socket.create_server(('127.0.0.1', port)):
    with pytest.raises(errors.PeerError, match=f'cannot listen: port {port} \\(.*in use'):
      processes._gather('127.0.0.1', port, 2)


def environment(cache: pathlib.Path, num_devices: int) -> dict[str, str]:
  """Returns that of a process with so many simulated devices, at the optimization users have."""
  unset = ('JAX_COMPILATION_CACHE_DIR', 'NPROC')
  return {
    **{name: value for name, value in os.environ.items() if name not in unset},
    'XDG_CACHE_HOME': str(cache),
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={num_devices}',
    'PATH': f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}',
  }


def arguments(workdir: pathlib.Path, *overrides: str) -> list[str]:
  sets = [f'--set={override}' for override in (*SMALL, *overrides)]
  return ['--config=configs/tiny_gpt.py', f'--workdir={workdir}', *sets]


@contextlib.contextmanager
def local(workdir: pathlib.Path, cache: pathlib.Path, num_processes: int, *overrides: str):
  """Starts launch/local.sh with 8 devices in all; what it says is in WORKDIR.out and .err."""
  command = ['bash', 'launch/local.sh', str(num_processes), *arguments(workdir, *overrides)]
  with contextlib.ExitStack() as stack:
    out, err = (stack.enter_context(open(f'{workdir}.{end}', 'w')) for end in ('out', 'err'))
    child = stack.enter_context(
      subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(cache, 8 // num_processes),
        stdout=out,
        stderr=err,
        start_new_session=True,
      )
    )
    stack.callback(end_all, child)
    yield child


def end_all(child: subprocess.Popen) -> None:
  with contextlib.suppress(ProcessLookupError):
    os.killpg(child.pid, signal.SIGKILL)


def said(workdir: pathlib.Path, end: str = 'err') -> str:
  return pathlib.Path(f'{workdir}.{end}').read_text()


def run(workdir: pathlib.Path, *arguments, code: int = 0) -> str:
  """Runs local.sh to its end and returns what it printed."""
  with local(workdir, *arguments) as child:
    assert child.wait(timeout=300) == code, said(workdir)
  return said(workdir, 'out')


def losses(workdir: pathlib.Path) -> list[float]:
  records = jsonl.records(workdir / 'metrics.jsonl')
  return [record['train/loss'] for record in records if 'train/loss' in record]


def wait_for_step(workdir: pathlib.Path, child: subprocess.Popen) -> None:
  metrics = workdir / 'metrics.jsonl'
  while not metrics.exists() or not losses(workdir):
    assert child.poll() is None, said(workdir)
    time.sleep(0.05)


def process_1(child: subprocess.Popen) -> int:
  """Returns the process with --process_id=1."""
  children = pathlib.Path(f'/proc/{child.pid}/task/{child.pid}/children').read_text().split()
  commands = {pid: pathlib.Path(f'/proc/{pid}/cmdline').read_text() for pid in children}
  return next(int(pid) for pid, command in commands.items() if '--process_id=1' in command)


@pytest.fixture(scope='module')
def cache(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def alone(tmp_path_factory, cache) -> pathlib.Path:
  """The workdir of the run by one process."""
  workdir = tmp_path_factory.mktemp('alone') / 'run'
  run(workdir, cache, 1)
  return workdir


@pytest.mark.slow
@pytest.mark.parametrize('num_processes, model', [(2, 2), (4, 2), (2, 8)])
def test_processes_train_as_one(tmp_path, cache, alone, num_processes, model):
  """The same losses, also where all processes hold the same rows; and only process 0 prints."""
  workdir = tmp_path / 'run'
  out = run(workdir, cache, num_processes, f'parallel.model={model}')
  np.testing.assert_allclose(losses(workdir), losses(alone), rtol=1e-5)
  lines = out.splitlines()
  assert '8 cpu device(s), from step 0 to 6' in lines[0] and len(lines) == 8, out
  assert [line.split('  ')[0] for line in lines[1:-1]] == [f'step {t}/6' for t in range(1, 7)]
  assert 'held-out loss' in lines[-1]


@pytest.mark.slow
def test_processes_judge_as_one(tmp_path, cache, monkeypatch):
  """Tasks by ranking labels and by writing, while training: the same values in the end."""
  monkeypatch.setenv('T5LITE_TASKS', str(tmp_path))
  for name, target in [('classify_debian_section', 'games'), ('qa_quiz_closed_book', 'the')]:
    row = {'target': target, 'split': 'validation'}
    rows = [json.dumps({**row, 'input': f'{i} birds and {name}'}) + '\n' for i in range(9)]
    (tmp_path / f'{name}.jsonl.xz').write_bytes(lzma.compress(''.join(rows).encode()))
  tasks = "eval.tasks=('classify_debian_section', 'qa_quiz_closed_book')"
  found = []
  for num_processes in (1, 2):
    workdir = tmp_path / str(num_processes)
    run(workdir, cache, num_processes, tasks, 'train.steps=2', 'data.input_length=32')
    last = [*jsonl.records(workdir / 'metrics.jsonl')][-1]
    found.append({key: last[key] for key in last if '_' in key and key.startswith('eval/')})
  names = {key.split('/')[1] for key in found[0] if key.count('/') == 2}
  assert names == {'classify_debian_section', 'qa_quiz_closed_book'}
  assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('after', [(1, ()), (4, ()), (2, ('parallel.model=1',))])
def test_a_run_goes_on_with_other_processes_and_meshes(tmp_path, cache, alone, after):
  workdir, (num_processes, overrides) = tmp_path / 'run', after
  run(workdir, cache, 2, 'train.steps=3')
  assert stored.steps(workdir) == [3]
  assert 'from step 3 to 6' in run(workdir, cache, num_processes, *overrides)
  np.testing.assert_allclose(losses(workdir), losses(alone), rtol=1e-4)


@pytest.mark.slow
def test_sigterm_stops_all_after_one_step(tmp_path, cache):
  workdir = tmp_path / 'run'
  with local(workdir, cache, 2, 'train.steps=1000') as child:
    wait_for_step(workdir, child)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=120) == 75
  step = stored.latest_step(workdir)
  line = f't5lite: stopped by SIGTERM: step {step} is saved: run the same command\n'
  assert said(workdir).count(line) == 2


@pytest.mark.slow
def test_a_lost_process_ends_the_run(tmp_path, cache):
  workdir = tmp_path / 'run'
  with local(workdir, cache, 2, 'train.steps=1000') as child:
    wait_for_step(workdir, child)
    os.kill(process_1(child), signal.SIGKILL)
    assert child.wait(timeout=60) in (69, 137)  # 69 where process 0 could say that it is alone
  assert 'process 1 of 2 ended with exit code 137' in said(workdir)
  assert 'Traceback' not in said(workdir)


@pytest.mark.slow
def test_what_one_process_cannot_do_is_told_on_all(tmp_path, cache):
  """Here: process 0 alone takes the lock of the workdir."""
  workdir = tmp_path / 'run'
  workdir.mkdir()
  with open(workdir / 'lock', 'w') as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    run(workdir, cache, 2, code=64)
  lines = [line for line in said(workdir).splitlines() if line.startswith('t5lite: ')]
  assert len(lines) == 2
  assert any(line.startswith('t5lite: another process trains in the workdir: ') for line in lines)
  assert 't5lite: a process failed: [0] of 2: see what it says' in lines


@pytest.mark.slow
@pytest.mark.parametrize(
  'key, values', [('optim.learning_rate', (1, 2)), ('parallel.data', (4, 3))]
)
def test_processes_of_other_configs_do_not_begin(tmp_path, cache, port, key, values):
  """Even where one of them could not, by itself."""
  workdir, command = tmp_path / 'run', [sys.executable, '-m', 't5lite', 'train']
  children = [
    subprocess.Popen(
      [
        *command,
        *arguments(workdir, f'{key}={value}'),
        f'--coordinator=127.0.0.1:{port}',
        '--num_processes=2',
        f'--process_id={id}',
      ],
      cwd=ROOT,
      env=environment(cache, 4),
      stderr=subprocess.PIPE,
      text=True,
    )
    for id, value in enumerate(values)
  ]
  for id, child in enumerate(children):
    error = child.communicate(timeout=120)[1]
    start = f't5lite: the processes have different config: process {id} and [{1 - id}]: '
    assert (child.returncode, error.count('\n')) == (64, 1) and error.startswith(start), error
  assert not workdir.exists()
