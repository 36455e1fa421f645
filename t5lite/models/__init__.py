"""Models as pure functions: `init` gives parameters, `apply` gives logits.

Parameters are a plain nested dict of float32 arrays; the layers of a stack are stacked along a
first dimension L under the key 'layers'. `batch` is a dict as `t5lite.data.batch` returns it.
"""

import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from t5lite import config
from t5lite.models import layers
from t5lite.models import transformer
from t5lite.models.moe import Routing as Routing
from t5lite.models.transformer import Output as Output
from t5lite.models.transformer import encoder_segments as encoder_segments
from t5lite.models.transformer import output_letters as output_letters

Params = dict[str, Any]
Batch = dict[str, jax.Array]


def resolved(model: config.Model) -> config.Model:
  """Returns the model with its 'auto' fields settled for the backend in use."""
  return config.resolve(model, jax.default_backend())


def init(model: config.Model, key: jax.Array) -> Params:
  """Returns freshly drawn parameters, sharded over the mesh that is set, if any."""
  module = transformer.Transformer(resolved(model), nnx.Rngs(key))
  return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def build(model: config.Model, params: Params) -> transformer.Transformer:
  """Returns the module that holds `params`; cheap, and fine to call while tracing."""
  return nnx.merge(transformer.definition(resolved(model)), params)


def roomy(model: config.Model) -> config.Model:
  """Returns the model with a place for every token at every expert: none is left out."""
  every = float(max(model.num_experts, 1))  # times an even share
  return dataclasses.replace(model, expert_capacity=every, eval_expert_capacity=None)


def without_adapters(model: config.Model, params: Params) -> tuple[config.Model, Params]:
  """Returns the same function with the adapters of `lora_rank` added to the matrices."""
  return dataclasses.replace(model, lora_rank=0), layers.merged(params)


def hidden(
  model: config.Model, params: Params, batch: Batch, key: jax.Array | None = None
) -> jax.Array:
  """Returns the last hidden states [B, T, D] of the stack that predicts; arguments as `forward`."""
  return forward(model, params, batch, key)[0]


def forward(
  model: config.Model, params: Params, batch: Batch, key: jax.Array | None = None
) -> tuple[jax.Array, Routing | None]:
  """Returns the last hidden states [B, T, D] of the stack that predicts, and all experts' routing.

  The routing is summed over the sparse layers, of both stacks; None: there are none.

  Args:
    model: what `params` was made from.
    params: parameters.
    batch: model inputs; see `t5lite.objectives` for the keys.
    key: randomness of dropout; None: no dropout.
  """
  module = build(model, params)
  if model.architecture == 'encoder':
    return module.encode(batch, key)
  if model.architecture == 'decoder':
    return module.decode(batch, None, key)
  encode_key, decode_key = (None, None) if key is None else jax.random.split(key)
  memory_BSD, read = module.encode(batch, encode_key)
  x_BTD, written = module.decode(batch, memory_BSD, decode_key)
  return x_BTD, jax.tree.map(jnp.add, read, written)


def output(model: config.Model, params: Params, hidden_BTD: jax.Array) -> Output:
  """Returns the output layer for hidden states, not yet multiplied out: see `losses`."""
  return build(model, params).output(hidden_BTD)


def logits(model: config.Model, params: Params, hidden_BTD: jax.Array) -> jax.Array:
  """Returns float32 logits [B, T, V] of hidden states."""
  return build(model, params).logits(hidden_BTD)


def apply(
  model: config.Model, params: Params, batch: Batch, key: jax.Array | None = None
) -> jax.Array:
  """Returns float32 logits [B, T, V] of a batch; arguments as `hidden`."""
  return logits(model, params, hidden(model, params, batch, key))
