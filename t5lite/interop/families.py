"""The families that both sides have, and their configs: one mapping each, read in both directions.

What one side's config cannot say is refused with the field that says it. Fields of `config.Model`
that are no part of the function (dropout of a Llama, dtype, remat, ...) stay behind.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from t5lite import config as config_lib
from t5lite import errors
from t5lite import strict
from t5lite.interop import tables

Tree = dict[str, Any]
Choices = Mapping[Any, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """A model of both worlds."""

  model_type: str
  architecture: str  # the class of transformers
  fields: Mapping[str, str]  # key of config.json: field of config.Model
  choices: Mapping[str, Choices]  # key: {its value: fields}; of equal fields the first is written
  fixed: Mapping[str, Any]  # field: the value that the family has
  constants: Mapping[str, Any]  # key: the value that it must have; also that of an absent key
  defaults: Mapping[str, Any]  # key: what transformers takes for an absent one
  implied: Callable[[Tree], Tree]  # from fields: others that follow from them
  entries: Callable[[config_lib.Model], list[tables.Entry]]
  read: Callable[[Tree], Tree] = lambda hf: hf  # puts keys with several spellings into one
  write: Callable[[Tree], Tree] = lambda hf: hf  # and back
  copies: Mapping[str, str]  # tensor: the one that it is tied to, if the model ties
  spellings: Sequence[tuple[str, str]] = ()  # of tensors' names: (pattern, today's)
  buffers: Sequence[str] = ()  # patterns of tensors that are no parameters
  other_heads: Sequence[str] = ()  # patterns of parameters that the model does not have
  generates: bool = True


ACTIVATIONS: Choices = {
  'relu': {'activation': 'relu'},
  'gelu': {'activation': 'gelu'},
  'gelu_new': {'activation': 'gelu_tanh'},
  'gelu_pytorch_tanh': {'activation': 'gelu_tanh'},
  'silu': {'activation': 'silu'},
  'swish': {'activation': 'silu'},
}
PLAIN = {'num_experts': 0, 'local_window': 0}
NO_EMBEDDING_PARTS = {'num_token_types': 0, 'mlm_head': False, 'embedding_norm': False}


def _square_heads(fields: Tree) -> Tree:
  """Returns what follows where the heads share the model's width among them."""
  size = fields['d_model'] // fields['num_heads']
  width = size * fields['num_heads']
  return {'num_kv_heads': fields['num_heads'], 'head_dim': size, 'd_model': width}


