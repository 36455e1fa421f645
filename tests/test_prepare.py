"""Token stores: made once, in parallel, through kills, and read back exactly."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from t5lite import config as config_lib
from t5lite import errors
from t5lite import presets
from t5lite.data import prepare
from t5lite.data import sources
from t5lite.data import splits
from t5lite.data import store
from t5lite.data import tokenise
from t5lite.data import tokenizer as tokenizer_lib


@pytest.fixture(scope='module')
def tokenizer():
  return tokenizer_lib.load('corpus')


@pytest.fixture(scope='module')
def texts():
  return [
    f'Document {i} of many. ' + 'The quick brown fox, again. ' * (i % 50) for i in range(2000)
  ]


@pytest.fixture
def source(tmp_path, texts, monkeypatch):
  """A text source of some 30 parts."""
  monkeypatch.setattr(sources, 'PART', 50_000)
  (tmp_path / 'text').write_text('\n\n'.join(texts))
  return f'text:{tmp_path}/text'


def make_config(source, **data) -> config_lib.Config:
  return config_lib.Config(
    model=presets.gpt2(vocab_size=8192, num_layers=1, d_model=64, num_heads=1),
    objective=config_lib.Objective(name='causal_lm'),
    data=config_lib.Data(source=source, batch_size=4, input_length=32, **data),
    optim=config_lib.Optim(name='adamw', learning_rate=1e-3, schedule='constant'),
    train=config_lib.Train(steps=10),
  )


def digests(directory: pathlib.Path) -> dict[str, str]:
  files = sorted(path for path in directory.iterdir() if path.is_file())
  return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def make(source: str, tokenizer, directory: pathlib.Path, processes: int = 1) -> store.Store:
  tokenise.run(tokenise.Job.of(sources.open(source), tokenizer), directory, processes)
  return store.open(directory, tokenizer.digest)


def all_tokens(texts, tokenizer) -> np.ndarray:
  """The stream as it should be, made without a store."""
  eos = np.array([tokenizer.vocabulary.eos], np.int32)
  return np.concatenate([part for ids in tokenizer.encode(texts) for part in (ids, eos)])


def test_a_store_reads_back_every_document_in_order(source, texts, tokenizer, tmp_path):
  split = splits.open(make(source, tokenizer, tmp_path / 'store'), 'all', 0.0)
  expected = all_tokens(texts, tokenizer)
  assert split.num_documents == len(texts) and split.num_tokens == len(expected)
  assert split.num_bytes == sum(len(text.encode()) for text in texts)
  # Ranges of every kind: inside a block, across blocks, across shards.
  starts = np.arange(0, len(expected) - 700, 501)
  np.testing.assert_array_equal(
    split.read(starts, np.full(len(starts), 700)), expected[starts[:, None] + np.arange(700)]
  )
  np.testing.assert_array_equal(split.read(np.array([0]), np.array([len(expected)]))[0], expected)


@pytest.mark.parametrize('held_out', [0.01, 0.5])
def test_the_sides_of_a_split_are_all_documents_once(held_out, source, texts, tokenizer, tmp_path):
  made = make(source, tokenizer, tmp_path / 'store')
  decoded = {}
  for side in ('train', 'held_out'):
    split = splits.open(made, side, held_out)
    ends = np.cumsum(split.lengths())
    starts = ends - split.lengths()
    tokens = split.read(starts, split.lengths())
    decoded[side] = [
      tokenizer.decode(row[: length - 1])
      for row, length in zip(tokens, split.lengths(), strict=True)
    ]
    assert split.num_documents == len(decoded[side]) and split.num_tokens == ends[-1]
    whole = split.read(np.array([0]), np.array([split.num_tokens]))[0]
    np.testing.assert_array_equal(whole, all_tokens(decoded[side], tokenizer))
  assert not set(decoded['train']) & set(decoded['held_out'])
  assert sorted(decoded['train'] + decoded['held_out']) == sorted(texts)
  assert len(decoded['held_out']) == pytest.approx(held_out * len(texts), rel=0.5)


def test_the_split_follows_the_text_not_its_place(texts, tokenizer, tmp_path):
  sides = []
  for order in (texts, texts[::-1], texts[500:]):
    (tmp_path / 'text').write_text('\n\n'.join(order))
    made = prepare.open_store(f'text:{tmp_path}/text', tokenizer, str(tmp_path / 'cache'))
    split = splits.open(made, 'held_out', 0.1)
    lengths = split.lengths()
    rows = split.read(np.cumsum(lengths) - lengths, lengths)
    sides.append({row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)})
  assert sides[0] == sides[1] and sides[2] < sides[0]


def test_processes_do_not_change_the_bytes(source, tokenizer, tmp_path):
  make(source, tokenizer, tmp_path / 'one')
  make(source, tokenizer, tmp_path / 'two', processes=2)
  assert len(digests(tmp_path / 'one')) > 40
  assert digests(tmp_path / 'one') == digests(tmp_path / 'two')


PREPARE = """
  import pathlib, sys
  from t5lite.data import sources, tokenise, tokenizer
  sources.PART = 50_000
  tokenise.LONG = 0
  job = tokenise.Job.of(sources.open(sys.argv[1]), tokenizer.load('corpus'))
  tokenise.run(job, pathlib.Path(sys.argv[2]), int(sys.argv[3]))
