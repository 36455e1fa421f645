"""The checkpoints of a workdir: what they are, which one is used, and their arrays.

WORKDIR/checkpoints/STEP holds three items: `params` and `rest` (step and optimizer state), flat
dicts of arrays by their path in the state, and `manifest`, JSON of what made them. The manifest
also has dtype, shape and digest of every array, and a digest of itself: orbax, which writes a run's
(`checkpoint`), restores a flipped bit, and casts to another dtype, without a word. A checkpoint of
parameters from elsewhere has no `rest`.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts

from t5lite import errors
from t5lite import integrity

FOLDER, PARAMS, REST, MANIFEST = 'checkpoints', 'params', 'rest', 'manifest'
FORMAT = 1  # of the layout above
LOWER_IS_BETTER = ('loss', 'perplexity', 'bits_per_byte', 'calibration_error')
COMPRESSOR = {'id': 'zstd', 'level': 1}  # orbax's
Path = str | os.PathLike[str]
Flat = dict[str, Any]  # arrays by path, e.g. 'params.encoder.layers.mlp.input.kernel'
Manifest = dict[str, Any]
Part = tuple[
  str, int | None, np.ndarray
]  # path, index along the first dimension or None: all of it


def steps(workdir: Path) -> list[int]:
  """Returns the steps with a finished checkpoint, the oldest first. Reads names only."""
  # Orbax renames a whole checkpoint into place; a directory without a manifest is not ours.
  made = pathlib.Path(workdir).glob(f'{FOLDER}/*/{MANIFEST}')
  return sorted(int(path.parent.name) for path in made if path.parent.name.isdecimal())


def latest_step(workdir: Path) -> int | None:
  """Returns the newest finished step, or None."""
  return max(steps(workdir), default=None)


def best_step(workdir: Path, metric: str) -> int | None:
  """Returns the finished step whose evaluation was best by a metric, the first of equals.

  None where no checkpoint was evaluated by it.
  """
  found = {}
  for step in steps(workdir):
    try:
      found[step] = read_manifest(workdir, step).get('evaluation', {}).get(metric)
    except errors.CheckpointError:
      continue  # damaged: who reads it says so
  return better(metric, {step: value for step, value in found.items() if value is not None})


def better(metric: str, values: Mapping[int, float]) -> int | None:
  """Returns the step of the best value, the first of equals; None where there is none."""
  lower = metric.rpartition('/')[2] in LOWER_IS_BETTER
  return min(
    sorted(values), key=lambda step: values[step] if lower else -values[step], default=None
  )


def read_manifest(workdir: Path, step: int | None = None) -> Manifest:
  """Returns the manifest of a checkpoint, by default of the newest.

  Raises:
    CheckpointError: there is none, or it is damaged.
  """
  return Checkpoint(
    pathlib.Path(workdir), newest_step(workdir) if step is None else step
  ).manifest()


def restore_params(workdir: Path, abstract: Any, step: int | None = None) -> tuple[Any, Manifest]:
  """Returns parameters, by default the `chosen`, and the manifest; reads nothing else.

  Args:
    workdir: of a run; another process may be training there.
    abstract: parameters as ShapeDtypeStructs with the shardings to restore into.
    step: which.

  Raises:
    CheckpointError: none is there, it is of another shape, or it is damaged.
  """
  found, state = latest_step(workdir), {PARAMS: abstract}
  try:
    absolute = pathlib.Path(workdir).absolute()
    saved = chosen(workdir) if step is None else Checkpoint(absolute, step)
    manifest = saved.manifest()
    saved.check_same(split(manifest['arrays'])[0], flat(state))
    return unflat(state, saved.arrays(PARAMS, flat(state), manifest))[PARAMS], manifest
  except errors.CheckpointError:
    if step is not None or latest_step(workdir) == found:
      raise
  return restore_params(workdir, abstract)  # a trainer made a newer one and deleted this


def write_params(workdir: Path, abstract: Flat, parts: Iterable[Part], manifest: Manifest) -> None:
  """Writes parameters from elsewhere as the checkpoint of step 0, without optimizer state.

  Args:
    workdir: has no checkpoint yet; whole only when this returns.
    abstract: shape and dtype of all, by their path, e.g. 'encoder.layers.mlp.input.kernel'.
    parts: of all, in any order; one at a time is held.
    manifest: what made them, for JSON.

  Raises:
    DiskError: they could not be written.
  """
  folder, stores = Checkpoint(pathlib.Path(workdir).absolute(), 0).path, {}
  described = {
    f'{PARAMS}.{path}': {'dtype': str(x.dtype), 'shape': list(x.shape), 'digest': 0}
    for path, x in abstract.items()
  }
  with writing(pathlib.Path(workdir)):
    for path, index, x in parts:
      name = f'{PARAMS}.{path}'
      if path not in stores:
        stores[path] = _create(folder / PARAMS, name, abstract[path].shape, index is not None)
      place = stores[path] if index is None else stores[path][index]
      place.write(x).result()
      digest = described[name]['digest'] + integrity.digest_of_part(x, index or 0)
      described[name]['digest'] = digest % 2**32
    manifest = {**manifest, 'format': FORMAT, 'arrays': described}
    (folder / MANIFEST).mkdir()
    (folder / MANIFEST / 'metadata').write_text(json.dumps(integrity.sealed(manifest)))


def chosen(workdir: Path) -> 'Checkpoint':
  """Returns the checkpoint that a run is used by: its best where it keeps one, else its newest.

  Raises:
    CheckpointError: there is none, or the newest is damaged.
  """
  saved = Checkpoint(pathlib.Path(workdir).absolute(), newest_step(workdir))
  metric = saved.manifest().get('config', {}).get('checkpoint', {}).get('best')
  best = best_step(workdir, metric) if metric else None
  return saved if best is None else dataclasses.replace(saved, step=best)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A checkpoint on disk."""

  workdir: pathlib.Path
  step: int

  @property
  def path(self) -> pathlib.Path:
    return self.workdir / FOLDER / str(self.step)

  def manifest(self) -> Manifest:
    """Returns what made it, and what arrays it has."""
    if self.step not in steps(self.workdir):
      there = ', '.join(map(str, steps(self.workdir))) or 'none'
      raise errors.CheckpointError('no such checkpoint', self.path, f'there are {there}')
    file = self.path / MANIFEST / 'metadata'
    with self._reading():
      manifest = json.loads(file.read_bytes())
      if manifest['sha256'] != integrity.sealed(manifest)['sha256']:
        raise ValueError(f'{MANIFEST} does not have its digest')
    return manifest

  def check_same(self, described: dict[str, Any], wanted: Flat) -> None:
    """Raises CheckpointError unless the saved arrays are those that are wanted."""
    have = {name: f'{x["dtype"]}{x["shape"]}' for name, x in described.items()}
    want = {name: f'{x.dtype}{list(x.shape)}' for name, x in wanted.items()}
    for name in want | have:
      if want.get(name) != have.get(name):
        raise errors.CheckpointError(
          'checkpoint of another model or optimizer',
          f'{name} is {have.get(name, "missing")} in {self.path},'
          f' {want.get(name, "missing")} in the config',
          'use the config that it was trained with, or a new workdir',
        )

  def check_params(self, manifest: Manifest, abstract: Flat) -> None:
    """Raises CheckpointError unless the parameters are those wanted, by their path in the tree."""
    wanted = {f'{PARAMS}.{path}': x for path, x in abstract.items()}
    self.check_same(split(manifest['arrays'])[0], wanted)

  def param_shapes(self, manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the parameters by their paths in the tree."""
    named = split(manifest['arrays'])[0]
    return {name.removeprefix(f'{PARAMS}.'): tuple(x['shape']) for name, x in named.items()}

  def param(self, path: str, manifest: Manifest) -> np.ndarray:
    """Returns one parameter by its path in the tree, its digest checked, and reads no other."""
    return np.concatenate([x[None] for x in self.layers(path, manifest)])

  def layers(self, path: str, manifest: Manifest) -> Iterator[np.ndarray]:
    """Yields a parameter's parts along its first dimension; of a matrix or less all in one read.

    Of more, one is held: where a stack is written by layer, as it is. The last is followed by an
    error if the digest of them all is wrong.
    """
    name = f'{PARAMS}.{path}'
    said = manifest['arrays'][name]
    with self._reading():
      store = _open(self.path / PARAMS, name).result()
      if store.dtype.name != said['dtype'] or list(store.shape) != said['shape']:
        raise ValueError(f'{name} is {store.dtype.name}{list(store.shape)}')
      chunk = store.chunk_layout.read_chunk.shape or store.shape
      by_layer = store.ndim > 2 and chunk[0] == 1
      whole = None if by_layer else store.read().result()
    digest = integrity.digest_of_part(whole, 0) if whole is not None and whole.ndim <= 2 else 0
    for i in range(store.shape[0]):
      with self._reading():
        part = store[i].read().result() if whole is None else whole[i]
      if store.ndim > 2:
        digest += integrity.digest_of_part(part, i)
      yield part
    if digest % 2**32 != said['digest']:
      raise self._damaged(f'{name} does not have its digest')

  def arrays(self, item: str, wanted: Flat, manifest: Manifest) -> Flat:
    """Returns the arrays of an item, into the shardings that are wanted, with digests checked."""
    with self._reading():
      stores = {name: _open(self.path / item, name) for name in solid(wanted)}
      arrays = {name: _array(stores.get(name), x) for name, x in wanted.items()}
    for name, description in integrity.describe(arrays).items():
      if description != manifest['arrays'][name]:
        raise self._damaged(f'{name} does not have its digest')
    return arrays

  @contextlib.contextmanager
  def _reading(self) -> Iterator[None]:
    """Turns what json and tensorstore raise for files that they cannot read into one line."""
    try:
      yield
    except (OSError, ValueError, LookupError, TypeError) as error:
      raise self._damaged(_first_line(error)) from error

  def _damaged(self, what: str) -> errors.CheckpointError:
    older = max((step for step in steps(self.workdir) if step < self.step), default=None)
    way = 'start anew, no older one is left' if older is None else f'go on from step {older}'
    return errors.CheckpointError(
      'damaged checkpoint', f'{self.path} ({what})', f'move it away to {way}'
    )


def flat(tree: Any) -> Flat:
  """Returns the leaves of a tree by their path."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  named = {jax.tree_util.keystr(path, simple=True, separator='.'): leaf for path, leaf in leaves}
  assert len(named) == len(leaves), 'two leaves of one name'
  return named


def unflat(like: Any, leaves: Flat) -> Any:
  """Returns the leaves of `flat(like)` put back into the structure of `like`."""
  return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in flat(like)])


