"""Which tensor of a Hugging Face model holds which of t5lite's arrays: one table for both ways.

t5lite stacks the layers of a stack along a first dimension L; Hugging Face has a tensor for each.
A torch Linear keeps its matrix as [out, in], t5lite and GPT-2's Conv1D as [in, out].
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from t5lite import config as config_lib

Shape = tuple[int, ...]


class Entry(NamedTuple):
  """A tensor by its name; with `{}` in it, one for each layer."""

  name: str
  paths: tuple[str, ...]  # the arrays in it, one behind another along their last dimension
  transposed: bool = False


class Slot(NamedTuple):
  """One tensor: a whole array, or its part of one layer."""

  name: str
  entry: Entry
  layer: int | None
  shape: Shape


def slots(entries: Sequence[Entry], shapes: Mapping[str, Shape]) -> list[Slot]:
  """Returns every tensor of a model whose arrays have these shapes; each array has its place."""
  placed = [path for entry in entries for path in entry.paths]
  assert sorted(placed) == sorted(shapes), set(placed) ^ set(shapes)
  return [slot for entry in entries for slot in _slots_of(entry, shapes)]


def _slots_of(entry: Entry, shapes: Mapping[str, Shape]) -> list[Slot]:
  parts = [shapes[path] for path in entry.paths]
  stacked = '{}' in entry.name
  rows = [part[1:] if stacked else part for part in parts]
  shape = (*rows[0][:-1], sum(row[-1] for row in rows))
  shape = shape[::-1] if entry.transposed else shape
  if not stacked:
    return [Slot(entry.name, entry, None, shape)]
  return [Slot(entry.name.format(i), entry, i, shape) for i in range(parts[0][0])]


def joined(slot: Slot, arrays: Sequence[np.ndarray]) -> np.ndarray:
  """Returns the tensor of a slot, from its entry's arrays."""
  parts = [x if slot.layer is None else x[slot.layer] for x in arrays]
  x = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
  return x.T if slot.entry.transposed else x


def divided(slot: Slot, x: np.ndarray, widths: Sequence[int]) -> list[np.ndarray]:
  """Returns what a tensor holds of each of its entry's arrays: undoes `joined`.

  Args:
    slot: its place.
    x: the tensor.
    widths: the arrays' last dimensions.
  """
  x = x.T if slot.entry.transposed else x
  return np.split(x, np.cumsum(widths)[:-1], axis=-1)


def t5(model: config_lib.Model) -> list[Entry]:
  """T5 1.0 and 1.1, of T5ForConditionalGeneration."""
  entries = [Entry('shared.weight', ('token_embed.embedding',))]
  for stack in ('encoder', 'decoder'):
    parts = [('SelfAttention', 'attention', 'attention_norm')]
    if stack == 'decoder':
      parts.append(('EncDecAttention', 'cross_attention', 'cross_norm'))
    for i, (name, path, norm) in enumerate(parts):
      layer, layers = f'{stack}.block.{{}}.layer.{i}', f'{stack}.layers'
      entries.append(Entry(f'{layer}.layer_norm.weight', (f'{layers}.{norm}.scale',)))
      for theirs, ours in {'q': 'query', 'k': 'key', 'v': 'value', 'o': 'output'}.items():
        entries += _linear(f'{layer}.{name}.{theirs}', f'{layers}.{path}.{ours}')
    mlp = f'{stack}.block.{{}}.layer.{len(parts)}'
    maps = {'wo': 'output'} | (
      {'wi_0': 'gate', 'wi_1': 'input'} if model.gated else {'wi': 'input'}
    )
    for theirs, ours in maps.items():
      entries += _linear(f'{mlp}.DenseReluDense.{theirs}', f'{stack}.layers.mlp.{ours}')
    entries += [
      Entry(f'{mlp}.layer_norm.weight', (f'{stack}.layers.mlp_norm.scale',)),
      Entry(
        f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight',
        (f'{stack}.relative_bias.embedding',),
      ),
      Entry(f'{stack}.final_layer_norm.weight', (f'{stack}.final_norm.scale',)),
    ]
  return entries + ([] if model.tie_embeddings else _linear('lm_head', 'lm_head'))