T5 = Family(
  model_type='t5',
  architecture='T5ForConditionalGeneration',
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
    **PLAIN,
    **NO_EMBEDDING_PARTS,
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
  entries=tables.t5,
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

BERT = Family(
  model_type='bert',
  architecture='BertForMaskedLM',
  fields={
    'vocab_size': 'vocab_size',
    'hidden_size': 'd_model',
    'num_hidden_layers': 'num_layers',
    'num_attention_heads': 'num_heads',
    'intermediate_size': 'd_ff',
    'hidden_dropout_prob': 'dropout',
    'attention_probs_dropout_prob': 'dropout',
    'max_position_embeddings': 'max_length',
    'type_vocab_size': 'num_token_types',
    'layer_norm_eps': 'norm_epsilon',
  },
  choices={'hidden_act': ACTIVATIONS},
  fixed={
    **PLAIN,
    'architecture': 'encoder',
    'gated': False,
    'norm': 'layer',
    'norm_order': 'post',
    'use_bias': True,
    'positions': 'learned',
    'scale_attention': True,
    'tie_embeddings': True,
    'scale_tied_logits': False,
    'mlm_head': True,
    'embedding_norm': True,
    'initializer': 'bert',
  },
  constants={
    'pad_token_id': 0,
    'position_embedding_type': 'absolute',
    'is_decoder': False,
    'add_cross_attention': False,
    'tie_word_embeddings': True,
  },
  defaults={
    'hidden_act': 'gelu',
    'hidden_dropout_prob': 0.1,
    'attention_probs_dropout_prob': 0.1,
    'type_vocab_size': 2,
    'layer_norm_eps': 1e-12,
  },
  implied=lambda fields: {
    **_square_heads(fields),
    'num_token_types': max(fields['num_token_types'], 1),
  },
  entries=tables.bert,
  copies={
    'cls.predictions.decoder.weight': 'bert.embeddings.word_embeddings.weight',
    'cls.predictions.decoder.bias': 'cls.predictions.bias',
  },
  spellings=((r'LayerNorm\.gamma$', 'LayerNorm.weight'), (r'LayerNorm\.beta$', 'LayerNorm.bias')),
  buffers=(r'bert\.embeddings\.(position|token_type)_ids',),
  other_heads=(r'bert\.pooler\..*', r'cls\.seq_relationship\..*'),
  generates=False,
)

GPT2 = Family(
  model_type='gpt2',
  architecture='GPT2LMHeadModel',
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
  choices={'activation_function': ACTIVATIONS},
  fixed={
    **PLAIN,
    **NO_EMBEDDING_PARTS,
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
  implied=_square_heads,
  entries=tables.gpt2,
  read=lambda hf: {'n_inner': 4 * hf.get('n_embd', 0), **hf},
  copies={'lm_head.weight': 'transformer.wte.weight'},
  spellings=((r'^(?=(wte|wpe|h|ln_f)\.)', 'transformer.'),),
  buffers=(r'transformer\.h\.\d+\.attn\.(bias|masked_bias)',),
)


def _read_llama(hf: Tree) -> Tree:
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


def _write_llama(hf: Tree) -> Tree:
  """Returns the keys with rope's as transformers 5 has them; version 4 reads rope_theta."""
  rope = {'rope_type': hf.pop('rope_type'), 'rope_theta': hf['rope_theta']}
  return {**hf, 'rope_parameters': rope}


LLAMA = Family(
  model_type='llama',
  architecture='LlamaForCausalLM',
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
    'attention_bias': 'use_bias',
    'mlp_bias': 'use_bias',
    'tie_word_embeddings': 'tie_embeddings',
  },
  choices={'hidden_act': ACTIVATIONS},
  fixed={
    **PLAIN,
    **NO_EMBEDDING_PARTS,
    'architecture': 'decoder',
    'gated': True,
    'norm': 'rms',
    'norm_order': 'pre',
    'positions': 'rotary',
    'max_length': 0,
    'scale_attention': True,
    'scale_tied_logits': False,
    'initializer': 'scaled',
    'dropout': 0.0,
  },
  constants={'rope_type': 'default'},
  defaults={
    'rms_norm_eps': 1e-6,
    'attention_bias': False,
    'mlp_bias': False,
    'hidden_act': 'silu',
    'tie_word_embeddings': False,
  },
  # transformers wants that, though the heads' size is a key of its own.
  implied=lambda fields: {
    'd_model': fields['d_model'] // fields['num_heads'] * fields['num_heads']
  },
  entries=tables.llama,
  read=_read_llama,
  write=_write_llama,
  copies={'lm_head.weight': 'model.embed_tokens.weight'},
  buffers=(r'model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq',),
)

FAMILIES = {family.model_type: family for family in (T5, BERT, GPT2, LLAMA)}
# Fields that are no part of the function: the family's is for new models.
OF_TRAINING = ('initializer', 'dropout')


def of_model(model: config_lib.Model) -> Family:
  """Returns the family that comes nearest to a model; `to_huggingface` says if it is the one."""
  match model.architecture:
    case 'encoder_decoder':
      return T5
    case 'encoder':
      return BERT
    case 'decoder':
      return GPT2 if model.positions == 'learned' else LLAMA


def to_huggingface(model: config_lib.Model) -> Tree:
  """Returns what a config.json says of a model.

  Raises:
    ConfigError: transformers has no such model; it names the field.
  """
  family, fields = of_model(model), dataclasses.asdict(model)
  wanted = {k: v for k, v in family.fixed.items() if k not in OF_TRAINING} | family.implied(fields)
  for field, value in wanted.items():
    _check_field(family, fields, {field: value})
  hf = {'architectures': [family.architecture], 'model_type': family.model_type}
  hf |= {**family.constants, **{key: fields[field] for key, field in family.fields.items()}}
  for key, choices in family.choices.items():
    fits = [value for value, said in choices.items() if said.items() <= fields.items()]
    if not fits:
      _check_field(family, fields, *choices.values())
    hf[key] = fits[0]
  return family.write(hf)


def _check_field(family: Family, fields: Tree, *possible: Mapping[str, Any]) -> None:
  """Raises ConfigError unless the fields have one of the possible sets of values."""
  if any(one.items() <= fields.items() for one in possible):
    return

  def said(values: Mapping[str, Any]) -> str:
    return ' '.join(f'{name}={values[name]!r}' for name in possible[0])

  raise errors.ConfigError(
    'not a model of transformers',
    ' '.join(f'model.{name}={fields[name]!r}' for name in possible[0]),
    f'{family.architecture} has {", or ".join(map(said, possible))}: train one like that to export',
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
  check(kind in FAMILIES, f'model_type={kind!r}', f'import one of {", ".join(FAMILIES)}')
  family = FAMILIES[str(kind)]
  given = {key: value for key, value in hf.items() if value is not None}
  hf = {**family.defaults, **family.constants, **family.read(given)}
  for key, value in family.constants.items():
    check(hf[key] == value, f'{key}={hf[key]!r}', f'only {value!r} can be imported')
  fields = dict(family.fixed)
  for key, field in family.fields.items():
    check(hf.get(key) is not None, f'no {key}', 'give one that transformers wrote')
    same = field not in fields or fields[field] == hf[key] or field in family.fixed
    check(same, f'{key}={hf[key]!r}', f'it must be {fields.get(field)!r}, as the others like it')
    fields[field] = hf[key]
  for key, choices in family.choices.items():
    known = isinstance(hf[key], str | bool) and hf[key] in choices
    check(known, f'{key}={hf[key]!r}', f'use one of {", ".join(map(str, choices))}')
    fields |= choices[hf[key]]
  try:
    return family, strict.from_dict(config_lib.Model, {**fields, **family.implied(fields)})
  except (errors.ConfigError, TypeError, ZeroDivisionError) as error:
    what = error.args[1] if isinstance(error, errors.ConfigError) else error
    raise errors.CheckpointError(
      'not a model of t5lite', f'{where}: {what}', 'give one that transformers wrote'
    ) from error
