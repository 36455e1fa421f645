"""Saves the states of a run and restores the newest: the only file that knows orbax."""

from collections.abc import Sequence
import contextlib
import dataclasses
import logging
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from t5lite import config as config_lib
from t5lite import errors
from t5lite import integrity
from t5lite import lock
from t5lite import processes
from t5lite import stored

# Orbax tells of every file it touches, and logs the errors that it raises too.
ORBAX = next(iter(ocp.__path__))
logging.getLogger('absl').addFilter(lambda record: not record.pathname.startswith(ORBAX))


class Checkpointer:
  """Saves the states of one run and restores the newest; a context manager that loses none.

  It locks the workdir against a second trainer, by a lock that dies with the process.

  Raises:
    ConfigError: another process trains in the workdir.
    DiskError: the workdir cannot be written.
  """

  def __init__(self, workdir: stored.Path, policy: config_lib.Checkpoint):
    self._workdir = pathlib.Path(workdir).absolute()
    options = ocp.CheckpointManagerOptions(
      preservation_policy=Keep(self._workdir, policy),
      cleanup_tmp_directories=True,  # of killed runs: the lock says that none is being written
      lightweight_initialize=True,  # a directory that is not ours has nothing to read
    )
    with contextlib.ExitStack() as stack:
      with processes.together():
        if jax.process_index() == 0:
          stack.enter_context(lock.held(self._workdir))
      with stored.writing(self._workdir):
        self._manager = ocp.CheckpointManager(self._workdir / stored.FOLDER, options=options)
      self._lock = stack.pop_all()
    self._last = stored.latest_step(self._workdir)

  def __enter__(self) -> 'Checkpointer':
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    if kind is errors.PeerError:  # to finish a save takes all processes
      self._lock.close()
    else:
      self.close()

  def close(self) -> None:
    """Waits for the save that is being written, and unlocks the workdir.

    Raises:
      DiskError: it could not be written.
    """
    with self._lock, stored.writing(self._workdir):
      self._manager.close()

  def latest_step(self) -> int | None:
    """Returns the newest step that is saved or, if `save` was called for it, being written."""
    return self._last

  def save(self, step: int, state: Any, manifest: stored.Manifest) -> None:
    """Copies the state and begins to write it; does nothing if that step is the last saved.

    Args:
      step: its number.
      state: a tree with a field `params`; may be given away (donated) once this returns.
      manifest: what made it, for JSON.

    Raises:
      DiskError: no room, or an earlier save could not be written.
    """
    if step == self._last:
      return
    with stored.writing(self._workdir):
      self._manager.wait_until_finished()
    if (path := stored.Checkpoint(self._workdir, step).path).exists():
      raise errors.DiskError('something else is where the checkpoint goes', path, 'move it away')
    arrays = stored.flat(state)
    stored.check_room(self._workdir, sum(x.nbytes for x in arrays.values()))
    manifest = integrity.sealed(
      {**manifest, 'format': stored.FORMAT, 'arrays': integrity.describe(arrays)}
    )
    params, rest = stored.split(arrays)
    items = ocp.args.Composite(
      params=ocp.args.StandardSave(stored.solid(params), save_args=_by_layer(stored.solid(params))),
      rest=ocp.args.StandardSave(stored.solid(rest)),
      manifest=ocp.args.JsonSave(manifest),
    )
    with stored.writing(self._workdir):
      self._manager.save(step, args=items, force=True)
    self._last = step

  def has_params_only(self) -> bool:
    """Returns whether what is saved came from elsewhere: parameters to start from, no more."""
    if self._last is None:
      return False
    return not stored.split(stored.Checkpoint(self._workdir, self._last).manifest()['arrays'])[1]

  def restore_params(self, abstract: Any) -> tuple[Any, stored.Manifest]:
    """Returns the newest parameters and their manifest; as `stored.restore_params`."""
    return stored.restore_params(self._workdir, abstract)

  def restore(self, abstract: Any) -> tuple[Any, stored.Manifest]:
    """Returns the newest state and its manifest.

    Args:
      abstract: the state as ShapeDtypeStructs with the shardings to restore into.

    Raises:
      CheckpointError: none is there, it is of another shape, or it is damaged.
    """
    newest = stored.Checkpoint(self._workdir, stored.newest_step(self._workdir))
    manifest, wanted = newest.manifest(), stored.flat(abstract)
    newest.check_same(manifest['arrays'], wanted)
    params, rest = stored.split(wanted)
    arrays = newest.arrays(stored.PARAMS, params, manifest)
    arrays |= newest.arrays(stored.REST, rest, manifest)
    return stored.unflat(abstract, arrays), manifest


@dataclasses.dataclass(frozen=True)
class Keep:
  """Orbax's question of what to keep, answered for our checkpoints; it deletes nothing else."""

  workdir: pathlib.Path
  policy: config_lib.Checkpoint

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: ocp.checkpoint_managers.PreservationContext
  ) -> list[bool]:
    """Returns which of `checkpoints` stay; the last of them is being written."""
    del context
    made = {*stored.steps(self.workdir), checkpoints[-1].step}
    last, every = sorted(made)[-self.policy.keep_last :], self.policy.keep_every
    stays = {*last, stored.best_step(self.workdir, self.policy.best)}
    return [
      each.step in stays or each.step not in made or (every > 0 and each.step % every == 0)
      for each in checkpoints
    ]


def _by_layer(params: stored.Flat) -> dict[str, ocp.SaveArgs]:
  """Returns how arrays are cut into chunks: stacks of matrices by layer, to be read so."""
  stacks = {name for name, x in params.items() if '.layers.' in name and x.ndim > 2}
  return {name: ocp.SaveArgs(shard_axes=(0,) if name in stacks else ()) for name in params}
