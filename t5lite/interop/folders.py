"""A folder that is there whole or not at all, and what both ways know of a model's arrays."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil
from typing import Any

import jax

from t5lite import config as config_lib
from t5lite import errors
from t5lite import host_memory
from t5lite import lock
from t5lite import models
from t5lite import stored

CONFIG = 'config.json'


def check_new(path: pathlib.Path, flag: str) -> None:
  """Raises ConfigError if `path` exists."""
  errors.check(not os.path.lexists(path), 'already there', f'{flag}={path}', 'give a new name')


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Gives a folder to fill, which takes the name `path` when the block ends well, else goes.

  The folders that it is in are made.

  What a killed one has left under its other name goes too.

  Raises:
    ConfigError: another process writes there.
    DiskError: it could not be written.
  """
  host_memory.return_freed()
  partial = path.with_name(f'.{path.name}.partial')
  with lock.held(partial, 'another process writes there', 'wait for it, or give another name'):
    with _filled(partial, path):
      yield partial


@contextlib.contextmanager
def _filled(partial: pathlib.Path, path: pathlib.Path) -> Iterator[None]:
  try:
    for left in partial.iterdir():
      if left.name != lock.NAME:
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    yield
    (partial / lock.NAME).unlink()  # it is held by its open file
    partial.rename(path)
  except OSError as error:
    where = f'{path} ({error.strerror or error})'
    raise errors.DiskError('not written', where, 'free some space or mend the disk') from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def abstract_params(model: config_lib.Model) -> dict[str, Any]:
  """Returns shape and dtype of a model's arrays by their paths."""
  return stored.flat(jax.eval_shape(lambda: models.init(model, jax.random.key(0))))
