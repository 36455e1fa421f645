"""Attention over a sequence that is split over devices, whose blocks of keys go round in a ring.

Liu et al. 2023 (Ring Attention), with the softmax and its gradient by blocks of Dao et al. 2022
(FlashAttention, algorithms 1 and 4). A device never holds more than one block of scores and of
keys, forward or backward, whatever the mask and the bias.

Letters: B batch, K key-value heads, R query rows (queries times heads a key-value head), S keys,
H head size; all of one device.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

LEAST = -1e30  # below every score, masked ones included; finite, so that differences are numbers

Tree = Any


class Block(NamedTuple):
  """The keys and values of one device, and what else is known of them."""

  key_BSKH: jax.Array
  value_BSKH: jax.Array
  facts: Tree  # integers: positions, segments


class Terms(NamedTuple):
  """How the scores of a block depend on more than its keys: functions that give [B, K, R, S]."""

  offset: Callable[[Tree, Tree, Tree], jax.Array]  # of shared, query facts, key facts; is added
  keep: Callable[[Tree, Tree], jax.Array] | None = None  # of query and key facts; dropout's mask
  rate: float = 0.0  # of that dropout


class Ring(NamedTuple):
  """Mesh axes of the devices."""

  sequence: tuple[str, ...]  # that split it: the ring
  varying: tuple[str, ...]  # that split anything, the sequence too


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attention(
  terms: Terms, ring: Ring, query_BKRH, block: Block, shared: Tree, query_facts: Tree
) -> jax.Array:
  """Returns softmax(query key' + offset) value [B, K, R, H] over the keys of all devices of a ring.

  Runs in a shard_map. Scores, softmax and sums are float32.

  Args:
    terms: what is added to scores, and dropout.
    ring: the devices.
    query_BKRH: queries of this device.
    block: keys of this device.
    shared: the differentiable argument of `terms.offset`, e.g. the table of a position bias; must
      vary over `ring.varying`, as queries, keys and values do.
    query_facts: integers that `terms` needs of the queries.
  """
  return _forward(terms, ring, query_BKRH, block, shared, query_facts)[0]


def _scores(terms: Terms, query_BKRH, block: Block, shared: Tree, query_facts: Tree) -> jax.Array:
  score_BKRS = jnp.einsum(
    'BKRH,BSKH->BKRS', query_BKRH, block.key_BSKH, preferred_element_type=jnp.float32
  )
  return score_BKRS + terms.offset(shared, query_facts, block.facts)


def _dropped(terms: Terms, share_BKRS: jax.Array, query_facts: Tree, block: Block) -> jax.Array:
  if terms.keep is None:
    return share_BKRS
  return jnp.where(terms.keep(query_facts, block.facts), share_BKRS / (1 - terms.rate), 0)


def _round(ring: Ring, tree: Tree) -> Tree:
  """Returns the tree of the device before this one in the ring."""
  size = jax.lax.axis_size(ring.sequence)
  pairs = [(device, (device + 1) % size) for device in range(size)]
  return jax.tree.map(lambda x: jax.lax.ppermute(x, ring.sequence, pairs), tree)


def _start(ring: Ring, value: float, shape: tuple[int, ...]) -> jax.Array:
  """Returns float32 of one value, of which each device has its own."""
  return jax.lax.pcast(jnp.full(shape, value, jnp.float32), ring.varying, to='varying')


def _forward(terms, ring, query_BKRH, block: Block, shared, query_facts):
  def step(carry, _):
    block, top_BKR, total_BKR, out_BKRH = carry
    following = _round(ring, block)  # on its way while this block is used; the last one for nothing
    score_BKRS = _scores(terms, query_BKRH, block, shared, query_facts)
    new_BKR = jnp.maximum(top_BKR, jnp.max(score_BKRS, axis=-1))
    share_BKRS = jnp.exp(score_BKRS - new_BKR[..., None])
    shrink_BKR = jnp.exp(top_BKR - new_BKR)
    total_BKR = total_BKR * shrink_BKR + jnp.sum(share_BKRS, axis=-1)
    share_BKRS = _dropped(terms, share_BKRS, query_facts, block).astype(query_BKRH.dtype)
    part_BKRH = jnp.einsum(
      'BKRS,BSKH->BKRH', share_BKRS, block.value_BSKH, preferred_element_type=jnp.float32
    )
    return (following, new_BKR, total_BKR, out_BKRH * shrink_BKR[..., None] + part_BKRH), None

  shape, start = query_BKRH.shape, functools.partial(_start, ring)
  sums = start(LEAST, shape[:3]), start(0, shape[:3]), start(0, shape)
  (_, top_BKR, total_BKR, out_BKRH), _ = jax.lax.scan(
    step, (block, *sums), length=jax.lax.axis_size(ring.sequence)
  )
  out_BKRH = (out_BKRH / total_BKR[..., None]).astype(query_BKRH.dtype)
  # Both, not top + log(total): of a row that sees nothing, that sum would have lost the total.
  return out_BKRH, (query_BKRH, block, shared, query_facts, out_BKRH, top_BKR, total_BKR)


def _backward(terms, ring, saved, out_bar_BKRH):
  """Returns the gradients; those of keys and values travel with their block, once round."""
  query_BKRH, block, shared, query_facts, out_BKRH, top_BKR, total_BKR = saved
  product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
  out_bar_BKRH = out_bar_BKRH.astype(query_BKRH.dtype)
  mean_BKR1 = jnp.sum(
    out_bar_BKRH.astype(jnp.float32) * out_BKRH.astype(jnp.float32), axis=-1, keepdims=True
  )

  def step(carry, _):
    block, key_bar, value_bar, query_bar, shared_bar = carry
    following = _round(ring, block)
    scores = functools.partial(_scores, terms, query_BKRH, block, query_facts=query_facts)
    score_BKRS, shared_vjp = jax.vjp(scores, shared)
    share_BKRS = jnp.exp(score_BKRS - top_BKR[..., None]) / total_BKR[..., None]
    dropped_BKRS = _dropped(terms, share_BKRS, query_facts, block)
    value_bar += product('BKRS,BKRH->BSKH', dropped_BKRS.astype(out_bar_BKRH.dtype), out_bar_BKRH)
    bar_BKRS = product('BKRH,BSKH->BKRS', out_bar_BKRH, block.value_BSKH)
    score_bar_BKRS = dropped_BKRS * bar_BKRS - share_BKRS * mean_BKR1
    (more,) = shared_vjp(score_bar_BKRS)
    shared_bar = jax.tree.map(jnp.add, shared_bar, more)
    score_bar_BKRS = score_bar_BKRS.astype(query_BKRH.dtype)
    query_bar += product('BKRS,BSKH->BKRH', score_bar_BKRS, block.key_BSKH)
    key_bar += product('BKRS,BKRH->BSKH', score_bar_BKRS, query_BKRH)
    return (following, *_round(ring, (key_bar, value_bar)), query_bar, shared_bar), None

  zeros = [_start(ring, 0, x.shape) for x in (block.key_BSKH, block.value_BSKH, query_BKRH)]
  shared_zeros = jax.tree.map(lambda x: _start(ring, 0, x.shape), shared)
  (_, key_bar, value_bar, query_bar, shared_bar), _ = jax.lax.scan(
    step, (block, *zeros, shared_zeros), length=jax.lax.axis_size(ring.sequence)
  )
  like = lambda x_bar, x: x_bar.astype(x.dtype)
  block_bar = Block(like(key_bar, block.key_BSKH), like(value_bar, block.value_BSKH), None)
  return like(query_bar, query_BKRH), block_bar, jax.tree.map(like, shared_bar, shared), None


attention.defvjp(_forward, _backward)
