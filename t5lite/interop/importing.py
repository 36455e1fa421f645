"""From a folder that transformers wrote to a workdir."""

from collections.abc import Iterable
import dataclasses
import pathlib
from typing import NamedTuple

from t5lite import config as config_lib
from t5lite import objectives
from t5lite import stored
from t5lite import strict
from t5lite import tasks
from t5lite import versions
from t5lite.data import tokenizer as tokenizer_lib
from t5lite.interop import families
from t5lite.interop import folders
from t5lite.interop import labels
from t5lite.interop import source as source_lib
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

  A head for labels needs the task that it does, whose labels then have the task's order.

  The checkpoint has parameters and no more: `train` starts from them, in this workdir or, with
  `init_from`, in another. It takes the memory of the largest tensor.

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
  workdir = pathlib.Path(workdir).absolute()
  folders.check_new(workdir, '--workdir')
  folder = source_lib.Folder(pathlib.Path(source))
  ids = {key: value for key, value in folder.hf.items() if key.endswith('_token_id')}
  with folders.whole(workdir) as made:
    name = tokenizer_files.take(folder.path, made, folder.family.model_type)
    config = run_config(folder.model, str(workdir / name) if name else '', config_file, overrides)
    own = str(made / name) if name else config.data.tokenizer
    digest = tokenizer_lib.load(own).digest if own else ''
    architecture = families.architecture(folder.family, config.model)
    weights = folder.weights(config.model, label_order(folder, config))
    manifest = {
      'step': 0,
      'tokens_seen': 0,
      'config': config_lib.to_dict(config),
      'versions': versions.installed(),
      'tokenizer': digest,
      'token_ids': ids,
    }
    num_params = sum(x.size for x in weights.abstract.values())
    stored.check_room(workdir.parent, 4 * num_params)
    stored.write_params(made, weights.abstract, weights.parts(), manifest)
    config_lib.save(config, made / folders.CONFIG)
  return Imported(architecture, num_params, weights.left_out, config.data.tokenizer)


def run_config(
  model: config_lib.Model, tokenizer: str, config_file: str, overrides: Iterable[str]
) -> config_lib.Config:
  """Returns the workdir's config: of the model, of a file or `usual`, with overrides.

  Args:
    model: as imported.
    tokenizer: for `data.tokenizer`; '': there is none.
    config_file: for all but these two; '': `usual`.
    overrides: `section.field=value` over all of it.
  """
  # A head asks for a task, which may be given by an override.
  encoder = dataclasses.replace(model, num_labels=0, spans=False)
  base = config_lib.load(config_file) if config_file else usual(encoder)
  if config_file:
    kept = {name: getattr(base.model, name) for name in OF_THE_RUN}
    model = dataclasses.replace(model, **kept)
  tree = {**config_lib.to_dict(base), 'model': config_lib.to_dict(model)}
  if tokenizer or not config_file:
    tree['data'] = {**tree['data'], 'tokenizer': tokenizer}
  for override in overrides:
    tree = strict.override(config_lib.Config, tree, override)
  if not tree['model']['num_labels']:  # the head was left out
    kept = tree['model']['mlm_head'] and not model.num_labels
    tree['model'] = {**tree['model'], 'pooler': False, 'spans': False, 'mlm_head': kept}
  return strict.from_dict(config_lib.Config, tree)


def label_order(folder: source_lib.Folder, config: config_lib.Config) -> list[int]:
  """Returns which of a folder's labels each output of the head is to be; []: all stay.

  Raises:
    CheckpointError: the head has other labels than the task.
    ConfigError: it is not the head for the task.
  """
  task = tasks.only(config)
  if task is None or not config.model.num_labels:
    return []
  objectives.check_head(config, task)
  return labels.order_for(task, folder.hf, folder.path / folders.CONFIG) if task.labels else []


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
