"""Ahead of time: compiles the real train step for devices that are not there, and says what it is.

`plan(config, topology)` returns a `Plan`; `page.text` makes it a page to read.
"""

import dataclasses
import time
from typing import Any

import jax

from t5lite import compiler
from t5lite import config as config_lib
from t5lite import flops
from t5lite import meshes
from t5lite import train
from t5lite.planning import abstract
from t5lite.planning import bounds as bounds_lib
from t5lite.planning import chips
from t5lite.planning import program as program_lib
from t5lite.planning import tpus


@dataclasses.dataclass(frozen=True)
class Memory:
  """Bytes of one device's memory. None: the compiler does not say."""

  arguments: int | None  # state and batch, as the compiler lays them out
  arguments_by_hand: int  # the same from shapes alone, without the padding of TPU's tiles
  peak: int | None  # the most at any time; of what does not fit: what the compiler would need
  code: int | None
  limit: int | None
  fits: bool | None  # on TPU the compiler's verdict, on GPU whether the peak is within the limit
  limit_source: str = ''

  @property
  def temporaries(self) -> int | None:
    """What the peak holds beside the arguments: activations, gradients, gathered parameters."""
    known = self.peak is not None and self.arguments is not None
    return self.peak - self.arguments if known else None  # pyright: ignore


@dataclasses.dataclass(frozen=True)
class Plan:
  """A train step, compiled. Numbers of one device unless they say otherwise."""

  topology: str
  slices: int
  device_kind: str
  chip: chips.Chip | None  # the published numbers that bounds are made of
  num_devices: int
  mesh: dict[str, int]
  batch_size: int
  microbatches: int
  remat: str
  steps: int
  num_params: int
  tokens_per_step: int
  model_flops: float  # of a step, all devices together
  memory: Memory
  advice: tuple[str, ...]  # what to change, if it does not fit
  program: program_lib.Program | None  # None: the compiler refused, as it does not fit
  bounds: bounds_lib.Bounds | None  # None: nothing is published of such a device
  at_bound: bounds_lib.Run | None
  at_estimate: bounds_lib.Run | None
  compile_seconds: float

  def to_dict(self) -> dict[str, Any]:
    """Returns all of it, ready for JSON, with what follows from it beside it."""
    tree = dataclasses.asdict(self)
    tree['memory']['temporaries'] = self.memory.temporaries
    if self.program:
      for c, collective in zip(
        self.program.collectives, tree['program']['collectives'], strict=True
      ):
        collective['network'] = c.network
    if self.bounds:
      tree['bounds']['largest'] = self.bounds.largest
    return tree


def plan(config: config_lib.Config, topology: chips.Topology) -> Plan:
  """Returns the plan of a config's train step on a topology.

  Raises:
    ConfigError: the mesh or a dimension does not fit the devices.
  """
  config = dataclasses.replace(config, model=config_lib.resolve(config.model, topology.platform))
  mesh = meshes.make(config.parallel, topology.devices)
  meshes.check_divides(config, mesh)
  start = time.perf_counter()
  memory, program = compile_step(config, mesh, topology)
  shape = dict(mesh.shape)
  chip = topology.chip
  model_flops = flops.model_flops(config)
  tokens, steps = train.tokens_per_step(config), config.train.steps
  bounds = at_bound = at_estimate = None
  if program and chip:
    bounds = bounds_lib.bounds(program, chip, mesh.size, model_flops)
    run = lambda seconds: bounds_lib.run(seconds, tokens, steps, mesh.size, chip)
    at_bound, at_estimate = run(bounds.step_seconds_bound), run(bounds.step_seconds_estimate)
  return Plan(
    topology=topology.name,
    slices=topology.slices,
    device_kind=topology.device_kind,
    chip=chip,
    num_devices=mesh.size,
    mesh=shape,
    batch_size=config.data.batch_size,
    microbatches=config.train.microbatches,
    remat=config.model.remat,
    steps=steps,
    num_params=flops.num_params(config.model),
    tokens_per_step=tokens,
    model_flops=model_flops,
    memory=memory,
    advice=advice(config, mesh) if memory.fits is False else (),
    program=program,
    bounds=bounds,
    at_bound=at_bound,
    at_estimate=at_estimate,
    compile_seconds=time.perf_counter() - start,
  )


def compile_step(
  config: config_lib.Config, mesh: jax.sharding.Mesh, topology: chips.Topology
) -> tuple[Memory, program_lib.Program | None]:
  """Returns the memory and, if it fits, the work of the compiled train step."""
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    by_hand = abstract.bytes_per_device(
      (abstract.state(config, mesh), abstract.batch(config, mesh))
    )
  lowered = abstract.lowered_step(config, mesh, topology.platform)
  try:
    compiled = lowered.compile(compiler_options=compiler.options(topology.platform))
  except jax.errors.JaxRuntimeError as error:
    needed, limit = tpus.out_of_memory(error)
    return Memory(None, by_hand, needed, None, limit, fits=False), None
  program = program_lib.measure(
    compiled.as_text(), dict(mesh.shape), topology.slices, topology.node_size, topology.chip
  )
  return memory_of(compiled.memory_analysis(), by_hand, topology), program


def memory_of(stats: Any, by_hand: int, topology: chips.Topology) -> Memory:
  """Returns the memory of a program that was compiled, from the compiler's `memory_analysis`."""
  kept = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
  # Elsewhere than on TPU all temporaries share one buffer, as long as their peak. On TPU
  # temp_size_in_bytes is no peak (it can exceed the limit).
  on_tpu = topology.platform == 'tpu'
  peak = stats.peak_memory_in_bytes if on_tpu else kept + stats.temp_size_in_bytes
  limit = tpus.hbm_limit(topology.devices[0]) if on_tpu else topology.memory_limit
  return Memory(
    arguments=stats.argument_size_in_bytes,
    arguments_by_hand=by_hand,
    peak=peak,
    code=stats.generated_code_size_in_bytes,
    limit=limit,
    fits=True if on_tpu else None if limit is None else peak <= limit,
    limit_source=topology.limit_source,
  )


REMATS = ('none', 'minimal', 'dots', 'full')  # from the most memory to the least


def advice(config: config_lib.Config, mesh: jax.sharding.Mesh) -> tuple[str, ...]:
  """Returns flags that make a step need less memory, the cheapest in time first."""
  ways = mesh.shape['replica'] * mesh.shape['expert'] * mesh.shape['data']
  rows = config.data.batch_size // config.train.microbatches // ways
  found = []
  if rows > 1 and rows % 2 == 0:
    found.append(f'--set=train.microbatches={2 * config.train.microbatches}')
  tighter = REMATS[REMATS.index(config.model.remat) + 1 :]
  if tighter:
    found.append(f'--set=model.remat={tighter[-1]}')
  if mesh.shape['replica'] > 1:
    found.append('a smaller parallel.replica: replicas do not share the state')
  if config.model.num_kv_heads % (2 * mesh.shape['model']) == 0:
    found.append(f'--set=parallel.model={2 * mesh.shape["model"]}, where the topology allows it')
  return (*found, 'a larger topology', '--search')
