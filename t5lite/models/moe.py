"""Sparse mlps (Mixture of Experts): each token goes to the few experts that a router picks for it.

Token-choice routing with capacity as in Switch Transformers (Fedus et al. 2022, section 2), with
the z-loss of ST-MoE (Zoph et al. 2022); more than one expert a token as in GShard (Lepikhin et al.
2021, section 2.2).

Letters: as in layers.py; O choices of a row in the order in which they are served, C places of a
row at an expert.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from t5lite import config
from t5lite import sharding
from t5lite.models import layers


class Routing(NamedTuple):
  """What a sparse layer's routing costs, float32: of each row [B], or sums or means of these."""

  load_balance: jax.Array  # Fedus et al. 2022, equations 4 to 6, without their alpha; 1: balanced
  z_loss: jax.Array  # mean of log(sum(exp(logits))) ** 2 (Zoph et al. 2022, equation 5)
  dropped: jax.Array  # share of the choices whose expert was full


class Plan(NamedTuple):
  """Where choices go. On a mesh each device has its own, and numbers from 0."""

  gate_BO: jax.Array  # what the expert's answer is multiplied by, float32
  slot_BO: jax.Array  # int32, of X B C; one more than there are: the expert is full
  choice_XA: jax.Array  # int32, of B O: the choice that a slot holds; one more than there are: none


class ExpertLinear(layers.Linear):
  """A linear map for each expert."""

  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.kernel[...].astype(self.dtype)
    y = sharding.einsum(self.equation, x.astype(self.dtype), kernel)
    return y if self.bias is None else y + layers.like(self.bias[...][:, None].astype(y.dtype), y)


class Experts(layers.Mlp):
  """An mlp for each expert, on rows of tokens [X, A, W]."""

  def __init__(self, model: config.Model, rngs: nnx.Rngs):
    self.model = model
    shape = (model.num_experts, model.d_model, model.d_ff)
    back = (model.num_experts, model.d_ff, model.d_model)
    self.input = ExpertLinear(model, 'XAW,XWF->XAF', shape, rngs())
    self.gate = ExpertLinear(model, 'XAW,XWF->XAF', shape, rngs()) if model.gated else None
    self.output = ExpertLinear(model, 'XAF,XFW->XAW', back, rngs(), role='residual')


class SparseMlp(nnx.Module):
  """The gated sum of what each token's experts make of it.

  Capacity is counted in rows of the batch, so that it does not depend on the mesh: an expert has
  ceil(T k / X * expert_capacity) places for the tokens of a row, k being `experts_per_token`. Who
  finds them taken goes without that expert. They are given out in the order of the row, to all
  first choices before the second ones (GShard). Padding takes none. With one choice the past
  therefore decides alone; with two, a later token can take the place of an earlier one's second
  choice.

  The gate is the softmax over all experts; with more than one choice, over the chosen (GShard).

  Tokens are moved by gathers, forward and backward: no product with a one-hot matrix. On a mesh
  they go by all-to-all to the devices of the axis `expert` and back.
  """

  def __init__(self, model: config.Model, rngs: nnx.Rngs):
    self.model = model
    # Float32 throughout: the softmax that chooses is sensitive (Fedus et al. 2022, section 2.4).
    exact = dataclasses.replace(model, dtype='float32')
    shape = (model.d_model, model.num_experts)
    # 'E' is X unsplit: every device knows all of the router's outputs.
    self.router = layers.Linear(exact, 'BTD,DE->BTE', shape, rngs(), use_bias=False)
    self.experts = Experts(model, rngs)

  def __call__(
    self, x_BTD: jax.Array, is_text_BxT: jax.Array | None, key: layers.Key = None
  ) -> tuple[jax.Array, Routing]:
    """Returns the output [B, T, D], 0 where no expert had a place; `is_text_BxT` None: all is."""
    batch, length, _ = x_BTD.shape
    if is_text_BxT is None:
      is_text_BxT = jnp.ones((batch, length), bool)
    model, (router_key, key) = self.model, layers.split(key, 2)
    if key is None and model.eval_expert_capacity is not None:
      model = dataclasses.replace(model, expert_capacity=model.eval_expert_capacity)
    with jax.default_matmul_precision('float32'):  # an accelerator's own default is less
      logits_BTE = self.router(jitter(x_BTD, model.router_jitter, router_key))
    rules = sharding.rules()
    row, token, state = (rules.spec('batch', *[None] * n) for n in range(3))
    there = rules.spec('experts', 'expert_rows', None)
    plan = Plan._make([token, token, rules.spec(None, 'batch')])
    x_XAW, chosen, routing = by_rows(
      functools.partial(dispatch, model, rules.experts),
      (x_BTD, logits_BTE, is_text_BxT),
      in_specs=(state, state, token),
      out_specs=(there, plan, Routing._make([row] * 3)),
    )
    y_XAW = self.experts(x_XAW, key, row_numbers(x_XAW.shape[1]))
    gather = functools.partial(combine, length, rules.experts)
    return by_rows(gather, (y_XAW, chosen), in_specs=(there, plan), out_specs=state), routing


