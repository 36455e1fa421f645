"""Tasks that ship read the datasets of tensorflow-datasets: the real builders, with a few rows."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import textwrap

import pytest

import shipped_cases
from t5lite import config as config_lib
from t5lite import errors
from t5lite import tasks
from t5lite.data import record_files
from t5lite.data import task_rows
from t5lite.tasks import metrics
from t5lite.tasks import rendering

TASKS = {name: task for name, task in tasks.SHIPPED.items() if task.source.startswith('tfds:')}
SIDES = [
  (name, side)
  for name, task in TASKS.items()
  for side in ('train', 'validation', 'test')
  if getattr(task, side)
]
WITH_LABELS = lambda task: task.labels and not task.words  # of whole texts
# The library's own builders, so that features, names of splits, versions and labels are those of a
# user's copy; only the rows are ours.
MAKE = """
  import json, sys, types
  import numpy as np
  import tensorflow_datasets as tfds
  from tensorflow_datasets.summarization import cnn_dailymail, xsum
  from tensorflow_datasets.text import glue, super_glue
  from tensorflow_datasets.translate import wmt14, wmt16

  class Downloaded(str):
    __getitem__ = lambda self, key: self

  class Manager:
    download = download_and_extract = iter_archive = lambda self, urls: Downloaded()

  super_glue.tf = types.SimpleNamespace(int32=np.int32)  # all that its features want of TensorFlow
  real = {}
  for name, splits in json.load(open(sys.argv[1])).items():
    cls = tfds.builder_cls(name.partition('/')[0])
    real.setdefault(cls, cls._split_generators)
    if cls.name in ('glue', 'super_glue', 'squad', 'imdb_reviews'):  # the others read files first
      found = {each.name for each in real[cls](tfds.builder(name, data_dir=sys.argv[2]), Manager())}
      assert set(splits) <= found, (name, found)
    cls.url_infos = {}  # nothing is downloaded
    cls._generate_examples = lambda self, rows: enumerate(rows)
    cls._split_generators = lambda self, manager: {
      split: self._generate_examples(rows) for split, rows in splits.items()
    }
    tfds.builder(name, data_dir=sys.argv[2], file_format='array_record').download_and_prepare()
  assert 'tensorflow' not in sys.modules
