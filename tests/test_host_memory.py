"""What malloc does with the memory of a step."""

import os
import platform
import subprocess
import sys

import pytest

# Page faults of a run of a program with 384 MiB of temporaries, 98,304 pages; the fewest of 40.
FAULTS = """
import resource, sys
import jax, jax.numpy as jnp
from t5lite import backend, host_memory
backend.start()
step = jax.jit(lambda x: jnp.cumsum(jnp.cumsum(x)[::-1] ** 2).sum())
x = jnp.ones(2**25)
if sys.argv[1] == 'keep_freed':
  host_memory.keep_freed()
faults = []
for _ in range(40):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  step(x).block_until_ready()
  faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason="about glibc's malloc")
def test_memory_of_a_step_is_kept_for_the_next():
  """Without it a page fault each 4 KiB of the temporaries, every step."""
  faults = {}
  for name in ('nothing', 'keep_freed'):
    command = [sys.executable, '-c', FAULTS, name]
    environment = {**os.environ, 'XLA_FLAGS': '', 'JAX_PLATFORMS': 'cpu'}
    faults[name] = int(subprocess.check_output(command, env=environment))
  assert faults['nothing'] > 10_000
  assert faults['keep_freed'] < 1_000
