"""Tokenizer: text comes back, ids are where T5 has them, long text is cheap, errors help."""

import gzip
import hashlib
import io
import json
import lzma
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece

from t5lite import errors
from t5lite.data import corpus
from t5lite.data import tokenizer
from t5lite.data import tokenizer_training

TEXTS = [
  'The ship sailed.',
  '',
  ' ',
  '\n',
  '  two spaces,   three, and at the end  ',
  'line\nline\n\n\nafter blank lines\n' + '\n' * 20 + ' indented\n',
  'tab\there\r\nand\rthere\x00\x0b\x0c',
  'café naïve ﬁ Ａ \u00a0 e\u0301 \u3000 \u200b\ufeff\u2028',
  '日本語 русский العربية हिन्दी',
  '😀👍🏽👩‍👩‍👧 and text',
  '[MASK] [CLS] <extra_id_0> </s> <pad> <unk> <0x41> [S]',
  ''.join(map(chr, range(256))),
]


@pytest.fixture(scope='module')
def ours() -> tokenizer.Tokenizer:
  return tokenizer.load('corpus')


@pytest.fixture(scope='module')
def text_file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  path = tmp_path_factory.mktemp('text') / 'text.txt'
  path.write_text('\n\n'.join(corpus.documents()[600:630]), encoding='utf-8')
  return path


def plain_model(path: pathlib.Path, **options) -> pathlib.Path:
  """Trains a model with sentencepiece alone, in T5's layout unless `options` say otherwise."""
  layout = {'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1, 'vocab_size': 1000} | options
  model = io.BytesIO()
  sentences = [line for text in corpus.documents()[600:610] for line in text.split('\n')]
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(sentences),
    model_writer=model,
    minloglevel=2,
    max_sentence_length=50_000,
    **layout,
  )
  path.write_bytes(model.getvalue())
  return path


@pytest.fixture(scope='module')
def t5_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  return plain_model(tmp_path_factory.mktemp('t5') / 'spiece.model', required_chars='[]RSX')


def as_sentencepiece(path: pathlib.Path, text: str) -> list[int]:
  return sentencepiece.SentencePieceProcessor(model_file=str(path)).encode(text)


@pytest.mark.parametrize('text', TEXTS)
def test_text_comes_back(ours, text):
  assert ours.decode(ours.encode([text])[0]) == text


def test_random_unicode_comes_back(ours):
  points = np.random.default_rng(0).integers(0, 0x110000, 20_000)
  surrogate = (points >= 0xD800) & (points < 0xE000)
  text = ''.join(map(chr, points[~surrogate & (points != 0x2581)].tolist()))
  assert ours.decode(ours.encode([text])[0]) == text


def test_documents_come_back(ours):
  documents = corpus.documents()
  assert sum(map(len, documents)) > 3 * tokenizer.CALL
  assert [ours.decode(ids) for ids in ours.encode(documents)[::10]] == documents[::10]


def test_batch_is_texts_one_by_one(ours):
  batch = ours.encode(TEXTS)
  assert [ids.dtype for ids in batch] == [np.int32] * len(TEXTS)
  assert [ids.tolist() for ids in batch] == [ours.encode([text])[0].tolist() for text in TEXTS]


def test_words_at_line_starts_are_as_elsewhere(ours):
  (first,), (_, newline, again) = ours.encode(['house', 'the\nhouse'])
  assert first == again
  assert ours.decode([newline]) == '\n'


def test_parts_have_the_ids_of_the_whole(ours, t5_model):
  text = '\n'.join(corpus.documents()[:4])
  assert len(text) > 4 * tokenizer.PART
  for each in (ours, tokenizer.load(str(t5_model))):
    assert each.encode([text])[0].tolist() == as_sentencepiece(each.path, text)


def test_runs_of_spaces_at_cuts_do_not_matter(ours, t5_model):
  text = 'word     ' * tokenizer.PART
  for each in (ours, tokenizer.load(str(t5_model))):
    assert each.encode([text])[0].tolist() == as_sentencepiece(each.path, text)


def test_long_text_without_spaces_comes_back(ours):
  for text in ('x' * (3 * tokenizer.PART), ' ' * (2 * tokenizer.PART + 1)):
    assert ours.decode(ours.encode([text])[0]) == text


@pytest.mark.parametrize('text', ['a bb  ccc\ndddd', ' a ', 'aaaaaaaaaaa', '       ', 'aaaa b', ''])
def test_cut_keeps_text_and_limit(text):
  for most in range(1, len(text) + 2):
    parts = list(tokenizer.cut(text, most))
    assert ''.join(parts) == text
    assert all(0 < len(part) <= most for part in parts)


