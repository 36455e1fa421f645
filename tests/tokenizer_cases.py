"""Small tokenizers of each kind that Hugging Face's folders have, of the text that ships."""

import io
import json
import pathlib

import sentencepiece
import tokenizers
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers
from tokenizers import trainers

from t5lite.data import corpus
from t5lite.data import tokenizer
from t5lite.data import tokenizer_training

# What a text may hold that is easily read otherwise; special tokens that no text speaks of stand
# where they are the tokens.
TEXTS = [
  'The ship sailed; it was 1851.',
  '',
  ' ',
  '\n',
  '  two spaces,   three, and at the end  ',
  'line\nline\n\n\nafter blank lines\n' + '\n' * 20 + ' indented\n',
  'tab\there\r\nand\rthere\x00\x0b\x0c',
  'café naïve ﬁ Ａ \u00a0 e\u0301 \u3000 \u200b\ufeff\u2028 Grüße aus Köln, ß',
  '日本語 русский العربية हिन्दी',
  '😀👍🏽👩‍👩‍👧 and text',
  ''.join(map(chr, range(256))),
  '<0x41> < 0x41>',
  'a \u2581b\u2581',
  'the [MASK] sat on <extra_id_0> mat',
  '[MASK] sat',
  ' [MASK]',
  'a[MASK]b',
  '\n[MASK]\n',
  '\n [MASK]\n  [MASK]',
  'x  [MASK]  y',
  '  [CLS] a [SEP]',
  '<extra_id_0> <extra_id_1></s>',
]


def documents() -> list[str]:
  return corpus.documents()[600:630]


def sentencepiece_models(folder: pathlib.Path) -> dict[str, tokenizer.Tokenizer]:
  """Returns the one that ships, one as Google's T5s have, and BPE."""
  model, path = io.BytesIO(), folder / 'spiece.model'
  lines = [line for text in documents()[:10] for line in text.split('\n')]
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(lines),
    model_writer=model,
    minloglevel=2,
    max_sentence_length=50_000,
    **{'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1, 'vocab_size': 1000},
    required_chars='[]<>/',
  )
  path.write_bytes(model.getvalue())
  text = folder / 'text.txt'
  text.write_text('\n\n'.join(documents()), encoding='utf-8')
  bpe = tokenizer_training.train([str(text)], 1500, folder / 'bpe.model', 'bpe')
  return {'corpus': tokenizer.load('corpus'), 't5': tokenizer.load(str(path)), 'bpe': bpe}


def write_gpt2(folder: pathlib.Path) -> None:
  """Writes vocab.json and merges.txt: bytes, '!' with id 0, and an end of text, no padding."""
  made = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  trainer = trainers.BpeTrainer(
    vocab_size=600, initial_alphabet=alphabet, special_tokens=['!', '<|endoftext|>']
  )
  made.train_from_iterator(documents(), trainer)
  made.model.save(str(folder))


def write_bert(folder: pathlib.Path) -> None:
  """Writes vocab.txt."""
  made = tokenizers.Tokenizer(models.WordPiece(unk_token='[UNK]'))
  made.normalizer = normalizers.BertNormalizer(lowercase=True)
  made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  trainer = trainers.WordPieceTrainer(
    vocab_size=600, special_tokens=['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
  )
  made.train_from_iterator(documents(), trainer)
  made.model.save(str(folder))
  (folder / 'tokenizer_config.json').write_text(json.dumps({'do_lower_case': True}))


def write_roberta(folder: pathlib.Path) -> None:
  """Writes vocab.json and merges.txt with RoBERTa's special tokens: padding is 1."""
  made = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  trainer = trainers.BpeTrainer(
    vocab_size=600,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    special_tokens=['<s>', '<pad>', '</s>', '<unk>', '<mask>'],
  )
  made.train_from_iterator(documents(), trainer)
  made.model.save(str(folder))
