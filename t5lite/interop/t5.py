"""T5 1.0 and 1.1 (Flan-T5, mT5), and umT5, whose layers have a position bias each."""

import dataclasses

from t5lite import config as config_lib
from t5lite.interop import family
from t5lite.interop import tables


def entries(model: config_lib.Model) -> list[tables.Entry]:
  """Returns the tensors of T5ForConditionalGeneration, or UMT5ForConditionalGeneration."""
  number, of_layers = ('{}', 'layers.') if model.relative_per_layer else ('0', '')
  made = [tables.Entry('shared.weight', ('token_embed.embedding',))]
  for stack in ('encoder', 'decoder'):
    parts = [('SelfAttention', 'attention', 'attention_norm')]
    if stack == 'decoder':
      parts.append(('EncDecAttention', 'cross_attention', 'cross_norm'))
    for i, (name, path, norm) in enumerate(parts):
      layer, layers = f'{stack}.block.{{}}.layer.{i}', f'{stack}.layers'
      made.append(tables.Entry(f'{layer}.layer_norm.weight', (f'{layers}.{norm}.scale',)))
      for theirs, ours in {'q': 'query', 'k': 'key', 'v': 'value', 'o': 'output'}.items():
        made += tables.linear(f'{layer}.{name}.{theirs}', f'{layers}.{path}.{ours}')
    mlp = f'{stack}.block.{{}}.layer.{len(parts)}'
    maps = {'wo': 'output'} | (
      {'wi_0': 'gate', 'wi_1': 'input'} if model.gated else {'wi': 'input'}
    )
    for theirs, ours in maps.items():
      made += tables.linear(f'{mlp}.DenseReluDense.{theirs}', f'{stack}.layers.mlp.{ours}')
    made += [
      tables.Entry(f'{mlp}.layer_norm.weight', (f'{stack}.layers.mlp_norm.scale',)),
      tables.Entry(
        f'{stack}.block.{number}.layer.0.SelfAttention.relative_attention_bias.weight',
        (f'{stack}.{of_layers}relative_bias.embedding',),
      ),
      tables.Entry(f'{stack}.final_layer_norm.weight', (f'{stack}.final_norm.scale',)),
    ]
  return made + ([] if model.tie_embeddings else tables.linear('lm_head', 'lm_head'))


T5 = family.Family(
  model_type='t5',
  architectures={'T5ForConditionalGeneration': {}},
  fields={
    'vocab_size': 'vocab_size',
    'd_model': 'd_model',
    'd_kv': 'head_dim',
    'd_ff': 'd_ff',
    'num_layers': 'num_layers',
    'num_decoder_layers': 'num_decoder_layers',
    'num_heads': 'num_heads',
    'relative_attention_num_buckets': 'relative_buckets',
    'relative_attention_max_distance': 'relative_max_distance',
    'dropout_rate': 'dropout',
    'layer_norm_epsilon': 'norm_epsilon',
    'tie_word_embeddings': 'tie_embeddings',
    'scale_decoder_outputs': 'scale_tied_logits',  # transformers 5; before it was the one above
  },
  choices={
    # transformers takes 'gated-gelu' for the tanh of 'gelu_new'.
    'feed_forward_proj': {
      'relu': {'activation': 'relu', 'gated': False},
      'gated-gelu': {'activation': 'gelu_tanh', 'gated': True},
      'gelu': {'activation': 'gelu', 'gated': False},
      'gelu_new': {'activation': 'gelu_tanh', 'gated': False},
      'silu': {'activation': 'silu', 'gated': False},
      'gated-relu': {'activation': 'relu', 'gated': True},
      'gated-silu': {'activation': 'silu', 'gated': True},
    }
  },
  fixed={
    **family.PLAIN,
    **family.NO_EMBEDDING_PARTS,
    'architecture': 'encoder_decoder',
    'norm': 'rms',
    'norm_order': 'pre',
    'use_bias': False,
    'positions': 'relative',
    'max_length': 0,
    'scale_attention': False,
    'initializer': 't5',
  },
  constants={'is_encoder_decoder': True, 'pad_token_id': 0, 'decoder_start_token_id': 0},
  defaults={
    'relative_attention_num_buckets': 32,
    'relative_attention_max_distance': 128,
    'dropout_rate': 0.1,
    'layer_norm_epsilon': 1e-6,
    'feed_forward_proj': 'relu',
    'tie_word_embeddings': True,
  },
  implied=lambda fields: {
    'num_kv_heads': fields['num_heads'],
    'scale_tied_logits': fields['scale_tied_logits'] and fields['tie_embeddings'],
  },
  entries=entries,
  read=lambda hf: {
    'num_decoder_layers': hf.get('num_layers'),
    'scale_decoder_outputs': hf.get('tie_word_embeddings', True),
    **hf,
  },
  copies={
    'encoder.embed_tokens.weight': 'shared.weight',
    'decoder.embed_tokens.weight': 'shared.weight',
    'lm_head.weight': 'shared.weight',
  },
  buffers=(r'decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight',),
)

# Of T5 1.1's form; what is exported is called T5, which it equals.
MT5 = dataclasses.replace(
  T5,
  model_type='mt5',
  architectures={'MT5ForConditionalGeneration': {}},
  defaults={**T5.defaults, 'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': False},
)

UMT5 = dataclasses.replace(
  T5,
  model_type='umt5',
  architectures={'UMT5ForConditionalGeneration': {}},
  fixed={**T5.fixed, 'relative_per_layer': True},
  defaults={**T5.defaults, 'feed_forward_proj': 'gated-gelu'},
)