def test_sentinels_count_down_from_the_top(ours, t5_model):
  t5 = tokenizer.load(str(t5_model)).vocabulary
  assert t5.size == 1000 + 100
  assert ours.vocabulary.size == 8192
  for vocabulary in (t5, ours.vocabulary):
    top = vocabulary.size - 1
    np.testing.assert_array_equal(vocabulary.sentinels, np.arange(top, top - 100, -1))


def test_t5_layout_has_no_bert_tokens_and_modes_as_text(t5_model):
  t5 = tokenizer.load(str(t5_model))
  vocabulary = t5.vocabulary
  assert (vocabulary.pad, vocabulary.eos, vocabulary.unk) == (0, 1, 2)
  assert (vocabulary.mask, vocabulary.cls, vocabulary.sep) == (None, None, None)
  assert vocabulary.special.sum() == 3 + 100
  assert {mode: t5.decode(ids) for mode, ids in vocabulary.modes.items()} == {
    '[R]': '[R]',
    '[S]': '[S]',
    '[X]': '[X]',
  }


def test_own_sentinels_get_no_second_set(tmp_path):
  names = [f'▁<extra_id_{i}>' for i in reversed(range(10))]
  model = plain_model(tmp_path / 'm.model', vocab_size=500, user_defined_symbols=names)
  processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
  vocabulary = tokenizer.load(str(model)).vocabulary
  assert vocabulary.size == 500
  assert vocabulary.sentinels.tolist() == [processor.piece_to_id(name) for name in names[::-1]]


def test_special_tokens_are_distinct_and_marked_special(ours):
  v = ours.vocabulary
  modes = [v.modes[mode] for mode in ('[R]', '[S]', '[X]')]
  assert all(len(ids) == 1 for ids in modes)
  ids = [v.pad, v.eos, v.unk, v.mask, v.cls, v.sep, *sum(modes, ()), *v.sentinels.tolist()]
  assert (v.pad, v.eos, v.unk) == (0, 1, 2)
  assert sorted(set(ids)) == sorted(ids) == np.flatnonzero(v.special).tolist()


def test_text_never_becomes_special_tokens(ours):
  (ids,) = ours.encode(['the [MASK] of <extra_id_0> and [S] </s><pad>'])
  assert not ours.vocabulary.special[ids].any()


@pytest.mark.parametrize(
  'text, marked, word',
  [
    ('the house of a great people', 'the [MASK] of a great people', ' house'),
    ('the house, of a great people', 'the [MASK], of a great people', ' house'),
    ('house of\nthe great', '[MASK] of\nthe great', ' house'),
    ('of the\nhouse', 'of the\n[MASK]', ' house'),
    ('of the\n  house is', 'of the\n  [MASK] is', ' house'),
    ('of the house', 'of the [MASK]', ' house'),
  ],
)
def test_mark_takes_the_place_of_a_word(ours, text, marked, word):
  (ids,), (token,) = ours.encode([text]), ours.encode([word.strip()])[0]
  expected = np.where(ids == token, ours.vocabulary.mask, ids)
  assert (expected != ids).sum() == 1
  np.testing.assert_array_equal(ours.encode_marked(marked), expected)


def test_marks_of_every_kind_are_read_and_shown(ours):
  v = ours.vocabulary
  text = '[S] Thank you <extra_id_0> me to your <extra_id_1> last week. [CLS] [SEP] </s>'
  ids = ours.encode_marked(text)
  found = [id for id in ids.tolist() if v.special[id]]
  assert found == [*v.modes['[S]'], *v.sentinels[:2], v.cls, v.sep, v.eos]
  assert ours.decode(ids) == text


def test_t5_layout_reads_and_shows_sentinels(t5_model):
  t5 = tokenizer.load(str(t5_model))
  text = 'Thank you <extra_id_0> me to your <extra_id_99> week.'
  ids = t5.encode_marked(text)
  assert {1099, 1000} <= set(ids.tolist())
  assert t5.decode(ids) == text


def test_decode_drops_padding_and_knows_no_ids_beyond(ours):
  (ids,) = ours.encode(['a great people'])
  assert ours.decode([0, *ids[:2], 0, *ids[2:], 0, 0]) == 'a great people'
  assert ours.decode([*ids, 1]) == 'a great people </s>'
  assert ours.decode([*ids, 8192]) == 'a great people <unk>'
  assert ours.decode([]) == ''


def test_word_starts_are_words(ours):
  text = ' '.join(corpus.documents()[0].split())
  (ids,) = ours.encode([text])
  assert ours.vocabulary.word_start[ids].sum() == len(text.split())
  assert ours.vocabulary.word_start[ours.vocabulary.special].all()


