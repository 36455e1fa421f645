"""Attention where the mesh splits the sequence: blocks of keys go round from device to device.

Letters: as in layers.py, with R rows of queries: T times heads of a key-value head.
"""

from collections.abc import Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp

from t5lite import sharding
from t5lite.models import layers
from t5lite.models import scope as scope_lib
from t5lite.ops import ring_attention

Arrays = Mapping[str, jax.Array]
# Logical dimensions of what a device must know of its tokens.
DIMS = {
  'slot_T': ('length',),
  'segment_BxT': ('batch', 'length'),
  'prefix_BxT': ('batch', 'length'),
  'is_global': (),
  'row_B': ('batch',),
  'head_K': ('heads',),
  'seeds': (None,),
}


def attend(
  query_BTNH: jax.Array,
  key_BSKH: jax.Array,
  value_BSKH: jax.Array,
  facts: scope_lib.Facts,
  rate: float,
  key: layers.Key,
) -> jax.Array:
  """Returns softmax(query key' + bias) value [B, T, N, H], as `attention.attend` does."""
  rules = sharding.rules()
  batch, length, heads, _ = query_BTNH.shape
  kv_heads, groups = key_BSKH.shape[2], heads // key_BSKH.shape[2]
  of_query = {
    **known(facts.query),
    'is_global': jnp.asarray(facts.is_global),
    'row_B': jnp.arange(batch, dtype=jnp.uint32),
    'head_K': jnp.arange(kv_heads, dtype=jnp.uint32),
  }
  if rate and key is not None:
    of_query['seeds'] = layers.seeds(key)
  shape = (batch, kv_heads, length * groups, key_BSKH.shape[1])
  terms = ring_attention.Terms(
    functools.partial(_offset, facts.kind, groups),
    functools.partial(_keep, shape, groups, rate) if 'seeds' in of_query else None,
    rate,
  )

  ring = ring_attention.Ring(rules.length, rules.batch + rules.length + rules.heads)

  def on_device(query_BTNH, block, table_PN, of_query):
    batch, length, heads, size = query_BTNH.shape
    kv_heads = heads // groups
    grouped = jnp.reshape(query_BTNH, (batch, length, kv_heads, groups, size)).swapaxes(1, 2)
    query_BKRH = grouped.reshape(batch, kv_heads, length * groups, size)
    if table_PN is not None:
      table_PN = jax.lax.pcast(table_PN, rules.batch + rules.length, to='varying')
    out_BKRH: Any = ring_attention.attention(terms, ring, query_BKRH, block, table_PN, of_query)
    grouped = jnp.reshape(out_BKRH, (batch, kv_heads, length, groups, size)).swapaxes(1, 2)
    return grouped.reshape(query_BTNH.shape)

  of_key = known(facts.key)
  dims = {name: rules.spec(*DIMS[name]) for name in of_query | of_key}
  of_heads: Any = rules.spec('batch', 'length', 'heads', None)
  in_specs = (
    of_heads,
    ring_attention.Block(of_heads, of_heads, {name: dims[name] for name in of_key}),
    None if facts.table_PN is None else rules.spec(None, 'heads'),
    {name: dims[name] for name in of_query},
  )
  block = ring_attention.Block(key_BSKH, value_BSKH, of_key)
  arguments = jax.sharding.reshard((query_BTNH, block, facts.table_PN, of_query), in_specs)
  return jax.shard_map(on_device, in_specs=in_specs, out_specs=of_heads)(*arguments)


def known(tokens: scope_lib.Tokens) -> dict[str, jax.Array]:
  """Returns what is known, by name."""
  return {name: x for name, x in tokens._asdict().items() if x is not None}


def _offset(
  kind: scope_lib.Kind, groups: int, table_PN: jax.Array | None, of_query: Arrays, of_key: Arrays
) -> jax.Array:
  """Returns what is added to a block's scores [B, K, R, S]; all but S may be 1."""
  query, key = (
    scope_lib.Tokens(**{name: x for name, x in facts.items() if name in scope_lib.Tokens._fields})
    for facts in (of_query, of_key)
  )
  facts = scope_lib.Facts(kind, query, key, table_PN)
  scope = scope_lib.restrict(scope_lib.whole(facts), scope_lib.near(facts), of_query['is_global'])
  rows, keys = len(query.slot_T) * groups, len(key.slot_T)
  shape = (len(of_query['row_B']), len(of_query['head_K']), rows, keys)
  offset_BKRS = scope_lib.offset(scope, shape, groups)
  return jnp.zeros((1, 1, 1, keys)) if offset_BKRS is None else offset_BKRS


def _keep(
  shape: tuple[int, ...], groups: int, rate: float, of_query: Arrays, of_key: Arrays
) -> jax.Array:
  """Returns which shares of a block dropout keeps, choosing among all of `shape` [B, K, R, S]."""
  first_R = of_query['slot_T'].astype(jnp.uint32)[:, None] * groups
  row_R = (first_R + jnp.arange(groups, dtype=jnp.uint32)[None]).reshape(-1)
  index = (of_query['row_B'], of_query['head_K'], row_R, of_key['slot_T'].astype(jnp.uint32))
  index = [jnp.expand_dims(x, [d for d in range(4) if d != dim]) for dim, x in enumerate(index)]
  return layers.kept(layers.hashed(of_query['seeds'], index, shape), rate)
