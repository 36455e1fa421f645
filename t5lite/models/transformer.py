"""The Transformer in its three architectures: embedding, stacks, output layer.

Letters: as in layers.py.
"""

import functools
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from t5lite import config
from t5lite import sharding
from t5lite.models import attention
from t5lite.models import blocks
from t5lite.models import layers
from t5lite.models import moe
from t5lite.models import scope as scope_lib
from t5lite.models import stack


class MlmHead(nnx.Module):
  """BERT's output before the tied matrix: dense, activation, norm; and the vocabulary's bias."""

  def __init__(self, model: config.Model, rngs: nnx.Rngs):
    self.model = model
    # 'E' is D again: a kernel from the model's width to itself.
    self.dense = layers.Linear(model, 'BTD,DE->BTE', (model.d_model, model.d_model), rngs())
    self.norm = layers.Norm(model)
    labels = model.num_labels > 0
    self.bias = None if labels else layers.constant(0.0, 'V', (model.vocab_size,))

  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    return self.norm(layers.activate(self.model, self.dense(x_BTD)))


class LabelHead(nnx.Module):
  """An encoder's output for tasks: a linear map to labels, behind BERT's pooler if there is one."""

  def __init__(self, model: config.Model, rngs: nnx.Rngs):
    width, labels = model.d_model, model.num_labels
    self.pooler = (
      layers.Linear(model, 'BTD,DE->BTE', (width, width), rngs(), use_bias=True)
      if model.pooler and not model.has_mlm_layers
      else None
    )
    self.output = layers.Linear(model, 'BTD,DV->BTV', (width, labels), rngs(), use_bias=True)

  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    return x_BTD if self.pooler is None else jnp.tanh(self.pooler(x_BTD))


class Output(NamedTuple):
  """The last linear map, from the model's width to the vocabulary or labels: input, parameters."""

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
    self.encoder = stack.Stack(model, depth, rngs, causal=False, cross=False) if encodes else None
    depth = model.num_decoder_layers if both else depth
    self.decoder = stack.Stack(model, depth, rngs, causal=True, cross=both) if decodes else None
    labels = model.num_labels > 0
    self.label_head = LabelHead(model, rngs) if labels else None
    self.mlm_head = MlmHead(model, rngs) if model.has_mlm_layers else None
    shape = (model.d_model, model.vocab_size)
    self.lm_head = (
      None
      if model.tie_embeddings or labels
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
    context = blocks.Context(
      token_positions(batch, 'encoder'), scope, near_TS, is_text_BxT=segments > 0
    )
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
    context = blocks.Context(token_positions(batch, 'decoder'), scope, near_TS, memory_BSD)
    context = context._replace(is_text_BxT=decoder_text(batch))
    if memory_BSD is not None:
      context = context._replace(memory_scope=memory_scope(batch))
    x_BTD, kept = self.decoder(self.token_embed(tokens), context, key=key)
    return x_BTD, kept.routing

  def output(self, x_BTD: jax.Array) -> Output:
    """Returns the output layer, for hidden states."""
    if self.mlm_head is not None:
      x_BTD = self.mlm_head(x_BTD)
    if self.label_head is not None:
      x_BTD, last = self.label_head(x_BTD), self.label_head.output
      assert last.bias is not None
      return Output(x_BTD.astype(self.model.dtype), last.kernel[...], last.bias[...])
    bias = None if self.mlm_head is None else self.mlm_head.bias
    if self.lm_head is None and self.model.scale_tied_logits:
      x_BTD = x_BTD * self.model.d_model**-0.5
    kernel = self.token_embed.embedding if self.lm_head is None else self.lm_head.kernel
    return Output(x_BTD.astype(self.model.dtype), kernel[...], None if bias is None else bias[...])

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
  return 'VD' if model.tie_embeddings and not model.num_labels else 'DV'


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
