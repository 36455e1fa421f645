"""Text to token ids and back, by a `tokenizer.json` of Hugging Face's `tokenizers`.

Which tokens mean what stands beside it, in `special_tokens_map.json` or `tokenizer_config.json`;
what neither says is known by the names that T5, BERT, RoBERTa and GPT-2 have given their tokens.
"""

from collections.abc import Mapping, Sequence
import hashlib
import itertools
import json
import pathlib

import numpy as np

from t5lite import errors
from t5lite import extras
from t5lite import objectives
from t5lite.data import tokenizer
from t5lite.data import tokenizer_model

with extras.needed('hf'):
  import tokenizers
  import tokenizers.models

BESIDE = ('tokenizer_config.json', 'special_tokens_map.json')  # the later wins
NAMES: Mapping[str, Sequence[str]] = {
  'pad': ('<pad>', '[PAD]'),
  'eos': ('</s>', '<|endoftext|>', '<eos>', '[SEP]'),
  'unk': ('<unk>', '[UNK]', '<|endoftext|>'),
  'mask': ('[MASK]', '<mask>'),
  'cls': ('[CLS]', '<s>'),
  'sep': ('[SEP]', '</s>'),
}
WORDS = ('Ġ', 'Ċ', tokenizer_model.SPACE)  # what a token that begins a word begins with
INSIDE = '##'  # of WordPiece: what a token inside a word begins with


