"""Which mesh axis splits which dimension: the mesh, the rules and the specs made from them.

The mesh axes are `replica` (whole copies, between slices), `expert` (experts, and batch), `data`
(batch and parameters, FSDP), `sequence` (positions) and `model` (heads, mlp, vocabulary), always
present, of size 1 when unused, and Explicit: every array's type carries its sharding, and the
contractions of `einsum` say where the collectives arise.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import itertools
import math
from typing import Any

import jax
from jax.experimental import mesh_utils
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from t5lite import config as config_lib
from t5lite import errors

AXES = ('replica', 'expert', 'data', 'sequence', 'model')


@dataclasses.dataclass(frozen=True)
class Rules:
  """Mesh axes of each logical dimension, of parameters and of activations."""

  batch: tuple[str, ...] = ('replica', 'expert', 'data')
  length: tuple[str, ...] = ('sequence',)  # context parallelism
  embed: tuple[str, ...] = ('expert', 'data', 'sequence')  # d_model of a parameter: FSDP
  heads: tuple[str, ...] = ('model',)
  mlp: tuple[str, ...] = ('model',)
  vocab: tuple[str, ...] = ('model',)
  experts: tuple[str, ...] = ('expert',)
  expert_rows: tuple[str, ...] = ('replica', 'data')  # tokens that are at their experts
  expert_embed: tuple[str, ...] = ('data', 'sequence')  # d_model of an expert's parameter

  def spec(self, *dims: str | None) -> P:
    """Returns the PartitionSpec of an array whose dimensions are named `dims`; None: not split.

    Raises:
      ValueError: two dimensions would be split over the same mesh axis.
    """
    axes = [getattr(self, dim) if dim else () for dim in dims]
    used = [axis for group in axes for axis in group]
    if len(used) != len(set(used)):
      raise ValueError(f'{dims=} use a mesh axis twice: {used}')
    return P(*(group or None for group in axes))

  def on(self, mesh: jax.sharding.AbstractMesh | jax.sharding.Mesh) -> 'Rules':
    """Returns the rules without the axes that the mesh lacks or that have one device."""
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    sizes = dict(mesh.shape)
    return Rules(
      **{
        name: tuple(axis for axis in axes if sizes.get(axis, 1) > 1)
        for name, axes in fields.items()
      }
    )


RULES = Rules()


def rules() -> Rules:
  """Returns the rules on the mesh that is set; without one, or in a shard_map, nothing is split."""
  return RULES.on(mesh) if (mesh := _current()) else Rules(*[()] * len(dataclasses.fields(Rules)))


def _current() -> jax.sharding.AbstractMesh | None:
  mesh = jax.sharding.get_abstract_mesh()
  return None if mesh.empty or mesh.are_all_axes_manual else mesh


def spec(*dims: str | None) -> P | None:
  """Returns rules().spec(*dims), or None where no mesh is set: models run on a bare device too."""
  return rules().spec(*dims) if _current() else None


# Logical dimension of each einsum letter; the legend of the letters is in models/layers.py.
ACTIVATION = {
  **{'B': 'batch', 'T': 'length', 'S': 'length'},
  **{'N': 'heads', 'K': 'heads', 'F': 'mlp', 'V': 'vocab'},
  **{'X': 'experts', 'A': 'expert_rows'},
}
PARAMETER = {'D': 'embed', 'N': 'heads', 'K': 'heads', 'F': 'mlp', 'V': 'vocab'}
PARAMETER |= {'X': 'experts', 'W': 'expert_embed'}


def activation_spec(letters: str) -> P | None:
  """Returns the spec of an activation whose dimensions are named by einsum letters, e.g. 'BTD'."""
  return spec(*(ACTIVATION.get(letter) for letter in letters))


def parameter_spec(letters: str) -> P | None:
  """Returns the spec of a parameter whose dimensions are named by einsum letters, e.g. 'DNH'."""
  return spec(*(PARAMETER.get(letter) for letter in letters))


def einsum(equation: str, *operands: jax.Array, **options: Any) -> jax.Array:
  """Returns jnp.einsum with the output sharded as its letters say."""
  letters = equation.partition('->')[2]
  return jnp.einsum(equation, *operands, out_sharding=activation_spec(letters), **options)


def project(x: jax.Array, kernel: jax.Array, equation: str) -> jax.Array:
  """Returns einsum(equation, x, kernel), a linear map of x's last dimensions, as a matrix product.

  Flat operands, not einsum's own: XLA's CPU backend transposes the gradients of the others through
  memory, which costs more there than the product itself where a stride is a power of two.

  Args:
    x: [rows..., summed...].
    kernel: [summed..., outputs...].
    equation: names the dimensions by letters, e.g. 'BTD,DNH->BTNH'.
  """
  letters, _, out = equation.partition('->')
  left, right = letters.split(',')
  summed = [letter for letter in right if letter not in out]
  rows, outputs = left[: -len(summed)], right[len(summed) :]
  assert out == rows + outputs and left.endswith(''.join(summed)), equation
  shape = x.shape[: len(rows)] + kernel.shape[len(summed) :]
  # Rows that are split in two dimensions stay two: they do not stand one behind another.
  kept = len(rows) if rules().length else 1
  x_RK = reshape(
    x, (*x.shape[: kept - 1], math.prod(x.shape[kept - 1 : len(rows)]), -1), rows[:kept] + summed[0]
  )
  size = math.prod(kernel.shape[: len(summed)])
  first = [PARAMETER.get(group[0]) for group in (right, outputs)]
  kernel_KV = jnp.reshape(kernel, (size, -1), out_sharding=spec(*first))
  y_RV = jnp.matmul(x_RK, kernel_KV, out_sharding=activation_spec(rows[:kept] + outputs[0]))
  return reshape(y_RV, shape, out)


def look_up(table: jax.Array, ids_BxT: jax.Array, letter: str) -> jax.Array:
  """Returns the rows [B, T, D] of a table [rows, D], whose rows are of dimension `letter`.

  Each device gathers the columns of its rows (FSDP), takes what it has of the rows and adds up with
  those that have the others (Shoeybi et al. 2019, section 3).
  """
  split = rules()
  rows = getattr(split, PARAMETER.get(letter, ''), ())
  if not (rows or split.embed):
    return table.at[ids_BxT].get(out_sharding=activation_spec('BTD'))

  def on_device(table, ids_BxT):
    if split.embed:
      table = jax.lax.all_gather(table, split.embed, axis=1, tiled=True)
    if not rows:
      return table[ids_BxT]
    ids_BxT = ids_BxT - jax.lax.axis_index(rows) * len(table)
    is_here = (0 <= ids_BxT) & (ids_BxT < len(table))
    found_BTD = jnp.where(is_here[..., None], table[jnp.where(is_here, ids_BxT, 0)], 0)
    return jax.lax.psum(found_BTD, rows)

  in_specs = (parameter_spec(f'{letter}D'), split.spec('batch', 'length'))
  out_specs = activation_spec('BTD')
  arguments = jax.sharding.reshard((table, ids_BxT), in_specs)
  return jax.shard_map(on_device, in_specs=in_specs, out_specs=out_specs)(*arguments)


def reshape(x: jax.Array, shape: tuple[int, ...], letters: str) -> jax.Array:
  """Returns x.reshape(shape), sharded as its letters say."""
  return jnp.reshape(x, shape, out_sharding=activation_spec(letters))


def make_mesh(parallel: config_lib.Parallel, devices: list[Any] | None = None) -> jax.sharding.Mesh:
  """Returns the mesh of `parallel` over all devices; enter it with `jax.set_mesh(mesh)`.

  Of several TPU slices, each holds whole parts of the axis `replica`: only that axis crosses the
  data centre's network.

  Raises:
    ConfigError: the axis sizes do not multiply to the number of devices, do not lie on the devices'
      torus, or the slices do not divide `replica`; legal meshes are listed.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [getattr(parallel, axis) for axis in AXES]
  given = math.prod(size for size in sizes if size != -1)
  rest, left_over = divmod(len(devices), given)
  shape = tuple(rest if size == -1 else size for size in sizes)
  where = f'parallel={dict(zip(AXES, sizes, strict=True))} on {len(devices)} devices'
  if left_over or (-1 not in sizes and rest != 1):
    remedy = f'use -1 for one of them, or one of {describe(legal_meshes(devices))}'
    raise errors.ConfigError('mesh does not fit the devices', where, remedy)
  slices = num_slices(devices)
  if shape[0] % slices:
    remedy = f'use --set=parallel.replica={slices} or a multiple of it'
    raise errors.ConfigError('slices do not divide the replicas', f'{where}, {slices=}', remedy)
  try:
    return _mesh(shape, devices, slices)
  except NotImplementedError as error:  # mesh_utils: no product of physical axes has that size
    remedy = f'use one of {describe(legal_meshes(devices))}'
    raise errors.ConfigError("mesh does not lie on the devices' torus", where, remedy) from error


