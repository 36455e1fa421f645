"""Batches: a pure function of config and step, whoever makes them, however often it is resumed."""

import contextlib
import dataclasses
import json
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from t5lite import config as config_lib
from t5lite import data
from t5lite import errors
from t5lite import presets
from t5lite.data import mixture as mixture_lib
from t5lite.data import packing
from t5lite.data import preview
from t5lite.data import rows as rows_lib
from t5lite.data import tokenizer as tokenizer_lib

GPT = presets.gpt2(vocab_size=8192, num_layers=1, d_model=64, num_heads=1)
BERT = presets.bert(vocab_size=8192, num_layers=1, d_model=64)
T5 = presets.t5_1_1(vocab_size=8192, num_layers=1, d_model=64, d_ff=64, num_heads=1, head_dim=64)


@pytest.fixture(scope='module')
def text_file(tmp_path_factory) -> pathlib.Path:
  """2,000 different documents, of 4 to 150 tokens."""
  path = tmp_path_factory.mktemp('text') / 'documents.txt'
  documents = [
    f'Document {i}.' + ''.join(f' Sentence {i + j} says more.' for j in range(i * 7 % 20))
    for i in range(2000)
  ]
  path.write_text('\n\n'.join(documents))
  rows = [
    {'question': text, 'answer': 'odd' if i % 2 else 'even'} for i, text in enumerate(documents)
  ]
  (path.parent / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return path


@pytest.fixture(autouse=True)
def cache(monkeypatch, text_file):
  monkeypatch.setenv('XDG_CACHE_HOME', str(text_file.parent / 'cache'))


def make_config(
  source='corpus', model=GPT, objective='causal_lm', steps=10, seed=0, tasks=(), **settings
) -> config_lib.Config:
  target_length = 16 if model is T5 else 0
  settings = {'batch_size': 8, 'input_length': 64, 'target_length': target_length} | settings
  return config_lib.Config(
    model=model,
    objective=config_lib.Objective(name=objective),
    data=config_lib.Data(source=source, **settings),
    optim=config_lib.Optim(name='adamw', learning_rate=1e-3, schedule='constant'),
    train=config_lib.Train(steps=steps, seed=seed),
    tasks=tasks,
  )


@pytest.fixture
def configs(text_file) -> dict[str, config_lib.Config]:
  """One config of every kind of batch."""
  source = f'text:{text_file}'
  mixture = ((source, 2.0), ('corpus', 1.0, 0.5))
  parity = config_lib.Task(
    name='parity',
    source=f'jsonl:{text_file.parent}/rows.jsonl',
    inputs='Which? {question}',
    targets='{answer}',
    labels=('even', 'odd'),
    validation='',
    test='',
  )
  tasks = (('task:parity', 2.0), ('corpus', 1.0))
  labels = dataclasses.replace(BERT, num_labels=2)
  return {
    'windows': make_config(model=T5, objective='span_corruption'),
    'documents': make_config(
      source, model=T5, objective='span_corruption', examples='documents', target_length=32
    ),
    'mixture': make_config(mixture, model=BERT, objective='mlm'),
    'packed mixture': make_config(mixture, examples='documents'),
    'task': make_config('task:parity', model=T5, objective='span_corruption', tasks=(parity,)),
    'packed task and text': make_config(tasks, examples='documents', tasks=(parity,)),
    'labels': make_config(
      'task:parity', model=labels, objective='mlm', examples='documents', tasks=(parity,)
    ),
  }


def test_large_sets_count_for_so_many_examples(text_file):
  """T5's limit K on proportional rates (Raffel et al. 2020, section 3.5.2)."""
  sources = ((f'text:{text_file}', 1.0), ('corpus', 1.0))
  shares = []
  for most in (0, 50, 10_000):
    config = make_config(sources, temperature=1.0, most_examples=most)
    mixed = data.open(config, 'train')._mixture
    set_N, _ = mixed.locate(np.arange(2000))
    shares.append(float((set_N == 0).mean()))
  assert shares[1] == 0.5 and shares[0] < shares[2] < 0.5


KINDS = (
  *('windows', 'documents', 'mixture', 'packed mixture'),
  *('task', 'packed task and text', 'labels'),
)


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
  assert one.keys() == other.keys()
  for name in one:
    assert one[name].dtype == other[name].dtype
    np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize('kind', KINDS)
def test_a_batch_is_the_same_on_any_number_of_processes(kind, configs):
  config = configs[kind]
  whole = data.batch(config, 7)
  for processes in (2, 4):
    share = config.data.batch_size // processes
    parts = [  # each opens the data for itself, as a process does
      data.open(config, 'train').batch(7, slice(i * share, (i + 1) * share))
      for i in range(processes)
    ]
    assert_equal(joined(parts), whole)


@pytest.mark.parametrize('kind', KINDS)
def test_rows_hold_what_the_architecture_reads(kind, configs):
  config = configs[kind]
  for name, values in data.batch(config, 3).items():
    assert values.shape[0] == config.data.batch_size, name
    assert values.dtype == (np.float32 if name.endswith('weights') else np.int32), name
    assert ('segment' not in name) or config.data.examples == 'documents'


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize('kind', ['windows', 'packed mixture'])
def test_iterating_and_resuming_give_the_batches_by_number(workers, kind, configs):
  config = configs[kind]
  config = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=workers))
  expected = [data.open(config, 'train').batch(step, slice(2, 6)) for step in range(9)]
  for first in (0, 5):
    iterator = data.open(config, 'train').iterate(first, slice(2, 6), last_step=9)
    with contextlib.closing(iterator):
      found = dict(iterator)
    assert list(found) == list(range(first, 9))
    for step, batch in found.items():
      assert_equal(batch, expected[step])


