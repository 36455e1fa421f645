"""Text out of a decoder or an encoder_decoder."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from t5lite import config as config_lib
from t5lite import errors
from t5lite import models
from t5lite import sharding
from t5lite.decoding import batches
from t5lite.decoding import beam
from t5lite.decoding import loop
from t5lite.decoding import prompts as prompts_lib
from t5lite.decoding import sampling
from t5lite.decoding import texts as texts_lib
from t5lite.models import decode

START = 0  # what the decoder's input begins with behind an encoder
BATCH = 32  # rows that are decoded together
LOOK = 16  # tokens after which stop strings are looked for
SHOW = 4  # tokens after which a text is shown

Method = sampling.Sampler | beam.Beam


def write(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: prompts_lib.Tokenizer,
  texts: Sequence[str],
  *,
  max_tokens: int,
  sampler: Method,
  key: jax.Array,
  num_samples: int = 1,
  stops: Sequence[str] = (),
  batch_size: int = BATCH,
) -> list[str]:
  """Returns what the model writes behind each text, or as the target of an encoder_decoder.

  Arguments and errors as `generate`; marks such as <extra_id_0> in a text are read as the tokens.
  What is written ends before the first of the strings `stops`; beams are cut there in the end.
  """
  is_over = lambda tokens: any(stop in tokenizer.decode(tokens) for stop in stops)
  outputs = generate(
    config.model,
    params,
    prompts_lib.of_texts(config, tokenizer, texts),
    max_tokens=max_tokens,
    sampler=sampler,
    key=key,
    eos=tokenizer.vocabulary.eos,
    prefix=config.objective.sees_both_ways,
    num_samples=num_samples,
    batch_size=batch_size,
    ended=is_over if stops else None,
  )
  return [texts_lib.cut(tokenizer.decode(tokens), stops) for tokens in outputs]


def stream(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: prompts_lib.Tokenizer,
  text: str,
  *,
  max_tokens: int,
  sampler: sampling.Sampler,
  key: jax.Array,
  stops: Sequence[str] = (),
) -> Iterator[str]:
  """Yields the text that `write` returns for one text, in pieces, as it is written."""
  (prompt,) = prompts_lib.of_texts(config, tokenizer, [text])
  eos = tokenizer.vocabulary.eos
  check(config.model, [prompt], max_tokens)
  check_sampler(sampler, max_tokens)
  (batch,) = _batches(config.model, [prompt], 1)

  def growing() -> Iterator[str]:
    arrays = decode.apart(config.model, params), key
    with sharding.whole_rows(arrays) as (whole, key_there):
      state = loop.start(
        config.model,
        whole,
        batch,
        max_tokens=max_tokens,
        key=key_there,
        prefix=config.objective.sees_both_ways,
      )
      states = loop.progress(config.model, whole, state, choice=sampler, stops=[eos], stride=SHOW)
      for now in states:
        text = tokenizer.decode(_without(eos, loop.continuations(now, 1)[0].tokens))
        yield text
        if texts_lib.cut(text, stops) != text:
          return

  return texts_lib.pieces(growing(), stops)


class Output(NamedTuple):
  """What was written for a prompt."""

  tokens: np.ndarray  # int32, without the end of text
  score: float  # log probability, the end's included; of beams, over length ** length_penalty


def generate(
  model: config_lib.Model,
  params: models.Params,
  prompts: Sequence[np.ndarray],
  *,
  max_tokens: int,
  sampler: Method,
  key: jax.Array,
  eos: int,
  prefix: bool = False,
  num_samples: int = 1,
  batch_size: int = BATCH,
  ended: loop.Ended | None = None,
) -> list[np.ndarray]:
  """Returns the tokens of `scored`, whose arguments and errors it has."""
  outputs = scored(
    model,
    params,
    prompts,
    max_tokens=max_tokens,
    sampler=sampler,
    key=key,
    eos=eos,
    prefix=prefix,
    num_samples=num_samples,
    batch_size=batch_size,
    ended=ended,
  )
  return [output.tokens for output in outputs]


def scored(
  model: config_lib.Model,
  params: models.Params,
  prompts: Sequence[np.ndarray],
  *,
  max_tokens: int,
  sampler: Method,
  key: jax.Array,
  eos: int,
  prefix: bool = False,
  num_samples: int = 1,
  batch_size: int = BATCH,
  ended: loop.Ended | None = None,
) -> list[Output]:
  """Returns the new tokens of each prompt, up to `eos` or `max_tokens` of them, and their score.

  With `num_samples`, so many for each prompt, one behind another; of beams the best ones. What a
  prompt gives does not depend on its neighbours, but for rounding; sampled, it depends on the
  number of the prompt and of the sample.

  Args:
    model: a decoder or an encoder_decoder.
    params: its parameters, on a bare device or sharded over the mesh that is set; who calls often
      gives what `apart` returns, which is made anew in each call otherwise.
    prompts: what the decoder's input begins with, or the encoder's whole input.
    max_tokens: new tokens at most.
    sampler: picks tokens, or searches with beams.
    key: randomness of the sampler.
    eos: the token that ends a text.
    prefix: a decoder's prompt sees itself both ways, as it does in prefix language models.
    num_samples: texts of each prompt.
    batch_size: rows that are decoded together at most, but at least those of one prompt, and as
      many as the mesh divides over.
    ended: says of a text's tokens whether it ends, too; asked now and then. Not of beams.

  Raises:
    ConfigError: the model is an encoder, or its table of positions is too short; more texts of a
      prompt than the sampler has.
    DataError: an empty prompt.
  """
  check(model, prompts, max_tokens)
  check_sampler(sampler, max_tokens, num_samples)
  errors.check_at_least('decoding', {'batch_size': batch_size}, 1)
  copies = sampler.num_beams if isinstance(sampler, beam.Beam) else num_samples
  found: dict[int, list[Output]] = {}
  params = decode.apart(model, params)
  with sharding.whole_rows((params, key)) as (params, key):
    for batch in _batches(model, prompts, max(batch_size // copies, 1)):
      state = loop.start(
        model, params, batch, max_tokens=max_tokens, key=key, prefix=prefix, copies=copies
      )
      if isinstance(sampler, beam.Beam):
        rows = [
          [Output(_without(eos, text.tokens), text.score) for text in row]
          for row in beam.search(model, params, state, beam=sampler, stops=[eos])
        ]
      else:
        *_, state = loop.progress(
          model, params, state, choice=sampler, stops=[eos], ended=ended, stride=LOOK * bool(ended)
        )
        texts = [
          Output(_without(eos, tokens), float(shares.sum()))
          for tokens, shares in loop.continuations(state, batch.num_prompts * copies)
        ]
        rows = [texts[first : first + copies] for first in range(0, len(texts), copies)]
      for i, number in enumerate(batch.number_B[: batch.num_prompts]):
        found[int(number)] = rows[i][:num_samples]
  return [output for number in range(len(prompts)) for output in found[number]]


def check(model: config_lib.Model, prompts: Sequence[np.ndarray], max_tokens: int) -> None:
  """Raises ConfigError or DataError for a model that does not generate, or not from these."""
  if model.architecture == 'encoder':
    what, remedy = 'an encoder does not generate', 'use fill, with [MASK] in the text'
    raise errors.ConfigError(what, f'model.architecture={model.architecture!r}', remedy)
  errors.check_at_least('decoding', {'max_tokens': max_tokens}, 1)
  for number, prompt in enumerate(prompts):
    if not len(prompt):
      raise errors.DataError('empty prompt', f'prompt {number}', 'give it at least one token')
    both = model.architecture == 'encoder_decoder'
    length = max(len(prompt), 1 + max_tokens) if both else len(prompt) + max_tokens
    batches.check_length(model, length, f'prompt {number}: ')


def check_texts(
  config: config_lib.Config, tokenizer: prompts_lib.Tokenizer, texts: Sequence[str], max_tokens: int
) -> int:
  """Returns the number of tokens, new ones of a decoder included, of the longest of texts.

  Raises:
    ConfigError, DataError: as `scored`; this needs no parameters.
  """
  check(config.model, [], max_tokens)  # before the tokenizer looks for what an objective needs
  prompts = prompts_lib.of_texts(config, tokenizer, texts)
  check(config.model, prompts, max_tokens)
  new = max_tokens if config.model.architecture == 'decoder' else 0
  return max(map(len, prompts)) + new


def check_sampler(sampler: Method, max_tokens: int, num_samples: int = 1) -> None:
  """Raises ConfigError unless the sampler has so many texts of a prompt that fit."""
  errors.check(
    sampler.min_tokens <= max_tokens,
    'a minimum length above the maximum',
    f'min_tokens={sampler.min_tokens}, room for {max_tokens}',
    'ask for fewer tokens, or make room for more',
  )
  where = f'num_samples={num_samples}'
  errors.check_at_least('decoding', {'num_samples': num_samples}, 1)
  if isinstance(sampler, beam.Beam):
    what, remedy = 'more texts than beams', 'use as many beams at least'
    where += f' num_beams={sampler.num_beams}'
    errors.check(num_samples <= sampler.num_beams, what, where, remedy)
    return
  remedy = 'sample, or search with beams'
  errors.check(num_samples == 1 or sampler.temperature > 0, 'greedy has one text', where, remedy)


def _batches(model, prompts: Sequence[np.ndarray], batch_size: int) -> list[batches.Batch]:
  """Returns the prompts as batches of what the decoder begins with and what the encoder reads."""
  if not prompts:
    return []
  if model.architecture == 'decoder':
    return batches.cut(prompts, None, batch_size)
  return batches.cut([np.array([START])] * len(prompts), prompts, batch_size)


def _without(eos: int, tokens: np.ndarray) -> np.ndarray:
  """Returns a text's tokens without its end."""
  return tokens[:-1] if eos in tokens[-1:] else tokens
