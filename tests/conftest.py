"""Every test runs on CPU with 8 simulated devices; warnings are errors."""

import os

os.environ['JAX_PLATFORMS'] = 'cpu'
# Level 0 halves the time of the many small compilations.
os.environ['XLA_FLAGS'] = (
  '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0'
)
# XLA's threads: with one for each of 8 devices on few cores, collectives can lock up.
os.environ['NPROC'] = '32'

import jax
import pytest

from t5lite import sharding

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture
def mesh():
  """The mesh of data 4 and model 2, set for the test."""
  kinds = (jax.sharding.AxisType.Explicit,) * 5
  mesh = jax.make_mesh((1, 1, 4, 1, 2), sharding.AXES, axis_types=kinds)
  with jax.set_mesh(mesh):
    yield mesh