def test_closing_ends_the_thread_at_once():
  before = set(threading.enumerate())
  iterator = data.open(make_config(), 'train').iterate(0)
  assert next(iterator)[0] == 0
  started = set(threading.enumerate()) - before  # of others, some may be ending meanwhile
  assert started
  start = time.monotonic()
  iterator.close()
  while any(thread.is_alive() for thread in started):
    assert time.monotonic() - start < 5
    time.sleep(0.01)


def of_an_epoch(config: config_lib.Config) -> config_lib.Config:
  """The config with a batch that is one epoch of its only source."""
  rows = data.open(config, 'train')._sets[0].rows.num_rows
  return dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=rows))


def windows_of(dataset, steps) -> list[bytes]:
  """The windows of causal language modelling: the inputs and the last target."""
  rows = joined([dataset.batch(step) for step in steps])
  windows = np.concatenate([rows['decoder_input_tokens'], rows['decoder_target_tokens'][:, -1:]], 1)
  return [window.tobytes() for window in windows]


def test_every_window_comes_once_in_an_epoch_and_in_another_order_in_the_next(text_file):
  config = of_an_epoch(make_config(f'text:{text_file}'))
  dataset = data.open(config, 'train')
  (source,) = dataset._sets
  epoch = source.rows.num_rows
  assert epoch == source.split.num_tokens // 65 > 1000
  first, second = (windows_of(dataset, [step]) for step in range(2))
  stream = source.split.read(np.array([0]), np.array([epoch * 65]))[0].reshape(epoch, 65)
  stored = [window.tobytes() for window in stream]
  assert sorted(first) == sorted(second) == sorted(stored)
  assert first != second and first != stored
  other_seed = dataclasses.replace(config, train=config_lib.Train(steps=1, seed=1))
  assert windows_of(data.open(other_seed, 'train'), [0]) != first


