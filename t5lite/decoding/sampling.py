"""Which token comes next, from the model's logits.

What chooses is frozen, as part of what is compiled. Sorting the vocabulary, or drawing a number for
each token of it, would cost more than a step of a small model: there are thresholds, and one number
a row.

Letters: B batch, V vocabulary, P prompt, T new tokens, S tokens so far, N blocks of the vocabulary,
W weights.
"""

import dataclasses

import jax
import jax.numpy as jnp

from t5lite import errors

BLOCK = 256  # tokens of the vocabulary whose probabilities are added up first
BELOW_ONE = 1 - 2**-23


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitsProcessor:
  """What becomes of the scores before tokens are picked, as in transformers."""

  repetition_penalty: float = 1.0  # of tokens that are there already, see `penalized`
  penalize_prompt: bool = True  # as in transformers; False: only what is new is penalized
  no_repeat_ngram_size: int = 0  # so many tokens are not written again, see `unrepeated`; 0: any
  min_tokens: int = 0  # before so many the end is not picked: transformers' min_new_tokens

  def __post_init__(self):
    section, remedy = type(self).__name__.lower(), 'use a number above 0, 1 for none'
    where = f'{section}.repetition_penalty={self.repetition_penalty}'
    errors.check(self.repetition_penalty > 0, 'not a penalty', where, remedy)
    counts = {'no_repeat_ngram_size': self.no_repeat_ngram_size, 'min_tokens': self.min_tokens}
    errors.check_at_least(section, counts, 0)

  def process(
    self,
    scores_BV: jax.Array,
    prompts_BxP: jax.Array,
    tokens_BxT: jax.Array,
    step: jax.Array,
    stops: jax.Array,
  ) -> jax.Array:
    """Returns the scores from which the next tokens are picked.

    Args:
      scores_BV: logits or log probabilities.
      prompts_BxP: with V for padding.
      tokens_BxT: the new tokens, of which there are `step`.
      step: number of new tokens.
      stops: tokens that end a row.
    """
    is_there_T = jnp.arange(tokens_BxT.shape[1]) < step
    there_BxT = jnp.where(is_there_T[None], tokens_BxT, scores_BV.shape[1])
    text_BxS = jnp.concatenate([prompts_BxP, there_BxT], axis=1)
    disliked_BxS = text_BxS if self.penalize_prompt else there_BxT
    scores_BV = penalized(scores_BV, disliked_BxS, self.repetition_penalty)
    length = prompts_BxP.shape[1] + step
    scores_BV = unrepeated(scores_BV, text_BxS, length, self.no_repeat_ngram_size)
    if self.min_tokens:
      ends_V = jnp.isin(jnp.arange(scores_BV.shape[1]), stops)
      scores_BV = jnp.where((step < self.min_tokens) & ends_V[None], -jnp.inf, scores_BV)
    return scores_BV


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler(LogitsProcessor):
  """Draws from the softmax; the restrictions apply in the order of the fields."""

  temperature: float = 0.0  # divides the logits; 0: the likeliest token, always
  top_k: int = 0  # only the k likeliest tokens (Fan et al. 2018); 0: all
  top_p: float = 1.0  # only the fewest tokens that make up so much of the probability
  # (Holtzman et al. 2020)
  min_p: float = 0.0  # only tokens with this share of the likeliest one's probability
  # (Nguyen et al. 2024)

  def __post_init__(self):
    super().__post_init__()
    errors.check_at_least('sampler', {'temperature': self.temperature, 'top_k': self.top_k}, 0)
    errors.check(
      0 < self.top_p <= 1, 'not a share', f'sampler.top_p={self.top_p}', 'use 0 < top_p <= 1'
    )
    errors.check(
      0 <= self.min_p <= 1, 'not a share', f'sampler.min_p={self.min_p}', 'use 0 <= min_p <= 1'
    )

  def choose(self, logits_BV: jax.Array, step: jax.Array, keys_B: jax.Array) -> jax.Array:
    """Returns the next tokens; row b's draw depends on (keys_B[b], step) and its logits only."""
    if self.temperature == 0:
      return jnp.argmax(logits_BV, axis=-1)
    uniform = lambda key: jax.random.uniform(jax.random.fold_in(key, step))
    return draw(self.restrict(logits_BV / self.temperature), jax.vmap(uniform)(keys_B))

  def restrict(self, logits_BV: jax.Array) -> jax.Array:
    """Returns the logits with -inf for the tokens that are left out; ties stay."""
    size = logits_BV.shape[1]
    if 0 < self.top_k < size:
      likeliest_BK, _ = jax.lax.top_k(logits_BV, self.top_k)
      logits_BV = jnp.where(logits_BV >= likeliest_BK[:, -1:], logits_BV, -jnp.inf)
    if self.top_p < 1:
      share_BV = jax.nn.softmax(logits_BV, axis=-1)
      logits_BV = jnp.where(share_BV >= nucleus(share_BV, self.top_p), logits_BV, -jnp.inf)
    if self.min_p > 0:
      least_B1 = jnp.max(logits_BV, axis=-1, keepdims=True) + jnp.log(self.min_p)
      logits_BV = jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)
    return logits_BV


@dataclasses.dataclass(frozen=True, kw_only=True)
class Branch(LogitsProcessor):
  """First, row b takes the b-th likeliest token; then every row the likeliest. For equal rows."""

  def choose(self, logits_BV: jax.Array, step: jax.Array, keys_B: jax.Array) -> jax.Array:
    """Returns the next tokens; the keys are not used."""
    del keys_B
    _, order_BW = jax.lax.top_k(logits_BV, len(logits_BV))
    rank_B1 = jnp.where(step == 0, jnp.arange(len(logits_BV)), 0)[:, None]
    return jnp.take_along_axis(order_BW, rank_B1, axis=-1)[:, 0]


