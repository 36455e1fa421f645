"""Positions: T5's bucketed relative bias, rotary, sinusoidal. (Learned: `layers.Embed`.)

Letters: as in layers.py.
"""

import math

from flax import nnx
import jax
import jax.numpy as jnp

from t5lite import config
from t5lite import sharding
from t5lite.models import layers


def relative_bucket(
  relative_TS: jax.Array, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> jax.Array:
  """Returns the bucket of each relative position (Raffel et al. 2020, section 2.1).

  Half of the buckets are one position wide, the others widen logarithmically to `max_distance`;
  what lies beyond shares the last one.

  Args:
    relative_TS: int32, key position minus query position.
    bidirectional: half of the buckets for keys after the query; else those all fall into bucket 0.
    num_buckets: buckets in all.
    max_distance: positions.

  Returns:
    int32 in [0, num_buckets), same shape.
  """
  offset, distance = 0, jnp.maximum(-relative_TS, 0)
  if bidirectional:
    num_buckets //= 2
    offset = num_buckets * (relative_TS > 0)
    distance = jnp.abs(relative_TS)
  exact = num_buckets // 2
  wide = num_buckets - exact
  growth = max_distance / exact
  # Integer edges, not the reference code's logarithm of each distance: its float32 rounding, which
  # differs between backends, decides the bucket of distances such as 16, 32 and 64.
  edges = [math.ceil(exact * growth ** (k / wide) - 1e-6) for k in range(1, wide)]
  passed = jnp.searchsorted(jnp.array(edges), distance, side='right', method='compare_all')
  bucket = jnp.where(distance < exact, distance, exact + passed)
  return bucket + offset


class RelativeBias(nnx.Module):
  """T5's learned bias on attention scores: a table for all layers of a stack, or for one (umT5)."""

  def __init__(self, model: config.Model, key: jax.Array):
    shape = (model.relative_buckets, model.num_heads)
    scale = layers.stddev(model, 'other', model.d_model)
    self.embedding = layers.weight(key, 'PN', shape, scale)


def relative_bias(
  table_PN: jax.Array,
  query_T: jax.Array,
  key_S: jax.Array,
  *,
  bidirectional: bool,
  max_distance: int,
) -> jax.Array:
  """Returns the bias [B, N, T, S] in float32 for query and key positions, from its table.

  B are the parts of the batch that devices have, each with a bias of its own, all the same: what
  devices add up is then their gradients of the table, which are small, not those of the bias.
  """
  bucket_TS = relative_bucket(
    key_S[None, :] - query_T[:, None],
    bidirectional=bidirectional,
    num_buckets=len(table_PN),
    max_distance=max_distance,
  )
  return bias_of(table_PN, bucket_TS)


def bias_of(table_PN: jax.Array, bucket_TS: jax.Array) -> jax.Array:
  """Returns the bias [B, N, T, S] of pairs, from their buckets; B as in `relative_bias`."""
  num_buckets = len(table_PN)
  one_hot_TSP = jax.nn.one_hot(bucket_TS, num_buckets, dtype=jnp.float32)
  shape = (sharding.batch_ways(), *table_PN.T.shape)
  table_BNP = jax.lax.broadcast_in_dim(
    table_PN.T, shape, (1, 2), out_sharding=sharding.activation_spec('BNP')
  )
  return sharding.einsum('TSP,BNP->BNTS', one_hot_TSP, table_BNP)


def rotary(x_BTNH: jax.Array, positions_BxT: jax.Array, base: float | jax.Array) -> jax.Array:
  """Returns x with the halves of each head rotated by position (Su et al. 2021, equation 34)."""
  half = x_BTNH.shape[-1] // 2
  frequency_H = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle_BT1H = positions_BxT[:, :, None, None].astype(jnp.float32) * frequency_H[None, None, None]
  sin, cos = jnp.sin(angle_BT1H), jnp.cos(angle_BT1H)
  first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return rotated.astype(x_BTNH.dtype)


def sinusoidal(positions_BxT: jax.Array, d_model: int) -> jax.Array:
  """Returns the fixed position vectors [B, T, D] in float32 (Vaswani et al. 2017, section 3.5).

  Sines fill the first half of D and cosines the second: the paper's, with its dimensions permuted.
  """
  half = d_model // 2
  frequency_D = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle_BTD = positions_BxT[:, :, None].astype(jnp.float32) * frequency_D[None, None]
  return jnp.concatenate([jnp.sin(angle_BTD), jnp.cos(angle_BTD)], axis=-1)