def test_corruption_differs_between_epochs_and_examples(text_file):
  config = of_an_epoch(make_config(f'text:{text_file}', model=BERT, objective='mlm'))
  masks = {}
  for step in range(2):
    batch = data.batch(config, step)
    for text, mask in zip(
      batch['encoder_target_tokens'], batch['encoder_loss_weights'], strict=True
    ):
      masks.setdefault(text.tobytes(), []).append(mask.tobytes())
  assert all(len(found) >= 2 for found in masks.values())
  assert all(len(set(found)) == len(found) for found in masks.values())
  assert len({found[0] for found in masks.values()}) > 0.99 * len(masks)


def held_out_rows(config) -> dict[str, np.ndarray]:
  dataset = data.open(config, 'held_out')
  assert dataset.num_batches is not None and dataset.num_batches > 3
  return joined([dataset.batch(step) for step in range(24 // config.data.batch_size)])


@pytest.mark.parametrize('examples', ['windows', 'documents'])
def test_held_out_batches_depend_on_neither_seed_nor_batch_size(examples):
  config = make_config(model=BERT, objective='mlm', examples=examples, held_out=0.05)
  expected = held_out_rows(config)
  other_seed = dataclasses.replace(config, train=config_lib.Train(steps=99, seed=5))
  assert_equal(held_out_rows(other_seed), expected)
  other_size = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=12))
  assert_equal(held_out_rows(other_size), expected)


def test_training_never_sees_held_out_text(text_file):
  config = make_config(f'text:{text_file}', examples='documents', held_out=0.1)
  config = of_an_epoch(config)
  tokenizer = tokenizer_lib.load('corpus')
  batch = data.batch(config, 0)
  small = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=8))
  held_out = data.open(small, 'held_out')
  seen = []
  for batches in ([batch], [held_out.batch(step) for step in range(held_out.num_batches or 0)]):
    rows = joined(batches)
    text = tokenizer.decode(rows['decoder_target_tokens'].reshape(-1))
    seen.append(set(re.findall(r'Document \d+', text)))
  assert len(seen[0]) > 1700 and len(seen[1]) > 150
  assert not seen[0] & seen[1]


def test_eval_source_is_evaluated_whole(text_file):
  config = make_config('corpus', held_out=0.0)
  config = dataclasses.replace(config, eval=config_lib.Eval(source=f'text:{text_file}'))
  (source,) = data.open(config, 'held_out')._sets
  assert source.split.num_documents == 2000
  with pytest.raises(errors.DataError, match='held-out text.*data.held_out=0.0'):
    data.open(dataclasses.replace(config, eval=config_lib.Eval()), 'held_out')


# Mixtures.


def test_mixture_counts_follow_the_rates_for_ever():
  rates = np.array([0.5, 0.3, 0.15, 0.05])
  mixture = mixture_lib.Mixture(rates, [np.inf] * 4)
  for start in (0, 10**6, 10**11):
    set_N, index_N = mixture.locate(np.arange(start, start + 10_000))
    for number, rate in enumerate(rates):
      index = index_N[set_N == number]
      np.testing.assert_array_equal(index, np.arange(index[0], index[0] + len(index)))
      assert abs(len(index) - 10_000 * rate) <= 3
      assert abs(index[0] - start * rate) <= 3 + 1e-6 * start


def test_a_set_leaves_when_its_epochs_are_used_up_and_the_others_share_the_rest():
  limits = [np.inf, 100, 700]
  mixture = mixture_lib.Mixture([0.5, 0.25, 0.25], limits)
  set_N, index_N = mixture.locate(np.arange(20_000))
  for number, limit in enumerate(limits):
    index = index_N[set_N == number]
    np.testing.assert_array_equal(index, np.arange(len(index)))  # none twice, none left out
    assert len(index) == limit or np.isinf(limit)
  np.testing.assert_allclose(np.bincount(set_N[:400]), [200, 100, 100], atol=1)
  left = np.bincount(set_N[400:1000], minlength=3) / 600
  np.testing.assert_allclose(left, [2 / 3, 0, 1 / 3], atol=0.01)
  assert (set_N[-10_000:] == 0).all()
  finite = mixture_lib.Mixture([0.9, 0.1], [30, 50])
  assert finite.num_rows == 80
  assert np.bincount(finite.locate(np.arange(80))[0]).tolist() == [30, 50]


