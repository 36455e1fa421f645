"""Multi-head attention with grouped keys, T5's bias, masks and a key-value cache.

Letters: as in layers.py.
"""

import functools
import math
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from t5lite import config
from t5lite import sharding
from t5lite.models import layers
from t5lite.models import positions
from t5lite.models import ring
from t5lite.models import scope as scope_lib

Scope = scope_lib.Scope | scope_lib.Facts


class Cache(NamedTuple):
  """Keys and values of the tokens so far, of one layer (or of all, with a leading L)."""

  key_BSKH: jax.Array
  value_BSKH: jax.Array


class Attention(nnx.Module):
  """Softmax(Q K' + bias) V with an output projection (Vaswani et al. 2017, equation 1)."""

  def __init__(self, model: config.Model, rngs: nnx.Rngs):
    self.model = model
    # Kernels are matrices: TPUs pad the last dimension to 128, which would double [D, N, 64].
    queries = (model.d_model, model.num_heads * model.head_dim)
    keys = (model.d_model, model.num_kv_heads * model.head_dim)
    linear = functools.partial(layers.Linear, model, rank=model.lora_rank)
    self.query = linear('BTD,DJ->BTJ', queries, rngs(), role='query')
    self.key = linear('BSD,DJ->BSJ', keys, rngs())
    self.value = linear('BSD,DJ->BSJ', keys, rngs())
    self.output = linear('BTJ,JD->BTD', queries[::-1], rngs(), role='residual')

  def keys_values(
    self, source_BSD: jax.Array, positions_BxS: jax.Array | None, is_global: jax.Array | bool = True
  ) -> Cache:
    """Returns the keys and values of a sequence; `positions_BxS` None: no rotation."""
    key_BSKH = self._heads(self.key(source_BSD))
    if positions_BxS is not None and self.model.positions == 'rotary':
      key_BSKH = positions.rotary(key_BSKH, positions_BxS, self._base(is_global))
    return Cache(key_BSKH, self._heads(self.value(source_BSD)))

  def __call__(
    self,
    x_BTD: jax.Array,
    memory: Cache,
    scope: Scope,
    positions_BxT: jax.Array | None = None,
    key: layers.Key = None,
    is_global: jax.Array | bool = True,
  ) -> jax.Array:
    """Returns the attention of x over `memory` [B, T, D]; `positions_BxT` None: no rotation."""
    query_BTNH = self._heads(self.query(x_BTD))
    if positions_BxT is not None and self.model.positions == 'rotary':
      query_BTNH = positions.rotary(query_BTNH, positions_BxT, self._base(is_global))
    if self.model.scale_attention:
      query_BTNH = query_BTNH * (1 / math.sqrt(self.model.head_dim))
    out_BTNH = attend(query_BTNH, memory, scope, self.model.dropout, key)
    return self.output(sharding.reshape(out_BTNH, (*x_BTD.shape[:2], -1), 'BTJ'))

  def _base(self, is_global: jax.Array | bool) -> float | jax.Array:
    """Returns the base of the rotation of a global or a local layer."""
    local = self.model.local_rotary_base
    return (
      self.model.rotary_base
      if local is None
      else jnp.where(is_global, self.model.rotary_base, local)
    )

  def _heads(self, x_BTJ: jax.Array) -> jax.Array:
    """Returns x, cut into heads [B, T, N, H]."""
    return sharding.reshape(x_BTJ, (*x_BTJ.shape[:2], -1, self.model.head_dim), 'BTNH')


def attend(
  query_BTNH: jax.Array, memory: Cache, scope: Scope, rate: float, key: layers.Key
) -> jax.Array:
  """Returns softmax(query key' + bias) value [B, T, N, H]; scores and softmax in float32."""
  if isinstance(scope, scope_lib.Facts):
    return ring.attend(query_BTNH, memory.key_BSKH, memory.value_BSKH, scope, rate, key)
  batch, length, heads, size = query_BTNH.shape
  kv_heads = memory.key_BSKH.shape[2]
  groups = heads // kv_heads
  # The heads of a key-value head are more rows of queries, R = T * G, not a dimension of their own:
  # around one of size 1 XLA's CPU backend copies all scores.
  query_BTKGH = sharding.reshape(query_BTNH, (batch, length, kv_heads, groups, size), 'BTKGH')
  rows = (batch, kv_heads, length * groups, size)
  query_BKRH = sharding.reshape(jnp.swapaxes(query_BTKGH, 1, 2), rows, 'BKRH')
  # Keys are turned before the product: then no array of [R, S] is transposed, forward or backward.
  key_BKHS = jnp.transpose(memory.key_BSKH, (0, 2, 3, 1))
  score_BKRS = sharding.einsum(
    'BKRH,BKHS->BKRS', query_BKRH, key_BKHS, preferred_element_type=jnp.float32
  )
  if (offset_BKRS := scope_lib.offset(scope, score_BKRS.shape, groups)) is not None:
    score_BKRS = score_BKRS + offset_BKRS
  # The division comes after the sum over keys: a pass less over [R, S], forward and backward.
  top_BKR1 = jax.lax.stop_gradient(jnp.max(score_BKRS, axis=-1, keepdims=True))
  share_BKRS = jnp.exp(score_BKRS - top_BKR1)
  total_BKR1 = jnp.sum(share_BKRS, axis=-1, keepdims=True)
  share_BKRS = layers.dropout(share_BKRS, rate, key).astype(query_BTNH.dtype)
  out_BKRH = sharding.einsum('BKRS,BSKH->BKRH', share_BKRS, memory.value_BSKH)
  out_BKRH = (out_BKRH / total_BKR1).astype(query_BTNH.dtype)
  grouped = (batch, kv_heads, length, groups, size)
  out_BTKGH = jnp.swapaxes(sharding.reshape(out_BKRH, grouped, 'BKTGH'), 1, 2)
  return sharding.reshape(out_BTKGH, query_BTNH.shape, 'BTNH')
