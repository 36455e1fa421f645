"""A sentencepiece model as the `tokenizer.json` of Hugging Face's `tokenizers`: the same ids.

Where that library works otherwise, the file says it in its terms:
- Its `Precompiled` normaliser asks a model's rules for one grapheme at a time. Those of our own
  models ("\\n\\n" -> "\\n\\n ") are longer, so that they are written out as replacements.
- Its `Metaspace` adds no space before a text that begins with one. So spaces are turned into marks
  first, and then one `Metaspace` adds the space and another turns that into a mark.
- Its models may take any piece for text. So special tokens and bytes get a score that never wins.
- It adds up log probabilities in float64, sentencepiece in float32: of two ways to divide a word
  that are nearly as likely, a long text may get the other (one word of 78,000 with umT5's).
- Its special tokens take all whitespace before them or none, not one space. So the normaliser takes
  that away, and they are looked for behind it (`normalized`).
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
import re
from typing import Any

from t5lite.data import tokenizer_model

Tree = dict[str, Any]
SPACE = tokenizer_model.SPACE
NEVER = -1e4  # a log probability below that of any text in the place of a token's name


def of_model(proto: Any, before: Sequence[str] = (), after: Sequence[str] = ()) -> Tree:
  """Returns the content of tokenizer.json.

  Args:
    proto: the sentencepiece ModelProto.
    before: names of the special tokens that stand before a text.
    after: and behind it.
  """
  ids = tokenizer_model.special_ids(proto)
  late = is_verbatim(proto)
  added = [added_token(name, id, late) for name, id in sorted(ids.items(), key=lambda x: x[1])]
  return {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': added,
    'normalizer': sequence('normalizers', normalizers(proto, ids)),
    'pre_tokenizer': sequence('pretokenizers', pre_tokenizers(proto)),
    'post_processor': template(ids, before, after),
    'decoder': sequence('decoders', decoders(proto)),
    'model': bpe(proto) if proto.trainer_spec.model_type == 2 else unigram(proto, ids),
  }


def sequence(name: str, parts: list[Tree]) -> Tree:
  return {'type': 'Sequence', name: parts}


def added_token(name: str, id: int, normalized: bool) -> Tree:
  flags = {'single_word': False, 'lstrip': False, 'rstrip': False, 'normalized': normalized}
  return {'id': id, 'content': name, **flags, 'special': True}


def is_verbatim(proto: Any) -> bool:
  """Returns whether whitespace is kept, as in models of `tokenizer_training`; T5's fold it."""
  return not proto.normalizer_spec.remove_extra_whitespaces


def has_newline_rules(proto: Any) -> bool:
  """Returns whether the rules of the model are those of `tokenizer_training`."""
  return is_verbatim(proto) and proto.normalizer_spec.name == 'user_defined'


def normalizers(proto: Any, names: Iterable[str]) -> list[Tree]:
  """Returns the steps from text to the characters that the pieces are made of."""
  spec, marks = proto.normalizer_spec, '|'.join(map(re.escape, names))
  parts = []
  if is_verbatim(proto):  # the space before a mark is the mark's: see `Tokenizer.encode_marked`
    parts.append(replace(f' (?={marks})', ''))
  if has_newline_rules(proto):
    parts += [*newline_rules(), replace(f'(?<=\\n) (?={marks})', '')]
  elif spec.precompiled_charsmap:
    charsmap = base64.b64encode(spec.precompiled_charsmap).decode()
    parts.append({'type': 'Precompiled', 'precompiled_charsmap': charsmap})
  if not is_verbatim(proto):
    parts.append({'type': 'Strip', 'strip_left': True, 'strip_right': True})
    parts.append(replace(' {2,}', ' '))
  return [*parts, replace(' ', SPACE)]


def newline_rules() -> list[Tree]:
  """Returns "\\n" -> "\\n " for runs of newlines, of which each MOST get one space."""
  most = tokenizer_model.MOST_NEWLINES
  whole = replace(f'\\n{{{most}}}', '\n' * most + ' ')
  rest = [replace(f'(?<!\\n)\\n{{{n}}}(?!\\n)', '\n' * n + ' ') for n in range(1, most)]
  return [whole, *rest]


