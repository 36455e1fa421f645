"""Logs that survive kills and restarts, a progress line that suits where it goes, a right clock."""

import json
import os
import pathlib
import pty
import re
import signal
import struct
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from tensorboardX import crc32c
from tensorboardX.proto import event_pb2

from t5lite import errors
from t5lite import jsonl
from t5lite import metrics
from t5lite import progress

ROOT = pathlib.Path(__file__).parents[1]


def log(workdir: pathlib.Path, steps: range, *, steps_done: int = 0, loss: float = 1.0) -> None:
  with metrics.Writer(workdir, 100, steps_done=steps_done) as writer:
    for step in steps:
      writer.write(step, {'train/loss': loss * step})
      writer.text(step, '0/input', f'text {loss * step}')


def steps_of(path: pathlib.Path) -> list[int]:
  return [json.loads(line)['step'] for line in path.read_text().splitlines()]


def events(directory: pathlib.Path) -> list[event_pb2.Event]:
  """Reads event files as TensorBoard does: by name, checking sums, forgetting purged steps."""
  found = []
  for path in sorted(directory.iterdir()):
    data, start = path.read_bytes(), 0
    while start < len(data):
      (size,) = struct.unpack_from('<Q', data, start)
      content = data[start + 12 : start + 12 + size]
      assert struct.unpack_from('<I', data, start + 12 + size) == (masked(content),)
      event = event_pb2.Event.FromString(content)
      if event.session_log.status == event_pb2.SessionLog.START:
        found = [old for old in found if old.step < event.step]
      found.append(event)
      start += size + 16
  return [event for event in found if event.HasField('summary')]


def masked(content: bytes) -> int:
  """The checksum of a TFRecord."""
  crc = crc32c.crc32c(content)
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def run(script: str, *args: object, **options) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, '-c', script, *map(str, args)], cwd=ROOT, text=True, **options
  )


def test_importing_metrics_loads_nothing_heavy():
  check = "import sys, t5lite.metrics; print({'jax', 'rich', 'tensorboardX'} & {*sys.modules})"
  assert run(check, stdout=subprocess.PIPE).communicate()[0] == 'set()\n'


@pytest.mark.usefixtures('mesh')
def test_device_values_are_logged_exactly(tmp_path):
  loss = jax.jit(lambda: jnp.float32(1) / 3)()
  assert len(loss.sharding.device_set) == 8
  with metrics.Writer(tmp_path, 10, steps_done=0) as writer, jax.transfer_guard('disallow'):
    writer.write(10, {'train/loss': loss, 'train/tokens_seen': 2**40})
  (record,) = jsonl.records(tmp_path / 'metrics.jsonl')
  assert record['train/loss'] == float(loss) and record['train/tokens_seen'] == 2**40


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path):
  with metrics.Writer(tmp_path, 10, steps_done=0) as writer:
    writer.write(1, {'train/loss': float('nan'), 'train/grad_norm': float('inf')})
  (line,) = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  record = json.loads(line, parse_constant=pytest.fail)
  assert record['train/loss'] is None and record['train/grad_norm'] is None


def test_resumed_run_has_every_step_once(tmp_path):
  log(tmp_path, range(1, 8))
  log(tmp_path, range(5, 10), steps_done=4, loss=2.0)
  for name in ('metrics.jsonl', 'samples.jsonl'):
    assert steps_of(tmp_path / name) == list(range(1, 10))
  losses = [record['train/loss'] for record in jsonl.records(tmp_path / 'metrics.jsonl')]
  assert losses == [1, 2, 3, 4, 10, 12, 14, 16, 18]


def test_tensorboard_shows_what_the_log_holds(tmp_path):
  log(tmp_path, range(1, 8))
  log(tmp_path, range(5, 10), steps_done=4, loss=2.0)
  shown = [
    (event.step, value.simple_value)
    for event in events(tmp_path / 'tensorboard')
    for value in event.summary.value
    if value.tag == 'train/loss'
  ]
  held = [(r['step'], r['train/loss']) for r in jsonl.records(tmp_path / 'metrics.jsonl')]
  assert shown == held


def test_tensorboard_shows_sentinels_as_text(tmp_path):
  with metrics.Writer(tmp_path, 10, steps_done=0) as writer:
    writer.text(3, '0/input', 'Thank <extra_id_0> to\nyour party')
  (event,) = events(tmp_path / 'tensorboard')
  (value,) = event.summary.value
  assert (event.step, value.tag) == (3, 'samples/0/input/text_summary')
  assert value.metadata.plugin_data.plugin_name == 'text'
  assert value.tensor.string_val == [b'    Thank <extra_id_0> to\n    your party']


