"""What a run tells: metrics.jsonl, TensorBoard files, samples of text, progress, speed.

A line of metrics.jsonl is `{"step": 10, "train/loss": 8.9, ...}`, of samples.jsonl `{"step": 10,
"name": "0/input", "text": "..."}`. JSON knows no NaN: what is not finite is written as null.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import math
import pathlib
import time
from typing import Any

from t5lite import jsonl
from t5lite import progress

METRICS, SAMPLES, TENSORBOARD = 'metrics.jsonl', 'samples.jsonl', 'tensorboard'
WALL, ENERGY = 'train/wall_seconds', 'train/energy_kwh'
JOULES_PER_KWH = 3.6e6
SHOWN_CHARACTERS = 240  # of a sample on the terminal; samples.jsonl keeps all of it


class Writer:
  """Appends to the logs of a workdir and keeps the progress line; a context manager.

  A run that goes on from step k drops what an earlier attempt logged after k, so that no step
  stands twice. Every line reaches the operating system before the call returns: a kill loses none
  but the one being written, and the next Writer removes that one's beginning.

  Args:
    workdir: directory of the run; made if missing.
    total_steps: steps of the whole run.
    steps_done: steps that the run has behind it, 0 for a new one.
    main_process: the other processes write and show nothing.
    watts: of all devices together; 0: not known.

  Raises:
    DataError: a log of the workdir is damaged.
    DiskError: a log cannot be written.
  """

  def __init__(
    self,
    workdir: str | pathlib.Path,
    total_steps: int,
    *,
    steps_done: int,
    main_process: bool = True,
    watts: float = 0.0,
  ):
    self._main, self._watts = main_process, watts
    if not main_process:
      return
    from t5lite import tensorboard

    workdir = pathlib.Path(workdir)
    with jsonl.disk_errors(workdir):
      workdir.mkdir(parents=True, exist_ok=True)
    kept = jsonl.rewind(workdir / METRICS, steps_done)
    jsonl.rewind(workdir / SAMPLES, steps_done)
    self._metrics, self._samples = jsonl.Log(workdir / METRICS), jsonl.Log(workdir / SAMPLES)
    self._events = tensorboard.Events(workdir / TENSORBOARD, steps_done)
    self._before = {k: max((r.get(k) or 0.0 for r in kept), default=0.0) for k in (WALL, ENERGY)}
    self._started = time.monotonic()
    self._progress = progress.Progress(total_steps, steps_done)

  def __enter__(self) -> 'Writer':
    return self

  def __exit__(self, *_: object) -> None:
    if self._main:
      self._progress.close()
      for log in (self._metrics, self._samples, self._events):
        log.close()

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Logs slash-named scalars (numbers, numpy or device values) of the state after `step`.

    Fetches device values, so it waits for the step that makes them: call it once the next step is
    dispatched. Adds `train/wall_seconds`, the time since the run's first start that is not lost,
    and `train/energy_kwh`, what the devices take in it if they always take their watts.
    """
    if not self._main:
      return
    import jax

    record = {name: float(value) for name, value in jax.device_get(dict(values)).items()}
    seconds = time.monotonic() - self._started
    record[WALL] = self._before[WALL] + seconds
    if self._watts:
      record[ENERGY] = self._before[ENERGY] + self._watts * seconds / JOULES_PER_KWH
    finite = {name: value if math.isfinite(value) else None for name, value in record.items()}
    self._metrics.append({'step': step, **finite})
    self._events.scalars(step, record)
    if 'train/loss' in record:
      self._progress.update(step, record)
    if 'eval/loss' in record:
      self._progress.message(f'step {step}  {describe_evaluation(record)}')

  def text(self, step: int, name: str, text: str) -> None:
    """Logs a sample of text, and shows its beginning.

    The report makes a table of them: `name` is ROW/COLUMN, for example '0/input', '0/prediction'.
    """
    if not self._main:
      return
    self._samples.append({'step': step, 'name': name, 'text': text})
    self._events.text(step, name, text)
    line = ' '.join(text.split())
    cut = line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + ' ...'
    self._progress.message(f'step {step}  {name}: {cut}')

  def message(self, text: str) -> None:
    """Shows text above the progress line; it is not kept."""
    if self._main:
      self._progress.message(text)


