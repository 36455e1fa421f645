"""Heads of an encoder for words and for spans: marks, loss, answers, and that training teaches."""

import dataclasses
import json
import math
import pathlib

import jax
import numpy as np
import pytest

from t5lite import config as config_lib
from t5lite import data
from t5lite import errors
from t5lite import evaluate
from t5lite import losses
from t5lite import meshes
from t5lite import models
from t5lite import presets
from t5lite import samples
from t5lite import train
from t5lite.data import preview
from t5lite.data import tokenizer as tokenizer_lib
from t5lite.decoding import heads
from t5lite.tasks import rendering

BERT = dataclasses.replace(presets.bert(vocab_size=8192, num_layers=1, d_model=64), dropout=0.0)
T5 = presets.t5_1_1(vocab_size=8192, num_layers=1, d_model=64, d_ff=64, num_heads=1, head_dim=64)
TAGS = dataclasses.replace(BERT, num_labels=3)
SPANS = dataclasses.replace(BERT, num_labels=2, spans=True)
LABELS = ('O', 'B-NAME', 'I-NAME')
NAMES = ('Ann', 'Bob', 'Eve', 'Tom', 'Ida', 'Max')
FAMILIES = ('Smith', 'Jones', 'Brown', 'White')
WORDS = ('house', 'river', 'sees', 'the', 'naïve', 'walks,', 'under', '(old)')
SPLITS = ('train', 'train', 'train', 'validation', 'test')


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def tokenizer() -> tokenizer_lib.Tokenizer:
  return tokenizer_lib.load('corpus')


def write(path: pathlib.Path, rows) -> str:
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return f'jsonl:{path}'


def tagging(tmp_path, rows=None, **changes) -> config_lib.Task:
  """Which words are names? Two of them side by side are one name."""
  if rows is None:
    rng, rows = np.random.default_rng(0), []
    for i in range(400):
      words = rng.choice(WORDS, 8).tolist()
      tags = [0] * 8
      at = int(rng.integers(0, 7))
      words[at : at + 2] = [str(rng.choice(NAMES)), str(rng.choice(FAMILIES))]
      tags[at : at + 2] = [1, 2]
      rows.append({'words': words, 'tags': tags, 'split': SPLITS[i % 5]})
  settings = {
    'name': 'names',
    'source': write(tmp_path / 'names.jsonl', rows),
    'inputs': 'names: {words}',
    'targets': '{tags}',
    'words': 'words',
    'labels': LABELS,
    'metrics': ('accuracy', 'f1', 'entity_f1'),
    'split_field': 'split',
  }
  return config_lib.Task(**settings | changes)


def finding(tmp_path, rows=None, **changes) -> config_lib.Task:
  """Who walks? The name in the text; another one begins the question."""
  if rows is None:
    rng, rows = np.random.default_rng(0), []
    for i in range(400):
      words = rng.choice(WORDS, 7).tolist()
      at = int(rng.integers(0, 7))
      words[at] = f'{rng.choice(NAMES)} {rng.choice(FAMILIES)}'
      start = len(' '.join([*words[:at], '']))
      row = {'question': f'{NAMES[i % 6]}?', 'context': ' '.join(words), 'start': start}
      rows.append(row | {'answer': words[at], 'split': SPLITS[i % 5]})
  settings = {
    'name': 'who',
    'source': write(tmp_path / 'who.jsonl', rows),
    'inputs': 'question: {question} context: {context}',
    'targets': '{answer}',
    'texts': ('{question}', '{context}'),
    'span': 'start',
    'metrics': ('exact_match', 'token_f1'),
    'split_field': 'split',
  }
  return config_lib.Task(**settings | changes)


def make_config(task, model, steps=0, **settings) -> config_lib.Config:
  encodes = model.architecture == 'encoder'
  settings = {
    'batch_size': 16,
    'input_length': 48,
    'target_length': 0 if encodes else 32,
  } | settings
  return config_lib.Config(
    model=model,
    objective=config_lib.Objective(name='mlm' if encodes else 'span_corruption'),
    data=config_lib.Data(source=f'task:{task.name}', **settings),
    optim=config_lib.Optim(name='adamw_rms', learning_rate=0.02, schedule='linear'),
    train=config_lib.Train(steps=steps),
    tasks=(task,),
  )


