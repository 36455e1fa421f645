"""Tasks as data: rows of any source become what each architecture reads and is asked for."""

import dataclasses
import json
import pathlib

import numpy as np
import pyarrow
from pyarrow import parquet
import pytest

from t5lite import config as config_lib
from t5lite import data
from t5lite import errors
from t5lite import presets
from t5lite import tasks
from t5lite.data import preview
from t5lite.data import task_rows
from t5lite.data import tokenizer as tokenizer_lib
from t5lite.tasks import rendering

GPT = presets.gpt2(vocab_size=8192, num_layers=1, d_model=64, num_heads=1)
BERT = presets.bert(vocab_size=8192, num_layers=1, d_model=64)
T5 = presets.t5_1_1(vocab_size=8192, num_layers=1, d_model=64, d_ff=64, num_heads=1, head_dim=64)
OBJECTIVES = {'encoder_decoder': 'span_corruption', 'decoder': 'causal_lm', 'encoder': 'mlm'}
ROWS = [
  {
    'one': f'The cat number {i} sat on the mat.',
    'two': 'It sat. ' * (1 + i % 5),
    'label': i % 3,
    'fold': ('train', 'train', 'dev')[i % 3 - 1],
  }
  for i in range(60)
]
LABELS = ('yes', 'no', 'may be')


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def tokenizer() -> tokenizer_lib.Tokenizer:
  return tokenizer_lib.load('corpus')


def write(path: pathlib.Path, rows=ROWS) -> str:
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return f'jsonl:{path}'


def entailment(source: str, **changes) -> config_lib.Task:
  settings = {
    'name': 'entailment',
    'source': source,
    'inputs': 'premise: {one} hypothesis: {two} Follows:',
    'targets': '{label}',
    'labels': LABELS,
    'texts': ('{one}', '{two}'),
    'split_field': 'fold',
    'validation': 'dev',
  }
  return config_lib.Task(**settings | changes)


def make_config(task: config_lib.Task, model=T5, **settings) -> config_lib.Config:
  behind_encoder = model.architecture == 'encoder_decoder'
  settings = {
    'batch_size': 8,
    'input_length': 64,
    'target_length': 8 if behind_encoder else 0,
  } | settings
  return config_lib.Config(
    model=model,
    objective=config_lib.Objective(name=OBJECTIVES[model.architecture]),
    data=config_lib.Data(source='task:entailment', **settings),
    optim=config_lib.Optim(name='adamw', learning_rate=1e-3, schedule='constant'),
    train=config_lib.Train(steps=10),
    tasks=(task,),
  )


def texts(batch, name: str, tokenizer) -> list[str]:
  return [tokenizer.decode(row) for row in batch[name]]


def expected(split: str) -> dict[str, str]:
  """Inputs and targets of the rows of a split."""
  return {
    f'premise: {row["one"]} hypothesis: {row["two"]} Follows:': LABELS[row['label']]
    for row in ROWS
    if row['fold'] == split
  }


def test_an_encoder_decoder_reads_the_inputs_and_is_asked_for_the_targets(tmp_path, tokenizer):
  config = make_config(entailment(write(tmp_path / 'rows')))
  for side, split in (('train', 'train'), ('held_out', 'dev')):
    batch, pairs = data.open(config, side).batch(0), expected(split)
    inputs, targets = (
      texts(batch, name, tokenizer) for name in ('encoder_input_tokens', 'decoder_target_tokens')
    )
    assert len(set(inputs)) == 8
    for given, asked in zip(inputs, targets, strict=True):
      assert asked == pairs[given.removesuffix(' </s>')] + ' </s>'
    np.testing.assert_array_equal(
      batch['decoder_loss_weights'], batch['decoder_target_tokens'] != tokenizer.vocabulary.pad
    )


def test_a_decoder_has_its_loss_on_the_targets_only(tmp_path, tokenizer):
  config = make_config(entailment(write(tmp_path / 'rows')), GPT)
  batch, pairs = data.batch(config, 0), expected('train')
  for row in range(8):
    asked = batch['decoder_loss_weights'][row] > 0
    target = tokenizer.decode(batch['decoder_target_tokens'][row][asked])
    given = int(asked.argmax()) + 1
    prompt = batch['decoder_input_tokens'][row][:given]
    assert prompt[0] == tokenizer.vocabulary.eos
    assert target == pairs[tokenizer.decode(prompt[1:])] + ' </s>'


