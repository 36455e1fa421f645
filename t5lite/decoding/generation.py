"""Text out of a decoder or an encoder_decoder."""

from collections.abc import Sequence

import jax
import numpy as np

from t5lite import config as config_lib
from t5lite import errors
from t5lite import models
from t5lite import sharding
from t5lite.decoding import loop
from t5lite.decoding import prompts as prompts_lib
from t5lite.decoding import sampling

START = 0  # what the decoder's input begins with behind an encoder


def write(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: prompts_lib.Tokenizer,
  texts: Sequence[str],
  *,
  max_tokens: int,
  sampler: sampling.Sampler,
  key: jax.Array,
) -> list[str]:
  """Returns what the model writes behind each text, or as the target of an encoder_decoder.

  Arguments and errors as `generate`; marks such as <extra_id_0> in a text are read as the tokens.
  """
  vocabulary = tokenizer.vocabulary
  prompts = [
    prompts_lib.of_text(config, vocabulary, tokenizer.encode_marked(text), mode='[S]')
    for text in texts
  ]
  outputs = generate(
    config.model,
    params,
    prompts,
    max_tokens=max_tokens,
    sampler=sampler,
    key=key,
    eos=vocabulary.eos,
    prefix=config.objective.name != 'causal_lm',
  )
  return [tokenizer.decode(tokens) for tokens in outputs]


def generate(
  model: config_lib.Model,
  params: models.Params,
  prompts: Sequence[np.ndarray],
  *,
  max_tokens: int,
  sampler: sampling.Sampler,
  key: jax.Array,
  eos: int,
  prefix: bool = False,
) -> list[np.ndarray]:
  """Returns the new tokens of each prompt, int32, up to `eos` or `max_tokens` of them; without eos.

  What a prompt gives does not depend on its neighbours; sampled, it depends on the number of its
  row.

  Args:
    model: a decoder or an encoder_decoder.
    params: its parameters, on a bare device or sharded over the mesh that is set.
    prompts: what the decoder's input begins with, or the encoder's whole input.
    max_tokens: new tokens at most.
    sampler: picks tokens.
    key: randomness of the sampler.
    eos: the token that ends a text.
    prefix: a decoder's prompt sees itself both ways, as it does in prefix language models.

  Raises:
    ConfigError: the model is an encoder, or its table of positions is too short.
    DataError: an empty prompt.
  """
  if model.architecture == 'encoder':
    what, remedy = 'an encoder does not generate', 'use fill, with [MASK] in the text'
    raise errors.ConfigError(what, f'model.architecture={model.architecture!r}', remedy)
  if not prompts:
    return []
  for number, prompt in enumerate(prompts):
    if not len(prompt):
      raise errors.DataError('empty prompt', f'prompt {number}', 'give it at least one token')
  behind_encoder = model.architecture == 'encoder_decoder'
  with sharding.whole_rows(params) as params:
    outputs = loop.run(
      model,
      params,
      [np.array([START])] * len(prompts) if behind_encoder else prompts,
      inputs=prompts if behind_encoder else None,
      max_tokens=max_tokens,
      choice=sampler,
      stops=[eos],
      key=key,
      prefix=prefix,
    )
  return [tokens[:-1] if eos in tokens[-1:] else tokens for tokens, _ in outputs]
