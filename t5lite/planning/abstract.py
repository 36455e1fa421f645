"""A train step's arguments as shapes: nothing is read, drawn or placed to make them."""

import functools
from typing import Any

import jax
import numpy as np

from t5lite import config as config_lib
from t5lite import objectives
from t5lite import sharding
from t5lite import train


def vocabulary(size: int) -> objectives.Vocabulary:
  """Returns a vocabulary laid out as T5's, the smallest that every objective can use."""
  sentinels = np.arange(size - 1, size - 101, -1, dtype=np.int32)
  special = np.zeros(size, bool)
  special[:6] = special[sentinels] = True
  return objectives.Vocabulary(
    size=size,
    pad=0,
    eos=1,
    unk=2,
    mask=3,
    cls=4,
    sep=5,
    sentinels=sentinels,
    modes={'[R]': (6,), '[S]': (7,), '[X]': (8,)},
    word_start=np.ones(size, bool),
    special=special,
  )


def batch(
  config: config_lib.Config, mesh: jax.sharding.Mesh | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a global batch, sharded over `mesh`, or over the mesh that is set."""
  words = vocabulary(config.model.vocab_size)
  objectives.check(config, words)
  length = objectives.window_length(config, words)
  tokens, row = np.full((1, length), 10), np.zeros(1, int)
  packed = config.data.examples == 'documents'
  made = objectives.batch(
    config, words, tokens, np.array([length]), np.zeros(1, np.uint64), row if packed else None
  )
  on = jax.sharding.get_abstract_mesh() if mesh is None else mesh
  rules = sharding.RULES.on(on)

  def shape(name, x):
    spec = None if on.empty else jax.sharding.NamedSharding(on, sharding.batch_spec(name, rules))
    return jax.ShapeDtypeStruct((config.data.batch_size, *x.shape[1:]), x.dtype, sharding=spec)

  return {name: shape(name, x) for name, x in made.items()}


def state(config: config_lib.Config, mesh: jax.sharding.Mesh) -> Any:
  """Returns the shapes of the train state, sharded over `mesh`, which must be the one set."""
  return sharding.shard_like(jax.eval_shape(functools.partial(train.init_state, config)), mesh)


def bytes_per_device(tree: Any) -> int:
  """Returns the bytes of each device's part of a tree of sharded shapes."""
  leaves = jax.tree.leaves(tree)
  return sum(
    int(np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64)) * x.dtype.itemsize for x in leaves
  )


def lowered_step(config: config_lib.Config, mesh: jax.sharding.Mesh, platform: str) -> Any:
  """Returns the train step lowered for devices of `platform` that need not be there.

  Args:
    config: its model's 'auto' fields settled for `platform`.
    mesh: of devices, or of their descriptions.
    platform: 'tpu', 'cuda' or 'cpu'.
  """
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    traced = train.step_function(config).trace(state(config, mesh), batch(config, mesh))
    return traced.lower(lowering_platforms=(platform,))
