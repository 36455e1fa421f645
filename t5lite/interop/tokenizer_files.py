"""The files of a tokenizer, in a workdir and in a folder of Hugging Face's."""

from collections.abc import Sequence
import json
import pathlib
import shutil
from typing import Any

import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers
from tokenizers import processors

from t5lite import config as config_lib
from t5lite import errors
from t5lite import objectives
from t5lite.data import tokenizer as tokenizer_lib
from t5lite.data import tokenizer_fast
from t5lite.data import tokenizer_model
from t5lite.interop import tokenizer_json

# A name that transformers does not look for: of our own kind of sentencepiece model, which keeps
# whitespace and spells what it does not know in bytes, its T5Tokenizer makes other ids (5.24.0).
OURS, SPIECE = 't5lite.model', 'spiece.model'  # the second is Google's T5s'
JSON, CONFIG, MAP = 'tokenizer.json', *tokenizer_fast.BESIDE
BYTE_PAIRS, WORDS = ('vocab.json', 'merges.txt'), 'vocab.txt'  # GPT-2's and RoBERTa's; BERT's
# What is easily read otherwise.
PROBES = (
  'The ship sailed; it was 1851.',
  ' two  spaces,   three, and at the end  ',
  'line\nline\n\n\nmore' + '\n' * 20 + ' indented\r\n\ttab\n',
  'café naïve ﬁ Ａ e\u0301 Grüße ß',
  '日本語 русский العربية हिन्दी',
  '😀👍🏽👩‍👩‍👧 and text',
  '<0x41> [MASK] <extra_id_0>',
  '',
)


def write(
  folder: pathlib.Path, tokenizer: tokenizer_lib.Tokenizer, config: config_lib.Config
) -> str:
  """Writes the files of a run's tokenizer for transformers; returns in words what is there."""
  if isinstance(tokenizer, tokenizer_fast.FastTokenizer):
    for path in files_of(tokenizer):
      shutil.copyfile(path, folder / path.name)
    fast = tokenizers.Tokenizer.from_file(str(tokenizer.path))
    if not isinstance(fast.model, (models.WordPiece, models.BPE)):
      return JSON
    older = [pathlib.Path(path).name for path in fast.model.save(str(folder))]
    return f'{JSON}, {" and ".join(older)}'
  content = tokenizer.path.read_bytes()
  proto = tokenizer_model.parse(content, tokenizer.path)
  name = OURS if tokenizer_json.is_verbatim(proto) else SPIECE
  (folder / name).write_bytes(content)
  names = roles(tokenizer.vocabulary, proto, config)
  tree = tokenizer_json.of_model(proto, *around(names, config))
  text = json.dumps(tree, ensure_ascii=False)
  if (other := first_other(tokenizer, text)) is not None:
    return f'{name}, a sentencepiece model, for which `tokenizers` has other ids in {other!r}'
  (folder / JSON).write_text(text, encoding='utf-8')
  (folder / MAP).write_text(json.dumps(names, indent=2) + '\n')
  about = {
    **names,
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'model_max_length': config.context_length,
    'clean_up_tokenization_spaces': False,
    'model_input_names': ['input_ids', 'attention_mask'],
    'additional_special_tokens': [
      name for name in tokenizer_model.special_ids(proto) if name not in names.values()
    ],
  }
  if config.model.num_token_types:
    about['model_input_names'].insert(1, 'token_type_ids')
  (folder / CONFIG).write_text(json.dumps(about, indent=2) + '\n')
  return f'{JSON} and {name}, a sentencepiece model'


def files_of(tokenizer: tokenizer_lib.Tokenizer) -> list[pathlib.Path]:
  """Returns the files that say what a tokenizer does."""
  if not isinstance(tokenizer, tokenizer_fast.FastTokenizer):
    return [tokenizer.path]
  beside = [tokenizer.path.with_name(name) for name in tokenizer_fast.BESIDE]
  return [tokenizer.path, *(path for path in beside if path.is_file())]


def roles(
  vocabulary: objectives.Vocabulary, proto: Any, config: config_lib.Config
) -> dict[str, str]:
  """Returns {'eos_token': '</s>', ...} as transformers calls them."""
  names = {id: name for name, id in tokenizer_model.special_ids(proto).items()}
  ids = {'pad': vocabulary.pad, 'eos': vocabulary.eos, 'unk': vocabulary.unk}
  if config.model.architecture == 'decoder':
    ids['bos'] = vocabulary.begin
  if config.model.architecture == 'encoder':
    ids |= {'cls': vocabulary.cls, 'sep': vocabulary.sep, 'mask': vocabulary.mask}
  return {f'{role}_token': names[id] for role, id in ids.items() if id is not None}