def initial(config) -> models.Params:
  with jax.set_mesh(meshes.make(config.parallel)):
    return models.init(config.model, jax.random.key(0))


TEXTS = ['', 'The naïve Köln, 東京 and 😀 end.', '  two  spaces\n\nand lines ', 'a ' * 9000]


@pytest.mark.parametrize('text', TEXTS, ids=['empty', 'bytes', 'spaces', 'long'])
def test_tokens_know_their_characters(text, tokenizer):
  aligned = tokenizer.align(text)
  np.testing.assert_array_equal(aligned.ids, tokenizer.encode([text])[0])
  assert (np.diff(aligned.ends) >= 0).all() and (aligned.starts <= aligned.ends).all()
  assert not text or aligned.starts[0] == 0
  words = [at for at in range(len(text)) if text[at : at + 1].isalpha()]
  for place in words:
    token = aligned.at(place)
    assert aligned.starts[token] <= place < aligned.ends[token]
  assert aligned.at(len(text)) == -1
  if text == TEXTS[1]:
    assert tokenizer.decode(aligned.ids[aligned.at(text.index('end'))][None]) == 'end'


def test_words_have_their_labels_at_their_first_tokens(tmp_path, tokenizer):
  task = tagging(tmp_path)
  for examples in ('windows', 'documents'):
    config = make_config(task, TAGS, examples=examples, input_length=80)
    batch = data.batch(config, 0)
    asked = batch['encoder_loss_weights'] > 0
    assert (asked.sum(axis=1) % 8 == 0).all()  # eight words an example
    tokens, labels = (batch[f'encoder_{name}_tokens'][asked] for name in ('input', 'target'))
    starts = [tokenizer.decode(token[None]) for token in tokens]
    every = (*NAMES, *FAMILIES)
    first = {tokenizer.decode(tokenizer.encode([name])[0][:1]) for name in every}
    assert {start for start, label in zip(starts, labels, strict=True) if label} <= first
    assert np.bincount(labels).tolist()[1:] == [len(labels) // 8] * 2
    positions = batch['encoder_prediction_positions']
    np.testing.assert_array_equal(positions[0][: asked[0].sum()], asked[0].nonzero()[0])


def test_a_span_is_marked_where_it_begins_and_ends(tmp_path, tokenizer):
  config = make_config(finding(tmp_path), SPANS)
  batch = data.batch(config, 0)
  rows = map(json.loads, (tmp_path / 'who.jsonl').read_text().splitlines())
  answers = {(row['context'], row['answer']) for row in rows}
  for tokens, marks, weights, types in zip(
    *(
      batch[f'encoder_{name}']
      for name in ('input_tokens', 'target_tokens', 'loss_weights', 'token_types')
    ),
    strict=True,
  ):
    places = np.flatnonzero(marks)
    span = tokenizer.decode(tokens[places[0] : places[-1] + 1])
    context = tokenizer.decode(tokens[types == 1]).removesuffix('[SEP]').strip()
    assert (context, span) in answers
    assert weights.sum() == 2 and marks.sum() == 3


def test_a_span_behind_the_end_is_asked_for_at_cls(tmp_path):
  config = make_config(finding(tmp_path), SPANS, input_length=12)
  batch = data.batch(config, 0)
  first = batch['encoder_target_tokens'][:, 0] == 3
  assert 0 < first.sum() < 16  # some are there and some are not
  np.testing.assert_array_equal(batch['encoder_loss_weights'].sum(axis=1), 2)
  assert (batch['encoder_loss_weights'][first, 0] == 2).all()


def test_the_loss_of_a_span_is_that_of_two_choices_among_the_tokens(tmp_path):
  config = make_config(finding(tmp_path), SPANS)
  config = dataclasses.replace(config, train=config_lib.Train(steps=0, z_loss=0.1))
  batch, params = data.batch(config, 0), initial(config)
  with jax.set_mesh(meshes.make(config.parallel)):
    logits = np.asarray(models.apply(config.model, params, batch), np.float64)
    sums = losses.of_batch(config, params, batch)
  loss = z_loss = correct = 0.0
  for row in range(16):
    num_tokens = np.count_nonzero(batch['encoder_input_tokens'][row])
    for k, places in enumerate(np.flatnonzero(batch['encoder_target_tokens'][row])[[0, -1]]):
      column = logits[row, :num_tokens, k]
      log_z = np.log(np.exp(column).sum())
      loss += log_z - column[places]
      z_loss += 0.1 * log_z**2
      correct += column.argmax() == places
  np.testing.assert_allclose(sums.loss, loss, rtol=1e-5)
  np.testing.assert_allclose(sums.objective, loss + z_loss, rtol=1e-5)
  assert (sums.correct, sums.weight) == (correct, 32)


@pytest.mark.parametrize('make', [tagging, finding])
def test_loss_and_gradient_are_the_same_on_every_mesh(make, tmp_path):
  model = TAGS if make is tagging else SPANS
  config = make_config(make(tmp_path), dataclasses.replace(model, num_heads=2, num_kv_heads=2))
  if make is tagging:
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, num_labels=4))
  batch, found = data.batch(config, 0), []
  for axes in ({'data': 1}, {'data': 4, 'model': 2}, {'data': 2, 'sequence': 4}):
    parallel = config_lib.Parallel(**axes)
    mesh = meshes.make(parallel, jax.devices()[: math.prod(axes.values())])
    with jax.set_mesh(mesh):
      params = models.init(config.model, jax.random.key(0))
      on_devices = losses.sharding.to_device(batch, 16, mesh)
      of = jax.jit(jax.value_and_grad(lambda p, b: losses.of_batch(config, p, b).objective))
      found.append(jax.device_get(of(params, on_devices)))
  for other in found[1:]:
    np.testing.assert_allclose(other[0], found[0][0], rtol=1e-5)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), other[1], found[0][1]
    )