Choice = Sampler | Branch


def row_keys(key: jax.Array, number_B: jax.Array, copies: int) -> jax.Array:
  """Returns the keys of `copies` rows for each prompt of a batch, by its number; one dimension."""
  of_copy = lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(copies))
  return jax.vmap(lambda number: of_copy(jax.random.fold_in(key, number)))(number_B).reshape(-1)


def penalized(scores_BV: jax.Array, token_BxS: jax.Array, penalty: float) -> jax.Array:
  """Returns the scores with those of `token_BxS` divided by the penalty, or multiplied below 0.

  Keskar et al. 2019, section 4.1, as transformers has it: each token counts once.

  Args:
    scores_BV: logits or log probabilities.
    token_BxS: tokens of each row; ids from V on are none.
    penalty: 1 changes nothing, more makes repetition rarer.
  """
  if penalty == 1:
    return scores_BV
  last = scores_BV.shape[1] - 1
  score_BS = jnp.take_along_axis(scores_BV, jnp.minimum(token_BxS, last), axis=1)
  score_BS = jnp.where(score_BS < 0, score_BS * penalty, score_BS / penalty)
  row_B1 = jnp.arange(len(scores_BV))[:, None]
  return scores_BV.at[row_B1, token_BxS].set(score_BS, mode='drop')


def unrepeated(
  scores_BV: jax.Array, token_BxS: jax.Array, length: jax.Array, size: int
) -> jax.Array:
  """Returns the scores with -inf for what would end a sequence of tokens that is there already.

  Paulus et al. 2018, section 2.5, which has 3 tokens.

  Args:
    scores_BV: logits or log probabilities.
    token_BxS: tokens of each row; ids from V on are none.
    length: where the next token goes; behind it there are none.
    size: tokens of a sequence; 0 changes nothing.
  """
  windows = token_BxS.shape[1] - size + 1
  if size == 0 or windows < 1:
    return scores_BV
  last_BxN = jax.lax.dynamic_slice_in_dim(token_BxS, length - (size - 1), size - 1, axis=1)
  next_BxW = token_BxS[:, size - 1 :]
  for i in range(size - 1):
    window_BxW, last_Bx1 = token_BxS[:, i : i + windows], last_BxN[:, i : i + 1]
    is_last_BxW = (window_BxW == last_Bx1) & (last_Bx1 < scores_BV.shape[1])
    next_BxW = jnp.where(is_last_BxW, next_BxW, scores_BV.shape[1])
  row_B1 = jnp.arange(len(scores_BV))[:, None]
  return scores_BV.at[row_B1, next_BxW].set(-jnp.inf, mode='drop')


def nucleus(share_BV: jax.Array, top_p: float) -> jax.Array:
  """Returns the least probability [B, 1] for which those above it make up less than `top_p`.

  Bisects the bit patterns, which are in the order of the numbers they stand for.
  """
  share = lambda bits_B1: jax.lax.bitcast_convert_type(bits_B1, jnp.float32)
  lowest_B1 = jnp.zeros((len(share_BV), 1), jnp.int32)
  highest_B1 = jax.lax.bitcast_convert_type(jnp.ones_like(lowest_B1, jnp.float32), jnp.int32)

  def halve(_, bounds):
    low_B1, high_B1 = bounds
    middle_B1 = (low_B1 + high_B1) // 2
    above_BV = jnp.where(share_BV > share(middle_B1), share_BV, 0)
    enough_B1 = jnp.sum(above_BV, axis=1, keepdims=True) < top_p
    low_B1 = jnp.where(enough_B1, low_B1, middle_B1 + 1)
    return low_B1, jnp.where(enough_B1, middle_B1, high_B1)

  return share(jax.lax.fori_loop(0, 31, halve, (lowest_B1, highest_B1))[1])


def draw(logits_BV: jax.Array, uniform_B: jax.Array) -> jax.Array:
  """Returns a token of each row, int32 [B], where its running sum of probabilities passes a number.

  Args:
    logits_BV: with -inf for what may not be drawn.
    uniform_B: numbers in [0, 1).
  """
  weight_BV = jnp.exp(logits_BV - jnp.max(logits_BV, axis=1, keepdims=True))
  weight_BV = jnp.pad(weight_BV, ((0, 0), (0, -weight_BV.shape[1] % BLOCK)))
  weight_BNW = weight_BV.reshape(len(weight_BV), -1, BLOCK)
  sum_BN = jnp.sum(weight_BNW, axis=2)
  block_B, rest_B = passed(sum_BN, uniform_B * jnp.sum(sum_BN, axis=1))
  block_BW = jnp.take_along_axis(weight_BNW, block_B[:, None, None], axis=1)[:, 0]
  return block_B * BLOCK + passed(block_BW, rest_B)[0]


def passed(weight_BW: jax.Array, point_B: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns where the running sum passes the point, and what is left of the point there.

  Rounding never leads to a weight of 0.
  """
  sum_BW = jnp.cumsum(weight_BW, axis=1)
  point_B1 = jnp.minimum(point_B, sum_BW[:, -1] * BELOW_ONE)[:, None]
  before_BW = sum_BW <= point_B1
  rest_B = point_B1[:, 0] - jnp.max(jnp.where(before_BW, sum_BW, 0), axis=1)
  return jnp.sum(before_BW, axis=1, dtype=jnp.int32), rest_B
