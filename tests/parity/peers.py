"""Hugging Face's models beside ours: loaded from an export, and fed the same batches."""

import pathlib

import numpy as np
import torch
import transformers

import families
from t5lite.config import Model

transformers.utils.logging.disable_progress_bar()
LENGTHS = {'encoder': 9, 'decoder': 8}
ROWS = [[(4, 5)], [(9, 8)], [(7, 3)]]  # (inputs, targets): padding in most rows, none in one


def load(folder: pathlib.Path):
  """Returns the torch model of an export, of which no tensor was missing or left over."""
  (name,) = transformers.AutoConfig.from_pretrained(folder).architectures
  kind = getattr(transformers, name)
  model, found = kind.from_pretrained(folder, output_loading_info=True)
  assert not any(found.values()), found
  return model.eval()


def batch_of(model: Model) -> dict[str, np.ndarray]:
  """Returns a batch of random examples with padding, of which a decoder sees only the past."""
  examples = [
    [families.example(model, *length, seed=i) for length in row] for i, row in enumerate(ROWS)
  ]
  batch = families.batch_of(examples, LENGTHS, packed=False)
  batch.pop('decoder_causal_attention', None)
  return batch


def inputs_of(batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
  """Returns the inputs of a torch model for our batch."""
  names = {}
  if 'encoder_input_tokens' in batch:
    names['input_ids'] = batch['encoder_input_tokens']
    names['attention_mask'] = batch['encoder_input_tokens'] != 0
    if 'decoder_input_tokens' in batch:
      names['decoder_input_ids'] = batch['decoder_input_tokens']
    if 'encoder_token_types' in batch:
      names['token_type_ids'] = batch['encoder_token_types']
  else:
    names['input_ids'] = batch['decoder_input_tokens']
    names['attention_mask'] = batch['decoder_input_tokens'] != 0
  return {name: torch.tensor(x, dtype=torch.long) for name, x in names.items()}


def logits_of(torch_model, batch: dict[str, np.ndarray]) -> np.ndarray:
  """Returns a torch model's logits [B, T, V]."""
  with torch.no_grad():
    return torch_model(**inputs_of(batch)).logits.numpy()


def text_of(batch: dict[str, np.ndarray]) -> np.ndarray:
  """Returns where the predicting stack has text, bool [B, T]."""
  tokens = batch.get('decoder_input_tokens', batch.get('encoder_input_tokens'))
  return tokens != 0
