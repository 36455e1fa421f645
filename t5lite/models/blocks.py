"""One layer, and the group of layers that a sparse model's stack repeats.

Letters: as in layers.py.
"""

from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from t5lite import config
from t5lite.models import attention
from t5lite.models import layers
from t5lite.models import moe
from t5lite.models import positions
from t5lite.models import scope as scope_lib


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
  is_first: jax.Array | None = None  # where the first layer's attention has no norm


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
    per_layer = model.relative_per_layer
    self.relative_bias = positions.RelativeBias(model, rngs()) if per_layer else None

  def __call__(self, x_BTD: jax.Array, context: Context, layer: Layer) -> tuple[jax.Array, Kept]:
    """Returns the layer's output and what is kept beside it."""
    keys = layers.split(layer.key, 6)
    h_BTD = self._before(self.attention_norm, x_BTD)
    if layer.is_first is not None:
      h_BTD = jnp.where(layer.is_first, x_BTD, h_BTD)
    memory = self.attention.keys_values(h_BTD, context.positions_BxT, layer.is_global)
    if layer.cache is not None:
      memory = append(layer.cache, memory, context.slot)
    cache = memory if layer.cache is not None else None
    scope = of_layer(context, layer.is_global)
    if self.relative_bias is not None:
      scope = scope_lib.with_table(scope, self.relative_bias.embedding[...])
    y_BTD = self.attention(
      h_BTD, memory, scope, context.positions_BxT, keys[0], is_global=layer.is_global
    )
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
