"""What can go wrong for a user, each with the exit code that schedulers rely on.

A message has three parts, `WHAT: WHERE: HOW TO MEND IT`; `t5lite` prints it as one line on stderr.
"""

from collections.abc import Mapping


class UserError(Exception):
  """A problem that the user can mend: what is wrong, where (the value), and the remedy."""

  code = 1

  def __init__(self, what: str, where: object, remedy: str):
    super().__init__(what, str(where), remedy)  # three, so that worker processes can send it

  def __str__(self) -> str:
    return ' '.join(': '.join(self.args).split())


class ConfigError(UserError, ValueError):
  """A wrong flag or config value."""

  code = 64


class DataError(UserError):
  """Missing, empty, unreadable or corrupt input data."""

  code = 65


class CheckpointError(UserError):
  """A checkpoint or import that is missing, damaged or of another shape."""

  code = 66


class DivergedError(UserError):
  """The loss is no longer finite."""

  code = 67


class PeerError(UserError):
  """Another process of the run, or the way to it, is missing or failed."""

  code = 69


class DiskError(UserError):
  """A file cannot be written: the disk is full or read-only."""

  code = 73


class Preempted(UserError):
  """Stopped by a signal with everything saved: the same command goes on from there."""

  code = 75


def check(ok: bool, what: str, where: object, remedy: str) -> None:
  """Raises ConfigError(what, where, remedy) unless `ok`."""
  if not ok:
    raise ConfigError(what, where, remedy)


def check_at_least(section: str, values: Mapping[str, float], least: float) -> None:
  """Raises ConfigError for the first of `values` that is below `least`."""
  for name, value in values.items():
    check(value >= least, 'value too small', f'{section}.{name}={value}', f'use {least} or more')
