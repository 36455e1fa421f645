"""Multi-head attention with grouped keys, T5's bias, masks and a key-value cache.

Letters: as in layers.py.
"""

import math
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from t5lite import config
from t5lite import sharding
from t5lite.models import layers
from t5lite.models import positions

MASKED = -1e9  # added to the score of a key that may not be seen; float32, so it never overflows


class Scope(NamedTuple):
  """What a query may see, and how positions weigh."""

  mask_BTS: jax.Array | None = None  # bool, True: visible; B or T may be 1; None: all of it
  bias_NTS: jax.Array | None = None  # float32, added to the scores


class Cache(NamedTuple):
  """Keys and values of the tokens so far, of one layer (or of all, with a leading L)."""

  key_BSKH: jax.Array
  value_BSKH: jax.Array


class Attention(nnx.Module):
  """Softmax(Q K' + bias) V with an output projection (Vaswani et al. 2017, equation 1)."""

  def __init__(self, model: config.Model, rngs: nnx.Rngs):
    self.model = model
    queries = (model.d_model, model.num_heads, model.head_dim)
    keys = (model.d_model, model.num_kv_heads, model.head_dim)
    self.query = layers.Linear(model, 'BTD,DNH->BTNH', queries, rngs(), role='query')
    self.key = layers.Linear(model, 'BSD,DKH->BSKH', keys, rngs())
    self.value = layers.Linear(model, 'BSD,DKH->BSKH', keys, rngs())
    shape = (model.num_heads, model.head_dim, model.d_model)
    self.output = layers.Linear(model, 'BTNH,NHD->BTD', shape, rngs(), role='residual')

  def keys_values(self, source_BSD: jax.Array, positions_BxS: jax.Array | None) -> Cache:
    """Returns the keys and values of a sequence; `positions_BxS` None: no rotation."""
    key_BSKH = self.key(source_BSD)
    if positions_BxS is not None and self.model.positions == 'rotary':
      key_BSKH = positions.rotary(key_BSKH, positions_BxS, self.model.rotary_base)
    return Cache(key_BSKH, self.value(source_BSD))

  def __call__(
    self,
    x_BTD: jax.Array,
    memory: Cache,
    scope: Scope,
    positions_BxT: jax.Array | None = None,
    key: layers.Key = None,
  ) -> jax.Array:
    """Returns the attention of x over `memory` [B, T, D]; `positions_BxT` None: no rotation."""
    query_BTNH = self.query(x_BTD)
    if positions_BxT is not None and self.model.positions == 'rotary':
      query_BTNH = positions.rotary(query_BTNH, positions_BxT, self.model.rotary_base)
    if self.model.scale_attention:
      query_BTNH = query_BTNH * (1 / math.sqrt(self.model.head_dim))
    rate = self.model.dropout
    return self.output(attend(query_BTNH, memory, scope, rate, key))


def attend(
  query_BTNH: jax.Array, memory: Cache, scope: Scope, rate: float, key: layers.Key
) -> jax.Array:
  """Returns softmax(query key' + bias) value [B, T, N, H]; scores and softmax in float32."""
  batch, length, heads, size = query_BTNH.shape
  kv_heads = memory.key_BSKH.shape[2]
  grouped = (batch, length, kv_heads, heads // kv_heads, size)
  query_BTKGH = sharding.reshape(query_BTNH, grouped, 'BTKGH')
  # In the order of a plain product, queries' dimensions before keys': the others are transposed.
  score_BKTGS = sharding.einsum(
    'BTKGH,BSKH->BKTGS', query_BTKGH, memory.key_BSKH, preferred_element_type=jnp.float32
  )
  if scope.bias_NTS is not None:
    grouped = (1, kv_heads, heads // kv_heads, *scope.bias_NTS.shape[1:])
    bias_1KGTS = sharding.reshape(scope.bias_NTS, grouped, '1KGTS')
    score_BKTGS = score_BKTGS + jnp.swapaxes(bias_1KGTS, 2, 3)
  if scope.mask_BTS is not None:
    score_BKTGS = score_BKTGS + jnp.where(scope.mask_BTS, 0, MASKED)[:, None, :, None]
  # The division comes after the sum over keys: a pass less over [T, S], forward and backward.
  top_BKTG1 = jax.lax.stop_gradient(jnp.max(score_BKTGS, axis=-1, keepdims=True))
  share_BKTGS = jnp.exp(score_BKTGS - top_BKTG1)
  total_BKTG = jnp.sum(share_BKTGS, axis=-1)
  share_BKTGS = layers.dropout(share_BKTGS, rate, key).astype(query_BTNH.dtype)
  out_BKTGH = sharding.einsum('BKTGS,BSKH->BKTGH', share_BKTGS, memory.value_BSKH)
  out_BKTGH = (out_BKTGH / total_BKTG[..., None]).astype(query_BTNH.dtype)
  out_BTKGH = jnp.swapaxes(out_BKTGH, 1, 2)
  return sharding.reshape(out_BTKGH, query_BTNH.shape, 'BTNH')