def test_digest_tells_files_apart(ours, t5_model, tmp_path):
  copy = tmp_path / 'copy.model'
  copy.write_bytes(corpus.TOKENIZER.read_bytes())
  assert tokenizer.load(str(copy)).digest == ours.digest
  assert ours.digest == hashlib.sha256(corpus.TOKENIZER.read_bytes()).hexdigest()
  assert tokenizer.load(str(t5_model)).digest != ours.digest


def test_pickled_tokenizer_is_the_same(ours):
  again = pickle.loads(pickle.dumps(ours))
  assert [ids.tolist() for ids in again.encode(TEXTS)] == [i.tolist() for i in ours.encode(TEXTS)]
  assert again.digest == ours.digest
  assert again.decode(again.encode_marked('a [MASK]')) == 'a [MASK]'


def test_lone_surrogate_is_named(ours):
  with pytest.raises(errors.DataError, match=r'fine \\ud800 so.*replace'):
    ours.encode(['good', 'fine \ud800 so'])


def test_unusable_model_files_are_named(tmp_path):
  (tmp_path / 'empty.model').write_bytes(b'')
  (tmp_path / 'text.model').write_bytes(b'no model' * 50)
  plain_model(tmp_path / 'no_pad.model', pad_id=-1, unk_id=0, vocab_size=300)
  for name, what in [
    ('none.model', 'no such tokenizer'),
    ('empty.model', 'not a sentencepiece model'),
    ('text.model', 'not a sentencepiece model'),
    ('no_pad.model', 'without padding at 0'),
  ]:
    with pytest.raises(errors.DataError, match=f'{what}.*{name}'):
      tokenizer.load(str(tmp_path / name))


@pytest.mark.parametrize('model_type', ['unigram', 'bpe'])
def test_training_gives_size_layout_and_same_file(text_file, tmp_path, model_type):
  trained = [
    tokenizer_training.train([str(text_file)], 2000, tmp_path / name / 'x.model', model_type)
    for name in ('first', 'second')
  ]
  assert trained[0].digest == trained[1].digest
  vocabulary = trained[0].vocabulary
  assert (vocabulary.size, vocabulary.sentinels[0]) == (2000, 1999)
  assert None not in (vocabulary.mask, vocabulary.cls, vocabulary.sep)
  encoded = trained[0].encode(TEXTS)
  assert [trained[0].decode(ids) for ids in encoded] == TEXTS
  assert not vocabulary.special[np.concatenate(encoded)].any()
  assert trained[0].encode(['a'])[0].tolist() == trained[0].encode(['b\na'])[0][-1:].tolist()
  assert str(tmp_path).encode() not in trained[0].path.read_bytes()
  assert [path.name for path in tmp_path.glob('*/*')] == ['x.model'] * 2


def test_training_reads_compressed_files(text_file, tmp_path):
  text = text_file.read_bytes()[:20_000]
  (tmp_path / 'x.txt').write_bytes(text)
  (tmp_path / 'x.gz').write_bytes(gzip.compress(text))
  (tmp_path / 'x.xz').write_bytes(lzma.compress(text))
  digests = [
    tokenizer_training.train([str(tmp_path / name)], 600, tmp_path / 'x.model').digest
    for name in ('x.txt', 'x.gz', 'x.xz')
  ]
  assert len(set(digests)) == 1


def test_training_reads_what_a_task_gives_and_asks_for(tmp_path, monkeypatch):
  rows = [('Wo wohnt das Quokka?', 'auf Rottnest', 'train'), ('Axolotl?', 'Xochimilco', 'test')]
  keys = ('input', 'target', 'split')
  lines = [json.dumps(dict(zip(keys, row, strict=True))) + '\n' for row in rows * 50]
  (tmp_path / 'qa_quiz_closed_book.jsonl.xz').write_bytes(lzma.compress(''.join(lines).encode()))
  monkeypatch.setenv('T5LITE_TASKS', str(tmp_path))
  inputs = ['task:qa_quiz_closed_book']
  model = tokenizer_training.train(inputs, 510, tmp_path / 'x.model', 'bpe')
  lengths = [len(ids) for ids in model.encode(['Quokka', 'Rottnest', 'Axolotl', 'Xochimilco'])]
  assert max(lengths[:2]) <= 2 and min(lengths[2:]) > 4, lengths
  with pytest.raises(errors.ConfigError, match='did you mean qa_quiz_closed_book'):
    tokenizer_training.train(['task:qa_quiz_closed_boo'], 510, tmp_path / 'y.model')


@pytest.mark.parametrize('model_type', ['unigram', 'bpe'])
def test_largest_vocabulary_is_told_and_right(tmp_path, model_type):
  (tmp_path / 'text').write_text('one two three four five six seven one two one three\n' * 3)

  def train(size: int) -> int:
    inputs = [str(tmp_path / 'text')]
    return tokenizer_training.train(inputs, size, tmp_path / 'm', model_type).vocabulary.size

  with pytest.raises(errors.ConfigError, match='larger than the text supports') as caught:
    train(5000)
  largest = int(str(caught.value).split('use ')[1].split()[0])
  assert train(largest) == largest
  with pytest.raises(errors.ConfigError, match=f'use {largest} or less'):
    train(largest + 1)


