"""The parameters that a run begins with where its config says `init_from`.

That is a workdir (`stored.chosen`), or a folder of Hugging Face's or T5X's, read as
`t5lite import` does. If its model is another, they are adapted: see `adaptation`.
"""

from collections.abc import Sequence
import functools
import json
import pathlib
import tempfile
from typing import Any, Protocol

import jax
import numpy as np

from t5lite import adaptation
from t5lite import config as config_lib
from t5lite import errors
from t5lite import models
from t5lite import stored
from t5lite import strict
from t5lite import tasks
from t5lite.data import tokenizer as tokenizer_lib
from t5lite.models import layers

PROBE = 'The ship sailed in 1851.'  # of which no other vocabulary makes the same ids
OUTPUT = 'label_head.output.'  # which a head for other labels does not give


class Origin(Protocol):
  """Parameters on disk."""

  model: config_lib.Model
  shapes: dict[str, tuple[int, ...]]  # by path
  other_labels: bool  # its head is known to be for others than the run's

  def check_tokens(self, config: config_lib.Config) -> None:
    """Raises CheckpointError if it is known to have learnt other tokens than the run's."""
    ...

  def read(self, path: str) -> np.ndarray:
    """Returns an array."""
    ...


class Workdir:
  """The checkpoint of a run that `stored.chosen` gives, with its adapters or with them `added`."""

  def __init__(self, path: str, wanted: Sequence[str], *, added: bool):
    self._saved = stored.chosen(path)
    self._manifest = self._saved.manifest()
    tree = self._manifest['config']['model']
    self.model = strict.from_dict(config_lib.Model, tree)
    self.other_labels = False
    if wanted and self.model.num_labels:
      self.other_labels = self._labels(path) != tuple(wanted)
    self.shapes = self._saved.param_shapes(self._manifest)
    self._adapters = {path for path in self.shapes if added and path.endswith(adaptation.ADAPTER)}
    self.shapes = {path: x for path, x in self.shapes.items() if path not in self._adapters}

  def _labels(self, path: str) -> tuple[str, ...]:
    """Returns those of the task that the head was trained for."""
    try:
      task = tasks.only(strict.from_dict(config_lib.Config, self._manifest['config']))
    except errors.ConfigError as error:
      what, remedy = 'init_from with a head for unknown labels', 'use the t5lite that trained it'
      raise errors.CheckpointError(what, f'{path} ({error})', remedy) from error
    assert task  # as every run with a head has
    return task.labels

  def check_tokens(self, config: config_lib.Config) -> None:
    digest = self._manifest.get('tokenizer', '')
    name = self._manifest['config']['data']['tokenizer']
    same = not digest or tokenizer_lib.load(config.data.tokenizer).digest == digest
    check_same_tokens(config, name, same=same)

  def read(self, path: str) -> np.ndarray:
    kernel, *factors = (
      self._saved.param(each, self._manifest)
      for each in (path, *(path.removesuffix('.kernel') + part for part in adaptation.ADAPTER))
      if each == path or each in self._adapters
    )
    if not factors:
      return kernel
    a, b = factors
    return kernel + np.float32(layers.LORA_SCALE) * (a @ b)


class Foreign:
  """A folder of Hugging Face's, or a checkpoint of T5X; the labels of its head come as `wanted`."""

  def __init__(self, path: str, wanted: Sequence[str]):
    from t5lite.interop import labels  # needs an extra
    from t5lite.interop import source

    self._folder = folder = source.Folder(pathlib.Path(path))
    self.model, order = folder.model, []
    if wanted and folder.model.num_labels:
      other = labels.other_head(folder.hf)
      order = None if other else labels.order(labels.names(folder.hf, path), wanted)
    self.other_labels = order is None
    weights = folder.weights(folder.model, order or ())
    self.shapes = {path: x.shape for path, x in weights.abstract.items()}
    self.read = weights.read

  def check_tokens(self, config: config_lib.Config) -> None:
    from t5lite.interop import tokenizer_files

    folder, run = self._folder, tokenizer_lib.load(config.data.tokenizer)
    with tempfile.TemporaryDirectory() as made:
      name = tokenizer_files.take(folder.path, pathlib.Path(made), folder.family.model_type)
      if not name:
        return
      own = tokenizer_lib.load(str(pathlib.Path(made) / name)).encode([PROBE])[0]
    there = folder.path / name
    place = there if there.is_file() else f'WORKDIR/{name} of t5lite import'
    check_same_tokens(config, str(place), same=np.array_equal(own, run.encode([PROBE])[0]))