def replace(pattern: str, content: str) -> Tree:
  return {'type': 'Replace', 'pattern': {'Regex': pattern}, 'content': content}


def pre_tokenizers(proto: Any) -> list[Tree]:
  """Returns the steps that add the space before the first word; no text is cut."""
  spec = proto.normalizer_spec
  # Without whitespace of its own, each part between special tokens begins a word.
  scheme = 'first' if is_verbatim(proto) else 'always'
  scheme = scheme if spec.add_dummy_prefix else 'never'
  return [metaspace(' ', scheme), metaspace(SPACE, 'never')]


def metaspace(mark: str, scheme: str) -> Tree:
  return {'type': 'Metaspace', 'replacement': mark, 'prepend_scheme': scheme, 'split': False}


def decoders(proto: Any) -> list[Tree]:
  """Returns the steps from pieces to text."""
  parts: list[Tree] = [
    {'type': 'ByteFallback'},
    {'type': 'Replace', 'pattern': {'String': SPACE}, 'content': ' '},
    {'type': 'Fuse'},
  ]
  if has_newline_rules(proto):
    parts.append({'type': 'Replace', 'pattern': {'String': '\n '}, 'content': '\n'})
  if proto.normalizer_spec.add_dummy_prefix:
    parts.append({'type': 'Strip', 'content': ' ', 'start': 1, 'stop': 0})
  return parts


def template(ids: Mapping[str, int], before: Sequence[str], after: Sequence[str]) -> Tree | None:
  """Returns what puts special tokens around a text, or around two."""
  names = dict.fromkeys([*before, *after])
  if not names:
    return None

  def token(name: str, text: int) -> Tree:
    return {'SpecialToken': {'id': name, 'type_id': text}}

  first = [{'Sequence': {'id': 'A', 'type_id': 0}}, *(token(name, 0) for name in after)]
  kind = int(len(names) > 1)  # BERT's second text has token types of its own
  second = [{'Sequence': {'id': 'B', 'type_id': kind}}, *(token(name, kind) for name in after)]
  start = [token(name, 0) for name in before]
  said = {name: {'id': name, 'ids': [ids[name]], 'tokens': [name]} for name in names}
  return {
    'type': 'TemplateProcessing',
    'single': [*start, *first],
    'pair': [*start, *first, *second],
    'special_tokens': said,
  }


def unigram(proto: Any, ids: Mapping[str, int]) -> Tree:
  """Returns the pieces with their log probabilities, sentinels included."""
  size = max(len(proto.pieces), max(ids.values()) + 1)
  names = {id: name for name, id in ids.items()}
  kinds = proto.SentencePiece
  scores = dict.fromkeys((kinds.UNKNOWN, kinds.CONTROL, kinds.BYTE, kinds.UNUSED), NEVER)
  scores[kinds.USER_DEFINED] = 0.0  # better than any text
  vocabulary = [[piece.piece, scores.get(piece.type, piece.score)] for piece in proto.pieces]
  vocabulary += [[names[id], NEVER] for id in range(len(proto.pieces), size)]
  return {
    'type': 'Unigram',
    'unk_id': ids[proto.trainer_spec.unk_piece],
    'vocab': vocabulary,
    'byte_fallback': proto.trainer_spec.byte_fallback,
  }


def bpe(proto: Any) -> Tree:
  """Returns the pieces and what they are merged from, the best piece first."""
  pieces = {piece.piece: id for id, piece in enumerate(proto.pieces)}
  merged = [piece for piece in proto.pieces if piece.type == piece.NORMAL and len(piece.piece) > 1]
  merges = [
    [name[:i], name[i:]]
    for name in (piece.piece for piece in sorted(merged, key=lambda piece: -piece.score))
    for i in range(1, len(name))
    if name[:i] in pieces and name[i:] in pieces
  ]
  return {
    'type': 'BPE',
    'dropout': None,
    'unk_token': proto.trainer_spec.unk_piece,
    'continuing_subword_prefix': None,
    'end_of_word_suffix': None,
    'fuse_unk': True,
    'byte_fallback': proto.trainer_spec.byte_fallback,
    'ignore_merges': False,
    'vocab': pieces,
    'merges': merges,
  }
