"""Tries meshes, remat and microbatches, and ranks those that fit by their estimated step."""

from collections.abc import Callable, Iterator
import dataclasses

from t5lite import config as config_lib
from t5lite import errors
from t5lite import planning
from t5lite import meshes
from t5lite.planning import chips

REMATS = ('dots', 'full')
MOST_MODEL = 8  # tensor parallelism beyond the chips of a host is rarely worth its collectives
MOST_REPLICAS = 4  # of a slice: more only cost memory

# Of `row`. Step and MFU are estimates.
HEAD = f'{"mesh":<32}{"remat":<9}{"parts":>5}{"peak":>13}{"":>11}{"step (est.)":>14}{"MFU":>8}'


def search(
  config: config_lib.Config, topology: chips.Topology, report: Callable[[str], None]
) -> list[planning.Plan]:
  """Returns the plans that fit, the fastest first; tells `report` what it tries.

  For each mesh and remat the fewest microbatches that fit: more of them only add collectives.

  Raises:
    ConfigError: nothing fits.
  """
  fitting = []
  report(HEAD)
  for candidate in candidates(config, topology):
    plan = fewest_microbatches(candidate, topology, report)
    if plan is not None:
      fitting.append(plan)
  errors.check(
    bool(fitting),
    'nothing fits',
    f'{topology.name}, {topology.slices} slice(s)',
    'use a larger topology or a smaller model',
  )
  return sorted(fitting, key=rank)


def rank(plan: planning.Plan) -> float:
  """Returns the seconds that a plan is ranked by; where nothing is estimated, its FLOPs."""
  if plan.bounds:
    return plan.bounds.step_seconds_estimate
  assert plan.program
  return plan.program.flops


def candidates(config: config_lib.Config, topology: chips.Topology) -> Iterator[config_lib.Config]:
  """Yields the config on each legal mesh that its dimensions divide over, with each remat."""
  whole = dataclasses.replace(config, train=dataclasses.replace(config.train, microbatches=1))
  for parallel in meshes.legal(topology.devices, whole):
    if parallel.model > MOST_MODEL or parallel.replica > MOST_REPLICAS * topology.slices:
      continue
    if parallel.sequence != max(config.parallel.sequence, 1):  # as asked for: long texts need it
      continue
    for remat in REMATS:
      model = dataclasses.replace(config.model, remat=remat)
      yield dataclasses.replace(config, parallel=parallel, model=model)


def fewest_microbatches(
  config: config_lib.Config, topology: chips.Topology, report: Callable[[str], None]
) -> planning.Plan | None:
  """Returns the plan with the fewest microbatches that fits; None if none does."""
  parallel = config.parallel
  ways = parallel.replica * parallel.expert * parallel.data
  microbatches = 1
  while config.data.batch_size % (microbatches * ways) == 0:
    train = dataclasses.replace(config.train, microbatches=microbatches)
    plan = planning.plan(dataclasses.replace(config, train=train), topology)
    report(row(plan))
    if plan.program and plan.memory.fits is not False:
      return plan
    microbatches *= 2
  return None


def row(plan: planning.Plan) -> str:
  """Returns a plan in one line."""
  mesh = ' '.join(f'{axis}={size}' for axis, size in plan.mesh.items() if size > 1) or 'data=1'
  peak = f'{plan.memory.peak / 2**30:.2f} GiB' if plan.memory.peak else ''
  fits = {True: 'fits', False: 'too large', None: ''}[plan.memory.fits]
  step = f'{plan.bounds.step_seconds_estimate * 1e3:,.1f} ms' if plan.bounds else ''
  mfu = f'{plan.bounds.mfu_estimate:.1%}' if plan.bounds else ''
  setting = f'{mesh:<32}{plan.remat:<9}{plan.microbatches:>5}'
  return f'{setting}{peak:>13}{fits:>11}{step:>14}{mfu:>8}'


def text(plans: list[planning.Plan]) -> str:
  """Returns the ranking, and the flags of the first."""
  best = plans[0]
  axes = ' '.join(f'--set=parallel.{axis}={size}' for axis, size in best.mesh.items())
  flags = f'{axes} --set=model.remat={best.remat} --set=train.microbatches={best.microbatches}'
  return '\n'.join(['', 'Ranked by estimated step:', HEAD, *map(row, plans), '', f'Use {flags}'])
