"""The training loss: cross-entropy per target token, as sums, so that parts add up by weight.

The output layer and the loss are one function, which goes through its rows in chunks and, in
training, takes each chunk's gradient at once: the logits of a whole batch never exist.

Letters: B batch, T length, R rows of both, M predicted positions, D model, V vocabulary.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from t5lite import config as config_lib
from t5lite import models
from t5lite import sharding
from t5lite.objectives import supervised

CHUNK_ROWS = 512  # of a device, whose logits exist at once; the fastest on a CPU of 128 to 2048


class Sums(NamedTuple):
  """Sums over target tokens, float32 scalars; divide by `weight` for means. Padding weighs 0."""

  loss: jax.Array  # nats, label smoothing and z-loss not included
  objective: jax.Array  # what is minimised: nats, both included, and the experts' losses
  correct: jax.Array  # the likeliest token is the target
  weight: jax.Array
  routing: models.Routing | None = None  # of experts: means over the sparse layers


def zeros(config: config_lib.Config) -> Sums:
  """Returns the sums of nothing."""
  zero = jnp.float32(0)
  routing = models.Routing(*[zero] * 3) if config.model.num_experts else None
  return Sums(zero, zero, zero, zero, routing)


def cross_entropy(
  logits_RV: jax.Array,
  targets_R: jax.Array,
  weights_R: jax.Array,
  *,
  z_loss: float = 0.0,
  label_smoothing: float = 0.0,
  axes: tuple[str, ...] = (),
) -> Sums:
  """Returns the weighted sums of -log softmax(logits)[target].

  Args:
    logits_RV: float32; may have more dimensions before V, as the other two then have.
    targets_R: int32 token ids.
    weights_R: float32; 0 for tokens that do not count.
    z_loss: weight of log(Z) ** 2 (Mesh TensorFlow), which keeps the logits near 0.
    label_smoothing: share of the target's probability spread evenly over the vocabulary
      (Szegedy et al. 2016, section 7), less its entropy, so that the least loss is 0.
    axes: mesh axes that split the vocabulary, in a shard_map; each device then has its part of V
      (Shoeybi et al. 2019, section 3).
  """
  columns = logits_RV.shape[-1]
  size = columns * math.prod(jax.lax.axis_size(axis) for axis in axes)
  first = jax.lax.axis_index(axes) * columns if axes else 0
  # Shifted to a maximum of 0. The plain chain of sums has a shorter gradient than logsumexp.
  top_R = jax.lax.stop_gradient(jnp.max(logits_RV, axis=-1))
  top_R = jax.lax.pmax(top_R, axes) if axes else top_R
  shifted_RV = logits_RV - top_R[..., None]
  log_z_R = jnp.log(_sum(jnp.exp(shifted_RV), axes))
  # A masked sum, not a gather: each device adds what its part of the vocabulary has.
  ids_RV = first + jax.lax.broadcasted_iota(targets_R.dtype, logits_RV.shape, logits_RV.ndim - 1)
  target_R = _sum(jnp.where(ids_RV == targets_R[..., None], shifted_RV, 0), axes)
  loss_R = log_z_R - target_R
  objective_R = loss_R + z_loss * jnp.square(log_z_R + top_R)
  if label_smoothing:
    low = label_smoothing / (size - 1)
    high = 1 - label_smoothing
    spread_R = log_z_R * size - _sum(shifted_RV, axes) - loss_R
    entropy = -(high * jnp.log(high) + label_smoothing * jnp.log(low))
    objective_R = objective_R - loss_R + high * loss_R + low * spread_R - entropy
  total = lambda x_R: jnp.sum(x_R * weights_R)
  return Sums(total(loss_R), total(objective_R), total(target_R >= 0), jnp.sum(weights_R))


def _sum(x_RV: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  x_R = jnp.sum(x_RV, axis=-1)
  return jax.lax.psum(x_R, axes) if axes else x_R


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def of_output(
  config: config_lib.Config, output: models.Output, targets_BxT: jax.Array, weights_BxT: jax.Array
) -> Sums:
  """Returns the sums of the output layer's predictions. Only `objective` has a gradient."""
  of_rows = _over_mesh(config, output, targets_BxT, weights_BxT, with_gradient=False)
  return jax.tree.map(jnp.sum, of_rows)


