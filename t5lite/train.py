"""Training: the state, the step and the loop around it.

`run(config, workdir)` starts a run or goes on with it; what is optional happens outside the step.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from t5lite import checkpoint
from t5lite import compiler
from t5lite import config as config_lib
from t5lite import data
from t5lite import errors
from t5lite import evaluate
from t5lite import flops
from t5lite import host_memory
from t5lite import initial
from t5lite import losses
from t5lite import metrics
from t5lite import models
from t5lite import optim
from t5lite import preemption
from t5lite import processes
from t5lite import meshes
from t5lite import sharding
from t5lite import stored
from t5lite import versions


class State(NamedTuple):
  """All that a run changes. The randomness of step t comes from (seed, t), the batch too."""

  step: jax.Array  # int32 scalar: steps done
  params: models.Params
  opt_state: Any


def init_state(config: config_lib.Config) -> State:
  """Returns the state before the first step, sharded over the mesh that is set."""
  return first_state(config, models.init(config.model, jax.random.key(config.train.seed)))


def first_state(config: config_lib.Config, params: models.Params) -> State:
  """Returns the state before the first step of a run that begins with these parameters."""
  return State(jnp.int32(0), params, optim.optimizer(config).init(params))


def gradients(
  config: config_lib.Config, params: models.Params, batch: models.Batch, key: jax.Array
) -> tuple[models.Params, losses.Sums]:
  """Returns the gradient of the mean objective over target tokens, and the batch's sums.

  Microbatches run one after another; each counts by its tokens, so the result is that of the
  whole batch.
  """

  def objective(params, rows, key):
    sums = losses.of_batch(config, optim.only_trained(config, params), rows, key)
    return sums.objective, sums

  grad = jax.grad(objective, has_aux=True)
  parts = config.train.microbatches
  if parts == 1:
    total, sums = grad(params, batch, key)
  else:

    def body(carry, part):
      rows, key = part
      return jax.tree.map(jnp.add, carry, grad(params, rows, key)), None

    zeros = jax.tree.map(jnp.zeros_like, params), losses.zeros(config)
    rows = {name: microbatches(x, parts) for name, x in batch.items()}
    (total, sums), _ = jax.lax.scan(body, zeros, (rows, jax.random.split(key, parts)))
  return jax.tree.map(lambda g: g / jnp.maximum(sums.weight, 1), total), sums


def microbatches(x: jax.Array, parts: int) -> jax.Array:
  """Returns rows [B, ...] as [parts, B / parts, ...], every part spread over all devices."""
  return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)


def train_step(
  config: config_lib.Config, state: State, batch: models.Batch
) -> tuple[State, dict[str, jax.Array]]:
  """Returns the state after one step and the step's metrics, float32 scalars on the device."""
  key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
  grads, sums = gradients(config, state.params, batch, key)
  updates, opt_state = optim.optimizer(config).update(grads, state.opt_state, state.params)
  params: Any = optax.apply_updates(state.params, updates)
  weight = jnp.maximum(sums.weight, 1)
  measured = {
    'train/loss': sums.loss / weight,
    'train/objective': sums.objective / weight,
    'train/accuracy': sums.correct / weight,
    'train/grad_norm': optax.tree.norm(grads),
    'train/learning_rate': jnp.float32(optim.schedule(config)(state.step)),
    'train/target_tokens': sums.weight,
  }
  if sums.routing is not None:
    measured |= {
      'train/load_balance_loss': sums.routing.load_balance / weight,
      'train/router_z_loss': sums.routing.z_loss / weight,
      'train/dropped_share': sums.routing.dropped / weight,
    }
  return State(state.step + 1, params, opt_state), measured


@dataclasses.dataclass(frozen=True)
class Run:
  """What the loop works with."""

  config: config_lib.Config
  mesh: jax.sharding.Mesh
  dataset: Any  # t5lite.data's Dataset
  evaluator: evaluate.Evaluator
  checkpointer: checkpoint.Checkpointer
  writer: metrics.Writer
  meter: metrics.Meter
  evaluations: dict[int, dict[str, float]]  # by step, those of earlier attempts too


class Measured(NamedTuple):
  """Metrics of a step, still on the device."""

  step: int
  values: dict[str, jax.Array]
  padding_share: float