def test_temperature_flattens_the_rates():
  sizes = [1000, 10]
  assert mixture_lib.rates([1, 3], sizes, None) == [0.25, 0.75]
  np.testing.assert_allclose(mixture_lib.rates([1, 1], sizes, 1.0), [100 / 101, 1 / 101])
  np.testing.assert_allclose(mixture_lib.rates([1, 1], sizes, 2.0), [10 / 11, 1 / 11])
  np.testing.assert_allclose(mixture_lib.rates([1, 1], sizes, 1e6), [0.5, 0.5], atol=1e-5)


def test_a_run_mixes_its_sources_at_their_rates(text_file):
  config = make_config(((f'text:{text_file}', 3.0), ('corpus', 1.0)))
  rows = windows_of(data.open(config, 'train'), range(100))
  tokenizer = tokenizer_lib.load('corpus')
  ours = ['Sentence' in tokenizer.decode(np.frombuffer(row, np.int32)) for row in rows]
  assert sum(ours) == pytest.approx(600, abs=2)


def test_a_run_longer_than_its_data_is_refused_before_it_begins(text_file):
  source = f'text:{text_file}'
  rows = data.open(make_config(source), 'train')._sets[0].rows.num_rows
  steps = 2 * rows // 8
  enough = make_config(((source, 1.0, 2.0),), steps=steps)
  dataset = data.open(enough, 'train')
  assert len(set(windows_of(dataset, range(steps)))) in (rows, rows - 1)
  with pytest.raises(errors.DataError, match=f'data ends too early.*train.steps={steps}'):
    dataset.batch(steps)
  with pytest.raises(errors.DataError, match=f'at step {steps} of {steps + 1}'):
    data.open(make_config(((source, 1.0, 2.0),), steps=steps + 1), 'train')


# Packing.


@pytest.mark.parametrize('room', [(64, 16), (64, 0)])
def test_packing_loses_nothing_and_never_overflows(room):
  random = np.random.default_rng(0)
  inputs = random.integers(1, 65, 5000)
  targets = random.integers(1, 17, 5000) if room[1] else np.zeros(5000, int)
  sizes = np.stack([inputs, targets], axis=1)
  plan = packing.plan(sizes, room, seed=0)
  pieces, rows = plan.pieces(np.arange(len(plan)))
  assert sorted(pieces) == list(range(5000))
  used = np.stack([np.bincount(rows, sizes[pieces, side]) for side in (0, 1)], axis=1)
  assert (used <= room).all() and (used[:, 0] > 0).all()
  least = max(sizes[:, side].sum() / room[side] for side in (0, 1) if room[side])
  assert len(plan) < 1.06 * least
  some = random.integers(0, len(plan), 50)
  pieces_of = [set(pieces[rows == row]) for row in some]
  found, where = plan.pieces(some)
  assert [set(found[where == i]) for i in range(50)] == pieces_of


def test_packing_depends_on_its_seed_only():
  sizes = np.stack([np.arange(1, 60)] * 2, axis=1).repeat(20, axis=0)
  plans = [packing.plan(sizes, (100, 100), seed) for seed in (1, 1, 2)]
  np.testing.assert_array_equal(plans[0].order, plans[1].order)
  assert (plans[0].order != plans[2].order).any() and len(plans[0]) == len(plans[2])


