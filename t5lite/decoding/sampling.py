"""Which token comes next, from the model's logits.

A choice has `choose(logits_BV, step, key) -> token_B`; it is frozen, as part of what is compiled.
Letters: B batch, V vocabulary.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from t5lite import errors


class Choice(Protocol):
  """Picks tokens; hashable."""

  def choose(self, logits_BV: jax.Array, step: jax.Array, key: jax.Array) -> jax.Array:
    """Returns the next token of each row, int32 [B], at step 0, 1, 2, ... of a run."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
  """Draws from the softmax; the restrictions apply in the order of the fields."""

  temperature: float = 0.0  # divides the logits; 0: the likeliest token, always
  top_k: int = 0  # only the k likeliest tokens (Fan et al. 2018); 0: all
  top_p: float = 1.0  # only the fewest tokens that make up so much of the probability
  # (Holtzman et al. 2020)

  def __post_init__(self):
    errors.check_at_least('sampler', {'temperature': self.temperature, 'top_k': self.top_k}, 0)
    errors.check(
      0 < self.top_p <= 1, 'not a share', f'sampler.top_p={self.top_p}', 'use 0 < top_p <= 1'
    )

  def choose(self, logits_BV: jax.Array, step: jax.Array, key: jax.Array) -> jax.Array:
    """Returns the next tokens; row b's draw depends on (key, step, b) and its logits only."""
    if self.temperature == 0:
      return jnp.argmax(logits_BV, axis=-1)
    logits_BV = self.restrict(logits_BV / self.temperature)
    rows_B, size = jnp.arange(len(logits_BV)), logits_BV.shape[1]
    key = jax.random.fold_in(key, step)
    draw = jax.vmap(lambda row: jax.random.gumbel(jax.random.fold_in(key, row), (size,)))
    return jnp.argmax(logits_BV + draw(rows_B), axis=-1)

  def restrict(self, logits_BV: jax.Array) -> jax.Array:
    """Returns the logits with -inf for the tokens that top_k and top_p leave out; ties stay."""
    if not self.top_k and self.top_p == 1:
      return logits_BV
    size = logits_BV.shape[1]
    likeliest_BK, _ = jax.lax.top_k(logits_BV, min(self.top_k or size, size))
    share_BK = jax.nn.softmax(likeliest_BK, axis=-1)
    before_BK = jnp.cumsum(share_BK, axis=-1) - share_BK  # of the likelier ones; 0 for the first
    kept_BK = jnp.where(before_BK < self.top_p, likeliest_BK, jnp.inf)
    return jnp.where(logits_BV >= kept_BK.min(axis=-1, keepdims=True), logits_BV, -jnp.inf)


@dataclasses.dataclass(frozen=True)
class Branch:
  """First, row b takes the b-th likeliest token; then every row the likeliest. For equal rows."""

  def choose(self, logits_BV: jax.Array, step: jax.Array, key: jax.Array) -> jax.Array:
    """Returns the next tokens; the key is not used."""
    del key
    rank_B1 = jnp.where(step == 0, jnp.arange(len(logits_BV)), 0)[:, None]
    order_BV = jnp.argsort(logits_BV, axis=-1, descending=True)
    return jnp.take_along_axis(order_BV, rank_B1, axis=-1)[:, 0]
