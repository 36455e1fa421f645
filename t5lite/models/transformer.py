"""The Transformer in its three architectures: blocks, stacks of blocks, heads.

Letters: as in layers.py.
"""

import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from t5lite import config
from t5lite import sharding
from t5lite.models import attention
from t5lite.models import layers
from t5lite.models import moe
from t5lite.models import positions
from t5lite.models import scope as scope_lib

POLICIES = {
  'minimal': jax.checkpoint_policies.dots_saveable,  # keeps every matmul, recomputes the rest
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # also recomputes attention
  # Keeps what 'dots' keeps, but in the host's memory.
  'offload': jax.checkpoint_policies.offload_dot_with_no_batch_dims('device', 'pinned_host'),
  'full': jax.checkpoint_policies.nothing_saveable,  # keeps only the input of each layer
}


class Context(NamedTuple):
  """What all layers of a stack share."""

  positions_BxT: jax.Array
  scope: attention.Scope
  near_TS: jax.Array | None = None  # the pairs that a local layer may see
  memory_BSD: jax.Array | None = None  # the encoder's output
  memory_scope: attention.Scope = scope_lib.Scope()
  slot: jax.Array | int = 0  # with a cache: where the first query's key goes
  is_text_BxT: jax.Array | None = None  # of sparse layers: the tokens that are no padding


class Layer(NamedTuple):
  """What differs from layer to layer; with a leading L where it is scanned."""

  is_global: jax.Array
  key: layers.Key = None
  cache: attention.Cache | None = None  # keys and values of earlier tokens, [B, S, K, H]
  memory: attention.Cache | None = None  # keys and values of the encoder's output


class Kept(NamedTuple):
  """What comes out of a layer beside the hidden states."""

  cache: attention.Cache | None = None  # where it has one: the cache with this input added
  routing: moe.Routing | None = None  # where its mlp is sparse


class Block(nnx.Module):
  """One layer: self-attention, perhaps cross-attention, mlp; each with a norm and a residual."""

  def __init__(self, model: config.Model, rngs: nnx.Rngs, *, cross: bool, sparse: bool = False):
    self.model = model
    self.attention_norm = layers.Norm(model)
    self.attention = attention.Attention(model, rngs)
    self.cross_norm = layers.Norm(model) if cross else None
    self.cross_attention = attention.Attention(model, rngs) if cross else None
    self.mlp_norm = layers.Norm(model)
    self.mlp = moe.SparseMlp(model, rngs) if sparse else layers.Mlp(model, rngs)

  def __call__(self, x_BTD: jax.Array, context: Context, layer: Layer) -> tuple[jax.Array, Kept]:
    """Returns the layer's output and what is kept beside it."""
    keys = layers.split(layer.key, 6)
    h_BTD = self._before(self.attention_norm, x_BTD)
    memory = self.attention.keys_values(h_BTD, context.positions_BxT)
    if layer.cache is not None:
      memory = append(layer.cache, memory, context.slot)
    cache = memory if layer.cache is not None else None
    scope = of_layer(context, layer.is_global)
    y_BTD = self.attention(h_BTD, memory, scope, context.positions_BxT, keys[0])
    x_BTD = self._after(self.attention_norm, x_BTD, y_BTD, keys[1])
    if self.cross_attention is not None and self.cross_norm is not None:
      h_BTD = self._before(self.cross_norm, x_BTD)
      memory = layer.memory
      if memory is None:
        assert context.memory_BSD is not None, 'cross-attention without an encoder output'
        memory = self.cross_attention.keys_values(context.memory_BSD, None)
      y_BTD = self.cross_attention(h_BTD, memory, context.memory_scope, None, keys[2])
      x_BTD = self._after(self.cross_norm, x_BTD, y_BTD, keys[3])
    h_BTD, routing = self._before(self.mlp_norm, x_BTD), None
    if isinstance(self.mlp, moe.SparseMlp):
      y_BTD, routing = self.mlp(h_BTD, context.is_text_BxT, keys[4])
    else:
      y_BTD = self.mlp(h_BTD, keys[4])
    return self._after(self.mlp_norm, x_BTD, y_BTD, keys[5]), Kept(cache, routing)

  def memory(self, memory_BSD: jax.Array) -> attention.Cache:
    """Returns the cross-attention's keys and values of the memory [B, S, K, H]."""
    assert self.cross_attention is not None, 'no cross-attention'
    return self.cross_attention.keys_values(memory_BSD, None)

  def _before(self, norm: layers.Norm, x_BTD: jax.Array) -> jax.Array:
    return norm(x_BTD) if self.model.norm_order == 'pre' else x_BTD

  def _after(
    self, norm: layers.Norm, x_BTD: jax.Array, y_BTD: jax.Array, key: layers.Key
  ) -> jax.Array:
    x_BTD = x_BTD + layers.dropout(y_BTD, self.model.dropout, key)
    return x_BTD if self.model.norm_order == 'pre' else norm(x_BTD)


