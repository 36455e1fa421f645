"""Decoders: GPT-2 and the modern one, Llama's."""

from t5lite import config as config_lib
from t5lite.interop import family
from t5lite.interop import tables


def gpt2_entries(model: config_lib.Model) -> list[tables.Entry]:
  """GPT-2, of GPT2LMHeadModel: its matrices are not transposed; queries, keys, values are one."""
  layer, layers = 'transformer.h.{}', 'decoder.layers'
  maps = {
    'attn.c_attn': ('attention.query', 'attention.key', 'attention.value'),
    'attn.c_proj': ('attention.output',),
    'mlp.c_fc': ('mlp.input',),
    'mlp.c_proj': ('mlp.output',),
  }
  entries = [
    tables.Entry('transformer.wte.weight', ('token_embed.embedding',)),
    tables.Entry('transformer.wpe.weight', ('decoder.position_embed.embedding',)),
    *tables.norm(f'{layer}.ln_1', f'{layers}.attention_norm'),
    *tables.norm(f'{layer}.ln_2', f'{layers}.mlp_norm'),
    *tables.norm('transformer.ln_f', 'decoder.final_norm'),
  ]
  for name, paths in maps.items():
    for theirs, ours in {'weight': 'kernel', 'bias': 'bias'}.items():
      places = tuple(f'{layers}.{path}.{ours}' for path in paths)
      entries.append(tables.Entry(f'{layer}.{name}.{theirs}', places))
  return entries + ([] if model.tie_embeddings else tables.linear('lm_head', 'lm_head'))


GPT2 = family.Family(
  model_type='gpt2',
  architectures={'GPT2LMHeadModel': {}},
  fields={
    'vocab_size': 'vocab_size',
    'n_embd': 'd_model',
    'n_layer': 'num_layers',
    'n_head': 'num_heads',
    'n_inner': 'd_ff',
    'n_positions': 'max_length',
    'resid_pdrop': 'dropout',
    'embd_pdrop': 'dropout',
    'attn_pdrop': 'dropout',
    'layer_norm_epsilon': 'norm_epsilon',
    'tie_word_embeddings': 'tie_embeddings',
  },
  choices={'activation_function': family.ACTIVATIONS},
  fixed={
    **family.PLAIN,
    **family.NO_EMBEDDING_PARTS,
    'architecture': 'decoder',
    'gated': False,
    'norm': 'layer',
    'norm_order': 'pre',
    'use_bias': True,
    'positions': 'learned',
    'scale_attention': True,
    'scale_tied_logits': False,
    'initializer': 'gpt2',
  },
  constants={
    'scale_attn_weights': True,
    'scale_attn_by_inverse_layer_idx': False,
    'add_cross_attention': False,
  },
  defaults={
    'n_positions': 1024,
    'resid_pdrop': 0.1,
    'embd_pdrop': 0.1,
    'attn_pdrop': 0.1,
    'layer_norm_epsilon': 1e-5,
    'activation_function': 'gelu_new',
    'tie_word_embeddings': True,
  },
  implied=family.square_heads,
  entries=gpt2_entries,
  read=lambda hf: {'n_inner': 4 * hf.get('n_embd', 0), **hf},
  copies={'lm_head.weight': 'transformer.wte.weight'},
  spellings=((r'^(?=(wte|wpe|h|ln_f)\.)', 'transformer.'),),
  buffers=(r'transformer\.h\.\d+\.attn\.(bias|masked_bias)',),
)


def llama_entries(model: config_lib.Model) -> list[tables.Entry]:
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
    tables.Entry('model.embed_tokens.weight', ('token_embed.embedding',)),
    tables.Entry(f'{layer}.input_layernorm.weight', (f'{layers}.attention_norm.scale',)),
    tables.Entry(f'{layer}.post_attention_layernorm.weight', (f'{layers}.mlp_norm.scale',)),
    tables.Entry('model.norm.weight', ('decoder.final_norm.scale',)),
  ]
  linear = tables.biased if model.use_bias else tables.linear
  for theirs, ours in maps.items():
    entries += linear(f'{layer}.{theirs}', f'{layers}.{ours}')
  return entries + ([] if model.tie_embeddings else tables.linear('lm_head', 'lm_head'))


def _read_llama(hf: family.Tree) -> family.Tree:
  """Returns the keys with those filled in that follow from others, and rope's in one spelling."""
  rope = {**hf.get('rope_parameters', {}), **hf.get('rope_scaling', {})}
  kind = rope.get('rope_type', rope.get('type', 'default'))
  heads = hf.get('num_attention_heads', 1)
  found = {
    'rope_theta': rope.get('rope_theta', 10_000.0),
    'rope_type': kind,
    'num_key_value_heads': heads,
    'head_dim': hf.get('hidden_size', 0) // heads,
  }
  return {**found, **hf}


def _write_llama(hf: family.Tree) -> family.Tree:
  """Returns the keys with rope's as transformers 5 has them; version 4 reads rope_theta."""
  rope = {'rope_type': hf.pop('rope_type'), 'rope_theta': hf['rope_theta']}
  return {**hf, 'rope_parameters': rope}


LLAMA = family.Family(
  model_type='llama',
  architectures={'LlamaForCausalLM': {}},
  fields={
    'vocab_size': 'vocab_size',
    'hidden_size': 'd_model',
    'num_hidden_layers': 'num_layers',
    'num_attention_heads': 'num_heads',
    'num_key_value_heads': 'num_kv_heads',
    'head_dim': 'head_dim',
    'intermediate_size': 'd_ff',
    'rms_norm_eps': 'norm_epsilon',
    'rope_theta': 'rotary_base',
    'max_position_embeddings': 'max_length',
    'attention_bias': 'use_bias',
    'mlp_bias': 'use_bias',
    'tie_word_embeddings': 'tie_embeddings',
  },
  choices={'hidden_act': family.ACTIVATIONS},
  fixed={
    **family.PLAIN,
    **family.NO_EMBEDDING_PARTS,
    'architecture': 'decoder',
    'gated': True,
    'norm': 'rms',
    'norm_order': 'pre',
    'positions': 'rotary',
    'scale_attention': True,
    'scale_tied_logits': False,
    'initializer': 'scaled',
    'dropout': 0.0,
  },
  constants={'rope_type': 'default'},
  defaults={
    'rms_norm_eps': 1e-6,
    'max_position_embeddings': 2048,
    'attention_bias': False,
    'mlp_bias': False,
    'hidden_act': 'silu',
    'tie_word_embeddings': False,
  },
  # transformers wants that, though the heads' size is a key of its own.
  implied=lambda fields: {
    'd_model': fields['d_model'] // fields['num_heads'] * fields['num_heads']
  },
  entries=llama_entries,
  read=_read_llama,
  write=_write_llama,
  copies={'lm_head.weight': 'model.embed_tokens.weight'},
  buffers=(r'model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq',),
)
