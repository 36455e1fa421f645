"""Ring attention against plain attention: values and gradients, whatever is seen."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5lite import config
from t5lite import meshes
from t5lite import sharding
from t5lite.models import attention
from t5lite.models import scope as scope_lib

B, T, S, N, K, H, P = 4, 16, 24, 4, 2, 8, 10
RNG = np.random.default_rng(0)


def tokens(length: int, **facts) -> scope_lib.Tokens:
  return scope_lib.Tokens(jnp.arange(length), **facts)


def segments(length: int) -> np.ndarray:
  """Returns up to three segments a row, then padding; a row may end in the middle of a block."""
  cuts = np.sort(RNG.integers(1, length, (B, 3)), axis=1)
  return np.array([np.searchsorted(row, np.arange(length), 'right') + 1 for row in cuts]) % 4


TABLE = RNG.normal(size=(P, N)).astype(np.float32)
PACKED, SOURCES = tokens(T, segment_BxT=segments(T)), tokens(S, segment_BxT=segments(S))
PREFIX = tokens(T, prefix_BxT=np.arange(T)[None] < RNG.integers(1, T, (B, 1)))
CAUSAL, ALL = scope_lib.Kind(True, max_distance=6), scope_lib.Kind(False, max_distance=6)
LOCAL = scope_lib.Kind(True, window=5)
CASES = {
  'all': scope_lib.Facts(ALL, tokens(T), tokens(T)),
  'causal': scope_lib.Facts(CAUSAL, tokens(T), tokens(T)),
  'prefix': scope_lib.Facts(CAUSAL, tokens(T), PREFIX),
  'segments': scope_lib.Facts(ALL, PACKED, PACKED),
  'causal segments': scope_lib.Facts(CAUSAL, PACKED, PACKED),
  'bias': scope_lib.Facts(ALL, tokens(T), tokens(T), TABLE),
  'causal bias': scope_lib.Facts(CAUSAL, PACKED, PACKED, TABLE),
  'cross': scope_lib.Facts(ALL, tokens(T), tokens(S)),
  'cross segments': scope_lib.Facts(ALL, PACKED, SOURCES),
  'local': scope_lib.Facts(LOCAL, tokens(T), tokens(T), is_global=False),
  'global beside local': scope_lib.Facts(LOCAL, tokens(T), tokens(T), is_global=True),
}


def inputs(num_keys: int) -> tuple[np.ndarray, ...]:
  sizes = ((B, T, N, H), (B, num_keys, K, H), (B, num_keys, K, H), (B, T, N, H))
  return tuple(RNG.normal(size=size).astype(np.float32) for size in sizes)


def objective(facts, rate, query, key, value, weight, table):
  """Returns a sum that depends on every output, with T5's bias from `table`."""
  facts = facts._replace(table_PN=None if facts.table_PN is None else table)
  scope = scope_lib.prepared(facts)
  if isinstance(scope, scope_lib.Scope):
    scope = scope_lib.restrict(scope, scope_lib.near(facts), facts.is_global)
  out = attention.attend(query, attention.Cache(key, value), scope, rate, jax.random.key(3))
  return jnp.sum(jnp.sin(out) * weight), out


@pytest.mark.parametrize('parallel', [(1, 4, 1), (2, 2, 2), (1, 8, 1)])
@pytest.mark.parametrize('name', CASES)
def test_ring_attention_is_attention(name, parallel):
  facts, rate = CASES[name], 0.2 if 'segments' in name else 0.0
  arrays = inputs(len(facts.key.slot_T))
  run = jax.value_and_grad(functools.partial(objective, facts, rate), (0, 1, 2, 4), has_aux=True)
  (_, expected), expected_bar = jax.jit(run)(*arrays, TABLE)
  data, sequence, model = parallel
  mesh = meshes.make(
    config.Parallel(data=data, sequence=sequence, model=model),
    jax.devices()[: data * sequence * model],
  )
  with jax.set_mesh(mesh):
    spec = sharding.activation_spec('BTNH')
    placed = jax.device_put((*arrays, TABLE), (*[spec] * 4, sharding.parameter_spec('PN')))
    (_, out), bar = jax.jit(run)(*placed)
  np.testing.assert_allclose(out, expected, atol=2e-6)
  for one, other in zip(bar, expected_bar, strict=True):
    assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()


def test_no_device_has_all_pairs():
  """The program has no array of as many elements as pairs of tokens, forward or backward."""
  length, ways = 256, 8
  kind = dataclasses.replace(CAUSAL, window=0)
  facts = scope_lib.Facts(kind, tokens(length), tokens(length), TABLE)
  mesh = meshes.make(config.Parallel(data=1, sequence=ways))
  with jax.set_mesh(mesh):
    spec = jax.sharding.NamedSharding(mesh, sharding.activation_spec('BTNH'))
    shape = jax.ShapeDtypeStruct((1, length, N, H), jnp.float32, sharding=spec)
    table = jax.ShapeDtypeStruct(TABLE.shape, jnp.float32)
    run = jax.grad(functools.partial(objective, facts, 0.0), (0, 1, 2, 4), has_aux=True)
    memory = jax.jit(run).lower(shape, shape, shape, shape, table).compile().memory_analysis()
  block = N * (length // ways) ** 2 * 4
  assert memory.temp_size_in_bytes < 16 * block < N * length**2 * 4