def run(config: config_lib.Config, workdir: str | pathlib.Path) -> State:
  """Trains to `train.steps`, from the newest checkpoint of `workdir` if it has one.

  Returns:
    The last state, which is also saved.

  Raises:
    UserError: of the kind that says what to mend; `errors.Preempted` when a signal stopped the run
      after everything was saved.
  """
  workdir = pathlib.Path(workdir)
  config = dataclasses.replace(config, model=models.resolved(config.model))
  code = {'versions': versions.installed(), 'source': versions.source_digest()}
  processes.check_same({'config': config_lib.to_dict(config), 'code': code})
  mesh = meshes.make(config.parallel)
  meshes.check_divides(config, mesh)
  with processes.together():
    first = None
    if config.init_from and stored.latest_step(workdir) is None:
      first = initial.Initial(config)  # one that is not there or does not fit shows at once
    dataset = data.open(config, 'train')
    evaluator = evaluate.Evaluator(config, mesh)
  with contextlib.ExitStack() as stack:
    stack.enter_context(jax.set_mesh(mesh))
    signals = stack.enter_context(preemption.Signals())
    checkpointer = stack.enter_context(checkpoint.Checkpointer(workdir, config.checkpoint))
    state = start(config, mesh, dataset, checkpointer, first)
    done = int(jax.device_get(state.step))
    write_config(config, workdir)
    kind, num_devices = jax.devices()[0].device_kind, jax.device_count()
    writer = metrics.Writer(
      workdir,
      config.train.steps,
      steps_done=done,
      main_process=jax.process_index() == 0,
      watts=flops.WATTS.get(kind, 0.0) * num_devices,
    )
    stack.enter_context(writer)
    if first is not None:
      writer.message(first.told)
    meter = metrics.Meter(
      tokens_per_step=tokens_per_step(config),
      flops_per_step=flops.model_flops(config),
      peak_flops=flops.peak_flops(kind),
      num_devices=num_devices,
      steps_done=done,
    )
    seen = metrics.evaluations(workdir, done)
    this = Run(config, mesh, dataset, evaluator, checkpointer, writer, meter, seen)
    stack.enter_context(processes.missing_the_lost())
    return loop(this, state, done, signals)


def start(
  config: config_lib.Config,
  mesh: jax.sharding.Mesh,
  dataset: Any,
  checkpointer: Any,
  first: initial.Initial | None,
) -> State:
  """Returns the newest saved state, or a new one.

  The new one's parameters come from an import into this workdir, from `first` or the seed.
  """
  abstract = sharding.shard_like(jax.eval_shape(functools.partial(init_state, config)), mesh)
  begin = jax.jit(functools.partial(first_state, config), donate_argnums=0)
  if first is not None:
    return begin(first.params(abstract.params, jax.random.key(config.train.seed)))
  if checkpointer.latest_step() is None:
    return jax.jit(functools.partial(init_state, config))()
  imported = checkpointer.has_params_only()
  restore = checkpointer.restore_params if imported else checkpointer.restore
  state, manifest = restore(abstract.params if imported else abstract)
  if manifest['tokenizer'] not in ('', dataset.tokenizer.digest):  # '': imported without
    raise errors.CheckpointError(
      'the checkpoint was trained with another tokenizer',
      config.data.tokenizer,
      'use the same data.tokenizer, or a new workdir',
    )
  return begin(state) if imported else state


def loop(this: Run, state: State, done: int, signals: preemption.Signals) -> State:
  """Returns the state at `train.steps`. Step t is logged while t + 1 runs."""
  config, last = this.config, this.config.train.steps
  if not last and not done:
    save(this, state, 0)
    this.writer.message('the state before the first step is saved')
  if done >= last:
    this.writer.message(f'nothing to do: {done} of {last} steps are done')
    return state
  if best := out_of_patience(this):
    this.writer.message(f'nothing to do: {best}')
    return state
  this.writer.message(f'{describe(config)}, from step {done} to {last}')
  if not done:
    this.writer.write(0, {'train/parameters': flops.num_params(config.model)})
  pending, step = None, None
  for index, batch, padding in batches(this, done):
    if step is None:
      step = compiled_step(this, state, batch)
    with jax.transfer_guard('disallow'):
      state, values = step(state, batch)
    if pending is not None:
      log(this, pending)
    pending, done = Measured(index + 1, values, padding), index + 1
    stop = signals.received(done)
    if stop or is_due(config, done):
      log(this, pending)
      pending = None
      with this.meter.paused():
        pause(this, state, done)
    best = out_of_patience(this)
    if best and done < last:
      save(this, state, done)
      this.writer.message(f'ends at step {done} of {last}: {best}')
      return state
    if stop and done < last:
      save(this, state, done)
      raise errors.Preempted(f'stopped by {stop}', f'step {done} is saved', 'run the same command')
  return state


def batches(this: Run, first: int) -> Iterator[tuple[int, models.Batch, float]]:
  """Yields (step, batch on the devices, share of padding) and counts the wait for each."""
  config = this.config
  rows = sharding.local_rows(this.mesh, config.data.batch_size)
  with contextlib.closing(this.dataset.iterate(first, rows, config.train.steps)) as made:
    while True:
      with this.meter.waiting():
        item = next(made, None)
      if item is None:
        return
      index, batch = item
      on_devices = sharding.to_device(batch, config.data.batch_size, this.mesh)
      yield index, on_devices, data.padding_share(batch)


