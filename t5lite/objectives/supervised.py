"""Tasks: what is given and what is asked for are known, and the loss is on what is asked for.

An objective says what stands around a given text; a model that is fine-tuned for tasks reads what
its pre-training taught it to expect, and so does one that is asked to go on from a prompt.

Letters: N examples.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from t5lite import config as config_lib
from t5lite.objectives import pairs
from t5lite.objectives.vocabulary import Vocabulary

BEGIN, END = 1, 2  # marks of a span's tokens


def around(
  config: config_lib.Config, vocabulary: Vocabulary, *, mode: str = '[S]'
) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Returns the tokens before and behind a given text.

  Args:
    config: of the run.
    vocabulary: special tokens.
    mode: UL2's, '[S]' to continue and '[R]' to fill.
  """
  match config.objective.name:
    case 'span_corruption' | 'text_infilling':
      return (), (vocabulary.eos,)
    case 'ul2':
      return vocabulary.modes[mode], () if mode == '[S]' else (vocabulary.eos,)
    case 'causal_lm':
      return (vocabulary.begin,), ()
    case 'mlm':
      assert vocabulary.cls is not None and vocabulary.sep is not None
      return (vocabulary.cls,), (vocabulary.sep,)
    case 'prefix_lm':
      return (), ()


def separated(vocabulary: Vocabulary, texts: Sequence[np.ndarray]) -> np.ndarray:
  """Returns the ids of texts, with an encoder's separator between them."""
  between = np.array(vocabulary.between, np.int32)
  return np.concatenate([part for ids in texts for part in (between, ids)][1:])


def cut(
  config: config_lib.Config, vocabulary: Vocabulary, inputs_N: np.ndarray, targets_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns how many of so many input and target tokens fit into a row.

  A decoder's targets, the end of text among them, have half of the row, or what the inputs leave.
  """
  data, extra = config.data, sum(map(len, around(config, vocabulary)))
  match config.model.architecture:
    case 'encoder_decoder':
      most = data.input_length - extra
      return np.minimum(inputs_N, most), np.minimum(targets_N, data.target_length)
    case 'decoder':
      most = data.input_length + 1 - extra  # the last token is only a target
      targets_N = np.minimum(targets_N, np.maximum(most // 2, most - inputs_N))
      return np.minimum(inputs_N, most - targets_N), targets_N
    case 'encoder':
      return np.minimum(inputs_N, data.input_length - extra), targets_N


class Trim(NamedTuple):
  """What inputs that are too long lose: tokens of one side, but not the template's there.

  Attributes:
    left: of the left side.
    fixed: tokens of the template that stay.
  """

  left: bool
  fixed: int

  def num_last(self, kept_N: np.ndarray) -> np.ndarray:
    """Returns how many of so many tokens that stay are the last; the others are the first."""
    fixed_N = np.minimum(self.fixed, kept_N // 2)
    return kept_N - fixed_N if self.left else fixed_N


def trim(
  task: config_lib.Task, encode: Callable[[Sequence[str]], list[np.ndarray]], *, for_encoder: bool
) -> Trim:
  """Returns what too long inputs of a task lose; nothing is fixed in texts for an encoder."""
  (fixed,) = encode([task.fixed.strip()])
  return Trim(task.truncation_side == 'left', 0 if for_encoder else len(fixed))


def trimmed(trim: Trim, inputs: Sequence[np.ndarray], kept_N: np.ndarray) -> list[np.ndarray]:
  """Returns inputs of which so many tokens stay."""
  last_N = trim.num_last(kept_N)
  return [
    np.concatenate([ids[: kept - last], ids[len(ids) - last :]]) if kept < len(ids) else ids
    for ids, kept, last in zip(inputs, kept_N.tolist(), last_N.tolist(), strict=True)
  ]


def lengths(
  config: config_lib.Config, vocabulary: Vocabulary, inputs_N: np.ndarray, targets_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns what examples take of an encoder's and a decoder's row, or of the one there is."""
  inputs_N = inputs_N + sum(map(len, around(config, vocabulary)))
  match config.model.architecture:
    case 'encoder_decoder':
      return inputs_N, targets_N
    case 'decoder':
      return inputs_N + targets_N - 1, np.zeros_like(inputs_N)
    case 'encoder':
      return inputs_N, np.zeros_like(inputs_N)


def marks(inputs: pairs.Ragged, targets: pairs.Ragged, *, spans: bool) -> np.ndarray:
  """Returns what is asked for of each token of `inputs` [N, L], as `data.marks` numbers it.

  A span that is not whole in the inputs, as their end was left out, is asked for at the first
  token, [CLS], as BERT does (Devlin et al. 2019, section 4.3).

  Args:
    inputs: with [CLS] before them.
    targets: marks from [CLS] on, and the end of text.
    spans: they mark spans.
  """
  num, width = inputs.tokens_NxL.shape
  marks_NxL = np.zeros((num, width), np.int32)
  given = targets.tokens_NxL[:, :width]
  is_mark = np.arange(given.shape[1])[None] < targets.lengths_N[:, None] - 1
  marks_NxL[:, : given.shape[1]] = np.where(is_mark, given, 0)
  marks_NxL[:, : given.shape[1]] *= inputs.valid_NxL[:, : given.shape[1]]
  if spans:
    lost_N = np.bitwise_or.reduce(marks_NxL, axis=1) != BEGIN | END
    marks_NxL[lost_N] = 0
    marks_NxL[lost_N, 0] = BEGIN | END
  return marks_NxL


def examples(
  config: config_lib.Config, vocabulary: Vocabulary, raw: pairs.Ragged, inputs_N: np.ndarray
) -> pairs.Pairs:
  """Returns inputs, with what the objective puts around them, and targets.

  Args:
    config: of the run.
    vocabulary: special tokens.
    raw: inputs, targets and the end of text, one after another.
    inputs_N: tokens of the inputs.
  """
  before, after = around(config, vocabulary)
  given = pairs.section(raw, np.zeros_like(inputs_N), inputs_N)
  num = len(inputs_N)
  inputs = pairs.joined(pairs.repeated(before, num), given, pairs.repeated(after, num))
  return pairs.Pairs(inputs, pairs.section(raw, inputs_N, raw.lengths_N))