"""


def command(source: str, directory: pathlib.Path, processes: int, before: str = '') -> list[str]:
  """Prepares in a process of its own."""
  code = before + textwrap.dedent(PREPARE)
  return [sys.executable, '-c', code, source, str(directory), str(processes)]


def children(pid: int) -> list[int]:
  found = []
  for task in pathlib.Path(f'/proc/{pid}/task').glob('*/children'):
    found += map(int, task.read_text().split())
  return found


def is_alive(pid: int) -> bool:
  with contextlib.suppress(FileNotFoundError):
    return 'State:\tZ' not in pathlib.Path(f'/proc/{pid}/status').read_text()
  return False


def wait_for(condition, seconds: float = 30.0) -> None:
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, 'waited too long'
    time.sleep(0.002)


def kill_in_the_middle(source: str, directory: pathlib.Path, processes: int) -> list[int]:
  """Kills a preparation that has some shards; returns the processes that it had started."""
  run = subprocess.Popen(command(source, directory, processes))
  wait_for(lambda: run.poll() is not None or len([*directory.glob('*.array_record')]) >= 3)
  started = children(run.pid)
  run.send_signal(signal.SIGKILL)
  run.wait()
  if not (directory / store.INDEX).exists():
    return started
  shutil.rmtree(directory)  # it was done before the signal came
  return kill_in_the_middle(source, directory, processes)


@pytest.mark.parametrize('processes', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_kill_loses_nothing_and_changes_nothing(processes, source, tokenizer, tmp_path):
  directory = tmp_path / 'killed'
  started = kill_in_the_middle(source, directory, processes)
  assert len(started) >= processes - 1
  wait_for(lambda: not any(map(is_alive, started)), 10)  # no orphan works on
  kept = {path.name: os.stat(path).st_ino for path in directory.glob('*.array_record')}
  make(source, tokenizer, directory)
  assert all(os.stat(directory / name).st_ino == inode for name, inode in kept.items())
  make(source, tokenizer, tmp_path / 'undisturbed')
  assert digests(directory) == digests(tmp_path / 'undisturbed')


def test_the_second_start_only_reads(source, tokenizer, tmp_path, monkeypatch):
  first = prepare.open_store(source, tokenizer, str(tmp_path / 'cache'))
  monkeypatch.setattr(tokenise, '_write_shards', None)
  assert prepare.open_store(source, tokenizer, str(tmp_path / 'cache')).digest == first.digest


def test_a_changed_text_is_tokenised_anew(tokenizer, tmp_path):
  path, found = tmp_path / 'text', []
  for text in ('One text.', 'Two text.', 'One text.'):
    path.write_text(text)
    made = prepare.open_store(f'text:{path}', tokenizer, str(tmp_path / 'cache'))
    split = splits.open(made, 'all', 0.0)
    found.append(tokenizer.decode(split.read(np.array([0]), np.array([split.num_tokens - 1]))[0]))
  assert found == ['One text.', 'Two text.', 'One text.']


def test_two_processes_share_the_work_of_one(source, tokenizer, tmp_path):
  both = command(source, tmp_path / 'both', 1)
  runs = [subprocess.Popen(both, stderr=subprocess.PIPE, text=True) for _ in range(2)]
  said = [run.communicate()[1] for run in runs]
  assert [run.returncode for run in runs] == [0, 0], said
  assert sum('tokenised' in text for text in said) == 1
  make(source, tokenizer, tmp_path / 'alone')
  assert digests(tmp_path / 'both') == digests(tmp_path / 'alone')


def test_the_cache_is_in_the_users_cache_directory(source, tokenizer, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
  assert prepare.open_store(source, tokenizer, '').directory.parent == tmp_path / 'xdg' / 't5lite'
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  made = prepare.open_store(source, tokenizer, '')
  assert made.directory.parent == tmp_path / 'home' / '.cache' / 't5lite'


def test_prepare_gives_the_source_that_reads_it(source, tokenizer, tmp_path):
  config = make_config(source)
  prepared = prepare.prepare(config, tmp_path / 'one')
  direct = prepare.open_store(source, tokenizer, str(tmp_path / 'cache'))
  assert prepare.open_store(prepared, tokenizer, '').digest == direct.digest
  mixture = make_config(((source, 1.0), (source, 2.0, 3.0)))
  prepared = prepare.prepare(mixture, tmp_path / 'two')
  assert [entry[1:] for entry in prepared] == [(1.0, float('inf')), (2.0, 3.0)]
  for name, _, _ in prepared:
    assert prepare.open_store(name, tokenizer, '').digest == direct.digest
  make_config(prepared)  # is a data.source


def error_of(*arguments) -> str:
  with pytest.raises(errors.UserError) as caught:
    prepare.open_store(*arguments)
  return str(caught.value)


def test_a_store_of_another_tokenizer_is_refused(source, tokenizer, tmp_path):
  make(source, tokenizer, tmp_path / 'store')
  index = tmp_path / 'store' / store.INDEX
  index.write_text(index.read_text().replace(tokenizer.digest, '0' * 64))
  message = error_of(f'array_record:{tmp_path}/store', tokenizer, '')
  assert 'another tokenizer' in message and 'data.tokenizer' in message


def test_an_unfinished_store_is_refused(source, tokenizer, tmp_path):
  make(source, tokenizer, tmp_path / 'store')
  (tmp_path / 'store' / store.INDEX).unlink()
  message = error_of(f'array_record:{tmp_path}/store', tokenizer, '')
  assert f'no finished token store: {tmp_path}/store: if t5lite prepare was stopped' in message


def test_a_directory_in_use_is_left_alone(source, tokenizer, tmp_path):
  make(source, tokenizer, tmp_path / 'store')
  before = digests(tmp_path / 'store')
  with pytest.raises(errors.DataError, match='directory in use'):
    make('corpus', tokenizer, tmp_path / 'store')
  assert digests(tmp_path / 'store') == before


@pytest.mark.parametrize('suffix', ['array_record', 'documents.npy'])
def test_a_damaged_store_is_an_error_with_the_files_name(suffix, source, tokenizer, tmp_path):
  make(source, tokenizer, tmp_path / 'store')
  path = sorted((tmp_path / 'store').glob(f'*.{suffix}'))[3]
  content = bytearray(path.read_bytes())
  content[150] ^= 1
  path.write_bytes(content)
  with pytest.raises(errors.DataError, match=f'damaged token store: .*{path.name}'):
    split = splits.open(store.open(tmp_path / 'store', tokenizer.digest), 'train', 0.01)
    split.read(np.array([0]), np.array([split.num_tokens]))
  path.unlink()
  assert f'file missing from a token store: {path}' in error_of(
    f'array_record:{tmp_path}/store', tokenizer, ''
  )


@pytest.mark.parametrize('content', ['{"format": 1', '[]', '{"format": 0}'])
def test_a_damaged_index_is_an_error(content, source, tokenizer, tmp_path):
  make(source, tokenizer, tmp_path / 'store')
  (tmp_path / 'store' / store.INDEX).write_text(content)
  message = error_of(f'array_record:{tmp_path}/store', tokenizer, '')
  assert 'index of a token store' in message and str(tmp_path / 'store') in message
  with pytest.raises(errors.DataError, match='index of a token store'):
    make(source, tokenizer, tmp_path / 'store')


def test_blank_text_is_an_error(tokenizer, tmp_path):
  for content in ('', '\n\n \n\n'):
    (tmp_path / 'text').write_text(content)
    message = error_of(f'text:{tmp_path}/text', tokenizer, str(tmp_path / 'cache'))
    assert f'no text in the source: text:{tmp_path}/text' in message


def test_a_full_disk_is_an_error(source, tmp_path):
  limit = 'import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
  limit += 'resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n'
  (tmp_path / 'file').write_text('')
  for directory, before in ((tmp_path / 'x', limit), (tmp_path / 'file' / 'x', '')):
    run = subprocess.run(command(source, directory, 1, before), capture_output=True, text=True)
    assert f'errors.DiskError: cannot write tokens: {directory}' in run.stderr
