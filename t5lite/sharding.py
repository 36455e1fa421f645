"""Which mesh axis splits which dimension: the mesh, the rules and the specs made from them.

The mesh axes are `replica` (whole copies, between slices), `expert` (experts, and batch), `data`
(batch and parameters, FSDP), `sequence` (positions) and `model` (heads, mlp, vocabulary), always
present, of size 1 when unused, and Explicit: every array's type carries its sharding, and the
contractions of `einsum` say where the collectives arise.
"""

import dataclasses
import math
from typing import Any

import jax
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
  length: tuple[str, ...] = ('sequence',)
  embed: tuple[str, ...] = ('expert', 'data', 'sequence')  # d_model of a parameter: FSDP
  heads: tuple[str, ...] = ('model',)
  mlp: tuple[str, ...] = ('model',)
  vocab: tuple[str, ...] = ('model',)

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
  """Returns the rules on the mesh that is set; without one, nothing is split."""
  return RULES.on(jax.sharding.get_abstract_mesh())


def spec(*dims: str | None) -> P | None:
  """Returns rules().spec(*dims), or None where no mesh is set: models run on a bare device too."""
  return None if jax.sharding.get_abstract_mesh().empty else rules().spec(*dims)


# Logical dimension of each einsum letter; the legend of the letters is in models/layers.py.
ACTIVATION = {'B': 'batch', 'N': 'heads', 'K': 'heads', 'F': 'mlp', 'V': 'vocab'}
PARAMETER = {'D': 'embed', 'N': 'heads', 'K': 'heads', 'F': 'mlp', 'V': 'vocab'}


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
  x_RK = reshape(x, (math.prod(x.shape[: len(rows)]), -1), rows[0] + left[len(rows)])
  size = math.prod(kernel.shape[: len(summed)])
  first = [PARAMETER.get(group[0]) for group in (right, outputs)]
  kernel_KV = jnp.reshape(kernel, (size, -1), out_sharding=spec(*first))
  y_RV = jnp.matmul(x_RK, kernel_KV, out_sharding=activation_spec(rows[0] + outputs[0]))
  return reshape(y_RV, shape, out)


def reshape(x: jax.Array, shape: tuple[int, ...], letters: str) -> jax.Array:
  """Returns x.reshape(shape), sharded as its letters say."""
  return jnp.reshape(x, shape, out_sharding=activation_spec(letters))


def make_mesh(parallel: config_lib.Parallel, devices: list[Any] | None = None) -> jax.sharding.Mesh:
  """Returns the mesh of `parallel` over all devices; enter it with `jax.set_mesh(mesh)`.

  Raises:
    ConfigError: the axis sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [getattr(parallel, axis) for axis in AXES]
  given = math.prod(size for size in sizes if size != -1)
  rest, left_over = divmod(len(devices), given)
  if left_over or (-1 not in sizes and rest != 1):
    raise errors.ConfigError(
      'mesh does not fit the devices',
      f'parallel={dict(zip(AXES, sizes, strict=True))} on {len(devices)} devices',
      f'use sizes whose product is {len(devices)}, or -1 for one of them',
    )
  shape = tuple(rest if size == -1 else size for size in sizes)
  kinds = (jax.sharding.AxisType.Explicit,) * len(AXES)
  return jax.make_mesh(shape, AXES, axis_types=kinds, devices=devices)


def check_divides(config: config_lib.Config, mesh: jax.sharding.Mesh) -> None:
  """Raises ConfigError for a dimension that its mesh axes do not divide."""
  model, ways = config.model, mesh.shape
  rows = math.prod(ways[axis] for axis in RULES.batch)
  microbatch = config.data.batch_size // config.train.microbatches
  for name, size, axes in (
    ('data.batch_size / train.microbatches', microbatch, rows),
    ('model.d_model', model.d_model, math.prod(ways[axis] for axis in RULES.embed)),
    ('model.num_heads', model.num_heads, ways['model']),
    ('model.num_kv_heads', model.num_kv_heads, ways['model']),
    ('model.d_ff', model.d_ff, ways['model']),
    ('model.vocab_size', model.vocab_size, ways['model']),
  ):
    if size % axes:
      below, above = size // axes * axes, (size // axes + 1) * axes
      raise errors.ConfigError(
        'dimension does not divide over the mesh',
        f'{name}={size} over {axes} devices',
        f'use {f"{below} or " if below else ""}{above}, or another parallel section',
      )


def to_device(
  batch: dict[str, np.ndarray], global_rows: int, mesh: jax.sharding.Mesh
) -> dict[str, jax.Array]:
  """Returns this process's rows of a batch as global arrays, split over the batch axes."""
  return {
    name: jax.make_array_from_process_local_data(
      jax.sharding.NamedSharding(mesh, RULES.on(mesh).spec('batch', *[None] * (rows.ndim - 1))),
      rows,
      global_shape=(global_rows, *rows.shape[1:]),
    )
    for name, rows in batch.items()
  }


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
