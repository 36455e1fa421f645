"""From a workdir to a folder that transformers loads."""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import json
import pathlib
from typing import Any

import numpy as np

from t5lite import config as config_lib
from t5lite import metrics
from t5lite import stored
from t5lite.data import tokenizer as tokenizer_lib
from t5lite.interop import card
from t5lite.interop import families
from t5lite.interop import folders
from t5lite.interop import labels
from t5lite.interop import tables
from t5lite.interop import tensors
from t5lite.interop import tokenizer_files
from t5lite.models import layers as layers_lib


def export(
  workdir: str | pathlib.Path, output: str | pathlib.Path, limit: int = tensors.LIMIT
) -> card.Exported:
  """Writes the checkpoint of a workdir (`stored.chosen`) as a folder of Hugging Face's.

  It takes the memory of the largest tensor, and is there whole or not at all.

  Args:
    workdir: of a run.
    output: the folder, which must not exist.
    limit: bytes of a file of weights.

  Raises:
    ConfigError: transformers has no such model, or the output exists.
    CheckpointError: there is no checkpoint, or it is damaged.
    DataError: its tokenizer is not there.
    DiskError: the output cannot be written.
  """
  given, output = output, pathlib.Path(output).absolute()
  folders.check_new(output, '--output')
  saved = stored.chosen(workdir)
  config = config_lib.load(pathlib.Path(workdir) / folders.CONFIG)
  manifest = saved.manifest()
  tokenizer = load_tokenizer(config, manifest)
  ids = token_ids(config, tokenizer, manifest)
  family = families.of_model(config.model, ids.get('pad_token_id'))
  hf = families.to_huggingface(family, config.model) | {**ids, 'dtype': 'float32'}
  hf |= labels.to_huggingface(config) if config.model.num_labels else {}
  saved.check_params(manifest, folders.abstract_params(config.model))
  model = dataclasses.replace(config.model, lora_rank=0)  # adapters are added to the matrices
  abstract = folders.abstract_params(model)
  if config.model.positions == 'rotary':
    hf['max_position_embeddings'] = config.context_length
  num_params = sum(x.size for x in abstract.values())
  history = card.history(pathlib.Path(workdir) / metrics.METRICS, manifest)
  command = ['t5lite', 'export', f'--workdir={workdir}', f'--output={given}']
  slots = tables.slots(family.entries(model), {k: x.shape for k, x in abstract.items()})
  with folders.whole(output) as folder:
    stored.check_room(folder, 4 * num_params, 'the weights')
    shapes = {slot.name: slot.shape for slot in slots}
    tensors.write(folder, shapes, read(saved, manifest, slots), limit)
    write_json(folder / folders.CONFIG, hf)
    if family.generates:
      keys = (*ids, 'pad_token_id', 'decoder_start_token_id')
      write_json(folder / 'generation_config.json', {key: hf[key] for key in keys if key in hf})
    there = tokenizer_files.write(folder, tokenizer, config) if tokenizer else 'none'
    made = card.Exported(hf['architectures'][0], manifest['step'], num_params, there)
    (folder / 'README.md').write_text(card.text(config, made, history, command))
  return made


def read(
  saved: stored.Checkpoint, manifest: stored.Manifest, slots: Sequence[tables.Slot]
) -> Iterator[np.ndarray]:
  """Yields the tensor of each slot, one at a time; those of one entry lie together."""
  for entry, group in itertools.groupby(slots, lambda slot: slot.entry):
    if '{}' not in entry.name:
      for slot in group:
        yield tables.joined(slot, [saved.param(path, manifest) for path in entry.paths])
      continue
    layers = zip(*(merged(saved, path, manifest) for path in entry.paths), strict=True)
    for _ in range(entry.first):  # whose arrays are in no tensor
      next(layers)
    for slot in group:
      yield tables.joined(slot, next(layers))
    assert next(layers, None) is None  # and their digests are right


def merged(saved: stored.Checkpoint, path: str, manifest: stored.Manifest) -> Iterator[np.ndarray]:
  """Yields a stacked parameter by layer, with the adapter beside it, if there is one, added."""
  beside = [path.removesuffix('.kernel') + part for part in ('.lora_a', '.lora_b')]
  if not set(beside) <= saved.param_shapes(manifest).keys():
    yield from saved.layers(path, manifest)
    return
  layers = (saved.layers(each, manifest) for each in (path, *beside))
  for kernel, a, b in zip(*layers, strict=True):
    yield kernel + np.float32(layers_lib.LORA_SCALE) * (a @ b)


def load_tokenizer(
  config: config_lib.Config, manifest: stored.Manifest
) -> tokenizer_lib.Tokenizer | None:
  """Returns the tokenizer that the parameters were trained with; None: they were imported without.

  Raises:
    DataError: it is not there.
    CheckpointError: another one has its name.
  """
  if not manifest['tokenizer']:
    return None
  return tokenizer_lib.load_same(config.data.tokenizer, manifest['tokenizer'])


def token_ids(
  config: config_lib.Config, tokenizer: tokenizer_lib.Tokenizer | None, manifest: stored.Manifest
) -> dict[str, Any]:
  """Returns the ids of special tokens for config.json: the tokenizer's, or those of the import."""
  if tokenizer is None:
    return manifest['token_ids']
  vocabulary, ids = tokenizer.vocabulary, {}
  if vocabulary.pad is not None:
    ids['pad_token_id'] = vocabulary.pad
  architecture = config.model.architecture
  if architecture == 'encoder':  # a text begins with CLS and ends with SEP
    ids |= {'cls_token_id': vocabulary.cls, 'sep_token_id': vocabulary.sep}
    ids |= {'bos_token_id': vocabulary.cls, 'eos_token_id': vocabulary.sep}
  else:
    ids['eos_token_id'] = vocabulary.eos
  if architecture == 'decoder':
    ids['bos_token_id'] = vocabulary.begin
  return ids | manifest.get('token_ids', {})


def write_json(path: pathlib.Path, tree: dict[str, Any]) -> None:
  path.write_text(json.dumps(tree, indent=2, sort_keys=True) + '\n')
