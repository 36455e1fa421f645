"""Times t5lite's train step on a CPU, beside Hugging Face's torch models if a Python has them.

  python tests/benchmarks/run.py [--peer=PYTHON] [--steps=10] [--only=gpt]

PYTHON has torch and transformers. Each of the three workloads (workloads.py) and the three tiny
configs runs on one pinned core with one thread, where tokens per CPU second compare however busy
the machine is, and then on all cores, where step seconds do. t5lite and its peer take turns, step
by step. One JSON line each, of medians; `ratio` is how many times t5lite's speed is the peer's.
"""

import argparse
import contextlib
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Iterator

import workloads

HERE = pathlib.Path(__file__).parent
CONFIGS = [HERE.parents[1] / 'configs' / f'tiny_{name}.py' for name in workloads.WORKLOADS]
WARMUP = 2  # steps, not timed


class Program:
  """A program of workloads.serve, driven step by step."""

  def __init__(self, process: subprocess.Popen[str]) -> None:
    self.process = process
    self.setup = self.line()
    self.steps: list[dict] = []

  def line(self) -> dict:
    assert self.process.stdout is not None
    line = self.process.stdout.readline()
    if not line:
      raise SystemExit(f'{" ".join(map(str, self.process.args))} ended with {self.process.wait()}')
    return json.loads(line)

  def step(self) -> None:
    assert self.process.stdin is not None
    self.process.stdin.write('\n')
    self.process.stdin.flush()
    self.steps.append(self.line())

  def summary(self) -> dict:
    median = lambda name: statistics.median(step[name] for step in self.steps[WARMUP:])
    return {
      'step_seconds': round(median('seconds'), 4),
      'tokens_per_second': round(self.setup['tokens'] / median('seconds'), 1),
      'tokens_per_cpu_second': round(self.setup['tokens'] / median('cpu_seconds'), 1),
      'compile_seconds': round(self.setup['compile_seconds'], 1),
      'peak_mib': self.steps[-1]['peak_mib'],
      'first_loss': round(self.steps[0]['loss'], 3),
      'version': self.setup['version'],
    }


@contextlib.contextmanager
def started(python: str, program: str, workload: str, core: str) -> Iterator[Program]:
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'BENCHMARK_CORE': core}
  command = [python, str(HERE / program), workload]
  pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
  with subprocess.Popen(command, env=environment, **pipes) as process:
    yield Program(process)


def measure(workload: str, core: str, peer: str, steps: int) -> dict:
  """Returns the line of a workload or config, on one core or, if `core` is empty, on all."""
  line = {'workload': pathlib.Path(workload).stem, 'threads': 1 if core else os.cpu_count()}
  with contextlib.ExitStack() as stack:
    enter = lambda *arguments: stack.enter_context(started(*arguments, workload, core))
    programs = {'t5lite': enter(sys.executable, 't5lite_step.py')}
    if peer and workload in workloads.WORKLOADS:
      programs['transformers'] = enter(peer, 'transformers_step.py')
    for _ in range(WARMUP + steps):
      for program in programs.values():
        program.step()
    line |= {name: program.summary() for name, program in programs.items()}
  if 'transformers' in line:
    speed = 'tokens_per_cpu_second' if core else 'tokens_per_second'
    line['ratio'] = round(line['t5lite'][speed] / line['transformers'][speed], 2)
  if workload in workloads.WORKLOADS:
    line['log_vocab'] = round(math.log(workloads.WORKLOADS[workload]['vocab']), 3)
  return line


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--peer', default='', help='a Python with torch and transformers')
  parser.add_argument('--steps', type=int, default=10, help='timed steps of each')
  parser.add_argument('--only', help='a workload or the path of a config')
  options = parser.parse_args()
  core = str(max(os.sched_getaffinity(0)))
  for workload in [options.only] if options.only else [*workloads.WORKLOADS, *map(str, CONFIGS)]:
    for cores in (core, ''):
      print(json.dumps(measure(workload, cores, options.peer, options.steps)), flush=True)


if __name__ == '__main__':
  main()