def test_smallest_vocabulary_is_told_and_right(tmp_path):
  (tmp_path / 'text').write_text('été один')
  with pytest.raises(errors.ConfigError, match='too small') as caught:
    tokenizer_training.train([str(tmp_path / 'text')], 100, tmp_path / 'm')
  smallest = int(str(caught.value).split('use ')[1].split()[0])
  assert tokenizer_training.train([str(tmp_path / 'text')], smallest, tmp_path / 'm')
  with pytest.raises(errors.ConfigError, match=f'use {smallest} or more'):
    tokenizer_training.train([str(tmp_path / 'text')], smallest - 1, tmp_path / 'm')


def test_unusable_inputs_are_named_and_leave_nothing(tmp_path):
  files = {
    'blank.txt': b'\n \n',
    'latin.txt': 'café au lait'.encode('latin-1'),
    'short.gz': gzip.compress(b'text\n' * 100)[:-9],
    'short.xz': lzma.compress(b'text\n' * 100)[:-9],
    'not.xz': b'text',
  }
  for name, content in files.items():
    (tmp_path / name).write_bytes(content)
  for name in ['none*.txt', *files]:
    with pytest.raises(errors.DataError, match=name.replace('*', r'\*')):
      tokenizer_training.train([str(tmp_path / name)], 1000, tmp_path / 'out' / 'x.model')
  assert not (tmp_path / 'out').exists()


def test_unusable_outputs_are_named_before_training(text_file, tmp_path):
  with pytest.raises(errors.ConfigError, match='not a file name'):
    tokenizer_training.train([str(text_file)], 1000, tmp_path)
  with pytest.raises(errors.DiskError, match='cannot write'):
    tokenizer_training.train([str(text_file)], 1000, text_file / 'x.model')
  with pytest.raises(errors.ConfigError, match="use 'unigram' or 'bpe'"):
    tokenizer_training.train([str(text_file)], 1000, tmp_path / 'x', 'word')  # pyright: ignore


def test_failed_training_keeps_the_old_model(text_file, tmp_path):
  output = tmp_path / 'x.model'
  before = tokenizer_training.train([str(text_file)], 600, output).digest
  with pytest.raises(errors.ConfigError):
    tokenizer_training.train([str(text_file)], 10**6, output)
  assert tokenizer.load(str(output)).digest == before
  assert list(tmp_path.iterdir()) == [output]


def test_sample_is_bounded_and_from_everywhere():
  sentences = [f'sentence {i:06}' for i in range(50_000)]
  sample = tokenizer_training.sample(sentences, most=80_000)
  assert 30_000 < sum(map(len, sample)) <= 80_000
  assert sample == sorted(set(sample))
  quarters = np.bincount([int(sentence.split()[1]) // 12_500 for sentence in sample])
  assert quarters.min() > 0.2 * len(sample)
  assert tokenizer_training.sample(sentences, most=10**9) == sentences


PEAK = """
import pathlib, re
from t5lite.data import tokenizer, tokenizer_training
import sentencepiece

def peak():  # not getrusage: on Linux a process starts with its parent's peak
  return int(re.search(r'VmHWM:\\s+(\\d+) kB', pathlib.Path('/proc/self/status').read_text())[1])

start = peak()
{work}
print((peak() - start) * 1024)
"""
LINE = "'some words of a very long line ' * 640_000"  # 20 MB
NEEDS_PROC = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')


def peak(work: str) -> int:
  """Returns the bytes of memory that the statements take at most, in a process of their own."""
  command = [sys.executable, '-c', PEAK.format(work=work)]
  done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
  return int(done.stdout.splitlines()[-1])


@NEEDS_PROC
@pytest.mark.slow
def test_long_line_takes_little_memory_to_encode():
  ours = peak(f"tokenizer.load('corpus').encode([{LINE}])")
  path = str(corpus.TOKENIZER)
  uncut = f'sentencepiece.SentencePieceProcessor(model_file={path!r}).encode({LINE})'
  assert ours < 200e6
  assert ours < peak(uncut) / 3


@NEEDS_PROC
@pytest.mark.slow
def test_long_line_takes_little_memory_to_train(tmp_path):
  path, model = tmp_path / 'line.txt', tmp_path / 'x.model'
  path.write_text('\n'.join(corpus.documents()[::10]).replace('\n', ' ') * 12)
  assert path.stat().st_size > 18e6
  used = peak(f'tokenizer_training.train([{str(path)!r}], 2000, {str(model)!r})')
  assert used < 700e6
