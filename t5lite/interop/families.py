"""The families that both sides have, and their configs: one mapping each, read in both directions.

What one side's config cannot say is refused with the field that says it. Fields of `config.Model`
that are no part of the function (dropout of a Llama, dtype, remat, ...) stay behind.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from t5lite import config as config_lib
from t5lite import errors
from t5lite import strict
from t5lite.interop import bert
from t5lite.interop import gpt
from t5lite.interop import labels
from t5lite.interop import modernbert
from t5lite.interop import t5
from t5lite.interop.family import Family
from t5lite.interop.family import Tree

KNOWN = (
  *(t5.T5, t5.MT5, t5.UMT5, bert.BERT, bert.ROBERTA),
  *(modernbert.MODERNBERT, gpt.GPT2, gpt.LLAMA),
)
FAMILIES = {family.model_type: family for family in KNOWN}
# Fields that are no part of the function: the family's is for new models.
OF_TRAINING = ('initializer', 'dropout')


def of_model(model: config_lib.Model, pad: int | None = 0) -> Family:
  """Returns the family that comes nearest to a model; `to_huggingface` says if it is the one.

  Args:
    model: of the run.
    pad: the id of padding in its vocabulary, by which RoBERTa differs from BERT.
  """
  match model.architecture:
    case 'encoder_decoder':
      return t5.UMT5 if model.relative_per_layer else t5.T5
    case 'encoder' if model.positions == 'rotary':
      return modernbert.MODERNBERT
    case 'encoder':
      return bert.ROBERTA if pad == 1 else bert.BERT
    case 'decoder':
      return gpt.GPT2 if model.positions == 'learned' else gpt.LLAMA


def architecture(family: Family, model: config_lib.Model) -> str:
  """Returns the class of transformers that is the model.

  Raises:
    ConfigError: none is.
  """
  fields = dataclasses.asdict(model)
  classes = family.heads if model.num_labels else family.architectures
  fits = [name for name, said in classes.items() if said.items() <= fields.items()]
  if not fits:
    _check_field(next(iter(classes)), fields, *classes.values())
  return fits[0]


def to_huggingface(family: Family, model: config_lib.Model) -> Tree:
  """Returns what a config.json says of a model.

  Raises:
    ConfigError: transformers has no such model; it names the field.
  """
  fields, usual = dataclasses.asdict(model), next(iter(family.architectures))
  wanted = {k: v for k, v in family.fixed.items() if k not in OF_TRAINING} | family.implied(fields)
  wanted |= {} if family.heads else {'num_labels': 0}
  for field, value in wanted.items():
    _check_field(usual, fields, {field: value})
  hf = {'architectures': [architecture(family, model)], 'model_type': family.model_type}
  hf |= {**family.constants, **{key: fields[field] for key, field in family.fields.items()}}
  for key, choices in family.choices.items():
    fits = [value for value, said in choices.items() if said.items() <= fields.items()]
    if not fits:
      _check_field(usual, fields, *choices.values())
    hf[key] = fits[0]
  return family.write(hf)


def _check_field(kind: str, fields: Tree, *possible: Mapping[str, Any]) -> None:
  """Raises ConfigError unless the fields have one of the possible sets of values."""
  if any(one.items() <= fields.items() for one in possible):
    return

  def said(values: Mapping[str, Any]) -> str:
    return ' '.join(f'{name}={values[name]!r}' for name in possible[0])

  raise errors.ConfigError(
    'not a model of transformers',
    ' '.join(f'model.{name}={fields[name]!r}' for name in possible[0]),
    f'{kind} has {", or ".join(map(said, possible))}: train one like that to export',
  )


def from_huggingface(hf: Tree, where: object) -> tuple[Family, config_lib.Model]:
  """Returns the family and the model of what a config.json says.

  Args:
    hf: its content.
    where: its path, for the message.

  Raises:
    CheckpointError: t5lite has no such model; it names the key.
  """

  def check(ok: bool, what: str, remedy: str) -> None:
    if not ok:
      raise errors.CheckpointError('not a model of t5lite', f'{where}: {what}', remedy)

  kind = hf.get('model_type')
  check(
    isinstance(kind, str) and kind in FAMILIES,
    f'model_type={kind!r}',
    f'import one of {", ".join(FAMILIES)}',
  )
  family = FAMILIES[str(kind)]
  given = {key: value for key, value in hf.items() if value is not None}
  try:
    read = family.read(given)
  except (TypeError, AttributeError, ZeroDivisionError) as error:
    check(False, str(error), 'a value in it is of another kind than transformers writes')
    raise
  hf = {**family.defaults, **family.constants, **read}
  for key, value in family.constants.items():
    check(hf[key] == value, f'{key}={hf[key]!r}', f'only {value!r} can be imported')
  fields = dict(family.fixed)
  for key, field in family.fields.items():
    check(hf.get(key) is not None, f'no {key}', 'give one that transformers wrote')
    if field in OF_TRAINING and field in fields:
      continue  # of several rates of dropout the first
    same = field not in fields or fields[field] == hf[key] or field in family.fixed
    check(same, f'{key}={hf[key]!r}', f'it must be {fields.get(field)!r}, as the others like it')
    fields[field] = hf[key]
  fields |= _of_architecture(family, hf, where)
  for key, choices in family.choices.items():
    known = isinstance(hf[key], str | bool) and hf[key] in choices
    check(known, f'{key}={hf[key]!r}', f'use one of {", ".join(map(str, choices))}')
    said = choices[hf[key]]
    same = all(fields.get(field, value) == value for field, value in said.items())
    check(same, f'{key}={hf[key]!r}', 'only equal activations can be imported')
    fields |= said
  try:
    return family, strict.from_dict(config_lib.Model, {**fields, **family.implied(fields)})
  except (errors.ConfigError, TypeError, ZeroDivisionError) as error:
    what = error.args[1] if isinstance(error, errors.ConfigError) else error
    raise errors.CheckpointError(
      'not a model of t5lite', f'{where}: {what}', 'give one that transformers wrote'
    ) from error


def _of_architecture(family: Family, hf: Tree, where: object) -> Mapping[str, Any]:
  """Returns the fields of the class that a config.json names; of an unknown one those of the last.

  That is the model without a head, as far as the family has one; the head's tensors are left out.
  """
  given = hf.get('architectures')
  names = [name for name in given if isinstance(name, str)] if isinstance(given, list) else []
  for name in names:
    if name in family.heads:
      return {**family.heads[name], 'num_labels': len(labels.names(hf, where))}
  known = [family.architectures[name] for name in names if name in family.architectures]
  every = list(family.architectures.values())
  return known[0] if known else every[-1] if names else every[0]
