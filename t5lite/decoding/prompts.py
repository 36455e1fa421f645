"""What a model reads for a text: the inputs that its objective taught it to expect."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from t5lite import config as config_lib
from t5lite import objectives


class Tokenizer(Protocol):
  """What decoding needs of `t5lite.data.tokenizer.Tokenizer`."""

  vocabulary: objectives.Vocabulary

  def encode_marked(self, text: str) -> np.ndarray:
    """Returns the ids of a text whose marks, `[MASK]` or `<extra_id_0>`, are the tokens."""
    ...

  def decode(self, ids: np.ndarray) -> str:
    """Returns the text of ids."""
    ...


def of_texts(
  config: config_lib.Config, tokenizer: Tokenizer, texts: Sequence[str]
) -> list[np.ndarray]:
  """Returns the inputs for texts to go on from; marks in them are read as the tokens."""
  return [
    of_text(config, tokenizer.vocabulary, tokenizer.encode_marked(text), mode='[S]')
    for text in texts
  ]


def of_text(
  config: config_lib.Config, vocabulary: objectives.Vocabulary, ids: np.ndarray, *, mode: str
) -> np.ndarray:
  """Returns the inputs for a text, int32: of the encoder, or the beginning of a decoder's.

  Args:
    config: of the run; its objective says what stands around a text.
    vocabulary: special tokens.
    ids: the text.
    mode: UL2's, '[S]' to continue and '[R]' to fill.
  """
  before, after = objectives.around(config, vocabulary, mode=mode)
  return np.array([*before, *ids, *after], np.int32)