def test_the_best_span_does_not_end_before_it_begins():
  logits = np.zeros((40, 2))
  logits[5, 0], logits[3, 1], logits[7, 1] = 9, 9, 5
  assert heads.best_span(logits) == (5, 7)
  logits[39, 1] = 20  # more than 30 tokens from 5
  start, end = heads.best_span(logits)
  assert end == 39 and 39 - start < 30


def test_a_long_text_is_read_in_windows(tmp_path, tokenizer, monkeypatch):
  """The head that looks for one token finds it, and what is next, wherever it is."""
  config = make_config(finding(tmp_path), SPANS, input_length=20)
  (wanted,) = tokenizer.encode(['Smith'])

  def logits(model, params, batch):
    begins = np.asarray(batch['encoder_input_tokens']) == wanted[0]
    ends = np.roll(begins, len(wanted) - 1, axis=1)
    return np.stack([begins, ends], axis=-1).astype(np.float32)

  monkeypatch.setattr(heads, '_logits', logits)
  words = ['river'] * 40
  texts = [' '.join([*words[:at], 'Smith', *words[at:]]) for at in (0, 5, 20, 39, 40)]
  examples = [rendering.Example(('Who is it?', text), 'Smith', ('Smith',)) for text in texts]
  with jax.set_mesh(meshes.make(config.parallel)):
    found = heads.spans(config, {}, tokenizer, examples)
    assert found == ['Smith'] * 5
    question = rendering.Example(('Who is it? ' * 20, 'Smith'), 'Smith', ('Smith',))
    assert heads.spans(config, {}, tokenizer, [question]) == ['']


@pytest.mark.parametrize('make', [tagging, finding])
def test_training_teaches_it(make, tmp_path, capsys):
  task, model = make(tmp_path), TAGS if make is tagging else SPANS
  config = make_config(task, model, steps=120)
  train.run(config, tmp_path / 'run')
  ((_, judged),) = evaluate.run_tasks(tmp_path / 'run', [task.name], 'test')
  assert judged.way == 'head' and len(judged.rows) == 80
  name = 'entity_f1' if make is tagging else 'exact_match'
  print(capsys.readouterr().out[-400:], judged)
  assert judged.values[name] > 0.9
  row = judged.rows[0]
  assert len(row['answer'].split()) == len(row['target'].split())


