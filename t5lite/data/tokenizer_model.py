"""What a sentencepiece model file says: its special tokens and its Vocabulary."""

from collections.abc import Mapping
import itertools
import pathlib
import re
from typing import Any

from google.protobuf import message
import numpy as np
from sentencepiece import sentencepiece_model_pb2

from t5lite import errors
from t5lite import objectives

NUM_SENTINELS = 100
BERT_TOKENS = ('[CLS]', '[SEP]', '[MASK]')
MODES = ('[R]', '[S]', '[X]')  # UL2's denoisers
SPACE = '\u2581'  # what a piece has in the place of a space
# In a row; in our own models they are followed by one added space, not by one each.
MOST_NEWLINES = 8
SENTINEL = re.compile(rf'{SPACE}?(<extra_id_\d+>)')


def parse(content: bytes, path: pathlib.Path) -> Any:
  """Returns the ModelProto of the file's content; `path` is for the message.

  Raises:
    DataError: not a sentencepiece model, or not in T5's layout: padding at 0 and an end of text.
  """
  remedy = 'give a sentencepiece .model file in the layout of T5, or train one: t5lite tokenizer'
  try:
    # The generated module defines its classes at run time.
    proto = sentencepiece_model_pb2.ModelProto.FromString(content)  # pyright: ignore[reportAttributeAccessIssue]
  except message.DecodeError as error:
    raise errors.DataError('not a sentencepiece model', path, remedy) from error
  if not proto.pieces:
    raise errors.DataError('not a sentencepiece model', path, remedy)
  ids, spec = special_ids(proto), proto.trainer_spec
  pad, eos = ids.get(spec.pad_piece), ids.get(spec.eos_piece)
  if pad != 0 or eos is None:
    where = f'{path}: {spec.pad_piece} is {pad}, {spec.eos_piece} is {eos}'
    raise errors.DataError(
      'tokenizer without padding at 0 or without an end of text', where, remedy
    )
  return proto


def special_ids(proto: Any) -> dict[str, int]:
  """Returns {name: id} of the tokens that are no text, T5's sentinels included."""
  ids = {}
  for id, piece in enumerate(proto.pieces):
    if sentinel := SENTINEL.fullmatch(piece.piece):
      ids[sentinel[1]] = id
    elif piece.type in (piece.CONTROL, piece.UNKNOWN):
      ids[piece.piece] = id
    elif piece.type == piece.USER_DEFINED and piece.piece in BERT_TOKENS + MODES:
      ids[piece.piece] = id
  if '<extra_id_0>' not in ids:
    last = len(proto.pieces) + NUM_SENTINELS - 1
    ids |= {f'<extra_id_{i}>': last - i for i in range(NUM_SENTINELS)}
  return ids


def vocabulary(proto: Any, modes: Mapping[str, tuple[int, ...]]) -> objectives.Vocabulary:
  """Returns the ids that mean something to the objectives.

  Args:
    proto: the model.
    modes: the ids of each of MODES as plain text, for a model that has no token for it.
  """
  ids, spec, num_pieces = special_ids(proto), proto.trainer_spec, len(proto.pieces)
  size = max(num_pieces, max(ids.values()) + 1)
  # A newline begins a word too, and a special token is one.
  word_start = np.ones(size, bool)
  word_start[:num_pieces] = [piece.piece.startswith((SPACE, '\n')) for piece in proto.pieces]
  special = np.zeros(size, bool)
  special[list(ids.values())] = word_start[list(ids.values())] = True
  names = map('<extra_id_{}>'.format, itertools.count())
  sentinels = [ids[name] for name in itertools.takewhile(ids.__contains__, names)]
  return objectives.Vocabulary(
    size=size,
    pad=ids[spec.pad_piece],
    eos=ids[spec.eos_piece],
    unk=ids[spec.unk_piece],
    mask=ids.get('[MASK]'),
    cls=ids.get('[CLS]'),
    sep=ids.get('[SEP]'),
    sentinels=np.array(sentinels, np.int32),
    modes={mode: (ids[mode],) if mode in ids else modes[mode] for mode in MODES},
    word_start=word_start,
    special=special,
  )
