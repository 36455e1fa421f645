"""The optimizer and its learning-rate schedule, put together from optax by `config.Optim`.

Parameters under the key 'layers' are stacks of equal layers along their first dimension. Whatever
looks at a parameter as a whole (Adafactor's factored moments, the RMS of a parameter, Muon's
orthogonalisation) must look at one layer's matrix: see `by_matrix`. Under 'experts' a second
dimension stacks equal experts, and each is looked at by itself, as T5X does.
Letters of shapes: L layers, X experts.
"""

from collections.abc import Callable
import fnmatch
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from t5lite import config as config_lib
from t5lite import errors

T5_FLAT_STEPS = 10_000  # Raffel et al. 2020, section 3.1.2: 1 / sqrt(max(n, 10^4))
MUON_RMS = 0.2  # of Muon's steps, as AdamW's have, so that both share one learning rate

Names = tuple[str, ...]  # the keys on the way to a parameter
Steps = dict[str, optax.GradientTransformation]


def schedule(config: config_lib.Config) -> optax.Schedule:
  """Returns the learning rate of steps 0, 1, 2, ...

  It rises in a line from 0 to the peak, `learning_rate`, at `warmup_steps`. From there:
  constant stays; linear and cosine fall to `final_ratio` of the peak at `train.steps`; wsd stays,
  then falls in a line over the last `decay_steps` (Hu et al. 2024, section 4); rsqrt is
  peak * sqrt(warmup_steps / step) (Vaswani et al. 2017, equation 3).

  rsqrt without warm-up is T5's own: peak * sqrt(10^4 / max(step, 10^4)), flat for 10^4 steps;
  with a peak of 0.01 that is T5's 1 / sqrt(max(step, 10^4)).
  """
  optim = config.optim
  peak, last = optim.learning_rate, optim.learning_rate * optim.final_ratio
  # A run may end within its warm-up, as a short trial of a long recipe does.
  left = max(config.train.steps - optim.warmup_steps, 1)
  match optim.schedule:
    case 'constant':
      after = optax.constant_schedule(peak)
    case 'linear':
      after = optax.linear_schedule(peak, last, left)
    case 'cosine':
      after = optax.cosine_decay_schedule(peak, left, alpha=optim.final_ratio)
    case 'wsd':
      begin = max(left - optim.decay_steps, 0)
      after = optax.linear_schedule(peak, last, optim.decay_steps, transition_begin=begin)
    case 'rsqrt':
      after = _rsqrt(peak, optim.warmup_steps)
  if not optim.warmup_steps:
    return after
  rise = optax.linear_schedule(0.0, peak, optim.warmup_steps)
  return optax.join_schedules([rise, after], [optim.warmup_steps])


def _rsqrt(peak: float, warmup_steps: int) -> optax.Schedule:
  """Returns rsqrt as a function of the steps since the end of the warm-up."""
  flat = warmup_steps or T5_FLAT_STEPS
  return lambda count: peak * jnp.sqrt(flat / jnp.maximum(count + warmup_steps, flat))


def optimizer(config: config_lib.Config) -> optax.GradientTransformation:
  """Returns clipping, the optimizer, weight decay and the schedule as one transformation.

  adafactor: Shazeer & Stern 2018, algorithms 4 and 6, as T5 runs it: no momentum, steps relative
  to the parameter's RMS. adamw: Loshchilov & Hutter 2019. adamw_rms: AdamW with steps relative to
  the parameter's RMS (nanoT5). lion: Chen et al. 2023. muon: Jordan et al. 2024, on the matrices
  of the layers, scaled as in Liu et al. 2025, section 2.2; AdamW on the rest.
  Weight decay is decoupled and follows the learning rate.

  The state is sharded like the parameters that it was made from.
  """
  optim = config.optim
  parts = [
    _step(optim, config.model.num_experts > 0),
    optax.scale_by_learning_rate(schedule(config)),
  ]
  if optim.weight_decay:
    parts.insert(1, optax.add_decayed_weights(optim.weight_decay, decays))
  if optim.clip:
    parts.insert(0, optax.clip_by_global_norm(optim.clip))
  steps = optax.chain(*parts)
  if not has_frozen(config):
    return steps
  labels = functools.partial(trained, config)
  return optax.partition({True: steps, False: optax.set_to_zero()}, labels)


def has_frozen(config: config_lib.Config) -> bool:
  """Returns whether some of the parameters stay as they are."""
  return bool(config.optim.frozen or config.model.lora_rank)


