"""The three workloads that t5lite and its peers run, and how run.py drives a program of them."""

import json
import os
import resource
import sys
import time
from collections.abc import Callable

import numpy as np

# T5 1.1 small's shape, GPT-2 small, BERT base: f32, AdamW, no dropout.
WORKLOADS = {
  't5': {'vocab': 32_128, 'batch': 8, 'inputs': 512, 'targets': 114},
  'gpt': {'vocab': 50_257, 'batch': 4, 'inputs': 512, 'targets': 0},
  'bert': {'vocab': 30_522, 'batch': 8, 'inputs': 128, 'targets': 0},
}
MASKED = 19  # predictions in each of BERT's rows: 15 % of 126


def pin() -> int:
  """Keeps this process on one core and thread if BENCHMARK_CORE names one; returns the threads."""
  core = os.environ.get('BENCHMARK_CORE')
  if core:
    os.sched_setaffinity(0, {int(core)})
  threads = 1 if core else os.cpu_count() or 1
  for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ[name] = str(threads)
  return threads


def tokens(workload: str) -> int:
  """Returns the positions of a batch, encoder and decoder together."""
  shape = WORKLOADS[workload]
  return shape['batch'] * (shape['inputs'] + shape['targets'])


def ids(workload: str, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns random inputs [B, I], targets [B, T] and, for BERT, sorted masked positions [B, M]."""
  shape = WORKLOADS[workload]
  random = np.random.default_rng(step)
  draw = lambda length: random.integers(5, shape['vocab'] - 100, (shape['batch'], length))
  inputs, targets = draw(shape['inputs']), draw(shape['targets'])
  order = random.random(inputs.shape).argsort(axis=1)[:, :MASKED]
  return inputs.astype(np.int32), targets.astype(np.int32), np.sort(order, axis=1).astype(np.int32)


def cpu_seconds() -> float:
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


def serve(step: Callable[[int], float], **setup: object) -> None:
  """Prints `setup`, then runs a step for each line of stdin and prints its times, as JSON lines."""
  print(json.dumps(setup), flush=True)
  for number, _ in enumerate(sys.stdin):
    wall, cpu = time.perf_counter(), cpu_seconds()
    loss = step(number)
    line = {
      'seconds': time.perf_counter() - wall,
      'cpu_seconds': cpu_seconds() - cpu,
      'loss': loss,
      'peak_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(line), flush=True)