def around(names: dict[str, str], config: config_lib.Config) -> tuple[Sequence[str], Sequence[str]]:
  """Returns the tokens before and behind a text, as the model has learnt to read it."""
  match config.model.architecture:
    case 'encoder_decoder':
      return (), (names['eos_token'],)
    case 'encoder' if 'cls_token' in names and 'sep_token' in names:
      return (names['cls_token'],), (names['sep_token'],)
    case 'decoder' if config.objective.name == 'causal_lm':
      return (names['bos_token'],), ()
  return (), ()


def first_other(tokenizer: tokenizer_lib.Tokenizer, content: str) -> str | None:
  """Returns the first of PROBES of which a tokenizer.json makes other ids; None: of none."""
  fast = tokenizers.Tokenizer.from_str(content)
  for text in PROBES:
    if fast.encode(text, add_special_tokens=False).ids != tokenizer.encode_marked(text).tolist():
      return text
  return None


def take(folder: pathlib.Path, into: pathlib.Path, model_type: str) -> str:
  """Copies the tokenizer of a folder of Hugging Face's; returns the name of its file, or ''.

  Args:
    folder: that has it.
    into: the new folder.
    model_type: of the folder's config.json.
  """
  for name in (OURS, SPIECE, JSON):
    if (folder / name).is_file():
      for path in files_of(tokenizer_lib.load(str(folder / name))):
        shutil.copyfile(path, into / path.name)
      return name
  made = built(folder, model_type)
  if made is None:
    return ''
  made.save(str(into / JSON))
  for name in tokenizer_fast.BESIDE:
    if (folder / name).is_file():
      shutil.copyfile(folder / name, into / name)
  return JSON


def built(folder: pathlib.Path, model_type: str) -> tokenizers.Tokenizer | None:
  """Returns the tokenizer of a folder with a vocabulary of an older kind; None: it has none.

  Raises:
    DataError: its files cannot be read.
  """
  pairs = [folder / name for name in BYTE_PAIRS]
  try:
    if all(path.is_file() for path in pairs):
      return byte_pairs(pairs, model_type)
    if (folder / WORDS).is_file():
      return word_pieces(folder)
  except Exception as error:  # the library raises nothing narrower
    remedy = 'give files that transformers wrote'
    raise errors.DataError('cannot read the vocabulary', f'{folder} ({error})', remedy) from error
  return None


def byte_pairs(pairs: Sequence[pathlib.Path], model_type: str) -> tokenizers.Tokenizer:
  """Returns GPT-2's (Radford et al. 2019, section 2.2) or RoBERTa's, which adds special tokens."""
  vocabulary, merges = map(str, pairs)
  made = tokenizers.Tokenizer(models.BPE.from_file(vocabulary, merges))
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  if model_type == 'gpt2':
    made.add_special_tokens(['<|endoftext|>'])
    return made
  specials = [
    tokenizers.AddedToken(name, special=True) for name in ('<s>', '<pad>', '</s>', '<unk>')
  ]
  made.add_special_tokens([*specials, tokenizers.AddedToken('<mask>', lstrip=True, special=True)])
  ids = made.get_vocab()
  ends = ('</s>', ids['</s>']), ('<s>', ids['<s>'])
  made.post_processor = processors.RobertaProcessing(*ends, add_prefix_space=False)
  return made


def word_pieces(folder: pathlib.Path) -> tokenizers.Tokenizer:
  """Returns BERT's (Devlin et al. 2019, section 3); in lower case, if nothing says otherwise."""
  said = json.loads((folder / CONFIG).read_text()) if (folder / CONFIG).is_file() else {}
  made = tokenizers.Tokenizer(models.WordPiece.from_file(str(folder / WORDS), unk_token='[UNK]'))
  made.normalizer = normalizers.BertNormalizer(
    lowercase=said.get('do_lower_case', True),
    strip_accents=said.get('strip_accents'),
    handle_chinese_chars=said.get('tokenize_chinese_chars', True),
  )
  made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  made.decoder = decoders.WordPiece()
  made.add_special_tokens(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'])
  ids = made.get_vocab()
  made.post_processor = processors.BertProcessing(('[SEP]', ids['[SEP]']), ('[CLS]', ids['[CLS]']))
  return made
