"""A run that was killed or stopped ends bit for bit as one that never was: real processes."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
import pytest

from t5lite import jsonl
from t5lite import stored

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 12
SMALL = (
  'model.num_layers=1',
  'model.d_model=64',
  'model.dropout=0.1',
  'data.batch_size=8',
  'eval.every=0',
  'eval.batches=1',
  'train.sample_every=0',
  'train.log_every=1',
  f'train.steps={STEPS}',
)
FAMILIES = {
  'tiny_t5': ('model.num_decoder_layers=1',),
  'tiny_bert': (),
  'tiny_gpt': ('parallel.model=2',),
}
CLOCK = ('_seconds', '_per_second', '/tflops_per_device')  # endings of what a log says of time

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def cache(tmp_path_factory) -> pathlib.Path:
  """Tokens and compiled steps: a run compiles, and those after it load what it compiled."""
  return tmp_path_factory.mktemp('cache')


@contextlib.contextmanager
def trainer(workdir: pathlib.Path, cache: pathlib.Path, family: str, *overrides: str):
  """Runs `t5lite train` in a process of its own; what it says is in WORKDIR.err and .out."""
  sets = [f'--set={override}' for override in (*SMALL, *FAMILIES[family], *overrides)]
  command = [sys.executable, '-m', 't5lite', 'train', f'--config=configs/{family}.py']
  # As users run it: the optimization level of the other tests would be another step.
  num_devices = 8 if 'parallel.model=2' in FAMILIES[family] else 1
  environment = {
    **{name: value for name, value in os.environ.items() if name != 'JAX_COMPILATION_CACHE_DIR'},
    'XDG_CACHE_HOME': str(cache),
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={num_devices}',
  }
  with contextlib.ExitStack() as stack:
    out, err = (stack.enter_context(open(f'{workdir}.{end}', 'w')) for end in ('out', 'err'))
    child = stack.enter_context(
      subprocess.Popen(
        [*command, f'--workdir={workdir}', *sets], cwd=ROOT, env=environment, stdout=out, stderr=err
      )
    )
    stack.callback(child.kill)
    yield child


def finished(workdir: pathlib.Path, *arguments: Any) -> str:
  """Runs a trainer to its end, which is a good one, and returns what it printed."""
  with trainer(workdir, *arguments) as child:
    code = child.wait()
  assert code == 0, said(workdir)
  return pathlib.Path(f'{workdir}.out').read_text()


def said(workdir: pathlib.Path) -> str:
  """Returns what the last trainer wrote to stderr."""
  return pathlib.Path(f'{workdir}.err').read_text()


def logged(workdir: pathlib.Path) -> list[dict[str, float]]:
  """Returns what metrics.jsonl says, but for time."""
  path = workdir / 'metrics.jsonl'
  records = jsonl.records(path) if path.exists() else []
  return [
    {name: value for name, value in record.items() if not name.endswith(CLOCK)}
    for record in records
  ]


def last_logged(workdir: pathlib.Path) -> int:
  return max((record['step'] for record in logged(workdir)), default=0)


def wait_for(ready, child: subprocess.Popen, workdir: pathlib.Path) -> None:
  while not ready():
    assert child.poll() is None, f'it ended before it was stopped: {said(workdir)}'
    time.sleep(0.005)


def arrays(workdir: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns all arrays of the newest checkpoint."""
  step, manifest = stored.latest_step(workdir), stored.read_manifest(workdir)
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  wanted = {
    name: jax.ShapeDtypeStruct(tuple(x['shape']), x['dtype'], sharding=one)
    for name, x in manifest['arrays'].items()
  }
  params, rest = stored.split(wanted)
  saved = stored.Checkpoint(workdir, step)
  found = saved.arrays('params', params, manifest) | saved.arrays('rest', rest, manifest)
  return {name: np.asarray(x) for name, x in found.items()}


def assert_same_run(one: pathlib.Path, other: pathlib.Path) -> None:
  """Asserts that two runs logged the same numbers and ended with the same bits."""
  a, b = arrays(one), arrays(other)
  assert a.keys() == b.keys() and int(a['step']) == int(b['step']) == STEPS
  assert [name for name in a if a[name].tobytes() != b[name].tobytes()] == []
  assert logged(one) == logged(other)


@pytest.mark.parametrize('family', FAMILIES)
def test_resume_is_bitwise(tmp_path, cache, family):
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  arguments = (cache, family, 'checkpoint.every=5')
  finished(whole, *arguments)
  with trainer(killed, *arguments) as child:
    wait_for(lambda: last_logged(killed) >= 7 and stored.steps(killed), child, killed)
    os.kill(child.pid, signal.SIGKILL)
  saved = stored.latest_step(killed)
  assert saved in (5, 10)
  assert f'from step {saved} to {STEPS}' in finished(killed, *arguments)
  assert [r['step'] for r in logged(whole) if 'train/loss' in r] == [*range(1, STEPS + 1)]
  assert_same_run(whole, killed)


def test_sigterm_saves_and_exits_75_and_the_same_command_goes_on(tmp_path, cache):
  whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
  arguments = (cache, 'tiny_t5', 'checkpoint.every=0')
  finished(whole, *arguments)
  with trainer(stopped, *arguments) as child:
    wait_for(lambda: last_logged(stopped) >= 3, child, stopped)
    child.send_signal(signal.SIGTERM)
    code = child.wait()
  step = stored.latest_step(stopped)
  assert (code, stored.steps(stopped)) == (75, [last_logged(stopped)])
  assert said(stopped) == (
    f't5lite: stopped by SIGTERM: step {step} is saved: run the same command\n'
  )
  assert f'from step {step} to {STEPS}' in finished(stopped, *arguments)
  assert_same_run(whole, stopped)


def test_resume_on_another_mesh_is_within_rounding(tmp_path, cache):
  whole, moved = tmp_path / 'whole', tmp_path / 'moved'
  arguments = (cache, 'tiny_gpt', 'model.dropout=0.0', 'optim.schedule=constant')
  finished(whole, *arguments)
  finished(moved, *arguments, 'train.steps=6')
  assert 'from step 6 to 12' in finished(moved, *arguments, 'parallel.model=1')
  assert stored.read_manifest(moved)['mesh']['data'] == 8
  losses = [
    [record['train/loss'] for record in logged(run) if 'train/loss' in record]
    for run in (whole, moved)
  ]
  assert len(losses[0]) == STEPS and losses[0][:5] == losses[1][:5]
  # AdamW's first steps turn a rounding error of a gradient near 0 into one of the step.
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