def test_an_encoder_reads_both_texts_and_is_asked_for_the_number_of_the_label(tmp_path, tokenizer):
  model = dataclasses.replace(BERT, num_labels=3, pooler=True)
  config = make_config(entailment(write(tmp_path / 'rows')), model)
  batch = data.batch(config, 0)
  pairs = {(row['one'], row['two'].strip()): row['label'] for row in ROWS}
  for row in range(8):
    tokens, types = (batch[f'encoder_{name}'][row] for name in ('input_tokens', 'token_types'))
    one, two, rest = tokenizer.decode(tokens).removeprefix('[CLS] ').split('[SEP]')
    assert rest == '' and tokenizer.decode(tokens[types == 1]).endswith('[SEP]')
    assert batch['encoder_loss_weights'][row].nonzero()[0].tolist() == [0]
    assert batch['encoder_target_tokens'][row][0] == pairs[one.strip(), two.strip()]
    assert tokenizer.decode(tokens[types == 1]).removesuffix(' [SEP]').strip() == two.strip()


def test_packed_labels_stand_at_the_first_token_of_each_example(tmp_path, tokenizer):
  model = dataclasses.replace(BERT, num_labels=3)
  config = make_config(
    entailment(write(tmp_path / 'rows')), model, examples='documents', input_length=128
  )
  batch = data.batch(config, 0)
  asked = batch['encoder_loss_weights'] > 0
  assert (asked.sum(axis=1) > 1).all()
  np.testing.assert_array_equal(asked, batch['encoder_input_tokens'] == tokenizer.vocabulary.cls)
  positions = batch['encoder_prediction_positions']
  for row in range(8):
    np.testing.assert_array_equal(positions[row][: asked[row].sum()], asked[row].nonzero()[0])


@pytest.mark.parametrize('model', [T5, GPT], ids=['t5', 'gpt'])
def test_inputs_that_are_too_long_keep_the_end_of_the_template(model, tmp_path, tokenizer):
  rows = [{**row, 'two': 'It sat and sat. ' * 100} for row in ROWS]
  config = make_config(entailment(write(tmp_path / 'rows', rows)), model)
  batch = data.batch(config, 0)
  side = 'encoder' if model is T5 else 'decoder'
  for row in range(8):
    text = tokenizer.decode(batch[f'{side}_input_tokens'][row])
    assert text.removeprefix('</s> ').startswith('premise: The cat') and ' Follows:' in text
    targets = batch['decoder_target_tokens'][row][batch['decoder_loss_weights'][row] > 0]
    assert tokenizer.decode(targets).removesuffix(' </s>') in LABELS
  assert (batch[f'{side}_input_tokens'] > 0).all() or model is GPT


@pytest.mark.parametrize('model', [T5, GPT, dataclasses.replace(BERT, num_labels=3)])
def test_inputs_that_are_too_long_lose_their_start_where_the_task_says_so(
  model, tmp_path, tokenizer
):
  """But not the start of the template."""
  rows = [
    {**row, 'one': f'{"It sat and sat. " * 100} Then it left.', 'two': 'It ran.'} for row in ROWS
  ]
  task = entailment(write(tmp_path / 'rows', rows), truncation_side='left')
  batch = data.batch(make_config(task, model), 0)
  side = 'decoder' if model is GPT else 'encoder'
  for row in range(8):
    text = tokenizer.decode(batch[f'{side}_input_tokens'][row])
    if model.architecture == 'encoder':
      assert text.startswith('[CLS] ') and 'It sat' in text
      assert text.endswith('Then it left. [SEP] It ran. [SEP]')
    else:
      assert text.removeprefix('</s> ').startswith('premise:') and 'It sat' in text
      assert ' Then it left. hypothesis: It ran. Follows:' in text
  assert (batch[f'{side}_input_tokens'] > 0).all() or model is GPT