def _mesh(shape: tuple[int, ...], devices: list[Any], slices: int) -> jax.sharding.Mesh:
  """Returns the mesh of that shape; raises NotImplementedError if it is not on the torus."""
  kinds = (jax.sharding.AxisType.Explicit,) * len(AXES)
  if slices == 1:
    return jax.make_mesh(shape, AXES, axis_types=kinds, devices=devices)
  inside, between = (shape[0] // slices, *shape[1:]), (slices, *[1] * (len(AXES) - 1))
  placed = mesh_utils.create_hybrid_device_mesh(inside, between, devices)
  return jax.sharding.Mesh(placed, AXES, axis_types=kinds)


def num_slices(devices: list[Any]) -> int:
  """Returns the number of TPU slices that the devices belong to; 1 where there is no such thing."""
  # A TPU of a single slice has no such number; what GPUs call one are parts of their own network.
  tpus = [device for device in devices if device.platform == 'tpu']
  return max(1, len({getattr(device, 'slice_index', 0) for device in tpus}))


def legal_meshes(devices: list[Any]) -> list[tuple[int, int, int]]:
  """Returns the sizes of (replica, data, model), powers of two but for data, that lie on them."""
  found, slices = [], num_slices(devices)
  powers = [2**n for n in range(len(devices).bit_length())]
  for replica, model in itertools.product(powers, powers):
    data, left_over = divmod(len(devices), replica * model)
    if left_over or replica % slices:
      continue
    with contextlib.suppress(NotImplementedError):
      _mesh((replica, 1, data, 1, model), devices, slices)
      found.append((replica, data, model))
  return found


def describe(meshes: list[tuple[int, int, int]], most: int = 12) -> str:
  """Returns sizes of (replica, data, model) as text."""
  few = ', '.join('x'.join(map(str, sizes)) for sizes in meshes[:most])
  return f'replica x data x model = {few}{", ..." if len(meshes) > most else ""}'


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
    if meshes := fitting_meshes(config, mesh.size):
      remedy += f', or a mesh of {"; ".join(meshes[:6])}{"; ..." if len(meshes) > 6 else ""}'
    raise errors.ConfigError(
      'dimension does not divide over the mesh', f'{name}={size} over {parts} devices', remedy
    )


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
    ('model.num_experts', model.num_experts, 'experts'),
  ):
    parts = math.prod(ways[axis] for axis in getattr(RULES, axes))
    if size % parts:
      yield name, size, parts


