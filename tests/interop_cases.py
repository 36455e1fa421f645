"""Small models of the families that transformers has, with workdirs of random parameters."""

from collections.abc import Sequence
import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import families
from t5lite import checkpoint
from t5lite import config as config_lib
from t5lite import models
from t5lite import stored
from t5lite.config import Model
from t5lite.data import tokenizer
from t5lite.interop import importing

# transformers wants heads that share the width of BERT, GPT-2 and Llama among them.
LLAMA = families.odd(families.DECODER, **families.HEADS, d_model=18, max_length=700)
MODERNBERT = families.odd(
  families.ENCODER,
  **dict(num_heads=3, num_kv_heads=3, head_dim=6, d_model=18, num_layers=4),
  **dict(norm='layer', embedding_norm=True, local_window=3, global_every=3),
  **dict(rotary_base=160_000.0, local_rotary_base=500.0, max_length=700),
)
LABELS = dict(d_model=15, mlm_head=False)
# Of the tasks that ship, those that these heads do.
TASKS = {'pooled': 'glue_mnli', 'tokens': 'conll2003', 'spans': 'squad'}
BERT_HEADS = {
  'bert_pooled': families.odd(families.BERT, **LABELS, num_labels=3, pooler=True),
  'bert_tokens': families.odd(families.BERT, **LABELS, num_labels=9),
  'bert_spans': families.odd(families.BERT, **LABELS, num_labels=2, spans=True),
}
MODERNBERT_HEADS = {
  'modernbert_pooled': dataclasses.replace(MODERNBERT, num_labels=3, pooler=True),
  'modernbert_tokens': dataclasses.replace(MODERNBERT, num_labels=9),
  'modernbert_spans': dataclasses.replace(MODERNBERT, num_labels=2, spans=True),
}
HEADS = {
  **BERT_HEADS,
  **{
    name.replace('bert', 'roberta'): dataclasses.replace(model, num_token_types=1)
    for name, model in BERT_HEADS.items()
  },
}
PADS = dict.fromkeys(['roberta', *(HEADS.keys() - BERT_HEADS.keys())], 1)  # of the others 0
HEADS |= MODERNBERT_HEADS
MODELS = {
  't5_1_0': families.MODELS['t5_1_0'],
  't5_1_1': families.MODELS['t5_1_1'],
  'bert': families.odd(families.BERT, d_model=15),
  'gpt2': families.odd(families.GPT2, d_model=15),
  'umt5': dataclasses.replace(families.MODELS['t5_1_1'], relative_per_layer=True),
  'roberta': families.odd(families.BERT, d_model=15, num_token_types=1, norm_epsilon=1e-5),
  'bert_encoder': families.odd(families.BERT, d_model=15, mlm_head=False),
  'modernbert': MODERNBERT,
  'modernbert_encoder': dataclasses.replace(
    MODERNBERT, mlm_head=False, global_every=2, local_window=2, activation='silu'
  ),
  'modernbert_global': dataclasses.replace(MODERNBERT, local_window=0, global_every=1),
  'llama': LLAMA,
  'llama_tied_biased': dataclasses.replace(
    LLAMA, tie_embeddings=True, use_bias=True, rotary_base=500.0, activation='gelu_tanh'
  ),
  **HEADS,
}


def task_of(name: str) -> list[str]:
  """Returns the override that names the task of a head, if the model has one."""
  return [f'data.source=task:{TASKS[name.partition("_")[2]]}'] if name in HEADS else []


def float32(model: Model, seed: int = 0):
  """Returns random float32 parameters, none at its initial value."""
  params = jax.tree.map(np.float32, families.random_params(model, seed))
  if model.embedding_norm and model.norm_order == 'pre':  # the one that is no part of the function
    params['encoder']['layers']['attention_norm']['scale'][0] = 1
  return params


def write_workdir(
  workdir: pathlib.Path,
  model: Model,
  params,
  *,
  with_tokenizer=False,
  pad: int = 0,
  overrides: Sequence[str] = (),
) -> None:
  """Makes a workdir with a checkpoint of step 3; without a tokenizer where the model is small."""
  config = importing.run_config(
    model, 'corpus' if with_tokenizer else '', '', ['data.batch_size=8', *overrides]
  )
  token_ids = {'bos_token_id': 1, 'eos_token_id': 1, 'pad_token_id': pad}
  if model.architecture == 'encoder':
    token_ids |= {'cls_token_id': 3, 'sep_token_id': 4}
  manifest = {
    'step': 3,
    'config': config_lib.to_dict(config),
    'tokenizer': tokenizer.load('corpus').digest if with_tokenizer else '',
    'token_ids': token_ids,
  }
  with checkpoint.Checkpointer(workdir, config.checkpoint) as checkpointer:
    state = {'params': params, 'step': np.int32(3)}
    checkpointer.save(3, jax.tree.map(jnp.asarray, state), manifest)
  config_lib.save(config, workdir / 'config.json')


def read_params(workdir: pathlib.Path, model: Model):
  """Returns the newest parameters of a workdir."""
  shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
  one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), shapes)
  return stored.restore_params(workdir, abstract)[0]
