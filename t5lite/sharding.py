"""Which mesh axis splits which dimension: the rules, and the specs and operations made from them.

The mesh axes are `replica` (whole copies, between slices), `expert` (experts, and batch), `data`
(batch and parameters, FSDP), `sequence` (positions) and `model` (heads, mlp, vocabulary), always
present, of size 1 when unused, and Explicit: every array's type carries its sharding, and the
contractions of `einsum` say where the collectives arise.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

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


def batch_ways() -> int:
  """Returns the number of devices that the batch dimension is split over."""
  mesh = _current()
  return math.prod(mesh.shape[axis] for axis in rules().batch) if mesh else 1


def spec(*dims: str | None) -> P | None:
  """Returns rules().spec(*dims), or None where no mesh is set: models run on a bare device too."""
  return rules().spec(*dims) if _current() else None


# Logical dimension of each einsum letter; the legend of the letters is in models/layers.py.
ACTIVATION = {
  **{'B': 'batch', 'T': 'length', 'S': 'length'},
  **{'N': 'heads', 'K': 'heads', 'J': 'heads', 'F': 'mlp', 'V': 'vocab'},
  **{'X': 'experts', 'A': 'expert_rows'},
}
PARAMETER = {'D': 'embed', 'N': 'heads', 'J': 'heads', 'F': 'mlp', 'V': 'vocab'}
PARAMETER |= {'X': 'experts', 'W': 'expert_embed'}


def activation_spec(letters: str) -> P | None:
  """Returns the spec of an activation whose dimensions are named by einsum letters, e.g. 'BTD'."""
  return spec(*(ACTIVATION.get(letter) for letter in letters))


def parameter_spec(letters: str) -> P | None:
  """Returns the spec of a parameter whose dimensions are named by einsum letters, e.g. 'DF'."""
  return spec(*(PARAMETER.get(letter) for letter in letters))


def einsum(equation: str, *operands: jax.Array, **options: Any) -> jax.Array:
  """Returns jnp.einsum with the output sharded as its letters say."""
  letters = equation.partition('->')[2]
  return jnp.einsum(equation, *operands, out_sharding=activation_spec(letters), **options)


def project(x: jax.Array, kernel: jax.Array, equation: str) -> jax.Array:
  """Returns einsum(equation, x, kernel), as a product of two matrices.

  Not einsum's own: XLA's CPU backend transposes the gradients of the others through memory, which
  costs more there than the product itself where a stride is a power of two.

  Args:
    x: [rows..., summed].
    kernel: [summed, output].
    equation: names the dimensions by letters, e.g. 'BTD,DF->BTF'.
  """
  letters, _, out = equation.partition('->')
  left, right = letters.split(',')
  rows = left[:-1]
  assert right == left[-1] + out[-1] and out == rows + right[-1], equation
  # Rows that are split in two dimensions stay two: they do not stand one behind another.
  kept = rows if rules().length else rows[0]
  shape = (*x.shape[: len(kept) - 1], -1, x.shape[-1])
  y = jnp.matmul(
    reshape(x, shape, kept + right[0]), kernel, out_sharding=activation_spec(kept + right[1])
  )
  return reshape(y, (*x.shape[:-1], y.shape[-1]), out)


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
def whole_rows(arrays: Any) -> Iterator[Any]:
  """Yields a tree of arrays on the mesh that is set with its `sequence` devices given to `data`.

  For what works on few tokens at a time, as decoding does. Nothing moves: it is the same part of
  each array that every device has. A random key made on the mesh has to come along.
  """
  mesh = jax.sharding.get_mesh()
  if mesh.empty or mesh.shape['sequence'] == 1:
    yield arrays
    return
  sizes = dict(mesh.shape)
  sizes |= {'data': sizes['data'] * sizes['sequence'], 'sequence': 1}
  devices = mesh.devices.reshape([sizes[axis] for axis in AXES])
  other = {'sequence': 'data'}
  folded = jax.sharding.Mesh(devices, AXES, axis_types=mesh.axis_types)

  def place(x):
    if not isinstance(x.sharding, jax.sharding.NamedSharding):  # made before the mesh was set
      return x
    groups = [group if isinstance(group, tuple) else (group,) for group in x.sharding.spec]
    groups = [[other.get(axis, axis) for axis in group] for group in groups]
    spec = P(*(tuple(dict.fromkeys(filter(None, group))) or None for group in groups))
    return jax.device_put(x, jax.sharding.NamedSharding(folded, spec))

  with jax.set_mesh(folded):
    yield jax.tree.map(place, arrays)


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
