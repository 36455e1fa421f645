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
  # An encoder without a head is one without the pooler that transformers would make up.
  options = {'add_pooling_layer': False} if name in ('BertModel', 'RobertaModel') else {}
  model, found = kind.from_pretrained(folder, output_loading_info=True, **options)
  assert not any(found.values()), found
  return model.eval()


def batch_of(model: Model, pad: int = 0) -> dict[str, np.ndarray]:
  """Returns a batch of random examples with padding, of which a decoder sees only the past.

  Where padding is not 0, that is a token, and every text begins with it.
  """
  examples = [
    [families.example(model, *length, seed=i) for length in row] for i, row in enumerate(ROWS)
  ]
  batch = families.batch_of(examples, LENGTHS, packed=False)
  batch.pop('decoder_causal_attention', None)
  if pad:
    tokens = batch['encoder_input_tokens']
    batch['encoder_segment_ids'] = (tokens != 0).astype(np.int32)
    tokens[tokens == pad] = pad + 1
    tokens[:, 0] = 0
  if model.num_token_types == 1:
    batch['encoder_token_types'][:] = 0
  return batch


def inputs_of(torch_model, batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
  """Returns the inputs of a torch model for our batch."""
  names, pad = {}, torch_model.config.pad_token_id
  if 'encoder_input_tokens' in batch:
    is_text = batch.get('encoder_segment_ids', batch['encoder_input_tokens']) != 0
    names['input_ids'] = np.where(is_text, batch['encoder_input_tokens'], pad)
    names['attention_mask'] = is_text
    if 'decoder_input_tokens' in batch:
      names['decoder_input_ids'] = batch['decoder_input_tokens']
    if 'type_vocab_size' in torch_model.config.to_dict():
      names['token_type_ids'] = batch['encoder_token_types']
  else:
    names['input_ids'] = batch['decoder_input_tokens']
    names['attention_mask'] = batch['decoder_input_tokens'] != 0
  return {name: torch.tensor(x, dtype=torch.long) for name, x in names.items()}


def logits_of(torch_model, batch: dict[str, np.ndarray]) -> np.ndarray:
  """Returns a torch model's logits [B, T, V] or, of one without a head, its hidden states.

  One that gives a text one label has logits of the first token only, [B, 1, V].
  """
  with torch.no_grad():
    output = torch_model(**inputs_of(torch_model, batch))
  if 'start_logits' in output:
    return torch.stack([output.start_logits, output.end_logits], -1).numpy()
  if type(torch_model).__name__.endswith('ForSequenceClassification'):
    return output.logits[:, None].numpy()
  return (output.logits if 'logits' in output else output.last_hidden_state).numpy()


def text_of(batch: dict[str, np.ndarray]) -> np.ndarray:
  """Returns where the predicting stack has text, bool [B, T]."""
  if 'encoder_segment_ids' in batch:
    return batch['encoder_segment_ids'] != 0
  tokens = batch.get('decoder_input_tokens', batch.get('encoder_input_tokens'))
  return tokens != 0