def test_wall_time_goes_on_after_a_restart(tmp_path):
  log(tmp_path, range(1, 3))
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text().replace('train/wall_seconds": 0', 'train/wall_seconds": 500'))
  log(tmp_path, range(3, 4), steps_done=2)
  assert 500 < jsonl.records(path)[-1]['train/wall_seconds'] < 600


KILLED = """
import sys
from t5lite import metrics
with metrics.Writer(sys.argv[1], 10**9, steps_done=0) as writer:
  for step in range(1, 10**9):
    writer.write(step, {'train/loss': 1.0, 'train/grad_norm': float(step)})
    print(step, file=sys.stderr, flush=True)
"""


def test_killed_run_loses_no_finished_line(tmp_path):
  with run(KILLED, tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
    for _ in range(50):
      process.stderr.readline()
    process.send_signal(signal.SIGKILL)
    *_, finished = ['50', *process.stderr.read().split()]
  assert process.returncode == -signal.SIGKILL
  steps = [record['step'] for record in jsonl.records(tmp_path / 'metrics.jsonl')]
  assert steps == list(range(1, len(steps) + 1)) and len(steps) >= int(finished)
  assert len(events(tmp_path / 'tensorboard')) >= int(finished)


def test_line_cut_by_a_kill_is_mended(tmp_path):
  log(tmp_path, range(1, 5))
  path = tmp_path / 'metrics.jsonl'
  os.truncate(path, path.stat().st_size - 9)
  log(tmp_path, range(4, 6), steps_done=4)
  assert steps_of(path) == [1, 2, 3, 4, 5]


def test_damaged_log_names_the_line(tmp_path):
  log(tmp_path, range(1, 5))
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text().replace('"step": 2', '"step": '))
  with pytest.raises(errors.DataError, match=r'metrics.jsonl:2 .*remove that line'):
    metrics.Writer(tmp_path, 10, steps_done=4)


def test_full_disk_is_a_disk_error():
  lines = jsonl.Log(pathlib.Path('/dev/full'))
  with pytest.raises(errors.DiskError, match='No space left'):
    lines.append({'step': 1})
  with pytest.raises(errors.DiskError):  # the line is still in the buffer
    lines.close()


def test_only_the_main_process_writes(tmp_path, capsys):
  with metrics.Writer(tmp_path / 'run', 10, steps_done=0, main_process=False) as writer:
    writer.write(1, {'train/loss': 1.0})
    writer.text(1, '0/input', 'text')
    writer.message('hello')
  assert not (tmp_path / 'run').exists() and capsys.readouterr().out == ''


SHOWN = """
import sys, time
from t5lite import metrics
with metrics.Writer(sys.argv[1], 40, steps_done=0) as writer:
  for step in (10, 20, 30, 40):
    time.sleep(0.12)
    speed = {'train/tokens_per_second': 12345.6, 'train/step_seconds': 60.0}
    writer.write(step, {'train/loss': 90 / step, **speed})
    if step == 20:
      writer.write(20, {'eval/loss': 2.5, 'eval/unigram_entropy': 6.5})
      writer.text(20, '0/input', 'Thank\\x1b[31m <extra_id_0>\\nto \\u00e9')
      writer.message('saved [bold]')
"""
MESSAGES = [
  'step 20  held-out loss 2.500 (unigram entropy 6.500)',
  'step 20  0/input: Thank\N{REPLACEMENT CHARACTER}[31m <extra_id_0> to \u00e9',
  'saved [bold]',
]


def test_file_gets_a_plain_line_per_log(tmp_path):
  for forced in ({}, {'FORCE_COLOR': '1', 'TERM': 'xterm'}):
    environment = {**os.environ, 'PYTHONUTF8': '1', **forced}
    process = run(SHOWN, tmp_path, stdout=subprocess.PIPE, env=environment)
    out = process.communicate()[0]
    lines = out.splitlines()
    assert all(line.isprintable() for line in lines), out
    assert lines[0] == 'step 10/40  loss 9.000  12,346 tokens/s  0:30:00 left'
    assert lines[2:5] == MESSAGES
    assert [line.split()[1] for line in lines if 'tokens/s' in line] == [
      '10/40',
      '20/40',
      '30/40',
      '40/40',
    ]


