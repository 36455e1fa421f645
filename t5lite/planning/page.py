"""A plan as a page that a person reads at a glance. Every time is a bound or an estimate."""

import collections
from collections.abc import Iterable

from t5lite import planning
from t5lite.planning import bounds as bounds_lib
from t5lite.planning import chips
from t5lite.planning import program as program_lib

GIB = 2**30


def text(plan: planning.Plan) -> str:
  """Returns the page."""
  parts = [_head(plan), _memory(plan)]
  if plan.program:
    parts.append(_work(plan, plan.program))
  if plan.bounds:
    parts.append(_times(plan.bounds))
  if plan.chip and plan.at_bound and plan.at_estimate:
    parts.append(_run(plan, plan.chip, plan.at_bound, plan.at_estimate))
  return '\n'.join(line for part in parts for line in part)


def _line(label: str, value: str, note: str = '') -> str:
  return f'{label:<26}{value:>20}{"  " + note if note else ""}'


def _head(plan: planning.Plan) -> Iterable[str]:
  mesh = ' '.join(f'{axis}={size}' for axis, size in plan.mesh.items() if size > 1) or 'one device'
  slices = f', {plan.slices} slices' if plan.slices > 1 else ''
  yield f'{plan.num_devices} x {plan.device_kind} ({plan.topology}{slices}), mesh {mesh}'
  yield (
    f'{plan.num_params:,} parameters, batch {plan.batch_size} in {plan.microbatches} part(s), '
    f'remat {plan.remat}; compiled in {plan.compile_seconds:.0f} s, nothing was run'
  )


def _memory(plan: planning.Plan) -> Iterable[str]:
  memory = plan.memory
  size = lambda n: 'unknown' if n is None else f'{n / GIB:.2f} GiB'
  yield ''
  yield 'Memory of a device'
  if memory.arguments is None:
    yield _line('  state and batch', size(memory.arguments_by_hand), 'by hand')
  else:
    padding = memory.arguments - memory.arguments_by_hand
    note = f'{size(padding)} of it padding' if padding > 0 and memory.fits is not None else ''
    yield _line('  state and batch', size(memory.arguments), note)
    yield _line('  temporaries', size(memory.temporaries))
  yield _line('  peak', size(memory.peak))
  yield _line('  limit', size(memory.limit), memory.limit_source)
  if memory.fits is None:
    yield _line('  fits', 'unknown')
  elif memory.peak is not None and memory.limit is not None:
    spare = memory.limit - memory.peak
    note = f'{size(spare)} left' if memory.fits else f'{size(-spare)} too much; try'
    yield _line('  fits', 'yes' if memory.fits else 'no', note)
  yield from (f'    {flag}' for flag in plan.advice)


def _work(plan: planning.Plan, program: program_lib.Program) -> Iterable[str]:
  hardware = program.flops * plan.num_devices
  yield ''
  yield 'Work of a step'
  yield _line('  model FLOPs', f'{plan.model_flops:.4g}', 'all devices')
  yield _line('  hardware FLOPs', f'{hardware:.4g}', 'all devices, recomputation included')
  yield _line('  memory traffic', f'{program.hbm_bytes / 1e9:.4g} GB', 'a device, estimate')
  if program.unknown_loops:
    yield f'  loops of unknown length, counted once: {", ".join(program.unknown_loops)}'
  for (kind, axes, mode, network), found in sorted(grouped(program.collectives).items()):
    count, total = sum(c.count for c in found), sum(c.total_bytes for c in found)
    between = f', between {"slices" if plan.slices > 1 else "nodes"}' * (network == 'dcn')
    note = f'over {"+".join(axes)}{between}, {mode}, {count:,} times'
    yield _line(f'  {kind}', f'{total / 1e9:.4g} GB', note)


def grouped(
  collectives: Iterable[program_lib.Collective],
) -> dict[tuple[str, tuple[str, ...], str, str], list[program_lib.Collective]]:
  """Returns the collectives by kind, axes, whether they are asynchronous, and network."""
  groups = collections.defaultdict(list)
  for c in collectives:
    if c.num_devices > 1:
      mode = 'asynchronous' if c.asynchronous else 'synchronous'
      groups[c.kind, c.axes, mode, c.network].append(c)
  return groups


def _times(bounds: bounds_lib.Bounds) -> Iterable[str]:
  seconds = lambda s: f'{s * 1e3:,.1f} ms' if s >= 0.01 else f'{s * 1e3:.3g} ms'
  largest = lambda name: ', the largest roof' if name == bounds.largest else ''
  yield ''
  yield 'Time of a step'
  yield _line('  matrix units', seconds(bounds.matrix_seconds), 'bound' + largest('matrix'))
  note = 'bound' + largest('interconnect')
  yield _line('  interconnect', seconds(bounds.interconnect_seconds), note)
  yield _line('  HBM', seconds(bounds.hbm_seconds), 'estimate' + largest('HBM'))
  if bounds.cycles_seconds is None:
    note = 'estimate: each at its larger roof, no collectives'
    yield _line('  kernels', seconds(bounds.kernel_seconds), note)
  else:
    note = "estimate: the compiler's cycles, no collectives"
    yield _line('  compiler', seconds(bounds.cycles_seconds), note)
  yield _line('  step, at least', seconds(bounds.step_seconds_bound), 'bound')
  yield _line('  step', seconds(bounds.step_seconds_estimate), 'estimate')
  yield _line('  MFU, at most', f'{bounds.mfu_bound:.1%}', 'bound')
  yield _line('  MFU', f'{bounds.mfu_estimate:.1%}', 'estimate')


def _run(
  plan: planning.Plan, chip: chips.Chip, bound: bounds_lib.Run, estimate: bounds_lib.Run
) -> Iterable[str]:
  yield ''
  yield f'The run of {plan.steps:,} steps'
  rows = {
    'tokens': ('tokens_per_second', 'a second', 'at most'),
    'time': ('days', 'days', 'at least'),
    'devices': ('chip_hours', 'hours', 'at least'),
  }
  for label, (name, unit, side) in rows.items():
    note = f'estimate; {side} {getattr(bound, name):,.4g} (bound)'
    yield _line(f'  {label}', f'{getattr(estimate, name):,.4g} {unit}', note)
  yield _line('  energy', f'{estimate.kwh:,.4g} kWh', 'estimate')
  yield _line('  CO2', f'{estimate.kg_co2:,.4g} kg', 'estimate')
  yield (
    f'  Energy at {chip.watts:.0f} W a device ({chip.watts_source}), times '
    f'{bounds_lib.POWER_USAGE} for the building, {bounds_lib.KG_CO2_PER_KWH} kg of CO2 a kWh'
  )
