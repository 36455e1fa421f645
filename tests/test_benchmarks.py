"""The benchmark runs: not how fast it finds t5lite to be."""

import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_benchmark_prints_a_line_for_each_number_of_threads():
  command = [sys.executable, 'tests/benchmarks/run.py', '--only=configs/tiny_bert.py', '--steps=1']
  environment = {**os.environ, 'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)}
  out = subprocess.check_output(command, cwd=ROOT, env=environment, text=True)
  lines = [json.loads(line) for line in out.splitlines()]
  assert [line['threads'] for line in lines] == [1, os.cpu_count()]
  for line in lines:
    measured = line['t5lite']
    # Random logits of variance 1 cost half a nat above the logarithm of the vocabulary's size.
    assert abs(measured['first_loss'] - (math.log(8192) + 0.5)) < 0.5
    assert measured['step_seconds'] > 0 and measured['compile_seconds'] > 0
    assert measured['peak_mib'] > 100 and measured['tokens_per_cpu_second'] > 0
