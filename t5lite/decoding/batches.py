"""Prompts of many lengths as few shapes of arrays: little is compiled, and little is padding.

Letters: B rows, P prompt, M encoder.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from t5lite import config
from t5lite import errors
from t5lite import sharding

# Lengths of arrays: two for each power of two, so that at most a third is padding; 1 is what a
# decoder behind an encoder begins with.
LENGTHS = (1, *(n for e in range(5, 31) for n in (2**e, 3 * 2 ** (e - 1))))


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
  """Prompts that are decoded together."""

  prompts_BxP: np.ndarray  # decoder_input_tokens, padded on the left
  first_B: np.ndarray  # the padding of each
  inputs_BxM: np.ndarray | None  # encoder_input_tokens, padded on the right
  number_B: np.ndarray  # of each prompt among all of them
  num_prompts: int  # the rows behind them fill the devices, with prompts that are there already


def make(
  prompts: Sequence[np.ndarray],
  inputs: Sequence[np.ndarray] | None = None,
  numbers: Sequence[int] | None = None,
  num_rows: int = 0,
) -> Batch:
  """Returns prompts as one batch, of at least `num_rows` rows and as many as the mesh asks for."""
  ways = sharding.batch_ways()
  num_rows = -(-max(num_rows, len(prompts)) // ways) * ways
  rows = [*range(len(prompts)), *[0] * (num_rows - len(prompts))]
  prompts_BxP = aligned([prompts[row] for row in rows], left=True)
  length = prompts_BxP.shape[1]
  return Batch(
    prompts_BxP,
    np.array([length - len(prompts[row]) for row in rows], np.int32),
    aligned([inputs[row] for row in rows], left=False) if inputs else None,
    np.array([numbers[row] if numbers else row for row in rows], np.int32),
    len(prompts),
  )


def cut(
  prompts: Sequence[np.ndarray], inputs: Sequence[np.ndarray] | None, batch_size: int
) -> list[Batch]:
  """Returns batches of equally many rows, at most `batch_size`; of like lengths, the longest first.

  The longest first: if they do not fit into memory, that shows at once.
  """
  length = lambda number: len((inputs or prompts)[number])
  order = sorted(range(len(prompts)), key=length, reverse=True)
  num_batches = -(-len(prompts) // batch_size)
  num_rows = -(-len(prompts) // num_batches)
  return [
    make(
      [prompts[number] for number in numbers],
      inputs and [inputs[number] for number in numbers],
      numbers,
      num_rows,
    )
    for numbers in (order[i : i + num_rows] for i in range(0, len(order), num_rows))
  ]


def aligned(rows: Sequence[np.ndarray], *, left: bool) -> np.ndarray:
  """Returns rows of tokens as one int32 array, padded with 0 on the left or on the right."""
  longest = max(map(len, rows))
  length = next(length for length in LENGTHS if length >= longest)
  pads = ((length - len(row), 0) if left else (0, length - len(row)) for row in rows)
  return np.array([np.pad(row, pad) for row, pad in zip(rows, pads, strict=True)], np.int32)


def check_length(model: config.Model, length: int, name: str = '') -> None:
  """Raises ConfigError if so many tokens, new ones included, have no positions in the model."""
  if model.positions == 'learned' and length > model.max_length:
    raise errors.ConfigError(
      'text longer than the position table',
      f'{name}{length} tokens, new ones included, with model.max_length={model.max_length}',
      'shorten the text or ask for fewer new tokens',
    )
