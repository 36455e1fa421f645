"""ModernBERT (Warner et al. 2024), and Ettin's encoders."""

from t5lite import config as config_lib
from t5lite.interop import bert
from t5lite.interop import family
from t5lite.interop import tables

GLOBAL, LOCAL = 'full_attention', 'sliding_attention'


def entries(model: config_lib.Model) -> list[tables.Entry]:
  """Returns the tensors of ModernBertForMaskedLM, of a class with labels, or of ModernBertModel."""
  prefix = 'model.' if model.mlm_head else ''
  layer, layers = f'{prefix}layers.{{}}', 'encoder.layers'
  three = tuple(f'{layers}.attention.{part}.kernel' for part in ('query', 'key', 'value'))
  made = [
    tables.Entry(f'{prefix}embeddings.tok_embeddings.weight', ('token_embed.embedding',)),
    tables.Entry(f'{prefix}embeddings.norm.weight', ('encoder.embed_norm.scale',)),
    # The first layer has none: the one of the embeddings is its.
    tables.Entry(f'{layer}.attn_norm.weight', (f'{layers}.attention_norm.scale',), first=1),
    tables.Entry(f'{layer}.attn.Wqkv.weight', three, transposed=True),
    *tables.linear(f'{layer}.attn.Wo', f'{layers}.attention.output'),
    tables.Entry(f'{layer}.mlp_norm.weight', (f'{layers}.mlp_norm.scale',)),
    tables.Entry(
      f'{layer}.mlp.Wi.weight',
      (f'{layers}.mlp.gate.kernel', f'{layers}.mlp.input.kernel'),
      transposed=True,
    ),
    *tables.linear(f'{layer}.mlp.Wo', f'{layers}.mlp.output'),
    tables.Entry(f'{prefix}final_norm.weight', ('encoder.final_norm.scale',)),
  ]
  if not model.mlm_head:
    return made
  made += [
    *tables.linear('head.dense', 'mlm_head.dense'),
    tables.Entry('head.norm.weight', ('mlm_head.norm.scale',)),
  ]
  if model.num_labels:
    return [*made, *tables.biased('classifier', 'label_head.output')]
  return [*made, tables.Entry('decoder.bias', ('mlm_head.bias',))]


def _types(num_layers: int, every: int) -> list[str]:
  return [LOCAL if i % every else GLOBAL for i in range(num_layers)]


def _read(hf: family.Tree) -> family.Tree:
  """Returns the keys with transformers 5's lists as the numbers that they come from."""
  hf, rope = {'global_attn_every_n_layers': 3, **hf}, hf.get('rope_parameters', {})
  if (types := hf.get('layer_types')) is not None:
    tries = [hf['global_attn_every_n_layers'], *range(1, len(types) + 1)]
    fits = [every for every in tries if types == _types(len(types), every)]
    hf['global_attn_every_n_layers'] = fits[0] if fits else 0
  for key, kind, base in (
    ('global_rope_theta', GLOBAL, 160_000.0),
    ('local_rope_theta', LOCAL, 10_000.0),
  ):
    said = rope.get(kind, {})
    hf[key] = said.get('rope_theta', hf.get(key, base))
    if (name := said.get('rope_type', 'default')) != 'default':
      hf['rope_type'] = name
  # It sees keys up to half of it away, ours keys less than the window away.
  window = hf.get('local_attention', 128) // 2 + 1
  return {**hf, 'local_attention': 0 if hf['global_attn_every_n_layers'] == 1 else window}


def _write(hf: family.Tree) -> family.Tree:
  """Returns the keys as transformers 5 has them, and 4."""
  kind = hf.pop('rope_type')
  if hf['local_rope_theta'] is None:
    hf['local_rope_theta'] = hf['global_rope_theta']
  bases = {GLOBAL: hf['global_rope_theta'], LOCAL: hf['local_rope_theta']}
  rope = {name: {'rope_type': kind, 'rope_theta': base} for name, base in bases.items()}
  types = _types(hf['num_hidden_layers'], hf['global_attn_every_n_layers'])
  window = 2 * max(hf['local_attention'] - 1, 0)
  hf |= {'rope_parameters': rope, 'layer_types': types, 'local_attention': window}
  return {**hf, 'classifier_pooling': 'cls'}


MODERNBERT = family.Family(
  model_type='modernbert',
  architectures={
    'ModernBertForMaskedLM': {'mlm_head': True},
    'ModernBertModel': {'mlm_head': False},
  },
  heads={
    'ModernBertForSequenceClassification': {'mlm_head': True, **bert.POOLED},
    'ModernBertForTokenClassification': {'mlm_head': True, **bert.TOKENS},
    'ModernBertForQuestionAnswering': {'mlm_head': True, **bert.SPANS},
  },
  fields={
    'vocab_size': 'vocab_size',
    'hidden_size': 'd_model',
    'num_hidden_layers': 'num_layers',
    'num_attention_heads': 'num_heads',
    'intermediate_size': 'd_ff',
    'norm_eps': 'norm_epsilon',
    'global_rope_theta': 'rotary_base',
    'local_rope_theta': 'local_rotary_base',
    'max_position_embeddings': 'max_length',
    'global_attn_every_n_layers': 'global_every',
    'local_attention': 'local_window',
    'embedding_dropout': 'dropout',
    'attention_dropout': 'dropout',
    'mlp_dropout': 'dropout',
  },
  choices={'hidden_activation': family.ACTIVATIONS, 'classifier_activation': family.ACTIVATIONS},
  fixed={
    'num_experts': 0,
    'relative_per_layer': False,
    'num_token_types': 0,
    'architecture': 'encoder',
    'gated': True,
    'norm': 'layer',
    'norm_order': 'pre',
    'use_bias': False,
    'positions': 'rotary',
    'scale_attention': True,
    'tie_embeddings': True,
    'scale_tied_logits': False,
    'embedding_norm': True,
    'initializer': 'scaled',
  },
  constants={
    'norm_bias': False,
    'attention_bias': False,
    'mlp_bias': False,
    'classifier_bias': False,
    'decoder_bias': True,
    'tie_word_embeddings': True,
    'rope_type': 'default',
  },
  defaults={
    'norm_eps': 1e-5,
    'max_position_embeddings': 8192,
    'embedding_dropout': 0.0,
    'attention_dropout': 0.0,
    'mlp_dropout': 0.0,
    'hidden_activation': 'gelu',
    'classifier_activation': 'gelu',
  },
  implied=lambda fields: {
    **family.square_heads(fields),
    'global_every': fields['global_every'] if fields['local_window'] else 1,
  },
  entries=entries,
  read=_read,
  write=_write,
  copies={'decoder.weight': 'embeddings.tok_embeddings.weight'},
  spellings=((r'^model\.', ''),),
  other_heads=(r'head\..*', r'decoder\..*', r'classifier\..*'),
  generates=False,
)