class FastTokenizer:
  """A tokenizer of `tokenizers`; see `tokenizer.Tokenizer` for what it does.

  Attributes:
    path: of tokenizer.json.
    digest: SHA-256 in hex, of the file and of the names of its special tokens.
    vocabulary: the ids that mean something to the objectives.

  Raises:
    DataError: not such a file, or it has no token that ends a text.
  """

  def __init__(self, path: pathlib.Path):
    content = path.read_bytes()
    try:
      self._tokenizer = tokenizers.Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises nothing narrower
      remedy = 'give a tokenizer.json that transformers wrote'
      raise errors.DataError('not a tokenizer', f'{path} ({error})', remedy) from error
    self._tokenizer.no_truncation()
    self._tokenizer.no_padding()
    self.path = path
    names = special_names(path, self._tokenizer.get_vocab(with_added_tokens=True))
    said = json.dumps(names, sort_keys=True).encode()
    self.digest = hashlib.sha256(content + said).hexdigest()
    self._mask = names.get('mask', '')
    modes = {mode: tuple(ids.tolist()) for mode, ids in zip(*self._modes(), strict=True)}
    self.vocabulary = vocabulary(self._tokenizer, names, modes, path)

  def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the int32 ids of each text, no EOS added; special tokens in it are text."""
    self._tokenizer.encode_special_tokens = True
    return self._encode(texts)

  def encode_marked(self, text: str) -> np.ndarray:
    """Returns the int32 ids of a text in which the names of special tokens are the tokens.

    `[MASK]` is the mask, whatever its name.
    """
    self._tokenizer.encode_special_tokens = False
    text = text.replace(tokenizer_model.BERT_TOKENS[2], self._mask) if self._mask else text
    return self._encode([text])[0]

  def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
    for text in texts:
      check_characters(text)
    made = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.array(each.ids, np.int32) for each in made]

  def align(self, text: str) -> tokenizer.Aligned:
    """Returns what `encode` gives for a text, with the characters of each token."""
    self._tokenizer.encode_special_tokens = True
    check_characters(text)
    made = self._tokenizer.encode(text, add_special_tokens=False)
    starts, ends = np.array(made.offsets, np.int32).reshape(-1, 2).T
    return tokenizer.Aligned(np.array(made.ids, np.int32), starts, ends)

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """Returns the text of token ids, special tokens by name but for padding, which is left out."""
    known = [
      # A model may have more outputs than the vocabulary has tokens.
      id if id < self.vocabulary.size else self.vocabulary.unk
      for id in np.asarray(ids).tolist()
      if id != self.vocabulary.pad
    ]
    return self._tokenizer.decode(known, skip_special_tokens=False)

  def _modes(self) -> tuple[Sequence[str], list[np.ndarray]]:
    return tokenizer_model.MODES, self.encode(tokenizer_model.MODES)


def check_characters(text: str) -> None:
  """Raises DataError if a part of the text is no character."""
  try:
    text.encode()
  except UnicodeEncodeError as error:
    near = text[max(0, error.start - 20) : error.end + 20]
    remedy = "repair the text: text.encode('utf-8', 'replace').decode()"
    raise errors.DataError('lone surrogate in a text', repr(near), remedy) from error


def special_names(path: pathlib.Path, ids: Mapping[str, int]) -> dict[str, str]:
  """Returns {'pad': '<pad>', ...} of the tokens that the vocabulary has."""
  given = {}
  for name in BESIDE:
    if (file := path.with_name(name)).is_file():
      given |= read_names(file)
  names = {}
  for role, usual in NAMES.items():
    token = given.get(role) or next((name for name in usual if name in ids), None)
    if token in ids:
      names[role] = token
  if 'eos' not in names and 'sep' in names:
    names['eos'] = names['sep']
  return names


def read_names(file: pathlib.Path) -> dict[str, str]:
  """Returns what a file of BESIDE says of the roles of tokens."""
  try:
    said = json.loads(file.read_text(encoding='utf-8'))
    tokens = {role: said.get(f'{role}_token') for role in NAMES}
  except (OSError, ValueError, AttributeError) as error:
    remedy = 'give one that transformers wrote, or none'
    raise errors.DataError('cannot read', f'{file} ({error})', remedy) from error
  names = {k: x.get('content') if isinstance(x, dict) else x for k, x in tokens.items()}
  return {role: name for role, name in names.items() if isinstance(name, str)}


def vocabulary(
  tokenizer: 'tokenizers.Tokenizer',
  names: Mapping[str, str],
  modes: Mapping[str, tuple[int, ...]],
  path: pathlib.Path,
) -> objectives.Vocabulary:
  """Returns the ids that mean something to the objectives.

  Args:
    tokenizer: gives the tokens.
    names: of the special ones.
    modes: the ids of each of UL2's modes as plain text.
    path: for the message.

  Raises:
    DataError: no token ends a text.
  """
  ids = tokenizer.get_vocab(with_added_tokens=True)
  role = {name: ids[token] for name, token in names.items()}
  before, between = _added(tokenizer)
  if 'eos' not in role:
    remedy = 'name one in special_tokens_map.json beside it: {"eos_token": "..."}'
    raise errors.DataError('tokenizer without an end of text', path, remedy)
  size = max(ids.values()) + 1
  word_start, special = np.zeros(size, bool), np.zeros(size, bool)
  is_wordpiece = isinstance(tokenizer.model, tokenizers.models.WordPiece)
  for token, id in ids.items():
    begins = not token.startswith(INSIDE) if is_wordpiece else token.startswith(WORDS)
    word_start[id] = begins
  added = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
  special[list(added | set(role.values()))] = True
  word_start[special] = True
  sentinels = itertools.takewhile(ids.__contains__, map('<extra_id_{}>'.format, itertools.count()))
  return objectives.Vocabulary(
    size=size,
    pad=role.get('pad'),
    eos=role['eos'],
    unk=role.get('unk', role['eos']),
    mask=role.get('mask'),
    cls=role.get('cls'),
    sep=role.get('sep'),
    sentinels=np.array([ids[name] for name in sentinels], np.int32),
    modes=modes,
    word_start=word_start,
    special=special,
    bos=before[0] if len(before) == 1 else None,
    pair=tuple(between),
  )


def _added(tokenizer: 'tokenizers.Tokenizer') -> tuple[Sequence[int], Sequence[int]]:
  """Returns the tokens that are put before a text, and between two."""
  one, two = tokenizer.encode('a'), tokenizer.encode('a', 'a')
  if 0 not in one.sequence_ids or 1 not in two.sequence_ids:  # it knows no such text
    return (), ()
  last = len(two.ids) - 1 - two.sequence_ids[::-1].index(0)
  return (one.ids[: one.sequence_ids.index(0)], two.ids[last + 1 : two.sequence_ids.index(1)])