def test_samples_and_previews_show_what_is_asked_for(tmp_path, tokenizer):
  for task, model, kind in ((tagging(tmp_path), TAGS, 'label'), (finding(tmp_path), SPANS, 'span')):
    config = make_config(task, model)
    assert f'  {kind}' in preview.preview(config, 1)
    with jax.set_mesh(mesh := meshes.make(config.parallel)):
      texts = dict(evaluate.Evaluator(config, mesh).samples(initial(config)))
    target = texts['0/target']
    assert target.count(', ') == 7 if kind == 'label' else target in texts['0/input']
  assert samples.COUNT == 2


def test_text_models_write_the_labels(tmp_path, tokenizer):
  batch = data.batch(make_config(tagging(tmp_path), T5), 0)
  text = tokenizer.decode(batch['encoder_input_tokens'][0])
  tags = tokenizer.decode(batch['decoder_target_tokens'][0]).removesuffix('</s>').split()
  assert text.startswith('names: ') and len(tags) == 8 and tags.count('B-NAME') == 1


ROW = {'words': ['Ann', 'sees'], 'tags': ['B-NAME', 'O'], 'split': 'train'}
FOUND = {'question': 'Who?', 'context': 'Ann sees.', 'start': 0, 'answer': 'Ann', 'split': 'train'}


@pytest.mark.parametrize(
  ('make', 'changes', 'message'),
  [
    (tagging, {'tags': ['O']}, '2 words with 1 labels.*give each word a label'),
    (tagging, {'tags': ['O', 'B-DOG']}, "label 'B-DOG' is none of O, B-NAME, I-NAME"),
    (tagging, {'tags': [0, 3]}, 'label 3 of 3'),
    (tagging, {'words': ['Ann', ' ']}, 'no empty word'),
    (tagging, {'words': 'Ann sees'}, "field 'words' is no list"),
    (finding, {'start': 1}, "target 'Ann' is not at start=1"),
    (finding, {'start': None}, "target 'Ann' is not at start=None"),
  ],
)
def test_wrong_rows_are_named(make, changes, message, tmp_path):
  row = {**(ROW if make is tagging else FOUND), **changes}
  with pytest.raises(errors.DataError, match=message):
    rendering.example(make(tmp_path), row, for_encoder=True)


@pytest.mark.parametrize(
  ('make', 'changes', 'message'),
  [
    (tagging, {'targets': 'tags: {tags}'}, 'words need a field of labels.*name it alone'),
    (tagging, {'labels': (), 'metrics': ()}, 'words need labels'),
    (tagging, {'labels': ('no name', 'name')}, 'words need labels without spaces'),
    (tagging, {'texts': ('{words}',)}, 'an encoder reads the words alone'),
    (finding, {'texts': ()}, 'a span is a part of a text'),
    (finding, {'metrics': ('entity_f1',)}, 'entities are of words'),
  ],
)
def test_tasks_that_ask_for_nothing_whole_are_refused(make, changes, message, tmp_path):
  with pytest.raises(errors.ConfigError, match=message):
    make(tmp_path, **changes)


@pytest.mark.parametrize(
  ('make', 'model', 'settings', 'message'),
  [
    (tagging, {'num_labels': 2}, {}, 'too few outputs.*num_labels=3.*pooler=False'),
    (tagging, {'num_labels': 3, 'pooler': True}, {}, 'not the head for the task'),
    (finding, {'num_labels': 2}, {}, 'not the head for the task.*spans=True'),
    (tagging, {'num_labels': 2, 'spans': True}, {}, 'too few outputs'),
    (finding, {}, {'examples': 'documents'}, "a span is found in a row of one example.*'windows'"),
  ],
)
def test_the_head_is_the_one_for_the_task(make, model, settings, message, tmp_path):
  model = dataclasses.replace(SPANS, **{'spans': False} | model) if model else SPANS
  with pytest.raises(errors.ConfigError, match=message):
    data.batch(make_config(make(tmp_path), model, **settings), 0)


def test_a_head_for_spans_is_of_two_outputs_without_label_smoothing(tmp_path):
  with pytest.raises(errors.ConfigError, match='not a head for spans'):
    dataclasses.replace(SPANS, num_labels=3)
  config = make_config(finding(tmp_path), SPANS)
  with pytest.raises(errors.ConfigError, match='no label smoothing for spans'):
    dataclasses.replace(config, train=config_lib.Train(steps=0, label_smoothing=0.1))
