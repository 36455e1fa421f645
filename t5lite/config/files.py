"""Configs in files: reads Python and JSON, applies `--set`, writes JSON."""

from collections.abc import Iterable
import dataclasses
import difflib
import json
import pathlib
import runpy
import traceback
from typing import Any

from t5lite import errors
from t5lite import strict
from t5lite.config.run import Config


def load(path: str | pathlib.Path, overrides: Iterable[str] = ()) -> Config:
  """Returns the config of a Python file with get_config(), or of a config.json, with overrides.

  Args:
    path: `configs/x.py` or `WORKDIR/config.json`.
    overrides: `section.field=value`, later ones win.

  Raises:
    ConfigError: no such file, no get_config(), an unknown key, a value of wrong type or range.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    near = difflib.get_close_matches(
      path.name, [p.name for p in path.parent.glob(f'*{path.suffix}')], n=1
    )
    remedy = f'did you mean {path.parent / near[0]}?' if near else 'give the path of a config file'
    raise errors.ConfigError('no such config file', path, remedy)
  if path.suffix == '.json':
    tree = _read_json(path)
  else:
    tree = to_dict(_run_python(path))
  for override in overrides:
    tree = strict.override(Config, tree, override)
  return strict.from_dict(Config, tree)


def to_dict(config: Any) -> dict[str, Any]:
  """Returns the config as nested dicts of plain values, ready for JSON."""
  return dataclasses.asdict(config)


def save(config: Config, path: str | pathlib.Path) -> None:
  """Writes the config as JSON; `load` gives it back equal."""
  pathlib.Path(path).write_text(json.dumps(to_dict(config), indent=2) + '\n')


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise errors.ConfigError(
      'not JSON', f'{path} ({error})', 'restore the file that the run wrote'
    ) from error


def _run_python(path: pathlib.Path) -> Config:
  try:
    names = runpy.run_path(str(path))
    errors.check(
      'get_config' in names,
      'no get_config() in the config file',
      path,
      'define get_config() -> Config',
    )
    config = names['get_config']()
  except errors.UserError:
    raise
  except Exception as error:
    # Whatever a config file raises is for its author to mend.
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else [1, *lines][-1]
    where = f'{path}:{line} ({type(error).__name__}: {error})'
    raise errors.ConfigError('config file fails', where, 'mend that line') from error
  errors.check(
    isinstance(config, Config),
    'get_config() does not return a Config',
    f'{path} gives {type(config).__name__}',
    'return t5lite.config.Config(...)',
  )
  return config