def _of_output_forward(config, output, targets_BxT, weights_BxT):
  return _over_mesh(config, output, targets_BxT, weights_BxT, with_gradient=True)


def _of_output_backward(config, gradient: models.Output, cotangent: Sums):
  del config
  return jax.tree.map(lambda g: g * cotangent.objective.astype(g.dtype), gradient), None, None


of_output.defvjp(_of_output_forward, _of_output_backward)


def _over_mesh(config, output, targets_BxT, weights_BxT, *, with_gradient: bool) -> Any:
  """Returns what `_on_device` gives, of all rows."""
  rules, letters = sharding.rules(), models.output_letters(config.model)
  part = functools.partial(_on_device, config, rules, with_gradient=with_gradient)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return part(output, targets_BxT, weights_BxT)
  hidden, rows = rules.spec('batch', 'length', None), rules.spec('batch', 'length')
  bias = None if output.bias_V is None else rules.spec('vocab')
  # FSDP's gather, once for all chunks; their gradients add up on each device and scatter once.
  whole = rules.spec(*('vocab' if letter == 'V' else None for letter in letters))
  output = output._replace(kernel=jax.sharding.reshard(output.kernel, whole))
  sums = Sums._make([*[P() if with_gradient else rules.spec('batch')] * 4, None])
  gradient = models.Output._make([hidden, sharding.parameter_spec(letters), bias])
  out_specs = (sums, gradient) if with_gradient else sums
  if mesh.size == 1:  # without collectives: XLA's CPU backend copies what is summed over one device
    mapped = jax.sharding.auto_axes(out_sharding=out_specs)(part)
  else:
    in_specs = (models.Output._make([hidden, whole, bias]), rows, rows)
    mapped = jax.shard_map(part, in_specs=in_specs, out_specs=out_specs)
  return mapped(output, targets_BxT, weights_BxT)


