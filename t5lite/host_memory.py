"""Memory of the host on a CPU backend: what a step frees is kept for the next one.

XLA allocates a step's temporaries anew each step. glibc's malloc maps blocks of that size from the
kernel and unmaps them when freed, and every page of them is then faulted in and zeroed again: a
fifth of a step. The price: a small block in a freed large one can keep it from being used again,
and a run then holds a step's temporaries twice. Setting glibc's GLIBC_TUNABLES to anything turns
all of this off.
"""

import ctypes
import os
import platform

import jax

M_ARENA_MAX, M_MMAP_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -8, -4, -3, -1  # malloc.h


def use_one_arena() -> None:
  """Has threads started from now on share one heap: the others map large blocks whatever is set."""
  _set(M_ARENA_MAX, 1)


def keep_freed() -> None:
  """Has malloc keep what is freed from now on, if this process computes on a CPU.

  Call it once a run is set up and compiled: the large blocks of before are returned when freed,
  and leave no holes in the heap.
  """
  if jax.default_backend() == 'cpu':
    _set(M_MMAP_MAX, 0)
    _set(M_TRIM_THRESHOLD, -1)


def return_freed() -> None:
  """Has malloc return freed blocks of a megabyte or more; it would keep 32 MiB a thread."""
  _set(M_MMAP_THRESHOLD, 2**20)


def _set(option: int, value: int) -> None:
  if platform.libc_ver()[0] == 'glibc' and 'GLIBC_TUNABLES' not in os.environ:
    ctypes.CDLL(None).mallopt(option, value)
