"""Where token stores are: `t5lite prepare` makes one, training makes those that it lacks."""

import os
import pathlib
import re

from t5lite import config as config_lib
from t5lite import errors
from t5lite.data import sources
from t5lite.data import store
from t5lite.data import tokenise
from t5lite.data import tokenizer as tokenizer_lib
from t5lite import tasks


def prepare(
  config: config_lib.Config, output: str | os.PathLike[str], processes: int = 1
) -> str | tuple[tuple[str, float, float], ...]:
  """Tokenises data.source into `output`; returns the data.source that reads it from there.

  A mixture becomes one directory for each of its sets. A second call goes on where the first was
  stopped, and does nothing where it ended.
  """
  tokenizer = tokenizer_lib.load(config.data.tokenizer)
  if isinstance(config.data.source, str):
    return _prepare(config.data.source, tokenizer, pathlib.Path(output), processes)
  return tuple(
    (
      _prepare(name, tokenizer, pathlib.Path(output) / f'{i}-{_slug(name)}', processes),
      weight,
      epochs,
    )
    for i, (name, weight, epochs) in enumerate(config.data.mixture)
  )


def open_store(name: str, tokenizer: tokenizer_lib.Tokenizer, cache: str) -> store.Store:
  """Returns the token store of a source, made in the cache unless it is there.

  Args:
    name: the source, as the config writes it; a prepared directory is read as it is.
    cache: directory; '': t5lite in the user's cache directory.
  """
  directory = _store_directory(name)
  if directory is None:
    return cached_store(sources.open(name), tokenizer, cache)
  return store.open(directory, tokenizer.digest)


def cached_store(
  source: sources.Source, tokenizer: tokenizer_lib.Tokenizer, cache: str
) -> store.Store:
  """Returns the token store of an open source, made in the cache unless it is there."""
  job = tokenise.Job.of(source, tokenizer)
  directory = _cache(cache) / f'{_slug(source.name)}-{job.key}'
  tokenise.run(job, directory)
  return store.open(directory, tokenizer.digest)


def _prepare(
  name: str, tokenizer: tokenizer_lib.Tokenizer, directory: pathlib.Path, processes: int
) -> str:
  if tasks.is_task(name):
    return name  # its splits are tokenised when they are first used
  if _store_directory(name):
    raise errors.DataError('prepared already', name, 'train from it as it is')
  tokenise.run(tokenise.Job.of(sources.open(name), tokenizer), directory, processes)
  return f'array_record:{directory}'


def _store_directory(source: str) -> pathlib.Path | None:
  """Returns the directory of a source that is a token store, else None."""
  kind, _, where = source.partition(':')
  directory = pathlib.Path(where).expanduser()
  if kind != 'array_record' or not directory.is_dir():
    return None
  if not (directory / store.INDEX).is_file():
    remedy = f'if t5lite prepare was stopped there, run it again; or name files: {where}/*'
    raise errors.DataError('no finished token store', directory, remedy)
  return directory


def _cache(cache: str) -> pathlib.Path:
  home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(cache or f'{home}/t5lite').expanduser()


def _slug(name: str) -> str:
  """Returns a short name for people to recognise a directory by."""
  return re.sub(r'[^A-Za-z0-9.]+', '-', name).strip('-.')[-40:].lstrip('-.')