def test_targets_that_are_too_long_still_end(tmp_path, tokenizer):
  task = entailment(write(tmp_path / 'rows'), labels=(), targets='{one} {one}')
  batch = data.batch(make_config(task), 0)
  assert (batch['decoder_target_tokens'][:, -1] == tokenizer.vocabulary.eos).all()
  assert (batch['decoder_loss_weights'] == 1).all()


def test_a_file_without_splits_keeps_a_share_for_validation(tmp_path, tokenizer):
  task = entailment(write(tmp_path / 'rows'), split_field='', validation='', test='')
  config = make_config(task, batch_size=2, held_out=0.3)
  sides = []
  for side in ('train', 'held_out'):
    dataset = data.open(config, side)
    batches = [dataset.batch(step) for step in range(5)]
    sides.append({text for b in batches for text in texts(b, 'encoder_input_tokens', tokenizer)})
  assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_text_and_tasks_mix(tmp_path, tokenizer):
  config = make_config(entailment(write(tmp_path / 'rows')), target_length=32)
  mixture = (('task:entailment', 1.0), ('corpus', 3.0))
  config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=mixture))
  inputs = texts(data.batch(config, 0), 'encoder_input_tokens', tokenizer)
  assert sum(text.startswith('premise:') for text in inputs) == 2
  assert sum('<extra_id_0>' in text for text in inputs) == 6


def test_rows_of_parquet_are_those_of_jsonl(tmp_path):
  parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / 'parquet', row_group_size=7)
  found = []
  for source in (write(tmp_path / 'rows'), f'parquet:{tmp_path}/parquet'):
    made = task_rows.open(entailment(source), 'train', 'encoder_decoder')
    found.append(list(made.documents()))
  assert found[0] == found[1]
  assert {example.inputs[0]: example.targets for example in found[0]} == expected('train')


def twice(row):
  """A preprocess function."""
  yield row
  yield {**row, 'one': 'Again: ' + row['one']}


def test_a_function_makes_rows_of_a_row(tmp_path):
  task = entailment(write(tmp_path / 'rows'), preprocess=f'{__name__}:twice')
  made = list(task_rows.open(task, 'dev', 'encoder_decoder').documents())
  assert len(made) == 40 and sum('Again' in example.inputs[0] for example in made) == 20


def test_tasks_survive_the_config_file(tmp_path):
  config = make_config(entailment('jsonl:x'))
  config_lib.save(config, tmp_path / 'config.json')
  assert config_lib.load(tmp_path / 'config.json') == config


def test_references_are_the_right_answers():
  task = entailment('jsonl:x', labels=(), targets='{answer}', references='all')
  row = {'one': 'a', 'two': 'b', 'answer': 'x', 'all': ['x', 'y']}
  assert rendering.example(task, row, for_encoder=False).references == ('x', 'y')


@pytest.mark.parametrize('task', tasks.SHIPPED.values(), ids=tasks.SHIPPED)
def test_tasks_that_ship_have_metrics_and_templates_of_their_own(task):
  assert task.metrics
  of_labels = {'accuracy', 'f1', 'matthews', 'pearson'}
  assert bool(task.labels) == bool(of_labels & set(task.metrics))


