"""From plain nested dicts to frozen dataclasses, strictly: every key and every type is checked."""

import ast
from collections.abc import Iterable, Mapping
import dataclasses
import difflib
import functools
import types
import typing
from typing import Any, Literal

from t5lite import errors

T = typing.TypeVar('T')


def from_dict(kind: type[T], tree: Mapping[str, Any], where: str = '') -> T:
  """Returns `kind(**tree)`, sections included; every key and type is checked.

  Raises:
    ConfigError: with the offending key or value.
  """
  fields = _fields(kind)
  for key in tree:
    errors.check(key in fields, 'unknown key', f'{where}{key}', _did_you_mean(key, fields))
  values = {}
  for key, value in tree.items():
    name, wanted = f'{where}{key}', fields[key]
    if isinstance(wanted, type) and dataclasses.is_dataclass(wanted):
      errors.check(
        isinstance(value, Mapping),
        'not a section',
        f'{name}={value!r}',
        f'set its fields: {name}.KEY=VALUE',
      )
      values[key] = from_dict(wanted, value, f'{name}.')
    else:
      values[key] = _typed(value, wanted, name)
  missing = [f.name for f in dataclasses.fields(kind) if _required(f) and f.name not in values]  # pyright: ignore
  errors.check(not missing, 'missing key', f'{where}{", ".join(missing)}', 'give it a value')
  return kind(**values)


@functools.cache
def _fields(kind: type) -> dict[str, Any]:
  return typing.get_type_hints(kind)


def _required(field: dataclasses.Field) -> bool:
  return field.default is dataclasses.MISSING


def _did_you_mean(key: str, names: Iterable[str]) -> str:
  near = difflib.get_close_matches(key, names, n=1)
  return f'did you mean {near[0]}?' if near else f'use one of {", ".join(names)}'


def _typed(value: Any, wanted: Any, name: str) -> Any:
  """Returns `value` as the annotated type: int widens to float, list to tuple, nothing else."""
  fits, typed = _match(value, wanted)
  errors.check(fits, 'wrong type or value', f'{name}={value!r}', f'use {_describe(wanted)}')
  return typed


def _match(value: Any, wanted: Any) -> tuple[bool, Any]:
  origin, args = typing.get_origin(wanted), typing.get_args(wanted)
  if origin is Literal:
    return value in args, value
  if origin in (typing.Union, types.UnionType):
    for option in args:
      fits, typed = _match(value, option)
      if fits:
        return True, typed
    return False, value
  if origin is tuple:
    if not isinstance(value, (list, tuple)):
      return False, value
    kinds = [args[0]] * len(value) if args[-1] is ... else args
    items = [_match(item, kind) for item, kind in zip(value, kinds, strict=False)]
    return len(kinds) == len(value) and all(fits for fits, _ in items), tuple(
      item for _, item in items
    )
  if isinstance(wanted, type) and dataclasses.is_dataclass(wanted):
    return (
      (True, from_dict(wanted, value, 'tasks.')) if isinstance(value, Mapping) else (False, value)
    )
  if wanted is float and type(value) is int:
    return True, float(value)
  return type(value) is wanted, value


def _describe(wanted: Any) -> str:
  if typing.get_origin(wanted) is Literal:
    return 'one of ' + ', '.join(map(str, typing.get_args(wanted)))
  return getattr(wanted, '__name__', str(wanted)) if isinstance(wanted, type) else str(wanted)


def override(kind: type, tree: Mapping[str, Any], text: str) -> dict[str, Any]:
  """Returns a copy of the dict of a `kind` with `a.b=value` applied; from_dict checks the type.

  Raises:
    ConfigError: not of that form, or no such key.
  """
  key, equals, value = text.partition('=')
  errors.check(bool(equals), 'not an override', repr(text), 'use --set=section.field=value')
  *sections, leaf = key.split('.')
  for section in sections:
    errors.check(
      dataclasses.is_dataclass(kind) and section in _fields(kind),
      'unknown section',
      key,
      _did_you_mean(section, _fields(kind) if dataclasses.is_dataclass(kind) else ()),
    )
    kind = _fields(kind)[section]
  errors.check(
    dataclasses.is_dataclass(kind) and leaf in _fields(kind),
    'unknown key',
    key,
    _did_you_mean(leaf, _fields(kind) if dataclasses.is_dataclass(kind) else ()),
  )
  return _replaced(tree, [*sections, leaf], _parse(value, _fields(kind)[leaf]))


def _replaced(tree: Mapping[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
  first, *rest = keys
  return {**tree, first: _replaced(tree[first], rest, value) if rest else value}


def _parse(text: str, wanted: Any) -> Any:
  """Returns the text as a value: a plain string where a string fits, else a Python literal."""
  options = (
    typing.get_args(wanted)
    if typing.get_origin(wanted) in (typing.Union, types.UnionType)
    else (wanted,)
  )
  literal = text
  try:
    literal = ast.literal_eval(
      {'true': 'True', 'false': 'False', 'none': 'None'}.get(text.lower(), text)
    )
  except (ValueError, SyntaxError):
    pass  # not a literal: the text itself
  return literal if any(_match(literal, option)[0] for option in options) else text
