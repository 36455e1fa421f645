"""The decoding loop: prompts in, tokens and their probabilities out, all rows at once.

Letters: B rows, P prompt, T new tokens, M encoder, V vocabulary.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5lite import config
from t5lite import errors
from t5lite import models
from t5lite import sharding
from t5lite.decoding import sampling
from t5lite.models import decode

STRIDE = 32  # lengths are rounded up to multiples of it, so that few are compiled


class Continuation(NamedTuple):
  """What a row went on with."""

  tokens: np.ndarray  # int32; the last is a stop token, if one came in time
  log_probabilities: np.ndarray  # float32, of each token under the model's own softmax


def run(
  model: config.Model,
  params: models.Params,
  prompts: Sequence[np.ndarray],
  *,
  inputs: Sequence[np.ndarray] | None = None,
  max_tokens: int,
  choice: sampling.Choice,
  stops: Sequence[int],
  key: jax.Array,
  prefix: bool = False,
) -> list[Continuation]:
  """Returns how each prompt goes on, until a stop token or for `max_tokens` tokens.

  Args:
    model: a decoder or an encoder_decoder.
    params: its parameters, on a bare device or sharded over the mesh that is set.
    prompts: decoder_input_tokens of each row, from the start token on.
    inputs: encoder_input_tokens of each row; only of an encoder_decoder.
    max_tokens: new tokens at most.
    choice: picks tokens.
    stops: tokens that end a row.
    key: randomness.
    prefix: the tokens of a prompt see each other both ways.

  Raises:
    ConfigError: prompts or inputs too long for the model's table of positions.
  """
  errors.check_at_least('decoding', {'max_tokens': max_tokens}, 1)
  check_length(model, max([max(map(len, prompts)) + max_tokens, *map(len, inputs or [])]))
  num_rows = len(prompts)
  rows = [*range(num_rows), *[0] * (-num_rows % sharding.batch_ways())]
  prompts_BxP = aligned([prompts[row] for row in rows], left=True)
  first_B = np.array([prompts_BxP.shape[1] - len(prompts[row]) for row in rows], np.int32)
  inputs_BxM = aligned([inputs[row] for row in rows], left=False) if inputs else None
  arrays = _run(
    dataclasses.replace(model, layers='scan'),  # compiles in half the time and is as fast here
    params,
    prompts_BxP,
    first_B,
    inputs_BxM,
    np.array(stops, np.int32),
    key,
    max_tokens=max_tokens,
    choice=choice,
    prefix=prefix,
  )
  tokens_BxT, log_probabilities_BxT, length_B = map(np.asarray, arrays)
  return [
    Continuation(tokens_BxT[b, :length], log_probabilities_BxT[b, :length])
    for b, length in enumerate(length_B[:num_rows])
  ]


def check_length(model: config.Model, length: int) -> None:
  """Raises ConfigError if so many tokens, new ones included, have no positions in the model."""
  if model.positions == 'learned' and length > model.max_length:
    raise errors.ConfigError(
      'text longer than the position table',
      f'{length} tokens, new ones included, with model.max_length={model.max_length}',
      'shorten the text or ask for fewer new tokens',
    )


def aligned(rows: Sequence[np.ndarray], *, left: bool) -> np.ndarray:
  """Returns rows of tokens as one int32 array, padded with 0 on the left or on the right."""
  length = -(-max(map(len, rows)) // STRIDE) * STRIDE
  pads = ((length - len(row), 0) if left else (0, length - len(row)) for row in rows)
  return np.array([np.pad(row, pad) for row, pad in zip(rows, pads, strict=True)], np.int32)


@functools.partial(jax.jit, static_argnames=('model', 'max_tokens', 'choice', 'prefix'))
def _run(
  model, params, prompts_BxP, first_B, inputs_BxM, stops, key, *, max_tokens, choice, prefix
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns new tokens [B, T], their log probabilities [B, T] and their number [B]."""
  num_rows, num_slots = len(prompts_BxP), prompts_BxP.shape[1] + max_tokens
  cache = decode.start(model, params, first_B, num_slots, inputs_BxM)
  logits_BV, cache = decode.extend(model, params, cache, prompts_BxP, prefix=prefix)

  def goes_on(state):
    step, _, _, _, _, _, done_B = state
    return (step < max_tokens) & ~jnp.all(done_B)

  def body(state):
    step, logits_BV, cache, tokens_BxT, log_probabilities_BxT, length_B, done_B = state
    token_B1 = choice.choose(logits_BV, step, key).astype(jnp.int32)[:, None]
    log_share_B1 = jnp.take_along_axis(jax.nn.log_softmax(logits_BV), token_B1, axis=-1)
    logits_BV, cache = decode.extend(model, params, cache, token_B1)
    put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=step, axis=1)
    return (
      step + 1,
      logits_BV,
      cache,
      put(tokens_BxT, token_B1),
      put(log_probabilities_BxT, log_share_B1),
      length_B + ~done_B,
      done_B | jnp.isin(token_B1[:, 0], stops),
    )

  empty = jnp.zeros((num_rows, max_tokens), jnp.int32)
  length_B, done_B = jnp.zeros(num_rows, jnp.int32), jnp.zeros(num_rows, bool)
  state = (jnp.int32(0), logits_BV, cache, empty, empty.astype(jnp.float32), length_B, done_B)
  return jax.lax.while_loop(goes_on, body, state)[3:6]
