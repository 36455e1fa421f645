"""The decoding loop: prompts in, tokens and their probabilities out, all rows at once.

`start` reads the prompts, `advance` writes up to a step, all of it on the device; who wants to look
at the text meanwhile advances in several goes.

Letters: B rows, P prompt, T new tokens, M encoder, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5lite import config
from t5lite import errors
from t5lite import models
from t5lite.decoding import batches
from t5lite.decoding import sampling
from t5lite.models import decode


class Continuation(NamedTuple):
  """What a row went on with."""

  tokens: np.ndarray  # int32; the last is a stop token, if one came in time
  log_probabilities: np.ndarray  # float32, of each token under the model's own softmax


class State(NamedTuple):
  """Rows in the middle of a text."""

  step: jax.Array  # number of new tokens
  logits_BV: jax.Array  # of the next one
  cache: decode.DecodeCache | None  # None only in passing
  prompts_BxP: jax.Array  # with V for padding
  keys_B: jax.Array
  tokens_BxT: jax.Array
  log_probabilities_BxT: jax.Array
  length_B: jax.Array
  done_B: jax.Array


Ended = Callable[[np.ndarray], bool]  # whether a row's tokens so far end its text


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
  longest = max(map(len, prompts)) + max_tokens
  batches.check_length(model, max([longest, *map(len, inputs or [])]))
  batch, params = batches.make(prompts, inputs), decode.apart(model, params)
  state = start(model, params, batch, max_tokens=max_tokens, key=key, prefix=prefix)
  *_, state = progress(model, params, state, choice=choice, stops=stops)
  return continuations(state, batch.num_prompts)


def start(
  model: config.Model,
  params: models.Params,
  batch: batches.Batch,
  *,
  max_tokens: int,
  key: jax.Array,
  prefix: bool = False,
  copies: int = 1,
) -> State:
  """Returns the state after the prompts, with `copies` rows for each, one behind another."""
  return _start(
    model,
    params,
    batch.prompts_BxP,
    batch.first_B,
    batch.inputs_BxM,
    batch.number_B,
    batch.num_prompts,
    key,
    max_tokens=max_tokens,
    prefix=prefix,
    copies=copies,
  )


@functools.partial(jax.jit, static_argnames=('model', 'max_tokens', 'prefix', 'copies'))
def _start(
  model,
  params,
  prompts_BxP,
  first_B,
  inputs_BxM,
  number_B,
  num_prompts,
  key,
  *,
  max_tokens,
  prefix,
  copies,
) -> State:
  num_slots = prompts_BxP.shape[1] + max_tokens
  cache = decode.start(model, params, first_B, num_slots, inputs_BxM)
  logits_BV, cache = decode.extend(model, params, cache, prompts_BxP, prefix=prefix)
  is_text_BxP = jnp.arange(prompts_BxP.shape[1])[None] >= first_B[:, None]
  prompts_BxP = jnp.where(is_text_BxP, prompts_BxP, model.vocab_size)
  is_extra_B = jnp.arange(len(prompts_BxP)) >= num_prompts
  logits_BV, prompts_BxP, is_extra_B = (
    jnp.repeat(x, copies, axis=0) for x in (logits_BV, prompts_BxP, is_extra_B)
  )
  empty = jnp.zeros((len(prompts_BxP), max_tokens), jnp.int32)
  return State(
    step=jnp.int32(0),
    logits_BV=logits_BV,
    cache=decode.spread(cache, copies),
    prompts_BxP=prompts_BxP,
    keys_B=sampling.row_keys(key, number_B, copies),
    tokens_BxT=empty,
    log_probabilities_BxT=empty.astype(jnp.float32),
    length_B=jnp.zeros(len(empty), jnp.int32),
    done_B=is_extra_B,
  )


def progress(
  model: config.Model,
  params: models.Params,
  state: State,
  *,
  choice: sampling.Choice,
  stops: Sequence[int],
  ended: Ended | None = None,
  stride: int = 0,
) -> Iterator[State]:
  """Yields the state after each `stride` tokens (0: after all), until all rows are done.

  A state is gone once the next one is asked for.

  Args:
    model: as of `start`, with the others.
    params: parameters.
    state: of `start`.
    choice: picks tokens.
    stops: tokens that end a row.
    ended: says of a row's tokens whether they end it, too; asked after each `stride`.
    stride: tokens.
  """
  max_tokens, step, done = state.tokens_BxT.shape[1], 0, False
  while step < max_tokens and not done:
    step = min(step + stride, max_tokens) if stride else max_tokens
    state = _advance(model, params, state, np.int32(step), np.array(stops, np.int32), choice=choice)
    if ended is not None:
      tokens, lengths, done_B = map(np.array, (state.tokens_BxT, state.length_B, state.done_B))
      for b in np.flatnonzero(~done_B):
        done_B[b] = ended(tokens[b, : lengths[b]])
      state = state._replace(done_B=jax.device_put(done_B, state.done_B.sharding))
    done = bool(np.all(state.done_B))
    yield state


@functools.partial(jax.jit, static_argnames=('model', 'choice'), donate_argnames='state')
def _advance(model, params, state: State, until, stops, *, choice: sampling.Choice) -> State:
  """Returns the state at step `until`, or when all rows are done."""

  def goes_on(state: State):
    return (state.step < until) & ~jnp.all(state.done_B)

  def body(state: State) -> State:
    step, logits_BV = state.step, state.logits_BV
    scores_BV = choice.process(logits_BV, state.prompts_BxP, state.tokens_BxT, step, stops)
    token_B1 = choice.choose(scores_BV, step, state.keys_B).astype(jnp.int32)[:, None]
    log_share_B1 = jnp.take_along_axis(jax.nn.log_softmax(logits_BV), token_B1, axis=-1)
    assert state.cache is not None
    logits_BV, cache = decode.extend(model, params, state.cache, token_B1)
    put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=step, axis=1)
    return state._replace(
      step=step + 1,
      logits_BV=logits_BV,
      cache=cache,
      tokens_BxT=put(state.tokens_BxT, token_B1),
      log_probabilities_BxT=put(state.log_probabilities_BxT, log_share_B1),
      length_B=state.length_B + ~state.done_B,
      done_B=state.done_B | jnp.isin(token_B1[:, 0], stops),
    )

  return jax.lax.while_loop(goes_on, body, state)


def continuations(state: State, num_rows: int) -> list[Continuation]:
  """Returns what the first rows wrote."""
  arrays = (state.tokens_BxT, state.log_probabilities_BxT, state.length_B)
  tokens_BxT, log_probabilities_BxT, length_B = map(np.array, arrays)
  return [
    Continuation(tokens_BxT[b, :length], log_probabilities_BxT[b, :length])
    for b, length in enumerate(length_B[:num_rows])
  ]
