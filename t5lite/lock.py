"""A lock on a directory that dies with its process, however that dies."""

from collections.abc import Iterator
import contextlib
import fcntl
import os
import pathlib

from t5lite import errors

NAME = 'lock'


@contextlib.contextmanager
def held(
  workdir: pathlib.Path,
  what: str = 'another process trains in the workdir',
  remedy: str = 'wait for it or stop it, or use another --workdir',
) -> Iterator[None]:
  """Holds the lock of `workdir`, which is created if need be; `what` and `remedy` say if it is not.

  Raises:
    ConfigError: another process holds it.
    DiskError: the directory cannot be written.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    file = open(workdir / NAME, 'a+')
  except OSError as error:
    where = f'{workdir} ({error.strerror})'
    raise errors.DiskError('cannot write the workdir', where, 'use another --workdir') from error
  with file:
    _lock(file, workdir, what, remedy)
    yield


def _lock(file, workdir: pathlib.Path, what: str, remedy: str) -> None:
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    file.seek(0)
    raise errors.ConfigError(what, f'{workdir} (process {file.read().strip()})', remedy) from error
  file.truncate(0)
  print(os.getpid(), 'on', os.uname().nodename, file=file, flush=True)
