"""Whom a query sees and how positions weigh: arrays over all pairs, or the facts they come from.

The arrays are made once for all layers. Where the mesh splits the sequence there are none: each
device makes the block that it needs from facts of the tokens (see ring.py).

Letters: as in layers.py.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5lite import sharding
from t5lite.models import positions

MASKED = -1e9  # added to the score of a key that may not be seen; float32, so it never overflows


class Scope(NamedTuple):
  """The arrays."""

  mask_BTS: jax.Array | None = None  # bool, True: visible; B or T may be 1; None: all of it
  bias_BNTS: jax.Array | None = None  # float32, added to the scores; B as in positions.py
  bucket_TS: jax.Array | None = None  # of each pair, where each layer has a bias of its own


class Tokens(NamedTuple):
  """What is known of the tokens on one side of attention."""

  slot_T: jax.Array  # int32, place in the row
  segment_BxT: jax.Array | None = None  # only tokens of equal segments see each other; None: all do
  prefix_BxT: jax.Array | None = None  # keys that all queries see, even of a causal stack


@dataclasses.dataclass(frozen=True)
class Kind:
  """What is the same for all tokens."""

  causal: bool
  window: int = 0  # of local layers, which see keys less than this far away; 0: all are global
  max_distance: int = 0  # of the relative bias
  num_buckets: int = 0  # of the tables of layers that have one each; 0: they have none


class Facts(NamedTuple):
  """What the arrays come from."""

  kind: Kind
  query: Tokens
  key: Tokens
  table_PN: jax.Array | None = None  # of the relative bias
  is_global: jax.Array | bool = True  # the layer


def prepared(facts: Facts) -> Scope | Facts:
  """Returns what attention works with: the arrays, or the facts where the sequence is split."""
  return facts if sharding.rules().length else whole(facts)


def whole(facts: Facts) -> Scope:
  """Returns the arrays of all pairs of tokens."""
  mask_BTS, kind = visible(facts), facts.kind
  if facts.table_PN is None:
    return Scope(mask_BTS, bucket_TS=buckets(facts) if kind.num_buckets else None)
  bias_BNTS = positions.relative_bias(
    facts.table_PN,
    facts.query.slot_T,
    facts.key.slot_T,
    bidirectional=not kind.causal,
    max_distance=kind.max_distance,
  )
  return Scope(mask_BTS, bias_BNTS)


def buckets(facts: Facts) -> jax.Array:
  """Returns the bucket of each pair's relative position, int32 [T, S]."""
  return positions.relative_bucket(
    facts.key.slot_T[None, :] - facts.query.slot_T[:, None],
    bidirectional=not facts.kind.causal,
    num_buckets=facts.kind.num_buckets,
    max_distance=facts.kind.max_distance,
  )


def with_table(scope: Scope | Facts, table_PN: jax.Array) -> Scope | Facts:
  """Returns the scope of a layer that has a table of the relative bias of its own."""
  if isinstance(scope, Facts):
    return scope._replace(table_PN=table_PN)
  assert scope.bucket_TS is not None, 'no buckets for the table of a layer'
  return scope._replace(bias_BNTS=positions.bias_of(table_PN, scope.bucket_TS), bucket_TS=None)


def visible(facts: Facts) -> jax.Array | None:
  """Returns which keys each query sees in a global layer, bool [B or 1, T, S]; None: all."""
  query, key, mask_BTS = facts.query, facts.key, None
  if facts.kind.causal:
    mask_BTS = (key.slot_T[None, :] <= query.slot_T[:, None])[None]
    if key.prefix_BxT is not None:
      mask_BTS = mask_BTS | (key.prefix_BxT > 0)[:, None, :]
  if query.segment_BxT is not None and key.segment_BxT is not None:
    same_BTS = query.segment_BxT[:, :, None] == key.segment_BxT[:, None, :]
    mask_BTS = same_BTS if mask_BTS is None else mask_BTS & same_BTS
  return mask_BTS


def near(facts: Facts) -> jax.Array | None:
  """Returns the pairs that a local layer may see, bool [T, S]; None: all layers are global."""
  window, distance_TS = facts.kind.window, facts.key.slot_T[None, :] - facts.query.slot_T[:, None]
  return jnp.abs(distance_TS) < window if window else None


def restrict(scope: Scope, near_TS: jax.Array | None, is_global: jax.Array | bool) -> Scope:
  """Returns the scope of a layer, which is the near pairs only unless the layer is global."""
  if near_TS is None:
    return scope
  near_1TS = (is_global | near_TS)[None]
  mask_BTS = near_1TS if scope.mask_BTS is None else scope.mask_BTS & near_1TS
  return scope._replace(mask_BTS=mask_BTS)


def offset(scope: Scope, shape: tuple[int, ...], groups: int) -> jax.Array | None:
  """Returns what is added to scores of `shape` [B, K, R, S]; without a bias, K and R may be 1.

  R are queries times heads of a key-value head (`groups`).
  """
  mask_BTS, bias_BNTS, mask_B1RS = scope.mask_BTS, scope.bias_BNTS, None
  if mask_BTS is not None:
    mask_BRS = mask_BTS if mask_BTS.shape[1] == 1 else jnp.repeat(mask_BTS, groups, axis=1)
    mask_B1RS = jnp.where(mask_BRS, 0, MASKED)[:, None]
  if bias_BNTS is None:
    return mask_B1RS
  grouped = (-1, shape[1], groups, *bias_BNTS.shape[2:])
  bias_BKTGS = jnp.swapaxes(sharding.reshape(bias_BNTS, grouped, 'BKGTS'), 2, 3)
  bias_BKRS = sharding.reshape(bias_BKTGS, (-1, *shape[1:]), 'BKRS')
  # Whole, and one sum for all layers: XLA's CPU backend would make the bias whole and then add it.
  bias_BKRS = jnp.repeat(
    bias_BKRS, shape[0] // len(bias_BKRS), axis=0, out_sharding=sharding.activation_spec('BKRS')
  )
  return bias_BKRS if mask_B1RS is None else bias_BKRS + mask_B1RS