def jitter(x_BTD: jax.Array, share: float, key: layers.Key) -> jax.Array:
  """Returns x times uniform(1 - share, 1 + share) (Fedus et al. 2022, appendix F), or x."""
  if key is None or share == 0:
    return x_BTD
  uniform = (layers.random_bits(key, x_BTD) >> 8).astype(jnp.float32) * 2.0**-24
  return x_BTD.astype(jnp.float32) * (1 + share * (2 * uniform - 1))


def by_rows(f: Callable[..., Any], inputs: Any, *, in_specs: Any, out_specs: Any) -> Any:
  """Returns f(*inputs), each device doing its rows of the batch."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return f(*inputs)
  inputs = jax.tree.map(jax.sharding.reshard, inputs, in_specs)
  return jax.shard_map(f, in_specs=in_specs, out_specs=out_specs)(*inputs)


def capacity(model: config.Model, length: int) -> int:
  """Returns the places that an expert has for a row of so many tokens."""
  share = length * model.experts_per_token / model.num_experts
  places = math.ceil(round(share * model.expert_capacity, 9))  # 10 * 1.1 is 11, not a little more
  return max(1, min(length, places))


def row_numbers(num_rows: int) -> jax.Array:
  """Returns what the rows [A] at an expert are called without a mesh.

  On a mesh, the all-to-all leaves those of one `replica` and `data` together.
  """
  ways = dict(jax.sharding.get_abstract_mesh().shape)
  split = [ways.get(axis, 1) for axis in ('replica', 'expert', 'data')]
  numbers = np.arange(num_rows, dtype=np.uint32).reshape(*split, -1)
  return jnp.asarray(numbers.swapaxes(1, 2).reshape(-1))


def dispatch(
  model: config.Model,
  axes: tuple[str, ...],
  x_BTD: jax.Array,
  logits_BTX: jax.Array,
  is_text_BxT: jax.Array,
) -> tuple[jax.Array, Plan, Routing]:
  """Returns the tokens at their experts [X, A, W], empty places being 0, and how they got there.

  Experts are split over the mesh `axes`.
  """
  plan, routing = route(model, logits_BTX, is_text_BxT)
  width, copies = x_BTD.shape[-1], model.experts_per_token
  x_OD = jnp.tile(x_BTD, (1, copies, 1)).reshape(-1, width)
  x_XAW = move(x_OD, plan.choice_XA.reshape(-1), plan.slot_BO.reshape(-1))
  x_XAW = x_XAW.reshape(*plan.choice_XA.shape, width)
  if axes:
    x_XAW = jax.lax.all_to_all(x_XAW, axes, split_axis=0, concat_axis=1, tiled=True)
  return x_XAW, plan, routing


def combine(length: int, axes: tuple[str, ...], y_XAW: jax.Array, plan: Plan) -> jax.Array:
  """Returns each token's gated sum [B, T, D] of its experts' answers."""
  if axes:
    y_XAW = jax.lax.all_to_all(y_XAW, axes, split_axis=1, concat_axis=0, tiled=True)
  batch, width = plan.gate_BO.shape[0], y_XAW.shape[-1]
  y_OD = move(y_XAW.reshape(-1, width), plan.slot_BO.reshape(-1), plan.choice_XA.reshape(-1))
  y_BOD = y_OD.reshape(batch, -1, width) * plan.gate_BO[..., None]  # float32
  return jnp.sum(y_BOD.reshape(batch, -1, length, width), axis=1).astype(y_XAW.dtype)


def route(
  model: config.Model, logits_BTX: jax.Array, is_text_BxT: jax.Array
) -> tuple[Plan, Routing]:
  """Returns which choice of which token goes where, from the router's float32 logits."""
  batch, length = is_text_BxT.shape
  num_choices, num_experts = model.experts_per_token, model.num_experts
  share_BTX = jax.nn.softmax(logits_BTX)
  gate_BTk, expert_BTk = jax.lax.top_k(share_BTX, num_choices)
  if num_choices > 1:
    gate_BTk = gate_BTk / jnp.sum(gate_BTk, axis=-1, keepdims=True)
  gate_BO, expert_BO = (jnp.swapaxes(x, 1, 2).reshape(batch, -1) for x in (gate_BTk, expert_BTk))
  is_text_BO = jnp.tile(is_text_BxT, (1, num_choices))
  chosen_BOX = jax.nn.one_hot(expert_BO, num_experts, dtype=jnp.int32) * is_text_BO[..., None]
  earlier_BOX = jnp.cumsum(chosen_BOX, axis=1) - chosen_BOX
  place_BO = jnp.sum(earlier_BOX * chosen_BOX, axis=-1)
  places = capacity(model, length)
  kept_BO = is_text_BO & (place_BO < places)

  num_slots, row_B1 = num_experts * batch * places, jnp.arange(batch)[:, None]
  slot_BO = jnp.where(kept_BO, (expert_BO * batch + row_B1) * places + place_BO, num_slots)
  choices = jnp.arange(slot_BO.size, dtype=jnp.int32)
  choice_S = jnp.full(num_slots, slot_BO.size, jnp.int32)
  choice_S = choice_S.at[slot_BO.reshape(-1)].set(choices, mode='drop')
  plan = Plan(gate_BO, slot_BO, choice_S.reshape(num_experts, -1))

  text_BT1 = is_text_BxT[..., None].astype(jnp.float32)
  count_B1 = jnp.maximum(jnp.sum(text_BT1, axis=1), 1)
  chosen_BX = jnp.sum(chosen_BOX, axis=1) / (num_choices * count_B1)
  share_BX = jnp.sum(share_BTX * text_BT1, axis=1) / count_B1
  log_z_BT1 = jax.nn.logsumexp(logits_BTX, axis=-1, keepdims=True)
  z_loss_B1 = jnp.sum(jnp.square(log_z_BT1) * text_BT1, axis=1) / count_B1
  dropped_B1 = jnp.sum(is_text_BO & ~kept_BO, axis=1, keepdims=True) / (num_choices * count_B1)
  load_B = num_experts * jnp.sum(chosen_BX * share_BX, axis=-1)
  return plan, Routing(load_B, z_loss_B1[:, 0], dropped_B1[:, 0])


@jax.custom_vjp
def move(x_MD: jax.Array, index_N: jax.Array, back_M: jax.Array) -> jax.Array:
  """Returns the rows of x at `index_N`, or 0 beyond them.

  `back_M` says where in the result each row of x went, or beyond it: with that the gradient, too,
  is a gather, and not a sum into scattered rows, which accelerators do one after another.
  """
  del back_M
  return x_MD.at[index_N].get(mode='fill', fill_value=0)


def _move_forward(x_MD, index_N, back_M):
  return move(x_MD, index_N, back_M), (index_N, back_M)


def _move_backward(indices, gradient_ND):
  index_N, back_M = indices
  return move(gradient_ND, back_M, index_N), None, None


move.defvjp(_move_forward, _move_backward)


def added(routing_G: Routing | None) -> Routing | None:
  """Returns the sum over the layers, which are the first dimension."""
  return jax.tree.map(lambda x_GB: jnp.sum(x_GB, axis=0), routing_G)
