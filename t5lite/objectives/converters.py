"""From examples to a batch: one feature converter for each architecture (seqio's, in numpy).

Several examples can share a row: they are then told apart by segment ids (1, 2, ...; 0 is padding)
and positions that begin anew.

Letters: N examples, B rows, I and T tokens of a row, M predictions of a row.
"""

from typing import NamedTuple

import numpy as np

from t5lite.objectives import mlm
from t5lite.objectives import pairs
from t5lite.objectives import supervised

Batch = dict[str, np.ndarray]


class Layout(NamedTuple):
  """Where examples go; examples of a row stand in order."""

  rows_N: np.ndarray
  num_rows: int
  packed: bool  # tell examples apart


def place(layout: Layout, part: pairs.Ragged, width: int, *values: np.ndarray) -> list[np.ndarray]:
  """Returns each of `values`, one for each token of `part`, in rows [B, width]; 0 is padding.

  Raises:
    ValueError: a row would hold more than `width` tokens.
  """
  order_N = np.argsort(layout.rows_N, kind='stable')
  rows_N, lengths_N = layout.rows_N[order_N], part.lengths_N[order_N]
  used_B = np.bincount(rows_N, weights=lengths_N, minlength=layout.num_rows).astype(int)
  if used_B.max(initial=0) > width:
    raise ValueError(f'{used_B.max()} tokens in a row of {width=}')
  before_N = np.cumsum(lengths_N) - lengths_N
  before_B = np.cumsum(used_B) - used_B
  start_N = np.empty_like(before_N)
  start_N[order_N] = rows_N * width + before_N - before_B[rows_N]
  valid = part.valid_NxL
  token = np.broadcast_to(np.arange(valid.shape[1])[None], valid.shape)
  target = (start_N[:, None] + token)[valid]
  out = [np.zeros((layout.num_rows, width), each.dtype) for each in values]
  for laid, each in zip(out, values, strict=True):
    laid.reshape(-1)[target] = each[valid]
  return out


def marks(layout: Layout, side: str, part: pairs.Ragged, width: int) -> Batch:
  """Returns the segment ids and positions of one side of a packed batch."""
  if not layout.packed:
    return {}
  order_N = np.argsort(layout.rows_N, kind='stable')
  rows_N = layout.rows_N[order_N]
  segment_N = np.empty(len(order_N), np.int32)
  segment_N[order_N] = 1 + np.arange(len(order_N)) - np.searchsorted(rows_N, rows_N)
  shape = part.tokens_NxL.shape
  segments = np.broadcast_to(segment_N[:, None], shape)
  positions = np.broadcast_to(np.arange(shape[1], dtype=np.int32)[None], shape)
  segment_ids, positions = place(layout, part, width, segments, positions)
  return {f'{side}_segment_ids': segment_ids, f'{side}_positions': positions}


def encoder_decoder(
  layout: Layout, examples: pairs.Pairs, input_length: int, target_length: int
) -> Batch:
  """Returns inputs for the encoder, and targets for the decoder behind a 0 that begins each."""
  inputs, targets = examples
  shifted = np.roll(targets.tokens_NxL, 1, axis=1)
  shifted[:, :1] = 0
  weights = targets.valid_NxL.astype(np.float32)
  (encoder_tokens,) = place(layout, inputs, input_length, inputs.tokens_NxL)
  decoder_tokens, target_tokens, weights = place(
    layout, targets, target_length, shifted, targets.tokens_NxL, weights
  )
  return {
    'encoder_input_tokens': encoder_tokens,
    'decoder_input_tokens': decoder_tokens,
    'decoder_target_tokens': target_tokens,
    'decoder_loss_weights': weights,
    **marks(layout, 'encoder', inputs, input_length),
    **marks(layout, 'decoder', targets, target_length),
  }


def decoder(layout: Layout, examples: pairs.Pairs, length: int, *, prefix: bool) -> Batch:
  """Returns inputs and targets as one stream, each token of which predicts the next.

  The loss is on the targets; with `prefix`, the inputs see each other in both directions.
  """
  inputs, targets = examples
  stream = pairs.joined(inputs, targets)
  part = pairs.Ragged(stream.tokens_NxL[:, :-1], np.maximum(stream.lengths_N - 1, 0))
  place_in_it = np.arange(part.tokens_NxL.shape[1])[None]
  asked = (place_in_it >= inputs.lengths_N[:, None] - 1).astype(np.float32)
  given = (place_in_it < inputs.lengths_N[:, None]).astype(np.int32)
  input_tokens, target_tokens, weights, given = place(
    layout, part, length, part.tokens_NxL, stream.tokens_NxL[:, 1:], asked, given
  )
  return {
    'decoder_input_tokens': input_tokens,
    'decoder_target_tokens': target_tokens,
    'decoder_loss_weights': weights,
    **({'decoder_causal_attention': given} if prefix else {}),
    **marks(layout, 'decoder', part, length),
  }


def encoder(layout: Layout, examples: mlm.Masked, length: int, num_predictions: int) -> Batch:
  """Returns the masked text, the text, and where predictions are asked for.

  `encoder_prediction_positions` [B, M] holds where each row has weight 1, in order, then 0.
  """
  inputs, targets, asked = examples
  input_tokens, target_tokens, weights = place(
    layout, inputs, length, inputs.tokens_NxL, targets.tokens_NxL, asked.astype(np.float32)
  )
  positions = np.broadcast_to(np.arange(length, dtype=np.int32)[None], weights.shape)
  asked_at = pairs.compact(positions, weights > 0, num_predictions)
  return {
    'encoder_input_tokens': input_tokens,
    'encoder_target_tokens': target_tokens,
    'encoder_loss_weights': weights,
    'encoder_prediction_positions': asked_at.tokens_NxL,
    **marks(layout, 'encoder', inputs, length),
  }


def labelled(
  layout: Layout,
  examples: pairs.Pairs,
  length: int,
  num_predictions: int,
  separator: int | None,
  *,
  spans: bool,
) -> Batch:
  """Returns an encoder's inputs, with labels at the tokens that are asked for them.

  With `spans`, targets are marks (`supervised.marks`), and a weight is the number of its token's.
  `encoder_token_types` are 0 up to the first separator of an example and 1 behind it.
  """
  inputs, targets = examples
  asked_for = supervised.marks(inputs, targets, spans=spans)
  labels = asked_for if spans else np.maximum(asked_for - 1, 0)
  asked = np.bitwise_count(asked_for) if spans else asked_for > 0
  is_end = (inputs.tokens_NxL == separator) & inputs.valid_NxL
  types = (np.cumsum(is_end, axis=1) - is_end > 0).astype(np.int32)
  input_tokens, target_tokens, weights, types = place(
    layout, inputs, length, inputs.tokens_NxL, labels, asked.astype(np.float32), types
  )
  positions = np.broadcast_to(np.arange(length, dtype=np.int32)[None], weights.shape)
  asked_at = pairs.compact(positions, weights > 0, num_predictions)
  return {
    'encoder_input_tokens': input_tokens,
    'encoder_token_types': types,
    'encoder_target_tokens': target_tokens,
    'encoder_loss_weights': weights,
    'encoder_prediction_positions': asked_at.tokens_NxL,
    **marks(layout, 'encoder', inputs, length),
  }