def append(cache: attention.Cache, new: attention.Cache, slot: jax.Array | int) -> attention.Cache:
  """Returns the cache with `new` written from `slot` on."""
  return attention.Cache(
    *(
      jax.lax.dynamic_update_slice_in_dim(old, one.astype(old.dtype), slot, axis=1)
      for old, one in zip(cache, new, strict=True)
    )
  )


def of_layer(context: Context, is_global: jax.Array) -> attention.Scope:
  """Returns the scope of a layer's self-attention."""
  if isinstance(context.scope, scope_lib.Facts):
    return context.scope._replace(is_global=is_global)
  return scope_lib.restrict(context.scope, context.near_TS, is_global)


class Group(nnx.Module):
  """`moe_every` layers, of which the last has a sparse mlp: what a sparse model's stack repeats."""

  def __init__(self, model: config.Model, rngs: nnx.Rngs, *, cross: bool):
    last = model.moe_every - 1
    self.blocks = nnx.Dict(
      {f'layer_{i}': Block(model, rngs, cross=cross, sparse=i == last) for i in range(last + 1)}
    )

  def __call__(self, x_BTD: jax.Array, context: Context, layer: Layer) -> tuple[jax.Array, Kept]:
    """Returns as a Block does; `layer` and the cache have a leading dimension, the layers'."""
    caches, kept = [], Kept()
    for i, block in enumerate(self.blocks.values()):
      one = jax.tree.map(lambda x, i=i: x[i], layer)
      x_BTD, kept = block(x_BTD, context, one)
      caches.append(kept.cache)
    return x_BTD, kept._replace(cache=stacked(caches))

  def memory(self, memory_BSD: jax.Array) -> attention.Cache:
    """Returns each layer's cross-attention keys and values of the memory [n, B, S, K, H]."""
    return stacked([block.memory(memory_BSD) for block in self.blocks.values()])


def stacked(trees: list[Any]) -> Any:
  """Returns the trees of arrays as one, along a new first dimension."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def grouped(model: config.Model, tree: Any) -> Any:
  """Returns arrays of the layers [L, ...] as a sparse model's groups have them [L / n, n, ...]."""
  if not model.num_experts:
    return tree
  return jax.tree.map(lambda x: x.reshape(-1, model.moe_every, *x.shape[1:]), tree)


def ungrouped(model: config.Model, tree: Any) -> Any:
  """Returns arrays of a sparse model's groups [L / n, n, ...] as those of its layers [L, ...]."""
  if not model.num_experts:
    return tree
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


