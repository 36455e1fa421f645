"""The mesh of a run: made of its devices, or refused with the meshes that they can be."""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import itertools
import math
from typing import Any

import jax
from jax.experimental import mesh_utils

from t5lite import config as config_lib
from t5lite import errors
from t5lite import sharding

NAMED = 8  # meshes that an error names at most


def make(parallel: config_lib.Parallel, devices: list[Any] | None = None) -> jax.sharding.Mesh:
  """Returns the mesh of `parallel` over all devices; enter it with `jax.set_mesh(mesh)`.

  Of several TPU slices, each holds whole parts of the axis `replica`: only that axis crosses the
  data centre's network.

  Raises:
    ConfigError: the axis sizes do not multiply to the number of devices, do not lie on the devices'
      torus, or the slices do not divide `replica`; legal meshes are listed.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [getattr(parallel, axis) for axis in sharding.AXES]
  given = math.prod(size for size in sizes if size != -1)
  rest, left_over = divmod(len(devices), given)
  shape = tuple(rest if size == -1 else size for size in sizes)
  where = f'parallel={dict(zip(sharding.AXES, sizes, strict=True))} on {len(devices)} devices'
  if left_over or (-1 not in sizes and rest != 1):
    remedy = f'use -1 for one of them, or {described(legal(devices))}'
    raise errors.ConfigError('mesh does not fit the devices', where, remedy)
  slices = num_slices(devices)
  if shape[0] % slices:
    remedy = f'use --set=parallel.replica={slices} or a multiple of it'
    raise errors.ConfigError('slices do not divide the replicas', f'{where}, {slices=}', remedy)
  try:
    return _placed(shape, devices)
  except NotImplementedError as error:  # mesh_utils: no product of physical axes has that size
    remedy = f'use {described(legal(devices))}'
    raise errors.ConfigError("mesh does not lie on the devices' torus", where, remedy) from error


def for_use(config: config_lib.Config, devices: list[Any] | None = None) -> jax.sharding.Mesh:
  """Returns the mesh of a run where it fits the devices, else the plainest that does.

  What a run left is used on other devices than it was trained on, and is the same on every mesh.

  Raises:
    ConfigError: no mesh fits.
  """
  devices = jax.devices() if devices is None else devices
  try:
    mesh = make(config.parallel, devices)
    check_divides(config, mesh)
    return mesh
  except errors.ConfigError:
    other = next(legal(devices, config), None)
    if other is None:
      raise
    return make(other, devices)


def _placed(shape: tuple[int, ...], devices: list[Any]) -> jax.sharding.Mesh:
  """Returns the mesh of that shape; raises NotImplementedError if it is not on the torus."""
  kinds = (jax.sharding.AxisType.Explicit,) * len(sharding.AXES)
  slices = num_slices(devices)
  if slices == 1:
    return jax.make_mesh(shape, sharding.AXES, axis_types=kinds, devices=devices)
  inside, between = (shape[0] // slices, *shape[1:]), (slices, *[1] * (len(shape) - 1))
  placed = mesh_utils.create_hybrid_device_mesh(inside, between, devices)
  return jax.sharding.Mesh(placed, sharding.AXES, axis_types=kinds)


def num_slices(devices: list[Any]) -> int:
  """Returns the number of TPU slices that the devices belong to; 1 where there is no such thing."""
  # A TPU of a single slice has no such number; what GPUs call one are parts of their own network.
  tpus = [device for device in devices if device.platform == 'tpu']
  return max(1, len({getattr(device, 'slice_index', 0) for device in tpus}))


def legal(
  devices: list[Any], config: config_lib.Config | None = None
) -> Iterator[config_lib.Parallel]:
  """Yields the meshes that lie on the devices, the plainest first.

  With `config`, those that divide its dimensions; the axis `expert` only if it has experts.
  """
  count = len(devices)
  sizes = [n for n in range(1, count + 1) if count % n == 0]
  # Few axes in use, and those small, come first: of each kind of mesh one is among the first.
  plainest = lambda axes: (sum(n > 1 for n in axes), math.prod(axes))
  experts = config is not None and config.model.num_experts > 0
  sizes_of = (sizes, sizes if experts else [1], [1] if experts else sizes, sizes)
  for axes in sorted(itertools.product(*sizes_of), key=plainest):
    replica, expert, sequence, model = axes
    data, left_over = divmod(count, math.prod(axes))
    if not data or left_over or replica % num_slices(devices):
      continue
    axes = (replica, expert, data, sequence, model)
    ways: dict[str, int] = dict(zip(sharding.AXES, axes, strict=True))
    parallel = config_lib.Parallel(**ways)
    if config and any(undivided(config, ways)):
      continue
    with contextlib.suppress(NotImplementedError):  # not on the torus: no legal mesh
      _placed(tuple(ways.values()), devices)
      yield parallel


def described(meshes: Iterator[config_lib.Parallel]) -> str:
  """Returns the first few meshes as text, e.g. 'a mesh of data=8; data=4 model=2'."""
  few = list(itertools.islice(meshes, NAMED + 1))
  names = [
    ' '.join(f'{axis}={n}' for axis, n in dataclasses.asdict(parallel).items() if n > 1) or 'data=1'
    for parallel in few[:NAMED]
  ]
  return f'a mesh of {"; ".join(names)}{"; ..." if len(few) > NAMED else ""}'


def check_divides(config: config_lib.Config, mesh: jax.sharding.Mesh) -> None:
  """Raises ConfigError for a dimension that its mesh axes do not divide."""
  sequence = mesh.shape['sequence']
  errors.check(
    not config.model.num_experts or sequence == 1,
    'experts with a split sequence',
    f'model.num_experts={config.model.num_experts} with parallel.sequence={sequence}',
    'use parallel.sequence=1',
  )
  for name, size, parts in undivided(config, dict(mesh.shape)):
    below, above = size // parts * parts, (size // parts + 1) * parts
    remedy = f'use {f"{below} or " if below else ""}{above}'
    meshes = legal(mesh.devices.flatten().tolist(), config)
    if first := next(meshes, None):
      remedy += f', or {described(itertools.chain([first], meshes))}'
    where = f'{name}={size} over {parts} devices'
    raise errors.ConfigError('dimension does not divide over the mesh', where, remedy)


def undivided(config: config_lib.Config, ways: Mapping[str, int]) -> Iterator[tuple[str, int, int]]:
  """Yields (name, size, parts) of the dimensions that a mesh of so many `ways` does not divide."""
  model, data = config.model, config.data
  for name, size, axes in (
    ('data.batch_size / train.microbatches', data.batch_size // config.train.microbatches, 'batch'),
    ('data.input_length', data.input_length, 'length'),
    ('data.target_length', data.target_length, 'length'),
    ('model.d_model', model.d_model, 'embed'),
    ('model.num_heads', model.num_heads, 'heads'),
    ('model.num_kv_heads', model.num_kv_heads, 'heads'),
    ('model.d_ff', model.d_ff, 'mlp'),
    ('model.vocab_size', model.vocab_size, 'vocab'),
    ('model.num_labels', model.num_labels, 'vocab'),
    ('model.num_experts', model.num_experts, 'experts'),
  ):
    parts = math.prod(ways[axis] for axis in getattr(sharding.RULES, axes))
    if size % parts:
      yield name, size, parts
