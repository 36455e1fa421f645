"""A stack of layers: the encoder or the decoder, with positions and final norm.

Letters: as in layers.py.
"""

from flax import nnx
import jax
import jax.numpy as jnp

from t5lite import config
from t5lite.models import attention
from t5lite.models import blocks
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


class Stack(nnx.Module):
  """The layers of an encoder (bidirectional) or decoder (causal), with positions and final norm."""

  def __init__(
    self, model: config.Model, num_layers: int, rngs: nnx.Rngs, *, causal: bool, cross: bool
  ):
    self.model = model
    self.num_layers = num_layers
    self.num_repeats = num_layers // model.moe_every if model.num_experts else num_layers
    self.causal = causal
    rows = model.max_length if model.positions == 'learned' else 0
    self.position_embed = layers.Embed(model, 'P', rows, rngs(), 'position') if rows else None
    types = model.num_token_types
    self.type_embed = layers.Embed(model, 'P', types, rngs(), 'other') if types else None
    self.embed_norm = layers.Norm(model) if model.embedding_norm else None
    relative = model.positions == 'relative' and not model.relative_per_layer
    self.relative_bias = positions.RelativeBias(model, rngs()) if relative else None

    kind = blocks.Group if model.num_experts else blocks.Block

    def block(key):
      return kind(model, nnx.Rngs(key), cross=cross)

    graphdef = nnx.graphdef(nnx.eval_shape(lambda: block(0)))
    keys = jax.random.split(rngs(), self.num_repeats)
    self.layers = nnx.merge(graphdef, jax.lax.map(lambda key: nnx.state(block(key)), keys))
    self.final_norm = layers.Norm(model) if model.norm_order == 'pre' else None

  def __call__(
    self,
    x_BTD: jax.Array,
    context: blocks.Context,
    token_types_BxT: jax.Array | None = None,
    key: layers.Key = None,
    cache: attention.Cache | None = None,
    memory: attention.Cache | None = None,
  ) -> tuple[jax.Array, blocks.Kept]:
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
    is_first_L = None
    if self.embed_norm is not None and self.model.norm_order == 'pre':
      is_first_L = jnp.arange(self.num_layers) == 0
    layer = blocks.Layer(is_global_L, keys_L, cache, memory, is_first_L)
    layer = blocks.grouped(self.model, layer)
    x_BTD, kept = jax.lax.scan(body, x_BTD, (params_L, layer), unroll=unroll)
    kept = blocks.Kept(blocks.ungrouped(self.model, kept.cache), moe.added(kept.routing))
    if self.final_norm is not None:
      x_BTD = self.final_norm(x_BTD)
      x_BTD = layers.dropout(x_BTD, rate if self.model.initializer == 't5' else 0.0, final_key)
    return x_BTD, kept

  def _embed(self, x_BTD, context: blocks.Context, token_types_BxT) -> jax.Array:
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

    return blocks.ungrouped(self.model, jax.lax.map(keys_values, params_L))

  def scope(
    self, query: scope_lib.Tokens, key: scope_lib.Tokens
  ) -> tuple[attention.Scope, jax.Array | None]:
    """Returns who sees whom, and the near pairs for local layers."""
    model, table_PN = self.model, None
    if self.relative_bias is not None:
      table_PN = self.relative_bias.embedding[...]
    num_buckets = model.relative_buckets if model.relative_per_layer else 0
    kind = scope_lib.Kind(self.causal, model.local_window, model.relative_max_distance, num_buckets)
    facts = scope_lib.Facts(kind, query, key, table_PN)
    return scope_lib.prepared(facts), scope_lib.near(facts)