def bert(model: config_lib.Model) -> list[Entry]:
  """BERT, of BertForMaskedLM."""
  del model
  layer, layers = 'bert.encoder.layer.{}', 'encoder.layers'
  entries = [
    Entry('bert.embeddings.word_embeddings.weight', ('token_embed.embedding',)),
    Entry('bert.embeddings.position_embeddings.weight', ('encoder.position_embed.embedding',)),
    Entry('bert.embeddings.token_type_embeddings.weight', ('encoder.type_embed.embedding',)),
    *_norm('bert.embeddings.LayerNorm', 'encoder.embed_norm'),
  ]
  for name in ('query', 'key', 'value'):
    entries += _biased(f'{layer}.attention.self.{name}', f'{layers}.attention.{name}')
  return [
    *entries,
    *_biased(f'{layer}.attention.output.dense', f'{layers}.attention.output'),
    *_norm(f'{layer}.attention.output.LayerNorm', f'{layers}.attention_norm'),
    *_biased(f'{layer}.intermediate.dense', f'{layers}.mlp.input'),
    *_biased(f'{layer}.output.dense', f'{layers}.mlp.output'),
    *_norm(f'{layer}.output.LayerNorm', f'{layers}.mlp_norm'),
    *_biased('cls.predictions.transform.dense', 'mlm_head.dense'),
    *_norm('cls.predictions.transform.LayerNorm', 'mlm_head.norm'),
    Entry('cls.predictions.bias', ('mlm_head.bias',)),
  ]


def gpt2(model: config_lib.Model) -> list[Entry]:
  """GPT-2, of GPT2LMHeadModel: its matrices are not transposed; queries, keys, values are one."""
  layer, layers = 'transformer.h.{}', 'decoder.layers'
  maps = {
    'attn.c_attn': ('attention.query', 'attention.key', 'attention.value'),
    'attn.c_proj': ('attention.output',),
    'mlp.c_fc': ('mlp.input',),
    'mlp.c_proj': ('mlp.output',),
  }
  entries = [
    Entry('transformer.wte.weight', ('token_embed.embedding',)),
    Entry('transformer.wpe.weight', ('decoder.position_embed.embedding',)),
    *_norm(f'{layer}.ln_1', f'{layers}.attention_norm'),
    *_norm(f'{layer}.ln_2', f'{layers}.mlp_norm'),
    *_norm('transformer.ln_f', 'decoder.final_norm'),
  ]
  for name, paths in maps.items():
    for theirs, ours in {'weight': 'kernel', 'bias': 'bias'}.items():
      places = tuple(f'{layers}.{path}.{ours}' for path in paths)
      entries.append(Entry(f'{layer}.{name}.{theirs}', places))
  return entries + ([] if model.tie_embeddings else _linear('lm_head', 'lm_head'))


def llama(model: config_lib.Model) -> list[Entry]:
  """The modern decoder, of LlamaForCausalLM."""
  layer, layers = 'model.layers.{}', 'decoder.layers'
  maps = {
    'self_attn.q_proj': 'attention.query',
    'self_attn.k_proj': 'attention.key',
    'self_attn.v_proj': 'attention.value',
    'self_attn.o_proj': 'attention.output',
    'mlp.gate_proj': 'mlp.gate',
    'mlp.up_proj': 'mlp.input',
    'mlp.down_proj': 'mlp.output',
  }
  entries = [
    Entry('model.embed_tokens.weight', ('token_embed.embedding',)),
    Entry(f'{layer}.input_layernorm.weight', (f'{layers}.attention_norm.scale',)),
    Entry(f'{layer}.post_attention_layernorm.weight', (f'{layers}.mlp_norm.scale',)),
    Entry('model.norm.weight', ('decoder.final_norm.scale',)),
  ]
  linear = _biased if model.use_bias else _linear
  for theirs, ours in maps.items():
    entries += linear(f'{layer}.{theirs}', f'{layers}.{ours}')
  return entries + ([] if model.tie_embeddings else _linear('lm_head', 'lm_head'))


def _linear(name: str, path: str) -> list[Entry]:
  return [Entry(f'{name}.weight', (f'{path}.kernel',), transposed=True)]


def _biased(name: str, path: str) -> list[Entry]:
  return [*_linear(name, path), Entry(f'{name}.bias', (f'{path}.bias',))]


def _norm(name: str, path: str) -> list[Entry]:
  return [Entry(f'{name}.weight', (f'{path}.scale',)), Entry(f'{name}.bias', (f'{path}.bias',))]
