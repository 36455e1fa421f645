"""The token ids that mean something to an objective."""

from collections.abc import Mapping
import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
  """What objectives know of a tokenizer; `t5lite.data.tokenizer` makes it."""

  size: int
  pad: int | None  # None: it has none; if not 0, batches tell padding by segment ids
  eos: int
  unk: int
  mask: int | None
  cls: int | None
  sep: int | None
  sentinels: np.ndarray  # int32, <extra_id_0> first
  modes: Mapping[str, tuple[int, ...]]  # of UL2: '[R]', '[S]', '[X]'
  word_start: np.ndarray  # bool [size]: the piece begins a word
  special: np.ndarray  # bool [size]: not text, never masked
  bos: int | None = None  # what the tokenizer puts before a text, as Llama's does; None: nothing
  pair: tuple[int, ...] = ()  # what the tokenizer puts between two texts, as RoBERTa's two SEPs

  @property
  def between(self) -> tuple[int, ...]:
    """What an encoder reads between two texts: SEP, if the tokenizer says nothing else."""
    return self.pair or (() if self.sep is None else (self.sep,))

  @property
  def begin(self) -> int:
    """What stands before a decoder's text: BOS, or the end of the text before it."""
    return self.eos if self.bos is None else self.bos
