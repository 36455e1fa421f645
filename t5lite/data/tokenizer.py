"""Text to token ids and back: by a sentencepiece model in T5's layout, or by a tokenizer.json.

The second is of `tokenizer_fast`; the rest of this file is about the first.

The vocabulary is the pieces of the model, then the sentinels <extra_id_99> ... <extra_id_0>, so
that <extra_id_0> is the last id (Raffel et al. 2020; seqio's SentencePieceVocabulary with
extra_ids=100). A model with sentinels among its pieces (mT5's) keeps those and gets no others.

Models of `tokenizer_training` keep text as it is: decode(encode(text)) == text, but for U+2581,
the mark that sentencepiece writes for a space. T5's own models fold Unicode (NFKC) and runs of
whitespace, newlines too, into single spaces.

Special tokens are no text: `encode` never makes one, not even of a corpus that speaks of "[MASK]".
Where a user writes a name to mean the token, `encode_marked` reads it so.
"""

from collections.abc import Iterable, Iterator, Sequence
import hashlib
import itertools
import os
import pathlib
import re
from typing import NamedTuple, Protocol

import numpy as np
import sentencepiece

from t5lite import errors
from t5lite import objectives
from t5lite.data import corpus
from t5lite.data import tokenizer_model

# Sentencepiece takes 50 bytes of memory a character and, for BPE, more than linear time. So text
# reaches it in parts of at most so many characters, and so many characters in one call.
PART = 8_000
CALL = 4_000_000


class Aligned(NamedTuple):
  """Token ids and which characters of the text each stands for; both ends never fall."""

  ids: np.ndarray
  starts: np.ndarray
  ends: np.ndarray

  def at(self, place: int) -> int:
    """Returns the first token with that character of the text; -1: no token has it."""
    token = int(np.searchsorted(self.ends, place, side='right'))
    return token if token < len(self.ids) and self.starts[token] <= place else -1