class Stack(nnx.Module):
  """The layers of an encoder (bidirectional) or decoder (causal), with positions and final norm."""

  def __init__(
    self, model: config.Model, num_layers: int, rngs: nnx.Rngs, *, causal: bool, cross: bool
  ):
    self.model = model
    self.num_layers = num_layers
    self.num_repeats = num_layers // model.moe_every if model.num_experts else num_layers
    self.causal = causal
    rows = model.max_length
    self.position_embed = layers.Embed(model, 'P', rows, rngs(), 'position') if rows else None
    types = model.num_token_types
    self.type_embed = layers.Embed(model, 'P', types, rngs(), 'other') if types else None
    self.embed_norm = layers.Norm(model) if model.embedding_norm else None
    relative = model.positions == 'relative'
    self.relative_bias = positions.RelativeBias(model, rngs()) if relative else None

    def block(key):
      return (Group if model.num_experts else Block)(model, nnx.Rngs(key), cross=cross)

    graphdef = nnx.graphdef(nnx.eval_shape(lambda: block(0)))
    keys = jax.random.split(rngs(), self.num_repeats)
    self.layers = nnx.merge(graphdef, jax.lax.map(lambda key: nnx.state(block(key)), keys))
    self.final_norm = layers.Norm(model) if model.norm_order == 'pre' else None

  def __call__(
    self,
    x_BTD: jax.Array,
    context: Context,
    token_types_BxT: jax.Array | None = None,
    key: layers.Key = None,
    cache: attention.Cache | None = None,
    memory: attention.Cache | None = None,
  ) -> tuple[jax.Array, Kept]:
    """Returns the hidden states [B, T, D], from token embeddings.

    And, kept: the new cache of all layers, the routing of the sparse ones, summed.
    """
    rate = self.model.dropout
    embed_key, layers_key, final_key = layers.split(key, 3)
    x_BTD = layers.dropout(self._embed(x_BTD, context, token_types_BxT), rate, embed_key)
    is_global_L = jnp.arange(self.num_layers) % self.model.global_every == 0
    keys_L = None if layers_key is None else jax.random.split(layers_key, self.num_layers)
    graphdef, params_L = nnx.split(self.layers)

    unrolled = self.model.layers == 'unroll'

    def body(x_BTD, params_and_layer):
      params, layer = params_and_layer
      if unrolled:
        # Without a loop, XLA would fuse the sums of the residual stream's gradient through all
        # layers: each layer would add up anew what all those above it gave.
        x_BTD = jax.lax.optimization_barrier(x_BTD)
      return nnx.merge(graphdef, params)(x_BTD, context, layer)

    if self.model.remat != 'none':
      # Without the guard, XLA merges the recomputation with the first run where there is no loop.
      body = jax.checkpoint(body, policy=POLICIES[self.model.remat], prevent_cse=unrolled)
    unroll = self.num_repeats if unrolled else 1
    layer = grouped(self.model, Layer(is_global_L, keys_L, cache, memory))
    x_BTD, kept = jax.lax.scan(body, x_BTD, (params_L, layer), unroll=unroll)
    kept = Kept(ungrouped(self.model, kept.cache), moe.added(kept.routing))
    if self.final_norm is not None:
      x_BTD = self.final_norm(x_BTD)
      x_BTD = layers.dropout(x_BTD, rate if self.model.initializer == 't5' else 0.0, final_key)
    return x_BTD, kept

  def _embed(self, x_BTD, context: Context, token_types_BxT) -> jax.Array:
    if self.position_embed is not None:
      x_BTD = x_BTD + self.position_embed(context.positions_BxT)
    if self.model.positions == 'sinusoidal':
      x_BTD = x_BTD + positions.sinusoidal(context.positions_BxT, self.model.d_model).astype(
        x_BTD.dtype
      )
    if self.type_embed is not None:
      types = jnp.zeros_like(context.positions_BxT) if token_types_BxT is None else token_types_BxT
      x_BTD = x_BTD + self.type_embed(types)
    return x_BTD if self.embed_norm is None else self.embed_norm(x_BTD)

  def memory(self, memory_BSD: jax.Array) -> attention.Cache:
    """Returns each layer's cross-attention keys and values of the memory [L, B, S, K, H]."""
    graphdef, params_L = nnx.split(self.layers)

    def keys_values(params):
      return nnx.merge(graphdef, params).memory(memory_BSD)

    return ungrouped(self.model, jax.lax.map(keys_values, params_L))

  def scope(
    self, query: scope_lib.Tokens, key: scope_lib.Tokens
  ) -> tuple[attention.Scope, jax.Array | None]:
    """Returns who sees whom, and the near pairs for local layers."""
    model, table_PN = self.model, None
    if self.relative_bias is not None:
      table_PN = self.relative_bias.embedding[...]
    kind = scope_lib.Kind(self.causal, model.local_window, model.relative_max_distance)
    facts = scope_lib.Facts(kind, query, key, table_PN)
    return scope_lib.prepared(facts), scope_lib.near(facts)