def _on_device(
  config: config_lib.Config,
  rules: sharding.Rules,
  output: models.Output,
  targets_BxT: jax.Array,
  weights_BxT: jax.Array,
  *,
  with_gradient: bool,
):
  """Returns sums, chunk by chunk, of this device's rows and its part of the vocabulary.

  Without the gradient they are those of each row [B]; with it those of all rows of all devices, and
  the objective's gradient by `output`.
  """
  letters, tokens = models.output_letters(config.model), rules.batch + rules.length
  batch, length, width = output.x_BTD.shape
  num_chunks = -(-batch * length // CHUNK_ROWS)
  chunk_rows = -(-batch * length // num_chunks)

  def chunks(x):
    """Returns [chunks, rows, ...] of [B, T, ...], filled up with 0."""
    x = x.reshape(batch * length, *x.shape[2:])
    x = jnp.pad(x, ((0, num_chunks * chunk_rows - batch * length), *[(0, 0)] * (x.ndim - 1)))
    return x.reshape(num_chunks, chunk_rows, *x.shape[1:])

  kernel, bias_V = output.kernel.astype(output.x_BTD.dtype), output.bias_V
  product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

  def logits(x_RD):
    logits_RV = product(f'RD,{letters}->RV', x_RD, kernel)
    return logits_RV if bias_V is None else logits_RV + bias_V[None]

  def sums_of(logits_RV, targets_R, weights_R):
    sums = cross_entropy(
      logits_RV,
      targets_R,
      weights_R,
      z_loss=config.train.z_loss,
      label_smoothing=config.train.label_smoothing,
      axes=rules.vocab,
    )
    return sums.objective, sums

  def added(parts):
    return jax.tree.map(lambda x_C: jax.lax.psum(jnp.sum(x_C), tokens), parts)

  rows = chunks(output.x_BTD), chunks(targets_BxT), chunks(weights_BxT)
  if not with_gradient:
    each = jax.vmap(lambda *row: sums_of(*row)[1])
    parts = jax.lax.map(lambda row: each(logits(row[0]), *row[1:]), rows)
    by_token = lambda x_CR: x_CR.reshape(-1)[: batch * length].reshape(batch, length)
    of_row = lambda x_CR: jax.lax.psum(jnp.sum(by_token(x_CR), axis=1), rules.length)
    return jax.tree.map(of_row, parts)

  def body(total, row):
    x_RD, targets_R, weights_R = row
    g_RV, sums = jax.grad(sums_of, has_aux=True)(logits(x_RD), targets_R, weights_R)
    parts = [product(f'RV,RD->{letters}', g_RV.astype(x_RD.dtype), x_RD), jnp.sum(g_RV, axis=0)]
    x_RD = product(f'RV,{letters}->RD', g_RV.astype(x_RD.dtype), kernel).astype(x_RD.dtype)
    total = [old + new for old, new in zip(total, parts, strict=True)]
    return total, (jax.lax.psum(x_RD, rules.vocab), sums)

  own = functools.partial(jax.lax.pcast, axis_name=tokens + rules.vocab, to='varying')
  shapes = kernel.shape, (kernel.shape[letters.index('V')],)
  zeros = [own(jnp.zeros(shape, jnp.float32)) for shape in shapes]
  (kernel, bias_V), (x_CRD, parts) = jax.lax.scan(body, zeros, rows)
  if rules.embed:  # of one piece it would be two copies
    side = letters.index('D')
    kernel = jax.lax.psum_scatter(kernel, rules.embed, scatter_dimension=side, tiled=True)
  kernel = jax.lax.psum(kernel, tuple(axis for axis in tokens if axis not in rules.embed))
  bias_V = None if output.bias_V is None else jax.lax.psum(bias_V, tokens)
  x_BTD = x_CRD.reshape(-1, width)[: batch * length].reshape(batch, length, width)
  return added(parts), models.Output(x_BTD, kernel, bias_V)


def of_batch(
  config: config_lib.Config,
  params: models.Params,
  batch: models.Batch,
  key: jax.Array | None = None,
) -> Sums:
  """Returns the sums of a batch; `key` None: no dropout, as in evaluation.

  An encoder's output layer runs only at `encoder_prediction_positions`.
  """
  if config.model.spans:
    return of_spans(config, params, batch, key)
  predictions, routing = _predictions(config, params, batch, key)
  sums: Any = of_output(config, *predictions)
  return sums if routing is None else with_routing(config, sums, routing, predictions[-1])


def of_spans(
  config: config_lib.Config,
  params: models.Params,
  batch: models.Batch,
  key: jax.Array | None = None,
) -> Sums:
  """Returns the sums of where spans begin and end: two choices among a row's tokens each.

  Source: Devlin et al. 2019, section 4.2; padding is not among the choices.
  """
  hidden_BTD, routing = models.forward(config.model, params, batch, key)
  logits_BTK = models.logits(config.model, params, hidden_BTD)  # K: begin, end
  if not jax.sharding.get_abstract_mesh().empty:
    logits_BTK = jax.sharding.reshard(logits_BTK, sharding.rules().spec('batch', 'length', None))
  is_text_BxT = models.encoder_segments(batch) > 0
  logits_BTK = jnp.where(is_text_BxT[..., None], logits_BTK, jnp.finfo(jnp.float32).min)
  marks_BxT = batch['encoder_target_tokens']
  asked_BTK = jnp.stack([marks_BxT & supervised.BEGIN, marks_BxT & supervised.END], axis=-1) > 0
  log_z_BK = jax.nn.logsumexp(logits_BTK, axis=1)
  target_BK = jnp.sum(jnp.where(asked_BTK, logits_BTK, 0), axis=1)
  weights_BK = jnp.any(asked_BTK, axis=1).astype(jnp.float32)
  total = lambda x_BK: jnp.sum(x_BK * weights_BK)
  loss = total(log_z_BK - target_BK)
  objective = loss + config.train.z_loss * total(jnp.square(log_z_BK))
  correct = total(target_BK >= jnp.max(logits_BTK, axis=1))
  sums = Sums(loss, objective, correct, jnp.sum(weights_BK))
  return sums if routing is None else with_routing(config, sums, routing, weights_BK)


def by_row(config: config_lib.Config, params: models.Params, batch: models.Batch) -> Sums:
  """Returns the sums of each row [B] of a batch, without dropout, the experts' losses or gradient.

  `of_batch` without a key gives their totals.
  """
  predictions, _ = _predictions(config, params, batch, None)
  return _over_mesh(config, *predictions, with_gradient=False)


def _predictions(
  config: config_lib.Config, params: models.Params, batch: models.Batch, key: jax.Array | None
) -> tuple[tuple[models.Output, jax.Array, jax.Array], models.Routing | None]:
  """Returns the output layer with its targets and weights [B, T], and the routing."""
  hidden_BTD, routing = models.forward(config.model, params, batch, key)
  side = 'encoder' if config.model.architecture == 'encoder' else 'decoder'
  targets_BxT, weights_BxT = batch[f'{side}_target_tokens'], batch[f'{side}_loss_weights']
  if side == 'encoder':
    positions_BxM = batch['encoder_prediction_positions']
    count_B1 = jnp.sum(weights_BxT > 0, axis=1, keepdims=True)
    hidden_BTD, targets_BxT, weights_BxT = (
      at_positions(x, positions_BxM) for x in (hidden_BTD, targets_BxT, weights_BxT)
    )
    spec = jax.typeof(weights_BxT).sharding
    place_BxM = jax.lax.broadcasted_iota(jnp.int32, weights_BxT.shape, 1, out_sharding=spec)
    weights_BxT = weights_BxT * (place_BxM < count_B1)
  output = models.output(config.model, params, hidden_BTD)
  return (output, targets_BxT, weights_BxT), routing


def with_routing(
  config: config_lib.Config, sums: Sums, routing_B: models.Routing, weights_BxT: jax.Array
) -> Sums:
  """Returns the sums with the experts' losses in the objective.

  Each row has its own, summed over the sparse layers; it counts by the row's target tokens, as all
  else does: neither the mesh nor the cut into microbatches changes the sum.
  """
  weight_B = jnp.sum(weights_BxT, axis=1)
  total = jax.tree.map(lambda x_B: jnp.sum(x_B * weight_B), routing_B)
  train = config.train
  extra = train.load_balance_loss * total.load_balance + train.router_z_loss * total.z_loss
  means = jax.tree.map(lambda x: x / config.model.num_sparse_layers, total)
  return sums._replace(objective=sums.objective + extra, routing=means)


def at_positions(x_BxT: jax.Array, positions_BxM: jax.Array) -> jax.Array:
  """Returns each row's elements at its positions [B, M, ...].

  M is split as T is, and has a few more places, of any content, where it does not divide.
  """
  rules = sharding.rules()
  pick = jax.vmap(lambda x_T, positions_M: x_T[positions_M])
  if not rules.length:
    return pick(x_BxT, positions_BxM)
  parts = math.prod(jax.sharding.get_abstract_mesh().shape[axis] for axis in rules.length)
  positions_BxM = jnp.pad(positions_BxM, ((0, 0), (0, -positions_BxM.shape[1] % parts)))

  def on_device(x_BxT, positions_BxM):
    """Takes what this device has, adds up with those that have the rest, keeps its part of M."""
    positions_BxM = positions_BxM - jax.lax.axis_index(rules.length) * x_BxT.shape[1]
    is_here = (0 <= positions_BxM) & (positions_BxM < x_BxT.shape[1])
    found = pick(x_BxT, jnp.where(is_here, positions_BxM, 0))
    found = jnp.where(jnp.expand_dims(is_here, tuple(range(2, x_BxT.ndim))), found, 0)
    return jax.lax.psum_scatter(found, rules.length, scatter_dimension=1, tiled=True)

  split = rules.spec('batch', 'length', *[None] * (x_BxT.ndim - 2))
  in_specs = (split, rules.spec('batch', None))
  return jax.shard_map(on_device, in_specs=in_specs, out_specs=split)(x_BxT, positions_BxM)
