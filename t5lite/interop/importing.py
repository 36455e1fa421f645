"""From a folder that transformers wrote to a workdir."""

from collections.abc import Container, Iterable, Iterator, Sequence
import dataclasses
import functools
import json
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from t5lite import checkpoint
from t5lite import config as config_lib
from t5lite import errors
from t5lite import strict
from t5lite import versions
from t5lite.data import tokenizer as tokenizer_lib
from t5lite.interop import families
from t5lite.interop import folders
from t5lite.interop import tables
from t5lite.interop import tensors
from t5lite.interop import tokenizer_files

# What a config of a run says of its model beside the function.
OF_THE_RUN = ('dropout', 'dtype', 'layers', 'remat')


class Imported(NamedTuple):
  """What was read."""

  architecture: str
  num_params: int
  left_out: list[str]  # tensors of another head, which the model does not have
  tokenizer: str  # of the config; '': there was none


def import_model(
  source: str | pathlib.Path,
  workdir: str | pathlib.Path,
  config_file: str = '',
  overrides: Iterable[str] = (),
) -> Imported:
  """Makes a workdir of a folder of Hugging Face's: config.json and a checkpoint of step 0.

  The checkpoint has parameters and no more: `train` starts from them, in this workdir or, with
  `init_from`, in another. It takes the memory of the largest array.

  Args:
    source: the folder, with config.json and safetensors files.
    workdir: must not exist.
    config_file: a config for all but the model and, if the folder has one, the tokenizer.
    overrides: `section.field=value` over all of it.

  Raises:
    CheckpointError: something in the folder cannot be read or is not what the model needs.
    ConfigError: the workdir exists, or a wrong config or override.
    DiskError: the workdir cannot be written.
  """
  folder, workdir = pathlib.Path(source), pathlib.Path(workdir).absolute()
  folders.check_new(workdir, '--workdir')
  hf = read_config(folder / folders.CONFIG)
  family, model = families.from_huggingface(hf, folder / folders.CONFIG)
  ids = {key: value for key, value in hf.items() if key.endswith('_token_id')}
  reader = tensors.Reader(folder)
  with folders.whole(workdir) as made:
    name = tokenizer_files.take(folder, made, family.model_type)
    digest = tokenizer_lib.load(str(made / name)).digest if name else ''
    config = run_config(model, str(workdir / name) if name else '', config_file, overrides)
    abstract = folders.abstract_params(config.model)
    slots = tables.slots(family.entries(config.model), {k: x.shape for k, x in abstract.items()})
    names, left_out = match(family, reader, slots, folder)
    manifest = {
      'step': 0,
      'tokens_seen': 0,
      'config': config_lib.to_dict(config),
      'versions': versions.installed(),
      'tokenizer': digest,
      'token_ids': ids,
    }
    num_params = sum(x.size for x in abstract.values())
    checkpoint.check_room(workdir.parent, 4 * num_params)
    checkpoint.write_params(made, abstract, parts(slots, abstract, reader, names), manifest)
    config_lib.save(config, made / folders.CONFIG)
  architecture = families.architecture(family, config.model)
  return Imported(architecture, num_params, left_out, config.data.tokenizer)


def read_config(path: pathlib.Path) -> dict[str, Any]:
  """Returns the content of a model's config.json."""
  remedy = 'give a folder that transformers wrote, with config.json'
  try:
    hf = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    where = f'{path} ({type(error).__name__}: {error})'
    raise errors.CheckpointError('no config of a model', where, remedy) from error
  if not isinstance(hf, dict):
    raise errors.CheckpointError('no config of a model', path, remedy)
  return hf


def run_config(
  model: config_lib.Model, tokenizer: str, config_file: str, overrides: Iterable[str]
) -> config_lib.Config:
  """Returns the workdir's config: of the model, of a file or `usual`, with overrides."""
  base = config_lib.load(config_file) if config_file else usual(model)
  if config_file:
    kept = {name: getattr(base.model, name) for name in OF_THE_RUN}
    model = dataclasses.replace(model, **kept)
  tree = {**config_lib.to_dict(base), 'model': config_lib.to_dict(model)}
  if tokenizer or not config_file:
    tree['data'] = {**tree['data'], 'tokenizer': tokenizer}
  for override in overrides:
    tree = strict.override(config_lib.Config, tree, override)
  return strict.from_dict(config_lib.Config, tree)


