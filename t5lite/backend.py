"""What must be set before JAX starts: the platform, the compilation cache, the threads of a CPU."""

import importlib.metadata
import importlib.util
import os
import pathlib
import re


def start() -> None:
  """Sets up what must be before JAX starts its backend; every command that computes calls it.

  The persistent compilation cache goes to the user's cache directory, unless it is set.
  """
  on_cpu = not has_tpu() and not has_gpu()
  if on_cpu:  # compilers that are there for `plan` alone would say at length what they do not find
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  import jax

  from t5lite import host_memory

  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    base = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache')
    jax.config.update('jax_compilation_cache_dir', str(base / 't5lite' / 'xla'))
  simulated = re.search(r'host_platform_device_count=(\d+)', os.environ.get('XLA_FLAGS', ''))
  num_devices = int(simulated[1]) if simulated else jax.config.values['jax_num_cpu_devices']
  if num_devices > 1:  # XLA's threads: with one for each device, collectives can lock up
    os.environ.setdefault('NPROC', str(4 * num_devices))
  if on_cpu or jax.config.values['jax_platforms'] == 'cpu':
    host_memory.use_one_arena()


def use_cpu() -> None:
  """Keeps JAX off the accelerators; of a command that needs none."""
  os.environ['JAX_PLATFORMS'] = 'cpu'
  import jax

  from t5lite import host_memory

  jax.config.update('jax_platforms', 'cpu')
  host_memory.use_one_arena()


def has_tpu(devices: pathlib.Path = pathlib.Path('/dev')) -> bool:
  """Returns whether libtpu is installed and the machine has what may be a TPU."""
  nodes = [*devices.glob('accel[0-9]*'), *devices.glob('vfio/[0-9]*')]
  return bool(nodes and importlib.util.find_spec('libtpu'))


def has_gpu(devices: pathlib.Path = pathlib.Path('/dev')) -> bool:
  """Returns whether a plugin of jax is installed and the machine has what it may be for.

  Where a CUDA plugin would find its device is known; of another's, jax finds out.
  """
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  nodes = [*devices.glob('nvidia[0-9]*'), *devices.glob('dxg')]
  return any(nodes or 'cuda' not in plugin.name for plugin in plugins)