def split(leaves: Flat) -> tuple[Flat, Flat]:
  """Returns the parameters and the rest."""
  params = {name: x for name, x in leaves.items() if name.startswith(f'{PARAMS}.')}
  return params, {name: x for name, x in leaves.items() if name not in params}


def solid(leaves: Flat) -> Flat:
  """Returns the arrays that have elements: orbax does not save the others."""
  return {name: x for name, x in leaves.items() if x.size}


def _open(item: pathlib.Path, name: str) -> ts.Future[ts.TensorStore]:
  """Returns the array of that name, being opened."""
  # Not through orbax: after one damaged array it leaves the reads of the others running, on a loop
  # that it has closed, and they fill stderr. This is its documented layout.
  return ts.open(_store(item, name), open=True, read=True)


def _create(
  item: pathlib.Path, name: str, shape: tuple[int, ...], in_parts: bool
) -> ts.TensorStore:
  """Returns a new float32 array of that name. (Orbax takes all arrays of an item at once.)"""
  chunks = (1, *shape[1:]) if in_parts else shape
  metadata = {'shape': shape, 'chunks': chunks, 'dtype': '<f4', 'compressor': COMPRESSOR}
  return ts.open({**_store(item, name), 'metadata': metadata}, create=True).result()


def _store(item: pathlib.Path, name: str) -> dict[str, Any]:
  store = {'driver': 'ocdbt', 'base': {'driver': 'file', 'path': f'{item}/'}, 'path': f'{name}/'}
  return {'driver': 'zarr', 'kvstore': store}