def usual(model: config_lib.Model) -> config_lib.Config:
  """Returns a config to go on from, with the objective that the family was made for."""
  c, target, steps = config_lib, 0, 1000
  length = min(512, model.max_length or 512)
  match model.architecture:
    case 'encoder_decoder':
      objective, target = c.Objective(name='span_corruption'), 114
      # Raffel et al. 2020, section 3.1.2: their fine-tuning.
      optim = c.Optim(name='adafactor', learning_rate=1e-3, schedule='constant')
    case 'encoder':
      objective = c.Objective(name='mlm')
      optim = c.Optim(name='adamw', learning_rate=5e-5, schedule='linear', warmup_steps=100)
    case 'decoder':
      objective = c.Objective(name='causal_lm')
      optim = c.Optim(name='adamw', learning_rate=5e-5, schedule='cosine', warmup_steps=100)
  return c.Config(
    model=model,
    objective=objective,
    data=c.Data(batch_size=8, input_length=length, target_length=target),
    optim=optim,
    train=c.Train(steps=steps),
  )


def match(
  family: families.Family,
  reader: tensors.Reader,
  slots: Sequence[tables.Slot],
  folder: pathlib.Path,
) -> tuple[dict[str, str], list[str]]:
  """Returns {name of a slot: name in the files}, and the tensors of another head.

  Raises:
    CheckpointError: one is missing, unexpected, of another shape, or not equal to its tied copy.
  """

  def canonical(name: str) -> str:
    return functools.reduce(lambda name, one: re.sub(*one, name), family.spellings, name)

  wanted, left_out, found = {canonical(slot.name): slot.shape for slot in slots}, [], {}
  for own in reader.shapes:
    name = canonical(own)
    if name in found:
      raise unfit('a tensor twice', f'{own} and {found[name]} in {folder}', family)
    found[name] = own
  untie(family, reader, wanted, found, folder)
  for name, shape in wanted.items():
    if name not in found:
      raise unfit('missing tensor', f'{name} in {folder}', family)
    reader.check_float(found[name])
    if reader.shapes[found[name]] != shape:
      is_now = f'{found[name]} in {folder} is {list(reader.shapes[found[name]])}'
      raise unfit('tensor of another shape', f'{is_now}, not {list(shape)}', family)
  for name in sorted(found.keys() - wanted.keys()):
    if any(re.fullmatch(pattern, name) for pattern in family.other_heads):
      left_out.append(found[name])
    elif not any(re.fullmatch(pattern, name) for pattern in family.buffers):
      raise unfit('unexpected tensor', f'{found[name]} in {folder}', family)
  return {slot.name: found[canonical(slot.name)] for slot in slots}, left_out


def untie(
  family: families.Family,
  reader: tensors.Reader,
  wanted: Container[str],
  found: dict[str, str],
  folder: pathlib.Path,
) -> None:
  """Takes the copies of tied tensors out of `found`; one that is there alone is the original.

  Raises:
    CheckpointError: a copy differs.
  """
  for copy, original in family.copies.items():
    if copy in wanted or copy not in found:
      continue
    own = found.pop(copy)
    other = found.setdefault(original, own)
    if own != other and not np.array_equal(reader.read(own), reader.read(other)):
      raise errors.CheckpointError(
        'tied tensors differ',
        f'{own} and {other} in {folder}',
        'if it is a free output layer, set "tie_word_embeddings": false in config.json',
      )


def parts(
  slots: Iterable[tables.Slot],
  abstract: dict[str, Any],
  reader: tensors.Reader,
  names: dict[str, str],
) -> Iterator[checkpoint.Part]:
  """Yields what each tensor holds of which of the model's arrays."""
  for slot in slots:
    x = reader.read(names[slot.name])
    widths = [abstract[path].shape[-1] for path in slot.entry.paths]
    for path, part in zip(slot.entry.paths, tables.divided(slot, x, widths), strict=True):
      yield path, slot.layer, part
      if slot.layer is not None and slot.layer == slot.entry.first:
        yield from ((path, i, np.ones_like(part)) for i in range(slot.layer))


def unfit(what: str, where: str, family: families.Family) -> errors.CheckpointError:
  remedy = f'give the weights of a {next(iter(family.architectures))} with this config.json'
  return errors.CheckpointError(what, where, remedy)