def step_function(config: config_lib.Config) -> Any:
  """Returns the jitted train step, which takes over its state's memory."""
  return jax.jit(functools.partial(train_step, config), donate_argnums=0)


def compiled_step(this: Run, state: State, batch: models.Batch) -> Any:
  """Returns the compiled train step."""
  with this.meter.compiling():
    options = compiler.options(jax.default_backend())
    compiled = step_function(this.config).lower(state, batch).compile(compiler_options=options)
  host_memory.keep_freed()
  return compiled


def log(this: Run, measured: Measured) -> None:
  """Waits for a step and logs it if it is its turn.

  Raises:
    DivergedError: its loss or its gradient is not finite. Nothing of it has been saved.
  """
  values = jax.device_get(measured.values)
  step, train = measured.step, this.config.train
  for name, what in (('train/loss', 'loss'), ('train/grad_norm', 'gradient')):
    if not math.isfinite(values[name]):
      saved = this.checkpointer.latest_step()
      raise errors.DivergedError(
        f'the {what} is not finite',
        f'{values[name]} at step {step}, last checkpoint at step {saved}',
        'lower optim.learning_rate, lengthen optim.warmup_steps or set optim.clip',
      )
  if step % train.log_every == 0 or step == train.steps:
    seen = {
      'train/tokens_seen': step * tokens_per_step(this.config),
      'train/padding_share': measured.padding_share,
    }
    this.writer.write(step, {**values, **this.meter.read(step), **seen})


def is_due(config: config_lib.Config, step: int) -> bool:
  """Returns whether an evaluation, a sample or a checkpoint comes after this step."""
  intervals = (config.eval.every, config.train.sample_every, config.checkpoint.every)
  return step == config.train.steps or any(_at(step, every) for every in intervals)


def _at(step: int, every: int) -> bool:
  return every > 0 and step % every == 0


def pause(this: Run, state: State, step: int) -> None:
  """Does what is due after a step: evaluation, samples, checkpoint."""
  config, last = this.config, step == this.config.train.steps
  if last or _at(step, config.eval.every):
    this.evaluations[step] = this.evaluator.measure(state.params)
    this.writer.write(step, this.evaluations[step])
  if last or _at(step, config.checkpoint.every) or step == best_evaluation(this)[0]:
    save(this, state, step)
  if _at(step, config.train.sample_every) or (last and config.train.sample_every):
    for name, text in this.evaluator.samples(state.params):
      this.writer.text(step, name, text)


def best_evaluation(this: Run) -> tuple[int | None, dict[int, float]]:
  """Returns the step that `checkpoint.best` finds best, or None, and its values by step."""
  metric = this.config.checkpoint.best
  values = {step: each[metric] for step, each in this.evaluations.items() if metric in each}
  return stored.better(metric, values), values


def out_of_patience(this: Run) -> str:
  """Returns why training ends before its last step, in words, or ''."""
  policy, (best, values) = this.config.checkpoint, best_evaluation(this)
  if not policy.patience or best is None or sum(s > best for s in values) < policy.patience:
    return ''
  return f'{policy.best} was best at step {best}, {values[best]:.4g}'


def save(this: Run, state: State, step: int) -> None:
  """Begins to save the state, with the manifest of what made it."""
  manifest = {
    'step': step,
    'tokens_seen': step * tokens_per_step(this.config),
    'config': config_lib.to_dict(this.config),
    'versions': versions.installed(),
    'mesh': dict(this.mesh.shape),
    'device_kind': jax.devices()[0].device_kind,
    'tokenizer': this.dataset.tokenizer.digest,
    'data': this.dataset.fingerprint,
    'evaluation': this.evaluations.get(step, {}),
  }
  this.checkpointer.save(step, state, manifest)


def tokens_per_step(config: config_lib.Config) -> int:
  """Returns the positions of a global batch, encoder and decoder together."""
  return config.data.batch_size * (config.data.input_length + config.data.target_length)


def describe(config: config_lib.Config) -> str:
  """Returns in a few words what is trained, on what."""
  num_params = flops.num_params(config.model)
  devices = f'{jax.device_count()} {jax.devices()[0].device_kind} device(s)'
  return (
    f'{config.model.architecture}, {num_params:,} parameters, {config.objective.name}, {devices}'
  )


def write_config(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Writes config.json, what ran, in one piece."""
  if jax.process_index() == 0:
    partial = workdir / 'config.json.partial'
    config_lib.save(config, partial)
    partial.replace(workdir / 'config.json')
