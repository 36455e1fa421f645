"""Tokenizers of Hugging Face's folders: the same ids out, and theirs in, with what they mean."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
import tokenizers

import families
import interop_cases
import tokenizer_cases
from t5lite import config as config_lib
from t5lite import data
from t5lite import decoding
from t5lite import errors
from t5lite import interop
from t5lite import main
from t5lite import models
from t5lite import objectives
from t5lite.data import tokenizer as tokenizer_lib
from t5lite.decoding import ranking
from t5lite.interop import tokenizer_files
from t5lite.interop import tokenizer_json

WRITERS = {
  'gpt2': tokenizer_cases.write_gpt2,
  'bert': tokenizer_cases.write_bert,
  'roberta': tokenizer_cases.write_roberta,
}


@pytest.fixture(scope='module')
def pieces(tmp_path_factory):
  return tokenizer_cases.sentencepiece_models(tmp_path_factory.mktemp('pieces'))


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """A folder of each kind, and what was taken from it in a folder beside, NAME.new."""
  folder = tmp_path_factory.mktemp('folders')
  for name, write in WRITERS.items():
    for path in (folder / name, folder / f'{name}.new'):
      path.mkdir()
    write(folder / name)
    assert tokenizer_files.take(folder / name, folder / f'{name}.new', name) == 'tokenizer.json'
  return folder


@pytest.fixture
def loaded(folders):
  return lambda name: tokenizer_lib.load(str(folders / f'{name}.new' / 'tokenizer.json'))


def run_config(architecture: str) -> config_lib.Config:
  model = {'encoder_decoder': 't5_1_0', 'encoder': 'bert', 'decoder': 'gpt2'}[architecture]
  return interop_cases.importing.run_config(interop_cases.MODELS[model], '', '', [])


@pytest.mark.parametrize('kind', ['corpus', 't5', 'bpe'])
@pytest.mark.parametrize('architecture', ['encoder_decoder', 'encoder', 'decoder'])
def test_tokenizer_json_has_the_ids_of_the_sentencepiece_model(
  kind, architecture, pieces, tmp_path
):
  ours, config = pieces[kind], run_config(architecture)
  there = tokenizer_files.write(tmp_path, ours, config)
  assert there.startswith('tokenizer.json and ')
  theirs = tokenizers.Tokenizer.from_file(str(tmp_path / 'tokenizer.json'))
  for text in tokenizer_cases.TEXTS:
    got = theirs.encode(text, add_special_tokens=False).ids
    assert got == ours.encode_marked(text).tolist(), text
  documents = tokenizer_cases.documents()
  for text, ids in zip(documents, ours.encode(documents), strict=True):
    assert theirs.encode(text, add_special_tokens=False).ids == ids.tolist()
  # What stands around a text, and the text again.
  (ids,) = ours.encode([text := 'The  house\nis\n\nnew.'])
  v = ours.vocabulary
  ends = {
    'encoder_decoder': ((), (v.eos,)),
    'encoder': ((v.cls,), (v.sep,)) if v.cls else ((), ()),
    'decoder': ((v.eos,), ()),
  }
  before, after = ends[architecture]
  whole = theirs.encode(text).ids
  assert whole == [*before, *ids, *after]
  assert theirs.decode(whole) == ours.decode(ids)


def test_a_model_that_would_have_other_ids_gets_no_tokenizer_json(pieces, tmp_path, monkeypatch):
  monkeypatch.setattr(tokenizer_json, 'newline_rules', lambda: [])
  there = tokenizer_files.write(tmp_path, pieces['corpus'], run_config('encoder'))
  assert re.search("t5lite.model, .* other ids in 'line", there)
  assert [path.name for path in tmp_path.iterdir()] == ['t5lite.model']


@pytest.mark.parametrize('kind', WRITERS)
def test_a_vocabulary_goes_out_as_it_came_in(kind, folders, loaded, tmp_path):
  """Of an older kind, beside the tokenizer.json."""
  there = tokenizer_files.write(tmp_path, loaded(kind), run_config('encoder'))
  names = ['vocab.txt'] if kind == 'bert' else ['vocab.json', 'merges.txt']
  assert there == f'tokenizer.json, {" and ".join(names)}'
  for name in names:
    got, given = (folder / name for folder in (tmp_path, folders / kind))
    if name == 'vocab.json':
      assert json.loads(got.read_text()) == json.loads(given.read_text())
    else:
      assert got.read_bytes() == given.read_bytes()


def test_tokens_mean_what_their_names_say(loaded):
  gpt2, bert, roberta = (loaded(name).vocabulary for name in ('gpt2', 'bert', 'roberta'))
  assert (gpt2.pad, gpt2.eos, gpt2.mask, gpt2.cls) == (None, 1, None, None)
  assert (bert.pad, bert.unk, bert.cls, bert.sep, bert.mask, bert.eos) == (0, 1, 2, 3, 4, 3)
  assert (roberta.cls, roberta.pad, roberta.sep, roberta.mask, roberta.eos) == (0, 1, 2, 4, 2)
  assert np.flatnonzero(gpt2.special).tolist() == [1]
  for vocabulary in (bert, roberta):
    assert np.flatnonzero(vocabulary.special).tolist() == [0, 1, 2, 3, 4]


def test_a_text_begins_with_what_the_tokenizer_puts_before_it(folders, loaded, tmp_path):
  """As Llama's does; GPT-2's puts nothing there, and a text begins behind the one before."""
  config = run_config('decoder')
  eos = loaded('gpt2').vocabulary.eos
  (plain,) = decoding.prompts.of_texts(config, loaded('gpt2'), ['a word'])
  assert plain[0] == eos
  made = tokenizers.Tokenizer.from_file(str(folders / 'gpt2.new/tokenizer.json'))
  made.add_special_tokens(['<s>'])
  bos = made.token_to_id('<s>')
  made.post_processor = tokenizers.processors.TemplateProcessing('<s> $A', None, [('<s>', bos)])
  made.save(str(tmp_path / 'tokenizer.json'))
  llamas = tokenizer_lib.load(str(tmp_path / 'tokenizer.json'))
  assert (llamas.vocabulary.bos, llamas.vocabulary.eos) == (bos, eos)
  (ours,) = decoding.prompts.of_texts(config, llamas, ['a word'])
  assert ours.tolist() == made.encode('a word').ids == [bos, *plain[1:]]
  assert objectives.around(config, llamas.vocabulary) == ((bos,), ())
  assert ranking.inputs_of(config, llamas, ours[:0]).tolist() == [bos]


@pytest.mark.parametrize('name', ['bert', 'roberta'])
def test_two_texts_have_between_them_what_the_tokenizer_puts_there(name, folders, loaded):
  tokenizer = loaded(name)
  (before,), (after,) = objectives.around(run_config('encoder'), tokenizer.vocabulary)
  between = objectives.supervised.separated(tokenizer.vocabulary, tokenizer.encode(['one', 'two']))
  made = tokenizers.Tokenizer.from_file(str(folders / f'{name}.new/tokenizer.json'))
  assert [before, *between, after] == made.encode('one', 'two').ids
  sep = tokenizer.vocabulary.sep
  assert list(between).count(sep) == (2 if name == 'roberta' else 1)


def test_names_beside_the_file_win(folders, tmp_path):
  path = tmp_path / 'tokenizer.json'
  path.write_bytes((folders / 'gpt2.new/tokenizer.json').read_bytes())
  plain = tokenizer_lib.load(str(path))
  (tmp_path / 'special_tokens_map.json').write_text(json.dumps({'eos_token': {'content': '!'}}))
  named = tokenizer_lib.load(str(path))
  assert (plain.vocabulary.eos, named.vocabulary.eos) == (1, 0)
  assert plain.digest != named.digest


@pytest.mark.parametrize('name', WRITERS)
def test_special_tokens_are_text_unless_marked(name, loaded):
  tokenizer = loaded(name)
  names = {'gpt2': 'a <|endoftext|>', 'bert': 'a [MASK]', 'roberta': 'a [MASK] <mask>'}
  (plain,) = tokenizer.encode([names[name]])
  assert not tokenizer.vocabulary.special[plain].any() or name == 'bert'  # [ may be unknown to it
  marked = tokenizer.encode_marked(names[name])
  mask = tokenizer.vocabulary.mask
  assert (marked == (1 if mask is None else mask)).sum() == (2 if name == 'roberta' else 1)
  assert plain.dtype == marked.dtype == np.int32


@pytest.mark.parametrize('name', WRITERS)
def test_tokens_know_their_characters(name, loaded):
  text = ' The naïve cat,  the\nother 東京 dog'
  tokenizer = loaded(name)
  aligned = tokenizer.align(text)
  np.testing.assert_array_equal(aligned.ids, tokenizer.encode([text])[0])
  assert len(aligned.ids) > 6 and (np.diff(aligned.ends) >= 0).all()
  for word in ('cat', 'other', 'dog'):
    place = text.index(word)
    token = aligned.at(place)
    assert aligned.starts[token] <= place < aligned.ends[token] <= place + len(word)
  assert aligned.at(len(text)) == -1


def test_words_begin_where_they_do(loaded):
  for name in WRITERS:
    tokenizer = loaded(name)
    (ids,) = tokenizer.encode([' elephant elephant'])
    starts = tokenizer.vocabulary.word_start[ids]
    assert starts.sum() == 2 and starts[0], name
    assert len(ids) > 2


def test_gpt2_text_comes_back(loaded):
  tokenizer = loaded('gpt2')
  for text in tokenizer_cases.TEXTS:
    assert tokenizer.decode(tokenizer.encode([text])[0]) == text


BAD = {
  'list': ('tokenizer.json', '[]', 'not a tokenizer: .*tokenizer.json .*: give a tokenizer.json'),
  'map': ('special_tokens_map.json', '[1]', 'cannot read: .*special_tokens_map.json'),
  'surrogate': (None, '', 'lone surrogate'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_tokenizers_and_texts_are_one_line(case, folders, tmp_path):
  (tmp_path / 'tokenizer.json').write_bytes((folders / 'gpt2.new/tokenizer.json').read_bytes())
  name, content, line = BAD[case]
  if name:
    (tmp_path / name).write_text(content)
  with pytest.raises(errors.DataError, match=line):
    tokenizer_lib.load(str(tmp_path / 'tokenizer.json')).encode(['a \ud800'])


def test_a_vocabulary_without_an_end_is_refused(tmp_path):
  bare = tokenizers.Tokenizer(tokenizers.models.WordLevel({'a': 0, '<unk>': 1}, '<unk>'))
  bare.save(str(tmp_path / 'tokenizer.json'))
  with pytest.raises(errors.DataError, match='without an end of text'):
    tokenizer_lib.load(str(tmp_path / 'tokenizer.json'))


@pytest.mark.parametrize('name', ['gpt2', 'roberta'])
def test_a_token_0_is_text_and_padding_is_not(name, loaded):
  """A row with room: what the model reads does not depend on how much room there is."""
  vocabulary, kind = loaded(name).vocabulary, {'gpt2': 'decoder', 'roberta': 'encoder'}[name]
  model = dataclasses.replace(
    families.MODELS['gpt2' if name == 'gpt2' else 'bert'], vocab_size=vocabulary.size
  )
  params = jax.tree.map(jax.numpy.float32, families.random_params(model))
  hidden = []
  for length in (8, 11):
    config = run_config(kind)
    config = dataclasses.replace(
      config, model=model, data=dataclasses.replace(config.data, input_length=length)
    )
    tokens = np.array([[9, 0, 0, 7, 0, 8, 0, 0]])
    raw = 6 if kind == 'encoder' else 8
    batch = objectives.batch(config, vocabulary, tokens[:, :raw], np.array([raw]), np.uint64([3]))
    assert batch[f'{kind}_segment_ids'].sum() == (8 if kind == 'encoder' else 7)
    padding = 1 - batch[f'{kind}_segment_ids'].sum() / length
    assert data.padding_share(batch) == pytest.approx(padding)
    hidden.append(np.asarray(models.hidden(model, params, batch))[:, :7])
  np.testing.assert_allclose(hidden[0], hidden[1], rtol=0, atol=1e-5)
  if kind == 'encoder':  # without segment ids, CLS, which is 0, would be taken for padding
    batch.pop('encoder_segment_ids')
    other = np.asarray(models.hidden(model, params, batch))[:, :7]
    assert np.abs(other - hidden[1]).max() > 1e-2


@pytest.mark.slow
def test_a_bert_with_vocab_txt_fills_trains_and_goes_out(folders, tmp_path, capsys, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  sizes = dict(d_model=16, num_heads=4, num_kv_heads=4, head_dim=4)
  model = families.odd(families.BERT, **sizes, vocab_size=600, max_length=32)
  interop_cases.write_workdir(tmp_path / 'run', model, interop_cases.float32(model))
  interop.export(tmp_path / 'run', tmp_path / 'hf')
  for path in (folders / 'bert').iterdir():
    (tmp_path / 'hf' / path.name).write_bytes(path.read_bytes())
  new = tmp_path / 'new'
  settings = ['data.batch_size=8', 'train.steps=1', 'eval.batches=1', 'checkpoint.every=1']
  sets = [f'--set={setting}' for setting in settings]
  assert main.main(['import', f'--from={tmp_path}/hf', f'--workdir={new}', *sets]) == 0
  assert config_lib.load(new / 'config.json').data.tokenizer == str(new / 'tokenizer.json')
  assert main.main(['train', f'--config={new}/config.json', f'--workdir={new}']) == 0
  capsys.readouterr()
  assert main.main(['fill', f'--workdir={new}', '--text=Hello, my dog is [MASK].']) == 0
  assert capsys.readouterr().out.count('%') == 5
  interop.export(new, tmp_path / 'out')
  for name in ('tokenizer.json', 'tokenizer_config.json'):
    assert (tmp_path / 'out' / name).read_bytes() == (new / name).read_bytes()
  assert json.loads((tmp_path / 'out/config.json').read_text())['pad_token_id'] == 0