def evaluations(workdir: pathlib.Path, last: int) -> dict[int, dict[str, float]]:
  """Returns what a run's evaluations up to a step gave, by step."""
  path = workdir / METRICS
  records = jsonl.records(path) if path.exists() else []
  return {
    each['step']: {name: x for name, x in each.items() if name.startswith('eval/')}
    for each in records
    if 'eval/loss' in each and each['step'] <= last
  }


def describe_evaluation(values: Mapping[str, float]) -> str:
  """Returns the evaluation in one line, with the unigram entropy that its loss should beat."""
  parts = {
    'eval/loss': 'held-out loss {:.3f}',
    'eval/unigram_entropy': '(unigram entropy {:.3f})',
    'eval/perplexity': ' perplexity {:,.1f}',
    'eval/bits_per_byte': ' bits per byte {:.3f}',
    'eval/accuracy': ' accuracy {:.1%}',
  }
  described = [text.format(values[name]) for name, text in parts.items() if name in values]
  of_tasks = [name for name in values if name.startswith('eval/') and name.count('/') == 2]
  described += [f' {name.removeprefix("eval/")} {values[name]:.4g}' for name in of_tasks]
  return ' '.join(described)


class Meter:
  """Step time, throughput and use of the hardware, averaged over the steps between readings.

  Time in `paused()` (evaluation, checkpoints) and `compiling()` does not count. The device works
  behind Python's back: take a reading once the metrics of its step have been fetched, and pause
  once those of the last step have been.

  Args:
    tokens_per_step: tokens of a global batch.
    flops_per_step: floating-point operations that the model needs for it, backward pass included.
    peak_flops: those that one device can do in a second; None: not known.
    num_devices: devices that share the work.
    steps_done: steps that the run has behind it.
    clock: seconds.
  """

  def __init__(
    self,
    *,
    tokens_per_step: float,
    flops_per_step: float,
    peak_flops: float | None,
    num_devices: int,
    steps_done: int,
    clock: Callable[[], float] = time.perf_counter,
  ):
    self._tokens = tokens_per_step
    self._flops = flops_per_step / num_devices
    self._peak = peak_flops
    self._clock = clock
    self._step, self._since = steps_done, clock()
    self._pause = self._wait = self._compile = 0.0

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts the time inside as waiting for data."""
    start = self._clock()
    yield
    self._wait += self._clock() - start

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Leaves the time inside out."""
    start = self._clock()
    yield
    self._pause += self._clock() - start

  @contextlib.contextmanager
  def compiling(self) -> Iterator[None]:
    """Leaves the time inside out; the next reading has it as `train/compile_seconds`."""
    start = self._clock()
    with self.paused():
      yield
    self._compile += self._clock() - start

  def read(self, step: int) -> dict[str, float]:
    """Returns the metrics of the steps since the last reading, and starts anew from `step`."""
    steps, now = step - self._step, self._clock()
    if steps <= 0:
      raise ValueError(f'{step=} is not after the last reading, {self._step}')
    seconds = (now - self._since - self._pause) / steps
    values = {
      'train/step_seconds': seconds,
      'train/tokens_per_second': self._tokens / seconds,
      'train/data_wait_seconds': self._wait / steps,
      'train/tflops_per_device': self._flops / seconds / 1e12,
    }
    if self._peak is not None:
      values['train/mfu'] = self._flops / seconds / self._peak
    if self._compile:
      values['train/compile_seconds'] = self._compile
    self._step, self._since = step, now
    self._pause = self._wait = self._compile = 0.0
    return values