class Initial:
  """Parameters to begin with; made, it has checked that they fit.

  Attributes:
    told: one line, what they are.

  Raises:
    CheckpointError: nothing is there, it is damaged, of a model that the run's does not begin
      with, or it knows other tokens.
  """

  def __init__(self, config: config_lib.Config):
    self._model = config.model
    task = tasks.only(config)
    added = not config.model.lora_rank
    self._origin = open_origin(config.init_from, task.labels if task else (), added=added)
    self._origin.check_tokens(config)
    abstract = stored.flat(abstract_params(config.model))
    fields = adaptation.changes(self._origin.model, config.model)
    self._found = adaptation.origins(abstract, self._origin.shapes)
    if self._origin.other_labels or fields.keys() & adaptation.OF_A_HEAD:
      self._found |= dict.fromkeys(path for path in self._found if path.startswith(OUTPUT))
    for path, source in self._found.items():
      if source is not None:
        adaptation.check_shape(self._origin.shapes[source], abstract[path].shape, path)
    self.told = f'the first parameters are those of {config.init_from}'
    if said := adaptation.told(fields, self._found, self._origin.shapes):
      self.told += f': {said}'

  def params(self, abstract: models.Params, key: jax.Array) -> models.Params:
    """Returns the parameters, in the shardings of `abstract`; new ones are drawn with the key."""
    wanted, drawn = stored.flat(abstract), {}
    if None in self._found.values():
      drawn = stored.flat(jax.jit(functools.partial(models.init, self._model))(key))
    made = {}
    for path, x in wanted.items():
      source = self._found[path]
      made[path] = drawn[path] if source is None else placed(self._read(source, x.shape), x)
    return stored.unflat(abstract, made)

  def _read(self, source: str, shape: tuple[int, ...]) -> np.ndarray:
    return adaptation.stretched(self._origin.read(source), shape)


def open_origin(name: str, labels: Sequence[str] = (), *, added: bool = True) -> Origin:
  """Returns what `init_from` names, for a run whose task has these labels.

  With `added`, as the run has none, adapters of a workdir are added to its matrices.
  """
  is_folder = is_foreign(pathlib.Path(name))
  return Foreign(name, labels) if is_folder else Workdir(name, labels, added=added)


def check_same_tokens(config: config_lib.Config, name: str, *, same: bool) -> None:
  """Raises CheckpointError if the tokenizer of that name is not the same as the run's."""
  if not same:
    where = f'data.tokenizer={config.data.tokenizer!r}, not that of init_from={config.init_from!r}'
    raise errors.CheckpointError('other tokens', where, f'use --set=data.tokenizer={name}')


def is_foreign(folder: pathlib.Path) -> bool:
  """Returns whether a folder is no workdir: its config.json is of a model, or it is T5X's."""
  if (folder / 'checkpoint').is_file():
    return True
  try:
    said = json.loads((folder / 'config.json').read_text())
  except (OSError, ValueError):  # what it is says `Workdir`
    return False
  return isinstance(said, dict) and 'model_type' in said


def abstract_params(model: config_lib.Model) -> Any:
  return jax.eval_shape(lambda: models.init(model, jax.random.key(0)))


def placed(x: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
  """Returns the array in a sharding; each process gives what its devices need."""
  return jax.make_array_from_callback(like.shape, like.sharding, lambda index: x[index])
