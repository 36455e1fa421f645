"""How likely a model finds texts: log-likelihoods of targets given inputs, many pairs at once.

Letters: B rows, I and T tokens of a row.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
from typing import NamedTuple

import jax
import numpy as np

from t5lite import config as config_lib
from t5lite import errors
from t5lite import losses
from t5lite import models
from t5lite import objectives
from t5lite import sharding
from t5lite.decoding import batches
from t5lite.models import decode
from t5lite.objectives import converters
from t5lite.objectives import mlm
from t5lite.objectives import pairs as pairs_lib

TOKENS = 8192  # of a device that are computed at once
SHORTEST = 32  # lengths are rounded up to it times a power of 2, so that few are compiled


class Pair(NamedTuple):
  """Token ids: what is given, as the model reads it, and what is asked for."""

  inputs: np.ndarray
  targets: np.ndarray


class Score(NamedTuple):
  """What a model makes of a pair."""

  log_likelihood: float  # nats, the sum over the target tokens
  num_tokens: int
  is_greedy: bool  # each token is the likeliest, given those before (of an encoder: all others)


def score(
  config: config_lib.Config,
  params: models.Params,
  vocabulary: objectives.Vocabulary,
  pairs: Sequence[Pair],
) -> list[Score]:
  """Returns the log-likelihood of each pair's targets; a pair's does not depend on the others.

  An encoder_decoder reads the inputs with its encoder. A decoder goes on from them; they see each
  other both ways where its objective taught it so. An encoder reads inputs, targets and [SEP], and
  its score is the pseudo-log-likelihood: each target token is masked in turn, with all others to be
  seen (Salazar et al. 2020, equation 2).

  Args:
    config: of the run that made `params`.
    params: parameters, on a bare device or sharded over the mesh that is set.
    vocabulary: of the run.
    pairs: see `ranking.of_texts`.

  Raises:
    ConfigError: a pair too long for the model's table of positions.
    DataError: a pair without inputs or without targets.
  """
  for number, pair in enumerate(pairs):
    for name, tokens in pair._asdict().items():
      if not len(tokens):
        raise errors.DataError(f'no {name}', f'pair {number}', 'give it at least one token')
  losses_N, correct_N = np.zeros(len(pairs)), np.zeros(len(pairs))
  for rows, loss_B, correct_B in _computed(config, params, vocabulary, pairs):
    numbers = [row.pair for row in rows]
    np.add.at(losses_N, numbers, np.asarray(loss_B)[: len(rows)])
    np.add.at(correct_N, numbers, np.asarray(correct_B)[: len(rows)])
  return [
    Score(-float(loss), len(pair.targets), bool(correct == len(pair.targets)))
    for loss, correct, pair in zip(losses_N, correct_N, pairs, strict=True)
  ]


class _Row(NamedTuple):
  pair: int
  masked: int  # which of the targets, for an encoder


def _computed(config, params, vocabulary, pairs) -> list[tuple[list[_Row], jax.Array, jax.Array]]:
  """Returns rows with their losses and right tokens [B], perhaps still being computed.

  Experts leave no token out: which one it is would hang on the row's neighbours.
  """
  config = dataclasses.replace(config, model=models.roomy(config.model))
  with sharding.whole_rows(params) as params:
    return [
      (rows, *_sums(config, params, _on_devices(_batch(config, vocabulary, pairs, rows, lengths))))
      for rows, lengths in _batches(config.model, pairs)
    ]


def _batches(
  model: config_lib.Model, pairs: Sequence[Pair]
) -> Iterator[tuple[list[_Row], tuple[int, ...]]]:
  """Yields rows that are computed together, and their rounded lengths, of each stack."""
  groups: dict[tuple[int, ...], list[_Row]] = {}
  for number, pair in enumerate(pairs):
    lengths = tuple(_rounded(model, length) for length in lengths_of(model.architecture, pair))
    masked = range(len(pair.targets)) if model.architecture == 'encoder' else [0]
    groups.setdefault(lengths, []).extend(_Row(number, place) for place in masked)
  for lengths, rows in groups.items():
    most = (_power_of_two(TOKENS // sum(lengths) + 1) // 2 or 1) * sharding.batch_ways()
    yield from ((rows[i : i + most], lengths) for i in range(0, len(rows), most))


def lengths_of(architecture: config_lib.Architecture, pair: Pair) -> tuple[int, ...]:
  """Returns the tokens that a pair takes of a row of each stack, the encoder's first."""
  inputs, targets = map(len, pair)
  match architecture:
    case 'encoder_decoder':
      return inputs, targets
    case 'decoder':
      return (inputs + targets - 1,)
    case 'encoder':
      return (inputs + targets + 1,)


