"""Decoding with a cache: the keys and values of the tokens so far, so that a step costs one token.

`start` makes the cache of a batch of prompts, `extend` reads tokens into it and gives the logits of
what comes next: first the whole prompt at once, then one token at a time. Prompts stand at the
right end of their rows, padded on the left to the longest; each row counts positions from its own
first token.

Several rows may go on from one prompt, as samples or beams: `spread` gives each its copy of the
prompt's cache, and `reorder` lets beams take over from others what they wrote.

Experts leave no token out here: what a short prompt gives would hang on its few places.

Letters: as in layers.py; S slots of the cache, M tokens of the encoder, C copies of a row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from t5lite import config
from t5lite import models
from t5lite import sharding
from t5lite.models import attention
from t5lite.models import blocks
from t5lite.models import scope as scope_lib
from t5lite.models import transformer


class DecodeCache(NamedTuple):
  """What a decoder remembers."""

  past: attention.Cache  # keys and values of its own tokens [L, B, S, K, H]
  first_B: jax.Array  # slot of each row's first token; before it is padding
  slot: jax.Array  # of the next token; int32 scalar
  memory: attention.Cache | None = None  # of the encoder's output [L, B, M, K, H]
  memory_scope: scope_lib.Scope = scope_lib.Scope()


def apart(model: config.Model, params: models.Params) -> models.Params:
  """Returns parameters for decoding: where layers are unrolled, the decoder's as a list.

  On a CPU a step would copy the weights of each layer out of the stack, which takes as long as
  using them: GPT-2 small writes a token in 49 ms, not 96 (a core of an Intel Xeon, 2026-11-25).
  Elsewhere, and if they are apart already, the same parameters.
  """
  layers = params.get('decoder', {}).get('layers')
  if models.resolved(model).layers != 'unroll' or layers is None or isinstance(layers, list):
    return params
  count = len(jax.tree.leaves(layers)[0])
  layer = lambda layers, i: jax.tree.map(lambda x: x[i], layers)
  cut = jax.jit(lambda layers: [layer(layers, i) for i in range(count)])
  return {**params, 'decoder': {**params['decoder'], 'layers': cut(layers)}}


def _build(model: config.Model, params: models.Params) -> transformer.Transformer:
  """Returns the module of parameters that may be apart; XLA drops a stack that is cut again."""
  layers = params['decoder']['layers']
  if isinstance(layers, list):
    layers = jax.tree.map(lambda *x: jnp.stack(x), *layers)
    params = {**params, 'decoder': {**params['decoder'], 'layers': layers}}
  return models.build(models.roomy(model), params)


def whole(x: jax.Array) -> jax.Array:
  """Returns x, all of it on every device."""
  bare = jax.sharding.get_abstract_mesh().empty
  return x if bare else jax.sharding.reshard(x, jax.sharding.PartitionSpec())


def start(
  model: config.Model,
  params: models.Params,
  first_B: jax.Array,
  num_slots: int,
  inputs_BxM: jax.Array | None = None,
) -> DecodeCache:
  """Returns an empty cache; with an encoder, runs it and keeps its keys and values.

  Args:
    model: what `params` was made from; a decoder or an encoder_decoder.
    params: parameters, `apart` or not.
    first_B: number of padding tokens on the left of each row.
    num_slots: tokens that the cache holds, padding included.
    inputs_BxM: encoder_input_tokens, padded on the right with 0; only of an encoder_decoder.
  """
  model = models.resolved(model)
  depth = model.num_decoder_layers or model.num_layers
  shape = (depth, len(first_B), num_slots, model.num_kv_heads, model.head_dim)
  zeros = jnp.zeros(shape, model.dtype, out_sharding=sharding.activation_spec('LBSKH'))
  cache = DecodeCache(attention.Cache(zeros, zeros), first_B, jnp.int32(0))
  if inputs_BxM is None:
    return cache
  module = _build(model, params)
  batch = {'encoder_input_tokens': inputs_BxM}
  assert module.decoder is not None, 'an encoder cannot decode'
  memory = module.decoder.memory(module.encode(batch)[0])
  return cache._replace(memory=memory, memory_scope=transformer.memory_scope(batch))


def extend(
  model: config.Model,
  params: models.Params,
  cache: DecodeCache,
  tokens_BxT: jax.Array,
  *,
  prefix: bool = False,
) -> tuple[jax.Array, DecodeCache]:
  """Returns float32 logits [B, V] of the token after `tokens_BxT`, and the cache with these added.

  The logits are whole on every device.

  Args:
    model: what `params` was made from.
    params: parameters, `apart` or not.
    cache: where the tokens go, from its slot on.
    tokens_BxT: decoder_input_tokens.
    prefix: these tokens see each other both ways (prefix language models); only of the first call.
  """
  module = _build(model, params)
  assert module.decoder is not None, 'an encoder cannot decode'
  query_T = cache.slot + jnp.arange(tokens_BxT.shape[1], dtype=jnp.int32)
  key_S = jnp.arange(cache.past.key_BSKH.shape[2], dtype=jnp.int32)
  is_text_BxT, is_text_BxS = (slots[None] >= cache.first_B[:, None] for slots in (query_T, key_S))
  seen_BxS = is_text_BxS & (key_S <= query_T[-1])[None] if prefix else None
  query = scope_lib.Tokens(query_T, is_text_BxT)
  scope, near_TS = module.decoder.scope(query, scope_lib.Tokens(key_S, is_text_BxS, seen_BxS))
  positions_BxT = jnp.maximum(query_T[None] - cache.first_B[:, None], 0)
  context = blocks.Context(
    positions_BxT,
    scope,
    near_TS,
    memory_scope=cache.memory_scope,
    slot=cache.slot,
    is_text_BxT=is_text_BxT,
  )
  x_BTD = module.token_embed(tokens_BxT)
  x_BTD, kept = module.decoder(x_BTD, context, cache=cache.past, memory=cache.memory)
  assert kept.cache is not None
  logits_BV = whole(module.logits(x_BTD[:, -1:])[:, 0])
  return logits_BV, cache._replace(past=kept.cache, slot=cache.slot + tokens_BxT.shape[1])


def spread(cache: DecodeCache, copies: int) -> DecodeCache:
  """Returns the cache with each row `copies` times, one behind another."""
  if copies == 1:
    return cache
  index_BxC = jnp.zeros((len(cache.first_B), copies), jnp.int32)
  past, memory = jax.tree.map(lambda x: _taken(x, index_BxC), (cache.past, cache.memory))
  first_B, scope = jax.tree.map(
    lambda x: jnp.repeat(x, copies, axis=0), (cache.first_B, cache.memory_scope)
  )
  return cache._replace(past=past, memory=memory, first_B=first_B, memory_scope=scope)


def reorder(cache: DecodeCache, index_BxC: jax.Array, first: int) -> DecodeCache:
  """Returns the cache in which copies go on from what others of their row wrote.

  Args:
    cache: spread.
    index_BxC: which copy each one takes over from, 0 to C - 1.
    first: slot from which the copies of a row differ.
  """

  def moved(x_LBSKH):
    late_LBSKH = jax.lax.slice_in_dim(x_LBSKH, first, None, axis=2)
    late_LBSKH = _taken(late_LBSKH, index_BxC)
    return jax.lax.dynamic_update_slice_in_dim(x_LBSKH, late_LBSKH, first, axis=2)

  return cache._replace(past=jax.tree.map(moved, cache.past))


def _taken(x_LBSKH: jax.Array, index_BxC: jax.Array) -> jax.Array:
  """Returns rows of x by their number among those of one prompt; no device asks another."""

  def on_device(x_LBSKH, index_BxC):
    num_groups = len(index_BxC)
    starts_B1 = jnp.arange(num_groups)[:, None] * (x_LBSKH.shape[1] // num_groups)
    return jnp.take(x_LBSKH, (starts_B1 + index_BxC).reshape(-1), axis=1, mode='clip')

  spec = sharding.activation_spec('LBSKH')
  if spec is None:
    return on_device(x_LBSKH, index_BxC)
  in_specs = (spec, sharding.spec('batch', None))
  arguments = jax.sharding.reshard((x_LBSKH, index_BxC), in_specs)
  return jax.shard_map(on_device, in_specs=in_specs, out_specs=spec)(*arguments)
