"""What a folder of Hugging Face's holds: its model, and our arrays, read one at a time."""

from collections.abc import Container, Iterator, Mapping, Sequence
import functools
import json
import pathlib
import re
from typing import Any

import numpy as np

from t5lite import config as config_lib
from t5lite import errors
from t5lite import stored
from t5lite.interop import families
from t5lite.interop import folders
from t5lite.interop import tables
from t5lite.interop import t5x
from t5lite.interop import tensors

Reader = tensors.Reader | t5x.Reader


class Folder:
  """An open folder of Hugging Face's, or a checkpoint of T5X.

  Attributes:
    path: the folder.
    hf: what its config.json says; of T5X, which has none, nothing.
    family: of the model.
    model: what t5lite calls it.

  Raises:
    CheckpointError: something in it cannot be read.
  """

  def __init__(self, path: pathlib.Path):
    self.path, self.hf = path, {}
    if t5x.is_t5x(path):
      self._reader = t5x.Reader(path)
      self.model = t5x.model_of(self._reader.shapes, path)
      self.family = t5x.family(self.model)
    else:
      self.hf = read_config(path / folders.CONFIG)
      self.family, self.model = families.from_huggingface(self.hf, path / folders.CONFIG)
      self._reader = tensors.Reader(path)

  def weights(self, model: config_lib.Model, order: Sequence[int] = ()) -> 'Weights':
    """Returns the tensors as the arrays of a model.

    Args:
      model: whose arrays.
      order: which of the tensors' labels each output of its head is; (): they stay as they are.

    Raises:
      CheckpointError: one is missing, unexpected, of another shape or kind, or its tied copy
        differs.
    """
    return Weights(self, self._reader, model, order)


class Weights:
  """The tensors of a folder as the arrays of a model.

  Attributes:
    abstract: shape and dtype of the arrays by their paths.
    left_out: tensors of another head, which the model does not have.
  """

  def __init__(self, folder: Folder, reader: Reader, model: config_lib.Model, order: Sequence[int]):
    self._reader, self._order = reader, list(order)
    check_depth(model, len(reader.shapes), folder.path)
    self.abstract = folders.abstract_params(model)
    shapes = {path: x.shape for path, x in self.abstract.items()}
    self._slots = tables.slots(folder.family.entries(model), shapes)
    wanted = {slot.name: slot.shape for slot in self._slots}
    self._names, self.left_out = match(folder.family, reader, wanted, folder.path)

  def parts(self) -> Iterator[stored.Part]:
    """Yields what each tensor holds of which array; one tensor at a time is held."""
    for slot in self._slots:
      yield from self._parts_of(slot)

  def read(self, path: str) -> np.ndarray:
    """Returns an array whole."""
    x = np.empty(self.abstract[path].shape, np.float32)
    for slot in self._slots:
      if path in slot.entry.paths:
        for name, layer, part in self._parts_of(slot):
          if name == path:
            x[... if layer is None else layer] = part
    return x

  def _parts_of(self, slot: tables.Slot) -> Iterator[stored.Part]:
    x = self._reader.read(self._names[slot.name])
    if self._order and slot.entry.paths[0].startswith('label_head.output.'):
      x = x[self._order]  # of torch's [out, in], and of a bias
    widths = [self.abstract[path].shape[-1] for path in slot.entry.paths]
    for path, part in zip(slot.entry.paths, tables.divided(slot, x, widths), strict=True):
      yield path, slot.layer, part
      if slot.layer is not None and slot.layer == slot.entry.first:
        yield from ((path, i, np.ones_like(part)) for i in range(slot.layer))


def check_depth(model: config_lib.Model, num_tensors: int, folder: pathlib.Path) -> None:
  """Raises CheckpointError if there are more layers than tensors: such a lie would fill memory."""
  layers = model.num_layers + model.num_decoder_layers
  if layers > num_tensors:
    where = f'{layers:,} layers, {num_tensors:,} tensors in {folder}'
    raise errors.CheckpointError(
      'layers without tensors', where, 'mend their number in config.json'
    )


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


def match(
  family: families.Family, reader: Reader, wanted: Mapping[str, tables.Shape], folder: pathlib.Path
) -> tuple[dict[str, str], list[str]]:
  """Returns {name that is wanted: name in the files}, and the tensors of another head.

  Raises:
    CheckpointError: one is missing, unexpected, of another shape, or not equal to its tied copy.
  """

  def canonical(name: str) -> str:
    return functools.reduce(lambda name, one: re.sub(*one, name), family.spellings, name)

  names = {canonical(name): name for name in wanted}
  left_out, found = [], {}
  for own in reader.shapes:
    name = canonical(own)
    if name in found:
      raise unfit('a tensor twice', f'{own} and {found[name]} in {folder}', family)
    found[name] = own
  untie(family, reader, names, found, folder)
  for name, given in names.items():
    if name not in found:
      raise unfit('missing tensor', f'{given} in {folder}', family)
    reader.check_float(found[name])
    if reader.shapes[found[name]] != wanted[given]:
      is_now = f'{found[name]} in {folder} is {list(reader.shapes[found[name]])}'
      raise unfit('tensor of another shape', f'{is_now}, not {list(wanted[given])}', family)
  for name in sorted(found.keys() - names.keys()):
    if any(re.fullmatch(pattern, name) for pattern in family.other_heads):
      left_out.append(found[name])
    elif not any(re.fullmatch(pattern, name) for pattern in family.buffers):
      raise unfit('unexpected tensor', f'{found[name]} in {folder}', family)
  return {given: found[name] for name, given in names.items()}, left_out


def untie(
  family: families.Family,
  reader: Reader,
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


def unfit(what: str, where: str, family: families.Family) -> errors.CheckpointError:
  remedy = f'give the weights of a {next(iter(family.architectures))} with this config.json'
  return errors.CheckpointError(what, where, remedy)