def failing(row):
  yield {**row, 'label': 1 // 0}


@pytest.mark.parametrize('field', ['two', 'label'])
def test_a_field_that_is_null_is_told(field, tmp_path):
  rows = [{**row, field: None} for row in ROWS]
  with pytest.raises(errors.DataError, match=f"field '{field}' is null for the"):
    data.batch(make_config(entailment(write(tmp_path / 'rows', rows))), 0)


@pytest.mark.parametrize(
  ('changes', 'what'),
  [
    ({'inputs': 'no field'}, 'template without a field'),
    ({'inputs': '{one'}, 'not a template'),
    ({'labels': ('a',)}, 'not a list of labels'),
    ({'labels': ('a', 'a')}, 'not a list of labels'),
    ({'texts': ('{one}', '{two}', '{one}')}, 'an encoder reads one text or two'),
    ({'preprocess': 'module'}, 'not a function'),
    ({'name': 'a/b'}, "not a name: task 'a/b'"),
    (
      {'truncation_side': 'left', 'span': 'start', 'labels': ()},
      'words and spans count from the start of their text.*leave it out',
    ),
  ],
)
def test_a_wrong_task_shows_at_once(changes, what):
  with pytest.raises(errors.ConfigError, match=what):
    entailment('jsonl:x', **changes)


@pytest.mark.parametrize(
  ('changes', 'what'),
  [
    ({'inputs': '{one[en]}'}, 'string indices must be .* for the inputs=.{one.en.}'),
    ({'inputs': '{0}'}, 'positional fields for the inputs'),
    ({'inputs': '{one.x}'}, "no attribute 'x' for the inputs"),
    ({'inputs': '{one:d}'}, "'d' for object of type 'str' for the inputs"),
    ({'references': 'one'}, "field 'one' is one text"),
    ({'references': 'label'}, "field 'label' is no list of texts"),
    ({'preprocess': f'{__name__}:failing'}, 'test_tasks:failing raises ZeroDivisionError: '),
    ({'split_field': ''}, 'rows of no split: .*splits train, dev, test: .*one split alone'),
    ({'train': '', 'split_field': '', 'validation': ''}, 'task without rows to train on'),
    ({'inputs': '{three}'}, "no field 'three' for the inputs.*its fields are one, two"),
    ({'labels': ('yes', 'no')}, 'label 2 of 2'),
    ({'targets': '{one}'}, "label 'The cat number 1 sat on the mat.' is none of yes, no, may be"),
    ({'split_field': 'part'}, "no field 'part'"),
    ({'train': 'practice'}, 'no text in the source'),
    ({'source': 'jsonl:/nowhere'}, 'no such file'),
    ({'source': 'text:/nowhere'}, 'not a source of rows'),
    ({'source': 'jsonl:$T5LITE_NOT_SET/x'}, 'variable not set'),
    ({'source': 'jsonl:~/t5lite.none'}, r'no such file: ~/t5lite.none \(/.*/t5lite.none\): give'),
    ({'preprocess': 'json:nothing'}, 'no such function'),
  ],
)
def test_wrong_rows_are_named(changes, what, tmp_path):
  source = write(tmp_path / 'rows')
  with pytest.raises(errors.UserError, match=what):
    data.batch(
      make_config(
        entailment(source) if not changes else entailment(**{'source': source} | changes)
      ),
      0,
    )


@pytest.mark.parametrize(
  ('model', 'changes', 'what'),
  [
    (BERT, {}, 'too few outputs for the labels.*num_labels=3'),
    (dataclasses.replace(BERT, num_labels=2), {}, 'too few outputs for the labels'),
    (
      dataclasses.replace(BERT, num_labels=3),
      {'labels': ()},
      'an encoder has no answer for this task',
    ),
  ],
)
def test_an_encoder_needs_a_head_for_the_task(model, changes, what, tmp_path):
  config = make_config(entailment(write(tmp_path / 'rows'), **changes), model)
  with pytest.raises(errors.ConfigError, match=what):
    data.batch(config, 0)


@pytest.mark.parametrize('source', ['corpus', (('task:entailment', 1.0), ('task:other', 1.0))])
def test_a_head_learns_one_task(source):
  config = make_config(entailment('jsonl:x'), dataclasses.replace(BERT, num_labels=3))
  with pytest.raises(errors.ConfigError, match='a head for labels learns one task'):
    dataclasses.replace(config, data=dataclasses.replace(config.data, source=source))


def test_an_unknown_task_is_named():
  with pytest.raises(errors.ConfigError, match='did you mean summarize_debian'):
    tasks.find('task:sumarize_debian')


def test_the_preview_shows_inputs_and_targets(tmp_path):
  source = write(tmp_path / 'rows')
  for model in (T5, GPT, dataclasses.replace(BERT, num_labels=3)):
    text = preview.preview(make_config(entailment(source), model), 1)
    assert 'inputs (' in text and 'The cat number' in text
    assert ('label: ' if model.num_labels else 'targets (') in text