class MlmHead(nnx.Module):
  """BERT's output before the tied matrix: dense, activation, norm; and the output bias."""

  def __init__(self, model: config.Model, rngs: nnx.Rngs):
    self.model = model
    # 'E' is D again: a kernel from the model's width to itself.
    self.dense = layers.Linear(model, 'BTD,DE->BTE', (model.d_model, model.d_model), rngs())
    self.norm = layers.Norm(model)
    self.bias = layers.constant(0.0, 'V', (model.vocab_size,)) if model.use_bias else None

  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    return self.norm(layers.activate(self.model, self.dense(x_BTD)))


class Output(NamedTuple):
  """The last linear map, from the model's width to the vocabulary: input and parameters."""

  x_BTD: jax.Array
  kernel: jax.Array  # float32 [V, D] if it is the tied embedding, else [D, V]
  bias_V: jax.Array | None


class Transformer(nnx.Module):
  """A whole model; `encoder` or `decoder` is None where the architecture has none."""

  def __init__(self, model: config.Model, rngs: nnx.Rngs):
    self.model = model
    encodes = model.architecture != 'decoder'
    decodes = model.architecture != 'encoder'
    both = encodes and decodes
    self.token_embed = layers.Embed(model, 'V', model.vocab_size, rngs(), 'embedding')
    depth = model.num_layers
    self.encoder = Stack(model, depth, rngs, causal=False, cross=False) if encodes else None
    depth = model.num_decoder_layers if both else depth
    self.decoder = Stack(model, depth, rngs, causal=True, cross=both) if decodes else None
    self.mlm_head = MlmHead(model, rngs) if model.mlm_head else None
    shape = (model.d_model, model.vocab_size)
    self.lm_head = (
      None
      if model.tie_embeddings
      else layers.Linear(model, 'BTD,DV->BTV', shape, rngs(), use_bias=False)
    )

  def encode(
    self, batch: dict[str, jax.Array], key: layers.Key = None
  ) -> tuple[jax.Array, moe.Routing | None]:
    """Returns the encoder's hidden states [B, S, D], and the routing of its sparse layers."""
    assert self.encoder is not None, 'a decoder cannot encode'
    tokens = batch['encoder_input_tokens']
    segments = encoder_segments(batch)
    text = scope_lib.Tokens(jnp.arange(tokens.shape[1]), segments)
    scope, near_TS = self.encoder.scope(text, text)
    context = Context(token_positions(batch, 'encoder'), scope, near_TS, is_text_BxT=segments > 0)
    types = batch.get('encoder_token_types')
    x_BTD, kept = self.encoder(self.token_embed(tokens), context, types, key)
    return x_BTD, kept.routing

  def decode(
    self, batch: dict[str, jax.Array], memory_BSD: jax.Array | None, key: layers.Key = None
  ) -> tuple[jax.Array, moe.Routing | None]:
    """Returns the decoder's hidden states [B, T, D], and the routing of its sparse layers.

    `memory_BSD` is None for a decoder alone. Padding stands behind the text, where a causal stack
    does not see it.
    """
    assert self.decoder is not None, 'an encoder cannot decode'
    tokens = batch['decoder_input_tokens']
    text = scope_lib.Tokens(
      jnp.arange(tokens.shape[1]),
      batch.get('decoder_segment_ids'),
      batch.get('decoder_causal_attention'),
    )
    scope, near_TS = self.decoder.scope(text, text)
    context = Context(token_positions(batch, 'decoder'), scope, near_TS, memory_BSD)
    context = context._replace(is_text_BxT=decoder_text(batch))
    if memory_BSD is not None:
      context = context._replace(memory_scope=memory_scope(batch))
    x_BTD, kept = self.decoder(self.token_embed(tokens), context, key=key)
    return x_BTD, kept.routing

  def output(self, x_BTD: jax.Array) -> Output:
    """Returns the output layer, for hidden states."""
    bias_V = None
    if self.mlm_head is not None:
      x_BTD = self.mlm_head(x_BTD)
      bias_V = None if self.mlm_head.bias is None else self.mlm_head.bias[...]
    if self.lm_head is None and self.model.scale_tied_logits:
      x_BTD = x_BTD * self.model.d_model**-0.5
    kernel = self.token_embed.embedding if self.lm_head is None else self.lm_head.kernel
    return Output(x_BTD.astype(self.model.dtype), kernel[...], bias_V)

  def logits(self, x_BTD: jax.Array) -> jax.Array:
    """Returns float32 logits [B, T, V] of hidden states."""
    output = self.output(x_BTD)
    letters = output_letters(self.model)
    logits_BTV = sharding.einsum(
      f'BTD,{letters}->BTV',
      output.x_BTD,
      output.kernel.astype(self.model.dtype),
      preferred_element_type=jnp.float32,
    )
    return logits_BTV if output.bias_V is None else layers.add_bias(logits_BTV, output.bias_V)


