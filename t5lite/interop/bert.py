"""BERT and RoBERTa: two names of one function, but for positions and the id of padding.

RoBERTa counts positions from the one behind its padding's id, 1: its table has two rows before the
first token's, which no token has. They are left out here, and zeros in an export.
"""

import dataclasses

from t5lite import config as config_lib
from t5lite.interop import family
from t5lite.interop import tables

UNUSED = 2  # RoBERTa's rows before the first position
# Heads that the model does not have: it is imported without.
HEADS = (r'pooler\..*', r'classifier\..*', r'qa_outputs\..*', r'cls\..*', r'lm_head\..*')
# What their class says of a head for labels.
POOLED = {'pooler': True, 'spans': False}
TOKENS = {'pooler': False, 'spans': False}
SPANS = {'pooler': False, 'spans': True}


def body(prefix: str, before: int) -> list[tables.Entry]:
  """Returns the tensors of the encoder."""
  layer, layers, embeddings = f'{prefix}encoder.layer.{{}}', 'encoder.layers', f'{prefix}embeddings'
  position = ('encoder.position_embed.embedding',)
  return [
    tables.Entry(f'{embeddings}.word_embeddings.weight', ('token_embed.embedding',)),
    tables.Entry(f'{embeddings}.position_embeddings.weight', position, before=before),
    tables.Entry(f'{embeddings}.token_type_embeddings.weight', ('encoder.type_embed.embedding',)),
    *tables.norm(f'{embeddings}.LayerNorm', 'encoder.embed_norm'),
    *tables.biased(f'{layer}.attention.self.query', f'{layers}.attention.query'),
    *tables.biased(f'{layer}.attention.self.key', f'{layers}.attention.key'),
    *tables.biased(f'{layer}.attention.self.value', f'{layers}.attention.value'),
    *tables.biased(f'{layer}.attention.output.dense', f'{layers}.attention.output'),
    *tables.norm(f'{layer}.attention.output.LayerNorm', f'{layers}.attention_norm'),
    *tables.biased(f'{layer}.intermediate.dense', f'{layers}.mlp.input'),
    *tables.biased(f'{layer}.output.dense', f'{layers}.mlp.output'),
    *tables.norm(f'{layer}.output.LayerNorm', f'{layers}.mlp_norm'),
  ]


def head(model: config_lib.Model, pooler: str, output: str) -> list[tables.Entry]:
  """Returns the tensors of a head for labels, by the names of its two linear maps."""
  made = tables.biased(output, 'label_head.output')
  return [*tables.biased(pooler, 'label_head.pooler'), *made] if model.pooler else made


def bert_entries(model: config_lib.Model) -> list[tables.Entry]:
  """Returns the tensors of BertForMaskedLM, of a class with labels or, of BertModel."""
  if model.num_labels:
    pooler, output = 'bert.pooler.dense', 'qa_outputs' if model.spans else 'classifier'
    return [*body('bert.', 0), *head(model, pooler, output)]
  if not model.mlm_head:
    return body('', 0)
  return [
    *body('bert.', 0),
    *tables.biased('cls.predictions.transform.dense', 'mlm_head.dense'),
    *tables.norm('cls.predictions.transform.LayerNorm', 'mlm_head.norm'),
    tables.Entry('cls.predictions.bias', ('mlm_head.bias',)),
  ]


def roberta_entries(model: config_lib.Model) -> list[tables.Entry]:
  """Returns the tensors of RobertaForMaskedLM, of a class with labels, or of RobertaModel."""
  if model.num_labels:
    output = 'classifier.out_proj' if model.pooler else 'classifier'
    output = 'qa_outputs' if model.spans else output
    return [*body('roberta.', UNUSED), *head(model, 'classifier.dense', output)]
  if not model.mlm_head:
    return body('', UNUSED)
  return [
    *body('roberta.', UNUSED),
    *tables.biased('lm_head.dense', 'mlm_head.dense'),
    *tables.norm('lm_head.layer_norm', 'mlm_head.norm'),
    tables.Entry('lm_head.bias', ('mlm_head.bias',)),
  ]


BERT = family.Family(
  model_type='bert',
  architectures={
    'BertForMaskedLM': {'mlm_head': True},
    'BertForPreTraining': {'mlm_head': True},
    'BertModel': {'mlm_head': False},
  },
  heads={
    'BertForSequenceClassification': POOLED,
    'BertForTokenClassification': TOKENS,
    'BertForQuestionAnswering': SPANS,
  },
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
  choices={'hidden_act': family.ACTIVATIONS},
  fixed={
    **family.PLAIN,
    'architecture': 'encoder',
    'gated': False,
    'norm': 'layer',
    'norm_order': 'post',
    'use_bias': True,
    'positions': 'learned',
    'scale_attention': True,
    'tie_embeddings': True,
    'scale_tied_logits': False,
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
    **family.square_heads(fields),
    'num_token_types': max(fields['num_token_types'], 1),
  },
  entries=bert_entries,
  copies={
    'cls.predictions.decoder.weight': 'embeddings.word_embeddings.weight',
    'cls.predictions.decoder.bias': 'cls.predictions.bias',
  },
  spellings=(
    (r'^bert\.', ''),
    (r'LayerNorm\.gamma$', 'LayerNorm.weight'),
    (r'LayerNorm\.beta$', 'LayerNorm.bias'),
  ),
  buffers=(r'embeddings\.(position|token_type)_ids',),
  other_heads=HEADS,
  generates=False,
)


def _read_roberta(hf: family.Tree) -> family.Tree:
  """Returns the keys with the positions that a token can have."""
  rows = hf.get('max_position_embeddings')
  return {**hf, 'max_position_embeddings': rows - UNUSED} if isinstance(rows, int) else hf


ROBERTA = dataclasses.replace(
  BERT,
  model_type='roberta',
  architectures={'RobertaForMaskedLM': {'mlm_head': True}, 'RobertaModel': {'mlm_head': False}},
  heads={
    'RobertaForSequenceClassification': POOLED,
    'RobertaForTokenClassification': TOKENS,
    'RobertaForQuestionAnswering': SPANS,
  },
  # Its head has this activation, whatever the layers have.
  choices={'hidden_act': {'gelu': {'activation': 'gelu'}}},
  constants={**BERT.constants, 'pad_token_id': 1},
  entries=roberta_entries,
  read=_read_roberta,
  write=lambda hf: {**hf, 'max_position_embeddings': hf['max_position_embeddings'] + UNUSED},
  copies={
    'lm_head.decoder.weight': 'embeddings.word_embeddings.weight',
    'lm_head.decoder.bias': 'lm_head.bias',
  },
  spellings=((r'^roberta\.', ''),),
)