def _rounded(model: config_lib.Model, length: int) -> int:
  batches.check_length(model, length)
  return max(_power_of_two(length), SHORTEST)


def _power_of_two(number: int) -> int:
  """Returns the least power of two that is not below a number of 1 or more."""
  return 1 << (number - 1).bit_length()


def _batch(
  config: config_lib.Config,
  vocabulary: objectives.Vocabulary,
  pairs: Sequence[Pair],
  rows: Sequence[_Row],
  lengths: tuple[int, ...],
) -> converters.Batch:
  """Returns what the model reads; rows are filled up to a number that few batches differ in."""
  ways = sharding.batch_ways()
  missing = ways * _power_of_two(-(-len(rows) // ways)) - len(rows)
  rows = [*rows, *[rows[0]] * missing]
  # Segment ids tell padding where that is not token 0.
  layout = converters.Layout(np.arange(len(rows)), len(rows), packed=vocabulary.pad != 0)
  inputs, targets = (
    _ragged([pairs[row.pair][part] for row in rows]) for part in range(len(Pair._fields))
  )
  both = pairs_lib.Pairs(inputs, targets)
  match config.model.architecture:
    case 'encoder_decoder':
      return converters.encoder_decoder(layout, both, *lengths)
    case 'decoder':
      prefix = config.objective.sees_both_ways
      return converters.decoder(layout, both, lengths[0], prefix=prefix)
    case 'encoder':
      masked_B = inputs.lengths_N + [row.masked for row in rows]
      masked = _masked(vocabulary, inputs, targets, masked_B)
      return converters.encoder(layout, masked, lengths[0], num_predictions=1)


def _ragged(rows: Sequence[np.ndarray]) -> pairs_lib.Ragged:
  lengths_N = np.array([len(row) for row in rows])
  tokens_NxL = np.zeros((len(rows), lengths_N.max()), np.int32)
  for tokens, row in zip(tokens_NxL, rows, strict=True):
    tokens[: len(row)] = row
  return pairs_lib.Ragged(tokens_NxL, lengths_N)


def _masked(
  vocabulary: objectives.Vocabulary,
  inputs: pairs_lib.Ragged,
  targets: pairs_lib.Ragged,
  masked_B: np.ndarray,
) -> mlm.Masked:
  """Returns inputs, targets and [SEP], masked at one place of each row."""
  assert vocabulary.mask is not None and vocabulary.sep is not None, 'objectives.check saw to it'
  end = pairs_lib.repeated((vocabulary.sep,), len(masked_B))
  text = pairs_lib.joined(inputs, targets, end)
  asked_BxI = np.arange(text.tokens_NxL.shape[1])[None] == masked_B[:, None]
  shown_BxI = np.where(asked_BxI, np.int32(vocabulary.mask), text.tokens_NxL)
  return mlm.Masked(text._replace(tokens_NxL=shown_BxI), text, asked_BxI)


def _on_devices(batch: converters.Batch) -> models.Batch:
  """Returns a batch, split over the mesh that is set, if any."""
  mesh, num_rows = jax.sharding.get_mesh(), len(next(iter(batch.values())))
  if mesh.empty:
    return jax.tree.map(jax.numpy.asarray, batch)
  here = sharding.local_rows(mesh, num_rows)
  return sharding.to_device({name: x[here] for name, x in batch.items()}, num_rows, mesh)


@functools.partial(jax.jit, static_argnames='config')
def _sums(config, params, batch) -> tuple[jax.Array, jax.Array]:
  """Returns the loss and the number of targets that are the likeliest token, of each row [B]."""
  sums = losses.by_row(config, params, batch)
  return decode.whole(sums.loss), decode.whole(sums.correct)