def output_letters(model: config.Model) -> str:
  """Returns the dimensions of the output layer's kernel."""
  return 'VD' if model.tie_embeddings else 'DV'


def token_positions(batch: dict[str, jax.Array], side: str) -> jax.Array:
  """Returns the position of each token [B, T]: as given, else 0, 1, 2, ... in every row."""
  given = batch.get(f'{side}_positions')
  if given is not None:
    return given
  tokens = batch[f'{side}_input_tokens']
  spec = jax.typeof(tokens).sharding
  return jax.lax.broadcasted_iota(tokens.dtype, tokens.shape, 1, out_sharding=spec)


def encoder_segments(batch: dict[str, jax.Array]) -> jax.Array:
  """Returns the encoder's segment ids [B, S]: as given, else 1 for text and 0 for padding."""
  given = batch.get('encoder_segment_ids')
  return (batch['encoder_input_tokens'] != 0).astype(jnp.int32) if given is None else given


def decoder_text(batch: dict[str, jax.Array]) -> jax.Array:
  """Returns which of the decoder's tokens are no padding [B, T]; a 0 may begin a text."""
  segments = batch.get('decoder_segment_ids')
  if segments is not None:
    return segments > 0
  tokens = batch['decoder_input_tokens']
  spec = jax.typeof(tokens).sharding
  place_BxT = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1, out_sharding=spec)
  return (tokens != 0) | (place_BxT == 0)


def memory_scope(batch: dict[str, jax.Array]) -> attention.Scope:
  """Returns which of the encoder's tokens each decoder token sees: its segment's, never padding."""
  sources_BxS, targets_BxT = encoder_segments(batch), batch.get('decoder_segment_ids')
  if targets_BxT is None and not sharding.rules().length:
    return scope_lib.Scope((sources_BxS > 0)[:, None, :])
  if targets_BxT is None:
    targets_BxT = jnp.ones_like(batch['decoder_input_tokens'])
  key = scope_lib.Tokens(jnp.arange(sources_BxS.shape[1]), sources_BxS)
  query = scope_lib.Tokens(jnp.arange(targets_BxT.shape[1]), targets_BxT)
  return scope_lib.prepared(scope_lib.Facts(scope_lib.Kind(causal=False), query, key))


@functools.cache
def definition(model: config.Model) -> nnx.GraphDef:
  """Returns the tree of modules without its parameters."""
  return nnx.graphdef(nnx.eval_shape(lambda: Transformer(model, nnx.Rngs(0))))
