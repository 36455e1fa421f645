"""The libraries of the extra `tasks`, and the one line where they are missing."""

from collections.abc import Iterator
import contextlib

from t5lite import errors


@contextlib.contextmanager
def needed() -> Iterator[None]:
  """Turns a failing import of its block into a ConfigError that says what to install."""
  try:
    yield
  except ModuleNotFoundError as error:
    name, remedy = str(error.name).partition('.')[0], "pip install 't5lite[tasks]'"
    raise errors.ConfigError('a library is not installed', name, remedy) from error