"""


def run_python(code: str, *arguments: object) -> None:
  command = [sys.executable, '-c', textwrap.dedent(code), *map(str, arguments)]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope='module')
def copies(tmp_path_factory) -> pathlib.Path:
  """A data_dir of tensorflow-datasets with the datasets of all tasks."""
  directory = tmp_path_factory.mktemp('tfds')
  (directory / 'rows.json').write_text(json.dumps(shipped_cases.rows()))
  run_python(MAKE, directory / 'rows.json', directory)
  return directory


@pytest.fixture
def data_dir(copies, monkeypatch) -> pathlib.Path:
  """What TFDS_DATA_DIR sets when the library is imported, which may have been before."""
  from tensorflow_datasets.core import constants

  monkeypatch.setattr(constants, 'DATA_DIR', str(copies))
  return copies


def read(
  task: config_lib.Task, split: str, architecture: config_lib.Architecture
) -> list[rendering.Example]:
  return sorted(task_rows.open(task, split, architecture).documents())


def cases(name: str, split: str) -> list[shipped_cases.Case]:
  return [case for case in shipped_cases.CASES[name] if case.split == split]


def test_every_task_is_checked_here():
  assert set(shipped_cases.CASES) == set(TASKS)
  assert all(cases(name, getattr(TASKS[name], side)) for name, side in SIDES)


def test_tasks_read_the_datasets_of_their_names():
  sources = {
    'glue_mnli_mismatched': 'glue/mnli',
    'superglue_wsc': 'super_glue/wsc.fixed',
    'squad': 'squad/v1.1',
    'wmt14_en_de': 'wmt14_translate/de-en',
    'wmt14_en_fr': 'wmt14_translate/fr-en',
    'wmt16_en_ro': 'wmt16_translate/ro-en',
    'imdb': 'imdb_reviews',
  }
  for name, task in TASKS.items():
    usual = name.replace('superglue_', 'super_glue/').replace('glue_', 'glue/')
    assert task.source == f'tfds:{sources.get(name, usual)}'


def test_what_is_measured_has_labels():
  splits = {
    'glue_mnli': ('train', 'validation_matched', 'validation_matched'),
    'glue_mnli_mismatched': ('train', 'validation_mismatched', 'validation_mismatched'),
    'imdb': ('train', '', 'test'),
    'conll2003': ('train', 'dev', 'test'),
  }
  for name, task in TASKS.items():
    public = name.startswith(('cnn', 'xsum', 'wmt'))
    usual = 'train', 'validation', 'test' if public else 'validation'
    assert (task.train, task.validation, task.test) == splits.get(name, usual)


@pytest.mark.parametrize(('name', 'side'), SIDES)
def test_rows_are_written_as_t5_writes_them(name, side, data_dir):
  task = TASKS[name]
  for architecture in ('encoder_decoder', 'decoder'):
    made = read(task, getattr(task, side), architecture)
    assert made == sorted(
      rendering.Example(
        (case.inputs,), case.targets, case.references or (case.targets,), group=case.group
      )
      for case in cases(name, getattr(task, side))
    )


@pytest.mark.parametrize(('name', 'side'), [pair for pair in SIDES if WITH_LABELS(TASKS[pair[0]])])
def test_an_encoder_reads_the_texts_and_counts_labels_as_the_dataset(name, side, data_dir):
  task = TASKS[name]
  feature = record_files._builder(task.source.removeprefix('tfds:')).info.features['label']
  names = feature.names if name != 'glue_stsb' else [str(n / 5) for n in range(26)]
  assert len(task.labels) == len(names)
  made = read(task, getattr(task, side), 'encoder')
  assert [(each.inputs, each.label) for each in made] == sorted(
    (case.texts, names.index(case.targets if name == 'glue_stsb' else case.row['label']))
    for case in cases(name, getattr(task, side))
  )
  assert all(each.targets == task.labels[each.label] for each in made)


@pytest.mark.parametrize('side', ['train', 'validation', 'test'])
def test_an_encoder_finds_answers_where_the_dataset_has_them(side, data_dir):
  made = read(TASKS['squad'], getattr(TASKS['squad'], side), 'encoder')
  found = cases('squad', getattr(TASKS['squad'], side))
  assert [each.inputs for each in made] == [case.texts for case in found]
  starts = [case.row['answers']['answer_start'][0] for case in found]
  assert [each.span for each in made] == [
    (s, s + len(e.targets)) for s, e in zip(starts, made, strict=True)
  ]
  assert all(each.inputs[1][slice(*each.span)] == each.targets for each in made)


@pytest.mark.parametrize('side', ['train', 'validation', 'test'])
def test_an_encoder_has_a_label_for_each_word(side, data_dir):
  task = TASKS['conll2003']
  info = record_files._builder('conll2003').info
  assert list(task.labels) == info.features['ner'].feature.names
  (made,) = read(task, getattr(task, side), 'encoder')
  (text,) = made.inputs
  words = [text[place:].split()[0] for place, _ in made.tags]
  assert words == shipped_cases.ENTITIES[0].split()
  assert ' '.join(task.labels[label] for _, label in made.tags) == shipped_cases.ENTITIES[1]


def test_what_is_not_for_an_encoder():
  assert {name for name, task in TASKS.items() if not (task.labels or task.span)} == {
    *('superglue_record', 'cnn_dailymail', 'xsum'),
    *('wmt14_en_de', 'wmt14_en_fr', 'wmt16_en_ro'),
  }


@pytest.mark.parametrize('name', [name for name in TASKS if shipped_cases.unanswered(name)])
def test_rows_without_an_answer_are_one_line(name, data_dir):
  task, split = TASKS[name], shipped_cases.unanswered(name)
  for architecture in ('encoder_decoder', 'encoder'):
    with pytest.raises(errors.DataError, match="label '?-1|without a target") as caught:
      read(task, split, architecture)
    assert name in str(caught.value) and '\n' not in str(caught.value)
  assert split not in (task.train, task.validation, task.test)


@pytest.mark.parametrize('name', TASKS)
def test_rows_without_the_fields_are_one_line(name, tmp_path):
  (tmp_path / 'rows').write_text('{"idx": 0, "split": "train"}\n')
  task = dataclasses.replace(TASKS[name], source=f'jsonl:{tmp_path}/rows', split_field='split')
  for architecture in ('encoder_decoder', 'encoder'):
    with pytest.raises(errors.DataError, match="no field '.*its fields are idx") as caught:
      read(task, 'train', architecture)
    assert name in str(caught.value) and '\n' not in str(caught.value)


FULL = {'bleu': 100, 'chrf': 100}


@pytest.mark.parametrize('name', TASKS)
def test_the_right_answers_have_full_marks(name, data_dir):
  task = TASKS[name]
  made = read(task, task.train, 'encoder_decoder') + read(task, task.test, 'encoder_decoder')
  targets, references = [each.targets for each in made], [each.references for each in made]
  for metric in task.metrics:
    values = metrics.compute(metric, targets, references if metric in metrics.MANY else targets)
    errors_of_form = {key: value for key, value in values.items() if key.endswith('_no_numbers')}
    assert set(errors_of_form.values()) <= {0.0}
    for key in values.keys() - errors_of_form.keys():
      assert values[key] == pytest.approx(FULL.get(metric, 1)), key


def test_a_name_finds_what_is_prepared_in_tfds_data_dir(copies, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(copies))
  run_python(
    """
    import sys
    from t5lite import tasks
    task = tasks.find('task:glue_qqp')
    assert not {'jax', 'sklearn', 'tensorflow_datasets'} & set(sys.modules)
    from t5lite.data import task_rows
    (made,) = task_rows.open(task, 'train', 'encoder').documents()
    assert made.label == 0 and len(made.inputs) == 2, made
    assert 'tensorflow_datasets' in sys.modules and 'tensorflow' not in sys.modules
    """
  )


def test_what_is_not_prepared_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  run_python(
    """
    from t5lite import errors, tasks
    from t5lite.data import task_rows
    for name, remedy in {'glue_cola': 'TFDS_DATA_DIR', 'squad': 'download_and_prepare'}.items():
      try:
        task_rows.open(tasks.find(name), 'train', 'encoder_decoder')
      except errors.DataError as error:
        assert remedy in str(error) and '\\n' not in str(error), error
      else:
        raise AssertionError(name)
    """
  )


def test_the_table_of_the_docs_is_what_ships():
  text = (pathlib.Path(__file__).parents[1] / 'docs/shipped_tasks.md').read_text()
  lines = [line for line in text.splitlines() if line.startswith('| `')]
  assert lines == [
    f'| `{name}` | `{task.source.removeprefix("tfds:")}` | `{task.inputs}` '
    f'| {len(task.labels) or "-"} | {task.test} | {", ".join(task.metrics)} |'
    for name, task in TASKS.items()
  ]