def _array(opened: ts.Future[ts.TensorStore] | None, wanted: jax.ShapeDtypeStruct) -> jax.Array:
  """Returns the array, of which every process reads the shards of its own devices."""
  if opened is None:  # it has no elements
    return jnp.zeros(wanted.shape, wanted.dtype, device=wanted.sharding)
  store = opened.result()
  if store.shape != wanted.shape:
    raise ValueError(f'shape {store.shape} instead of {wanted.shape}')
  shards = wanted.sharding.addressable_devices_indices_map(wanted.shape)
  reads = {str(index): store[index].read() for index in shards.values()}
  return jax.make_array_from_callback(
    wanted.shape, wanted.sharding, lambda index: reads[str(index)].result(), dtype=wanted.dtype
  )


def newest_step(workdir: Path) -> int:
  """Returns the newest finished step.

  Raises:
    CheckpointError: there is none.
  """
  step = latest_step(workdir)
  if step is None:
    remedy = 'give the workdir of a t5lite train that saved'
    raise errors.CheckpointError('no checkpoint', workdir, remedy)
  return step


def check_room(workdir: pathlib.Path, size: int, what: str = 'a checkpoint') -> None:
  """Raises DiskError if the disk of `workdir` has not so many bytes free."""
  free = shutil.disk_usage(workdir).free
  if free < size:
    where = f'{workdir} ({size / 2**20:,.0f} MiB needed, {free / 2**20:,.0f} MiB free)'
    remedy = 'free some space, or lower checkpoint.keep_last'
    raise errors.DiskError(f'no room for {what}', where, remedy)


@contextlib.contextmanager
def writing(workdir: pathlib.Path) -> Iterator[None]:
  """Turns what orbax and tensorstore raise for a failed write into one line."""
  try:
    yield
  except (OSError, ValueError) as error:
    raise errors.DiskError(
      'checkpoint not written',
      f'{workdir / FOLDER} ({_first_line(error)})',
      'free some space or mend the disk; the earlier checkpoints are intact',
    ) from error


def _first_line(error: Exception) -> str:
  return ' '.join([f'{type(error).__name__}:', *str(error).splitlines()[:1]])[:200]