class Tokenizer(Protocol):
  """What makes token ids of text.

  Attributes:
    path: its file.
    digest: SHA-256 in hex of what decides the ids.
    vocabulary: the ids that mean something to the objectives.
  """

  path: pathlib.Path
  digest: str
  vocabulary: objectives.Vocabulary

  def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the int32 ids of each text, no EOS added; it never makes a special token."""
    ...

  def encode_marked(self, text: str) -> np.ndarray:
    """Returns the int32 ids of a text in which `[MASK]`, `<extra_id_0>`, ... are the tokens."""
    ...

  def align(self, text: str) -> Aligned:
    """Returns what `encode` gives for a text, with the characters of each token."""
    ...

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """Returns the text of token ids, special tokens by name but for padding, which is left out."""
    ...


def load_same(name: str, digest: str) -> Tokenizer:
  """Returns the tokenizer of a file, if it is the one of that digest, which a checkpoint keeps.

  Raises:
    DataError, ConfigError: as `load`.
    CheckpointError: it is another one.
  """
  tokenizer = load(name)
  if tokenizer.digest != digest:
    raise errors.CheckpointError(
      'the checkpoint was trained with another tokenizer',
      tokenizer.path,
      'put the one that it was trained with in its place',
    )
  return tokenizer


def load(name: str) -> Tokenizer:
  """Returns the tokenizer of a file: a sentencepiece model, or a tokenizer.json.

  'corpus' is the one that ships.

  Raises:
    DataError: no such file, not a tokenizer, or a sentencepiece model not in T5's layout.
    ConfigError: for a tokenizer.json, the library `tokenizers` is not there.
  """
  if not name:
    what, remedy = (
      'no tokenizer',
      "set data.tokenizer to a file's path, or import a folder with one",
    )
    raise errors.DataError(what, "data.tokenizer=''", remedy)
  path = corpus.TOKENIZER if name == 'corpus' else pathlib.Path(name)
  if not path.is_file():
    remedy = "give the path of a sentencepiece model or tokenizer.json, or 'corpus'"
    raise errors.DataError('no such tokenizer', path, remedy)
  if path.suffix == '.json':
    from t5lite.data import tokenizer_fast  # of an extra

    return tokenizer_fast.FastTokenizer(path)
  return SentencePiece(path)


class SentencePiece:
  """A sentencepiece model with T5's sentinels on top.

  Attributes:
    path: the model file.
    digest: its SHA-256 in hex.
    vocabulary: the ids that mean something to the objectives.
  """

  def __init__(self, path: pathlib.Path):
    content = path.read_bytes()
    proto = tokenizer_model.parse(content, path)
    self.path = path
    self.digest = hashlib.sha256(content).hexdigest()
    self._ids = tokenizer_model.special_ids(proto)
    self._names = {id: name for name, id in self._ids.items()}
    marks = self._ids.keys() - {proto.trainer_spec.pad_piece, proto.trainer_spec.unk_piece}
    self._mark = re.compile(f'({"|".join(map(re.escape, sorted(marks)))})')
    self._encoder = sentencepiece.SentencePieceProcessor(model_proto=content)
    # The space before the first word, which sentencepiece adds and takes away, is ours to add and
    # take away, so that a text can be encoded and decoded in parts.
    spec = proto.normalizer_spec
    verbatim = not spec.remove_extra_whitespaces
    self._prefix = ' ' if verbatim and spec.add_dummy_prefix else ''
    spec.add_dummy_prefix = spec.remove_extra_whitespaces = False
    self._decoder = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    if verbatim:
      self._encoder = self._decoder
    modes = zip(tokenizer_model.MODES, self.encode(tokenizer_model.MODES), strict=True)
    self.vocabulary = tokenizer_model.vocabulary(
      proto, {mode: tuple(ids.tolist()) for mode, ids in modes}
    )

  def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the int32 ids of each text, no EOS added. Uses all cores, little memory.

    Raises:
      DataError: a lone surrogate, which is no character.
    """
    return self._encode([self._prefix + text if text else '' for text in texts])

  def encode_marked(self, text: str) -> np.ndarray:
    """Returns the int32 ids of a text in which `[MASK]`, `<extra_id_0>`, `[S]`, ... are the tokens.

    The space before a mark is the mark's: "the [MASK] sat" is the text "the cat sat" with the
    token of " cat" masked.
    """
    *sections, last = self._mark.split(text)  # text, mark, text, mark, ..., text
    texts, marks = [*(text.removesuffix(' ') for text in sections[::2]), last], sections[1::2]
    texts[0] = self._prefix + texts[0] if texts[0] else ''
    ids = self._encode(texts)
    for i, mark in enumerate(marks):
      # The space that the model adds after a newline is the mark's too.
      if (
        texts[i].endswith('\n')
        and self._decoder.id_to_piece(int(ids[i][-1])) == tokenizer_model.SPACE
      ):
        ids[i] = ids[i][:-1]
      ids[i] = np.append(ids[i], np.int32(self._ids[mark]))
    return np.concatenate(ids)

  def align(self, text: str) -> Aligned:
    """Returns what `encode` gives for a text, with the characters of each token."""
    found, before = [], -len(self._prefix)
    for part in cut(self._prefix + text if text else '', PART):
      content = _utf8(part)
      is_first = np.frombuffer(content, np.uint8) & 0xC0 != 0x80  # of the bytes of a character
      characters = np.concatenate([[0], np.cumsum(is_first)]) + before
      (made,) = self._encoder.encode([content], return_type='proto')
      found += [(p.id, characters[p.begin], characters[p.end]) for p in made.pieces]
      before += len(part)
    ids, starts, ends = np.array(found, np.int32).reshape(-1, 3).T
    return Aligned(ids, np.maximum(starts, 0), ends)  # the added space is no character

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """Returns the text of token ids, special tokens by name but for padding, which is left out."""
    text = ''
    for is_text, run in itertools.groupby(np.asarray(ids).tolist(), self._is_text):
      if is_text:
        text += self._decoder.decode(list(run))
        continue
      for id in run:
        if id != self.vocabulary.pad:
          gap = ' ' if text and not text[-1].isspace() else ''
          text += gap + self._names.get(id, self._names[self.vocabulary.unk])
    return text.removeprefix(' ')

  def _is_text(self, id: int) -> bool:
    # A model may have more outputs than the vocabulary has tokens (T5: 32,128 and 32,100).
    return id not in self._names and id < self._decoder.piece_size()

  def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the ids of texts as they stand, without the space before the first word."""
    ids = [[np.zeros(0, np.int32)] for _ in texts]
    for call in _calls(texts):
      rows, parts = zip(*call, strict=True)
      num_threads = min(len(parts), os.cpu_count() or 1)
      encoded = self._encoder.encode(list(parts), return_type='numpy', num_threads=num_threads)
      for row, part_ids in zip(rows, encoded, strict=True):
        ids[row].append(part_ids)
    return [np.concatenate(parts) for parts in ids]


def cut(text: str, most: int) -> Iterator[str]:
  """Yields the text in parts of at most `most` characters, cut before whitespace if there is any.

  Pieces do not reach across a space, so the ids of the parts are the ids of the text.
  """
  start = 0
  while len(text) - start > most:
    words = text[start : start + most].rsplit(maxsplit=1)
    length = len(words[0]) if len(words) == 2 else most
    yield text[start : start + length]
    start += length
  if text[start:]:
    yield text[start:]


def _calls(texts: Iterable[str]) -> Iterator[list[tuple[int, bytes]]]:
  """Yields lists of (row, part in UTF-8), each list one call of sentencepiece."""
  call, size = [], 0
  for row, text in enumerate(texts):
    for part in cut(text, PART):
      call.append((row, _utf8(part)))
      size += len(part)
      if size >= CALL:
        yield call
        call, size = [], 0
  if call:
    yield call


def _utf8(text: str) -> bytes:
  try:
    return text.encode('utf-8')
  except UnicodeEncodeError as error:
    near = text[max(0, error.start - 20) : error.end + 20]
    remedy = "repair the text: text.encode('utf-8', 'replace').decode()"
    raise errors.DataError('lone surrogate in a text', repr(near), remedy) from error