def fitting_meshes(config: config_lib.Config, num_devices: int) -> list[str]:
  """Returns the meshes, as 'data=4 model=2', that divide all dimensions; the plainest first."""
  sizes = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
  found = []
  for model, sequence, replica in itertools.product(sizes, sizes, sizes):
    data, left_over = divmod(num_devices, model * sequence * replica)
    ways = {'replica': replica, 'expert': 1, 'data': data, 'sequence': sequence, 'model': model}
    if data and not left_over and not any(undivided(config, ways)):
      found.append(' '.join(f'{axis}={n}' for axis, n in ways.items() if n > 1))
  return found


def to_device(
  batch: dict[str, np.ndarray], global_rows: int, mesh: jax.sharding.Mesh
) -> dict[str, jax.Array]:
  """Returns this process's rows of a batch as global arrays, split over the batch axes."""
  return {
    name: jax.make_array_from_process_local_data(
      jax.sharding.NamedSharding(mesh, batch_spec(name, RULES.on(mesh))),
      rows,
      global_shape=(global_rows, *rows.shape[1:]),
    )
    for name, rows in batch.items()
  }


def batch_spec(name: str, rules: Rules) -> P:
  """Returns the spec of a batch's array [B, T], or of [B, M] predictions, which are few."""
  return rules.spec('batch', None if name.endswith('_prediction_positions') else 'length')


@contextlib.contextmanager
def whole_rows(params: Any) -> Iterator[Any]:
  """Yields params on the mesh that is set with its `sequence` devices given to `data`.

  For what works on few tokens at a time, as decoding does. Nothing moves: it is the same part of
  each parameter that every device has.
  """
  mesh = jax.sharding.get_mesh()
  if mesh.empty or mesh.shape['sequence'] == 1:
    yield params
    return
  sizes = dict(mesh.shape)
  sizes |= {'data': sizes['data'] * sizes['sequence'], 'sequence': 1}
  devices = mesh.devices.reshape([sizes[axis] for axis in AXES])
  other = {'sequence': 'data'}
  folded = jax.sharding.Mesh(devices, AXES, axis_types=mesh.axis_types)

  def place(x):
    groups = [group if isinstance(group, tuple) else (group,) for group in x.sharding.spec]
    groups = [[other.get(axis, axis) for axis in group] for group in groups]
    spec = P(*(tuple(dict.fromkeys(filter(None, group))) or None for group in groups))
    return jax.device_put(x, jax.sharding.NamedSharding(folded, spec))

  with jax.set_mesh(folded):
    yield jax.tree.map(place, params)


def shard_like(abstract: Any, mesh: jax.sharding.Mesh) -> Any:
  """Returns the ShapeDtypeStructs of a traced tree with concrete shardings on `mesh`."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=jax.sharding.NamedSharding(mesh, jax.typeof(x).sharding.spec)
    ),
    abstract,
  )


def local_rows(mesh: jax.sharding.Mesh, num_rows: int) -> slice:
  """Returns the rows of a global batch that this process's devices hold."""
  sharding = jax.sharding.NamedSharding(mesh, RULES.on(mesh).spec('batch'))
  shards = sharding.addressable_devices_indices_map((num_rows,)).values()
  spans = [index[0].indices(num_rows) for index in shards if index is not None]
  return slice(min(start for start, _, _ in spans), max(stop for _, stop, _ in spans))