def test_file_that_takes_only_ascii_does_not_stop_the_run(tmp_path):
  environment = {**os.environ, 'PYTHONIOENCODING': 'ascii'}
  process = run(SHOWN, tmp_path, stdout=subprocess.PIPE, env=environment)
  assert 'Thank?[31m <extra_id_0> to ?' in process.communicate()[0] and process.returncode == 0


def test_terminal_shows_one_live_line_below_the_messages(tmp_path):
  primary, secondary = pty.openpty()
  environment = {**os.environ, 'TERM': 'xterm', 'COLUMNS': '80', 'PYTHONUTF8': '1'}
  process = run(SHOWN, tmp_path, stdout=secondary, env=environment)
  os.close(secondary)
  received = b''
  while chunk := read(primary):
    received += chunk
  os.close(primary)
  assert process.wait() == 0
  # What stands in the end: of each row, what follows the last time that it was erased.
  rows = [row.split('\x1b[2K')[-1] for row in received.decode().split('\n')]
  rows = [re.sub(r'\x1b\[[0-9;?]*[A-Za-z]|\r', '', row).strip() for row in rows]
  *messages, line = [row for row in rows if row]
  assert messages == MESSAGES
  assert re.fullmatch(r'step 40/40 ━+ loss 2.250  12,346 tokens/s  0:00:00 left', line)
  assert received.count(b'tokens/s') > 4


def read(descriptor: int) -> bytes:
  try:
    return os.read(descriptor, 4096)
  except OSError:  # Linux's way to say that the other side is closed
    return b''


NOTEBOOK = """
from t5lite import progress
line = progress.Progress(40, 0)
for step in (10, 20, 30, 40):
  line.update(step, {'train/loss': 90 / step})
line.message('saved')
line.close()
"""


@pytest.mark.slow
def test_notebook_has_one_output_that_changes():
  nbformat, nbclient = pytest.importorskip('nbformat'), pytest.importorskip('nbclient')
  notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK)])
  options = {'metadata': {'path': str(ROOT)}}
  nbclient.NotebookClient(notebook, kernel_name='python3', resources=options).execute()
  line, message = notebook.cells[0].outputs
  assert line['data']['text/plain'].startswith('step 40/40 ████████████████████ loss 2.250')
  assert message['text'] == 'saved\n'


def test_time_left_follows_the_clock_once_it_can(monkeypatch, capsys):
  now = 1000.0
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now)
  line = progress.Progress(100, 0)
  line.update(10, {'train/loss': 1.0, 'train/step_seconds': 1.0})
  now += 30  # 10 steps and an evaluation
  line.update(20, {'train/loss': 1.0, 'train/step_seconds': 1.0})
  first, second = capsys.readouterr().out.splitlines()
  assert first.endswith('0:01:30 left') and second.endswith('0:04:00 left')


class Clock:
  def __init__(self):
    self.now = 0.0

  def __call__(self) -> float:
    return self.now


def test_meter_counts_neither_pauses_nor_compilation():
  clock = Clock()
  meter = metrics.Meter(
    tokens_per_step=1000,
    flops_per_step=3e12,
    peak_flops=1e13,
    num_devices=4,
    steps_done=100,
    clock=clock,
  )
  with meter.compiling():
    clock.now += 60
  for _ in range(10):
    with meter.waiting():
      clock.now += 0.05
    clock.now += 0.2
  assert meter.read(110) == pytest.approx(
    {
      'train/step_seconds': 0.25,
      'train/tokens_per_second': 4000,
      'train/tflops_per_device': 3.0,
      'train/mfu': 3e12 / 0.25 / 4e13,
      'train/data_wait_seconds': 0.05,
      'train/compile_seconds': 60,
    }
  )
  clock.now += 1
  with meter.paused():
    clock.now += 30
  clock.now += 1
  assert meter.read(114) == pytest.approx(
    {
      'train/step_seconds': 0.5,
      'train/tokens_per_second': 2000,
      'train/tflops_per_device': 1.5,
      'train/mfu': 3e12 / 0.5 / 4e13,
      'train/data_wait_seconds': 0,
    }
  )


def test_meter_says_nothing_of_a_peak_it_does_not_know():
  clock = Clock()
  meter = metrics.Meter(
    tokens_per_step=1, flops_per_step=1, peak_flops=None, num_devices=1, steps_done=0, clock=clock
  )
  clock.now += 1
  assert 'train/mfu' not in meter.read(1)
  with pytest.raises(ValueError, match='step=1 is not after'):
    meter.read(1)