def test_cutting_documents_loses_nothing_and_leaves_no_scrap():
  lengths = np.arange(1, 200)
  starts = 1000 * np.arange(len(lengths))
  piece_starts, piece_lengths = rows_lib.cut(starts, lengths, 32)
  tokens = np.concatenate(
    [np.arange(a, a + n) for a, n in zip(piece_starts, piece_lengths, strict=True)]
  )
  expected = [np.arange(a, a + n) for a, n in zip(starts, lengths, strict=True)]
  np.testing.assert_array_equal(tokens, np.concatenate(expected))
  assert piece_lengths.max() == 32 and piece_lengths[1:].min() > 1


@pytest.mark.parametrize(
  'model, objective', [(T5, 'span_corruption'), (GPT, 'causal_lm'), (BERT, 'mlm'), (T5, 'ul2')]
)
def test_packed_rows_hold_every_document_once_with_little_padding(model, objective, text_file):
  config = make_config(
    f'text:{text_file}',
    model=model,
    objective=objective,
    examples='documents',
    target_length=64 if objective == 'ul2' else 20 if model is T5 else 0,
  )
  dataset = data.open(of_an_epoch(config), 'train')
  (source,) = dataset._sets
  batch = dataset.batch(0)
  for name in [name for name in batch if name.endswith('segment_ids')]:
    assert batch[name].max(axis=1).sum() == source.rows.num_examples > 1900
  assert data.padding_share(batch) < (0.6 if objective == 'ul2' else 0.15)
  if objective == 'span_corruption':  # one end of text for each input and target, not two
    for name in ('encoder_input_tokens', 'decoder_target_tokens'):
      assert (batch[name] == dataset.tokenizer.vocabulary.eos).sum() == source.rows.num_examples
  if objective == 'causal_lm':
    assert batch['decoder_loss_weights'].sum() == source.split.num_tokens


# The rest of the interface.


def test_padding_share_counts_encoder_and_decoder():
  batch = {
    'encoder_input_tokens': np.array([[5, 5, 0, 0]]),
    'decoder_target_tokens': np.array([[5, 5, 5, 5]]),
    'decoder_input_tokens': np.array([[0, 5, 5, 5]]),
  }
  assert data.padding_share(batch) == 0.25
  assert data.padding_share(data.batch(make_config(), 0)) == 0


def test_fingerprints_tell_text_tokenizer_and_split_apart(text_file, tmp_path):
  config = make_config(f'text:{text_file}')
  expected = data.open(config, 'train').fingerprint
  elsewhere = tmp_path / 'moved.txt'
  elsewhere.write_text(text_file.read_text())
  assert data.open(make_config(f'text:{elsewhere}'), 'train').fingerprint == expected
  elsewhere.write_text(text_file.read_text().replace('Document 7.', 'Document seven.'))
  others = [
    data.open(make_config(f'text:{elsewhere}'), 'train').fingerprint,
    data.open(config, 'held_out').fingerprint,
    data.open(make_config(f'text:{text_file}', held_out=0.02), 'train').fingerprint,
  ]
  assert len({expected, *others}) == 4


def test_bytes_per_token_is_that_of_the_split(text_file):
  dataset = data.open(make_config(f'text:{text_file}'), 'train')
  split = dataset._sets[0].split
  tokenizer = tokenizer_lib.load('corpus')
  tokens = split.read(np.array([0]), np.array([split.num_tokens]))[0]
  text = tokenizer.decode(tokens[tokens != tokenizer.vocabulary.eos])
  assert dataset.bytes_per_token == pytest.approx(len(text.encode()) / len(tokens), rel=0.01)


def test_a_preview_shows_inputs_and_targets(configs):
  shown = {kind: preview.preview(config, 2) for kind, config in configs.items()}
  assert 'inputs (64 tokens)' in shown['windows'] and '<extra_id_0>' in shown['windows']
  assert 'row 1, document 1' in shown['documents'] and 'padding: ' in shown['documents']
  assert "'[MASK]' for '" in shown['mixture'] and '[CLS]' in shown['mixture']
  assert 'targets' in shown['packed mixture'] and 'inputs' not in shown['packed mixture']
  assert all('row 2' not in text for text in shown.values())


