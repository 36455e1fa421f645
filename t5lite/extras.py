"""The one line that says which extra of setup.py to install where a package is missing."""

from collections.abc import Iterator
import contextlib

from t5lite import errors


@contextlib.contextmanager
def needed(extra: str) -> Iterator[None]:
  """Turns a failing import of its block into a ConfigError that says which extra to install."""
  try:
    yield
  except ModuleNotFoundError as error:
    name, remedy = str(error.name).partition('.')[0], f"pip install 't5lite[{extra}]'"
    raise errors.ConfigError('missing package', name, remedy) from error