def trained(config: config_lib.Config, params: Any) -> Any:
  """Returns the tree of bools that says which parameters change.

  With adapters these are all that do, but for an encoder's head for labels, ModernBERT's with the
  layers that filled masks.

  Raises:
    ConfigError: a pattern of optim.frozen names no parameter, or nothing is left.
  """
  names = ['.'.join(_names(path)) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  for pattern in config.optim.frozen:
    errors.check(
      bool(fnmatch.filter(names, pattern)),
      'no such parameter',
      f'optim.frozen has {pattern!r}',
      f'use paths such as {names[0]} or {names[0].partition(".")[0]}.*',
    )

  heads = ('label_head', 'mlm_head') if config.model.num_labels else ()

  def changes(path: Any, _: Any) -> bool:
    names = _names(path)
    frozen = any(fnmatch.fnmatchcase('.'.join(names), each) for each in config.optim.frozen)
    adapted = names[-1] in ('lora_a', 'lora_b') or names[0] in heads
    return not frozen and (adapted or not config.model.lora_rank)

  tree = jax.tree_util.tree_map_with_path(changes, params)
  what, remedy = 'every parameter is frozen', 'leave some out'
  errors.check(any(jax.tree.leaves(tree)), what, f'optim.frozen={config.optim.frozen}', remedy)
  return tree


def only_trained(config: config_lib.Config, params: Any) -> Any:
  """Returns the parameters, of which the frozen ones have no gradient."""
  if not has_frozen(config):
    return params
  keep = lambda x, changes: x if changes else jax.lax.stop_gradient(x)
  return jax.tree.map(keep, params, trained(config, params))


def _step(optim: config_lib.Optim, experts: bool) -> optax.GradientTransformation:
  """Returns the optimizer without learning rate: uphill, about as long as the parameter or 1.

  Args:
    optim: says which.
    experts: the parameters have experts among them.
  """
  adam = optax.scale_by_adam(optim.b1, optim.b2, optim.epsilon)
  relative = optax.scale_by_param_block_rms(1e-3)
  match optim.name:
    case 'adafactor':
      clip = optax.clip_by_block_rms(1.0)
      return by_matrix(optax.chain(optax.scale_by_factored_rms(), clip, relative), experts)
    case 'adamw':
      return adam
    case 'adamw_rms':
      return optax.chain(adam, by_matrix(relative, experts))
    case 'lion':
      return optax.scale_by_lion(optim.b1, optim.b2)
    case 'muon':
      steps = each_layer(_muon(), experts)
      steps['step'] = auto_sharded(steps['step'])
      return _divide(_is_layer_matrix, steps, adam)


def decays(params: Any) -> Any:
  """Returns the tree of bools that says which parameters decay: kernels and embeddings.

  As in BERT's and GPT-2's recipes, norms and biases do not; nor do T5's position biases.
  """
  return _by_name(_is_weight, params)


def by_matrix(step: optax.GradientTransformation, experts: bool) -> optax.GradientTransformation:
  """Returns `step` made to see a layer or an expert at a time."""
  return _divide(_is_stacked, each_layer(step, experts), step)


def each_layer(step: optax.GradientTransformation, experts: bool) -> Steps:
  """Returns `step` on each layer of parameters [L, ...], and on each expert of [L, X, ...]."""
  layer = _each(step)
  if not experts:
    return {'step': layer}
  # Left to the compiler: under jit, vmap gives a counter no sharding, but asks for the experts'.
  return {'step': layer, 'expert': auto_sharded(_each(layer))}


def _each(step: optax.GradientTransformation) -> optax.GradientTransformation:
  """Returns `step` taken on each part of a first dimension by itself.

  Arrays of as many parts go together: an encoder need not be as deep as its decoder.
  """

  def init(params):
    counts = sorted({len(x) for x in jax.tree.leaves(params)})
    return {str(count): jax.vmap(step.init)(_of_count(count, params)) for count in counts}

  def update(updates, state, params=None):
    states = {}
    for count, one in state.items():
      parts = [_of_count(int(count), tree) for tree in (updates, params)]
      made, states[count] = jax.vmap(step.update)(parts[0], one, parts[1])
      updates = jax.tree.map(
        lambda x, new: x if _is_hole(new) else new, updates, made, is_leaf=_is_hole
      )
    return updates, states

  return optax.GradientTransformation(init, update)


def _of_count(count: int, tree: Any) -> Any:
  """Returns the tree with holes for the arrays of which there are not `count` parts."""
  return jax.tree.map(lambda x: x if len(x) == count else optax.MaskedNode(), tree)


def _is_hole(x: Any) -> bool:
  return isinstance(x, optax.MaskedNode)


def auto_sharded(step: optax.GradientTransformation) -> optax.GradientTransformation:
  """Returns `step` with the shardings inside it left to the compiler.

  What comes out is sharded as what it replaces. (Muon multiplies matrices, and on an Explicit mesh
  each product of split dimensions would have to say how it is sharded; optax cannot.)
  """

  def update(updates, state, params=None):
    if jax.sharding.get_abstract_mesh().empty:
      return step.update(updates, state, params)
    specs = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, (updates, state))
    return jax.sharding.auto_axes(out_sharding=specs)(step.update)(updates, state, params)

  return optax.GradientTransformation(step.init, update)


def _muon() -> optax.GradientTransformation:
  """Returns Muon's step on matrices: momentum, made orthogonal, with the RMS of AdamW's steps."""

  def dims(matrices):
    return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(), matrices)

  def scaled(updates, _):
    return jax.tree.map(lambda x: MUON_RMS * math.sqrt(max(x.shape)) * x, updates)

  orthogonal = optax.contrib.scale_by_muon(weight_dimension_numbers=dims)
  return optax.chain(orthogonal, optax.stateless(scaled))


def _divide(
  belongs: Callable[[Names], bool], steps: Steps, other: optax.GradientTransformation
) -> optax.GradientTransformation:
  """Returns the steps for the parameters that belong by their names, `other` for the rest."""

  def label(path, _):
    names = _names(path)
    if not belongs(names):
      return 'other'
    return 'expert' if _is_expert(names) else 'step'

  def labels(params):
    return jax.tree_util.tree_map_with_path(label, params)

  return optax.partition({**steps, 'other': other}, labels)


def _by_name(belongs: Callable[[Names], bool], params: Any) -> Any:
  return jax.tree_util.tree_map_with_path(lambda path, _: belongs(_names(path)), params)


def _names(path: tuple[Any, ...]) -> Names:
  return tuple(part.key for part in path)


def _is_stacked(names: Names) -> bool:
  return 'layers' in names


def _is_expert(names: Names) -> bool:
  return 'experts' in names


def _is_layer_matrix(names: Names) -> bool:
  return _is_stacked(names) and names[-1] == 'kernel'


def _is_weight(names: Names) -> bool:
  return names[-1] in ('kernel', 'embedding') and 'relative_bias' not in names