def error_of(config: config_lib.Config, side='train') -> str:
  with pytest.raises(errors.UserError) as caught:
    data.open(config, side)
  return str(caught.value)


def test_too_little_text_is_an_error_with_a_remedy(tmp_path):
  (tmp_path / 'text').write_text('A few words.\n\nAnd a few more.')
  source = f'text:{tmp_path}/text'
  assert f'too little training text for one example: {source} gives 2' in error_of(
    make_config(source, held_out=0.0)
  )
  assert 'raise data.held_out=0.01' in error_of(
    make_config(source, examples='documents'), 'held_out'
  )
  assert 'lower data.held_out=0.999999' in error_of(
    make_config(source, examples='documents', held_out=0.999999)
  )
  assert 'held-out text fills no batch' in error_of(make_config(batch_size=5000), 'held_out')


def test_a_vocabulary_larger_than_the_model_is_an_error_before_any_reading():
  config = make_config('text:/nowhere/*')
  small = dataclasses.replace(config, model=dataclasses.replace(GPT, vocab_size=1000))
  assert 'model.vocab_size=1000' in error_of(small)


def run_python(code: str, *arguments: object) -> subprocess.Popen:
  command = [sys.executable, '-c', textwrap.dedent(code), *map(str, arguments)]
  pipe = subprocess.PIPE
  return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def test_the_pipeline_imports_no_tensorflow():
  run = run_python(
    """
    import sys
    from t5lite import config, data
    from t5lite.data import tokenizer
    assert 'grain' not in sys.modules and 'jax' not in sys.modules
    data.batch(config.load('configs/tiny_t5.py'), 0)
    assert 'grain' in sys.modules and 'tensorflow' not in sys.modules
    """
  )
  assert run.communicate()[0] == '' and run.returncode == 0


ITERATE = """
  import sys, time
  from t5lite import config, data

  def main(ending):
    settings = config.load('configs/tiny_t5.py', ['data.workers=2'])
    iterator = data.open(settings, 'train').iterate(0)
    next(iterator)
    print('ready', flush=True)
    if ending == 'killed':
      time.sleep(60)
    elif ending == 'closed':
      iterator.close()
    elif ending == 'failed':
      raise SystemExit(3)

  if __name__ == '__main__':
    main(sys.argv[1])
"""


def children(pid: int) -> list[int]:
  found = []
  for task in pathlib.Path(f'/proc/{pid}/task').glob('*/children'):
    found += map(int, task.read_text().split())
  return found


def is_alive(pid: int) -> bool:
  with contextlib.suppress(FileNotFoundError):
    return 'State:\tZ' not in pathlib.Path(f'/proc/{pid}/status').read_text()
  return False


@pytest.mark.slow
@pytest.mark.parametrize('ending, code', [('killed', -9), ('closed', 0), ('failed', 3)])
def test_no_worker_outlives_its_parent(ending, code):
  with run_python(ITERATE, ending) as run:
    assert run.stdout is not None and run.stdout.readline() == 'ready\n'
    started = children(run.pid)
    if ending == 'killed':
      assert len(started) >= 2
      run.send_signal(signal.SIGKILL)
    _, said = run.communicate(timeout=60)
  assert run.returncode == code
  assert not said or ending == 'killed'
  deadline = time.monotonic() + 10
  while any(map(is_alive, started)):
    assert time.monotonic() < deadline
    time.sleep(0.05)


@pytest.mark.slow
def test_an_error_in_a_worker_arrives_as_it_is(text_file):
  config = make_config(((f'text:{text_file}', 1.0, 1.0),), workers=1)
  dataset = data.open(config, 'train')
  with contextlib.closing(dataset.iterate(0, last_step=10**6)) as iterator:
    with pytest.raises(errors.DataError, match='data ends too early'):
      for _ in iterator:
        pass
