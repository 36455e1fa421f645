"""Beam search: the likeliest texts that a bounded search finds.

It gives what transformers' `generate(num_beams=..., length_penalty=..., early_stopping=...)` gives.
Of each row, W beams are written on at a time. A text that ends, or is as long as allowed, is scored
by the sum of its log probabilities over length ** length_penalty, and the W best are kept.

Letters: B rows, W beams of a row, R = B * W, C = 2 * W candidates, T new tokens, V vocabulary.
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
from t5lite.decoding import loop
from t5lite.decoding import sampling
from t5lite.models import decode


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beam(sampling.LogitsProcessor):
  """How beams are searched; it processes log probabilities."""

  num_beams: int = 4
  length_penalty: float = 1.0  # above 0 favours long texts, below 0 short ones
  early_stopping: bool = False
  # True: a row ends when it has num_beams texts; False: when no beam, at its length now, could beat
  # the worst of them

  def __post_init__(self):
    super().__post_init__()
    errors.check_at_least('beam', {'num_beams': self.num_beams}, 1)


class Texts(NamedTuple):
  """Texts of each row with their scores, the best first; -inf: there is none."""

  score_BW: jax.Array
  tokens_BWT: jax.Array
  length_BW: jax.Array


class State(NamedTuple):
  """Beams in the middle of their texts."""

  step: jax.Array
  logits_RV: jax.Array
  cache: decode.DecodeCache
  live: Texts  # what is written on; scores are sums of log probabilities
  ended: Texts
  open_B: jax.Array  # whether better texts may come


class Found(NamedTuple):
  """A text of a row."""

  tokens: np.ndarray  # int32; the last is a stop token, if one came in time
  score: float


def search(
  model: config.Model, params: models.Params, start: loop.State, *, beam: Beam, stops: Sequence[int]
) -> list[list[Found]]:
  """Returns the texts of each row, the best first, at most `num_beams`.

  Args:
    model: as of `loop.start`.
    params: parameters.
    start: of `loop.start`, with `num_beams` copies.
    beam: how to search.
    stops: tokens that end a text; one, for the candidates to be those of transformers.
  """
  ended, _ = _search(
    model, params, start.cache, start._replace(cache=None), np.array(stops, np.int32), beam=beam
  )
  score_BW, tokens_BWT, length_BW = map(np.array, ended)
  return [
    [
      Found(tokens_BWT[b, w, : length_BW[b, w]], float(score_BW[b, w]))
      for w in range(beam.num_beams)
      if np.isfinite(score_BW[b, w])
    ]
    for b in range(len(score_BW))
  ]


@functools.partial(jax.jit, static_argnames=('model', 'beam'), donate_argnames='cache')
def _search(
  model, params, cache: decode.DecodeCache, start: loop.State, stops, *, beam: Beam
) -> tuple[Texts, decode.DecodeCache]:
  """Returns the texts; and the cache, so that it stays where it was given."""
  width, (num_rows, max_tokens) = beam.num_beams, start.tokens_BxT.shape
  shape = (num_rows // width, width)
  prompt_length = start.prompts_BxP.shape[1]
  only_first_BW = jnp.where(jnp.arange(width)[None] == 0, jnp.zeros(shape), -jnp.inf)
  no_tokens_BWT = jnp.zeros((*shape, max_tokens), jnp.int32)
  no_length_BW = jnp.zeros(shape, jnp.int32)
  live = Texts(only_first_BW, no_tokens_BWT, no_length_BW)
  ended = live._replace(score_BW=jnp.full(shape, -jnp.inf))
  open_B = ~start.done_B[::width]

  def goes_on(state: State):
    return (state.step < max_tokens) & jnp.any(state.open_B)

  def body(state: State) -> State:
    tokens_RxT = state.live.tokens_BWT.reshape(num_rows, max_tokens)
    score_RV = jax.nn.log_softmax(state.logits_RV)
    score_RV = beam.process(score_RV, start.prompts_BxP, tokens_RxT, state.step, stops)
    source_BC, candidates = _candidates(score_RV, state)
    step = state.step + 1
    token_BC = candidates.tokens_BWT[:, :, state.step]
    ends_BC = jnp.isin(token_BC, stops) | (step == max_tokens)
    is_kept_BC = ends_BC & (jnp.arange(2 * width) < width)[None] & state.open_B[:, None]
    penalty = step.astype(jnp.float32) ** beam.length_penalty
    done = candidates._replace(
      score_BW=jnp.where(is_kept_BC, candidates.score_BW / penalty, -jnp.inf)
    )
    ended = _best(jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), state.ended, done), width)[1]
    running = candidates._replace(score_BW=jnp.where(ends_BC, -jnp.inf, candidates.score_BW))
    order_BW, live = _best(running, width)
    source_BW = jnp.take_along_axis(source_BC, order_BW, axis=1)
    next_R1 = jnp.take_along_axis(token_BC, order_BW, axis=1).reshape(num_rows, 1)
    cache = decode.reorder(state.cache, source_BW, prompt_length)
    logits_RV, cache = decode.extend(model, params, cache, next_R1)
    worst_B = ended.score_BW.min(axis=1)  # -inf: there are not yet as many
    is_full_B = worst_B > -jnp.inf
    improves_B = live.score_BW[:, 0] / penalty > worst_B
    open_B = state.open_B & ~(is_full_B if beam.early_stopping else is_full_B & ~improves_B)
    return State(step, logits_RV, cache, live, ended, open_B)

  state = State(start.step, start.logits_BV, cache, live, ended, open_B)
  state = jax.lax.while_loop(goes_on, body, state)
  return state.ended, state.cache


def _candidates(score_RV: jax.Array, state: State) -> tuple[jax.Array, Texts]:
  """Returns the 2 * W best ways to go on of each row: the beam, and the text with one token more.

  As each beam can end in one way only, W of them go on.
  """
  shape_BWT = state.live.tokens_BWT.shape
  num_beams = shape_BWT[1]
  count = min(2 * num_beams, score_RV.shape[1])
  # The best of each beam first: the vocabulary is gone through once, and not sorted.
  best_RC, token_RC = jax.lax.top_k(score_RV, count)
  total_BWC = best_RC.reshape(*shape_BWT[:2], count) + state.live.score_BW[:, :, None]
  score_BC, place_BC = jax.lax.top_k(total_BWC.reshape(len(total_BWC), -1), 2 * num_beams)
  token_BC = jnp.take_along_axis(token_RC.reshape(len(total_BWC), -1), place_BC, axis=1)
  source_BC = place_BC // count
  tokens_BCT = jnp.take_along_axis(state.live.tokens_BWT, source_BC[:, :, None], axis=1)
  tokens_BCT = jax.lax.dynamic_update_slice_in_dim(
    tokens_BCT, token_BC[:, :, None], state.step, axis=2
  )
  return source_BC, Texts(score_BC, tokens_BCT, jnp.full_like(token_BC, state.step + 1))


def _best(texts: Texts, count: int) -> tuple[jax.Array, Texts]:
  """Returns the places and the texts of the best `count` of each row, the best first."""
  score_BW, place_BW = jax.lax.top_k(texts.score_BW, count)
  tokens_BWT = jnp.take_along_axis(texts.tokens_BWT, place_BW[:, :, None], axis=1)
  return place_BW, Texts(
    score_BW, tokens_BWT, jnp.take_along_axis(texts.length_BW, place_BW, axis=1)
  )
