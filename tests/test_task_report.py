"""The report shows what tasks came to, as it was written, and refuses what is no result."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest
import test_report

from t5lite import config as config_lib
from t5lite import errors
from t5lite import judging
from t5lite import metrics
from t5lite.insight import report
from t5lite.insight import task_results
from t5lite.insight import task_section
from t5lite.tasks import calibration
from t5lite.tasks import rendering

ROOT = pathlib.Path(__file__).parents[1]
LABELS = ('cat', 'dog & co', '<b>cow</b>')
SOURCE = 'jsonl:none'


@pytest.fixture
def workdir(tmp_path):
  config_lib.save(config_lib.load(ROOT / 'configs/tiny_t5.py'), tmp_path / 'config.json')
  with metrics.Writer(tmp_path, 600, steps_done=0) as writer:
    writer.write(10, test_report.train_values(10))
  (tmp_path / 'tasks').mkdir()
  return tmp_path


def ranked(num_rows: int = 60, name: str = 'animals') -> judging.Judged:
  """Returns a result with probabilities, as evaluation makes it."""
  rng = np.random.default_rng(0)
  task = config_lib.Task(
    name=name, source=SOURCE, inputs='{x}', targets='{y}', labels=LABELS, metrics=('accuracy', 'f1')
  )
  targets = [LABELS[i] for i in rng.integers(0, 3, num_rows)]
  examples = [rendering.Example((f'row {i} ' + 'x' * 900,), y, (y,)) for i, y in enumerate(targets)]
  answers = [judging._chosen(task, 2 * logits) for logits in rng.normal(size=(num_rows, 3))]
  return judging._judged(task, 'test', 'rank', examples, answers)


def test_an_interval_is_of_what_the_metric_counts():
  """Groups of questions, as in MultiRC; words."""
  task = config_lib.Task(
    name='a', source=SOURCE, inputs='{x}', targets='{y}', metrics=('exact_match',), group='{x}'
  )
  rows = [rendering.Example((f'{i}',), 'yes', ('yes',), group=f'{i // 5}') for i in range(60)]
  grouped = judging._judged(task, 'test', 'text', rows, [judging.Answer('yes')] * 60)
  assert grouped.trials == {'exact_match': 12}
  tagged = config_lib.Task(
    name='a', source=SOURCE, inputs='{x}', targets='{y}', labels=('A', 'B'), words='x',
    metrics=('accuracy',),
  )  # fmt: skip
  rows = [rendering.Example(('a b c',), 'A B A', ('A B A',)) for _ in range(4)]
  words = judging._judged(tagged, 'test', 'text', rows, [judging.Answer('A B B')] * 4)
  assert words.trials == {'accuracy': 12}
  result = task_results.Result(side='test', step=1, **dataclasses.asdict(words))
  low, high = calibration.interval(8, 12)
  assert task_section.interval(result, 'accuracy') == f' ({low:.3f} to {high:.3f})'


def written(name: str = 'translate') -> judging.Judged:
  """Returns a result of texts: two of three are right, as exact_match has it."""
  task = config_lib.Task(
    name=name, source=SOURCE, inputs='{x}', targets='{y}', metrics=('exact_match', 'bleu')
  )
  pairs = [('The red House!', 'red house'), ('</table><script>alert(1)', 'x'), ('one', 'two')]
  examples = [rendering.Example((f'say {y}',), y, (y, 'one')) for _, y in pairs]
  answers = [judging.Answer(text) for text, _ in pairs]
  return judging._judged(task, 'dev', 'text', examples, answers)


def keep(workdir: pathlib.Path, judged: judging.Judged, side: str = 'test') -> pathlib.Path:
  path = task_results.path_of(workdir, judged.name, side)
  result = {'step': 1234, **dataclasses.asdict(judged)}
  path.write_text(json.dumps(result, ensure_ascii=False), encoding='utf-8')
  return path


def read(workdir) -> test_report.Page:
  return test_report.Page(report.write(workdir).read_text(encoding='utf-8'))


def test_page_has_the_values_the_signature_and_the_answers(workdir):
  how = {'kind': 'greedy', 'repetition_penalty': 1.2, 'penalize_prompt': False}
  how |= {'no_repeat_ngram_size': 3, 'min_tokens': 20}
  texts, labels = dataclasses.replace(written(), sampler=how), ranked()
  keep(workdir, texts), keep(workdir, texts, 'validation'), keep(workdir, labels)
  page = read(workdir)
  right = sum(row['answer'] == row['target'] for row in labels.rows)
  for expected in (
    f'accuracy {labels.values["accuracy"]:.3f} (0.',
    f'calibration_error {labels.values["calibration_error"]:.3f}',
    f'expected calibration error {labels.values["calibration_error"]:.3f}',
    f'{labels.values["f1/dog & co"]:.3f}',
    f'{right} right (equal to a reference), {60 - right} not',
    'exact_match 0.667 (',
    f'bleu {texts.values["bleu"]:.1f}',
    f'bleu: {texts.signatures["bleu"]}',
    '2 right (equal to a reference but for case, punctuation and articles), 1 not',
    '</table><script>alert(1)',
    '1,234',
    'by the likeliest label',
    'in text, greedy, repetition penalty 1.2 of new tokens, no 3 tokens twice, 20 tokens at least',
  ):
    assert expected in page.text, expected
  assert 'x' * 500 not in page.text and page.text.count('translate, dev') == 2  # of both sides
  assert 'script' not in page.tags and 'b' not in page.tags
  assert page.tags.count('svg') == report_without_tasks(workdir).tags.count('svg') + 1


def report_without_tasks(workdir) -> test_report.Page:
  for path in (workdir / 'tasks').iterdir():
    path.unlink()
  return read(workdir)


def test_a_run_without_tasks_has_no_section(workdir):
  assert 'Tasks' not in report_without_tasks(workdir).text
  (workdir / 'tasks').rmdir()
  assert 'Tasks' not in read(workdir).text


def test_the_diagram_is_at_the_rows_of_like_confidence(workdir):
  judged = ranked()
  rows = [dict(row, probabilities=[0.75, 0.15, 0.1], answer='cat') for row in judged.rows]
  for index, row in enumerate(rows):
    row['target'] = 'cat' if index % 4 else 'dog & co'  # three of four are right, as it says
  keep(workdir, dataclasses.replace(judged, rows=rows))
  assert 'expected calibration error 0.000' in read(workdir).text


def test_two_sides_and_tasks_leave_ids_unique(workdir):
  for name in ('animals', 'beasts'):
    for side in ('validation', 'test'):
      keep(workdir, ranked(name=name), side)
  page = read(workdir)
  ids = [value for name, value in page.attributes if name == 'id']
  assert len(ids) == len(set(ids))
  labels = [value for name, value in page.attributes if name == 'aria-label']
  assert len(re.findall('Reliability of (?:animals|beasts), (?:test|validation)', str(labels))) == 4


WHOLE = {'step': 1, **dataclasses.asdict(written())}
DAMAGED = {
  'half': json.dumps(WHOLE)[:99].encode(),
  'latin': b'{"a": "\xe9"}',
  'surrogate': json.dumps(WHOLE).replace('say', '\\ud800').encode(),
  'deep': b'[' * 100_000,
}
FOREIGN = {
  'list': [WHOLE],
  'nothing': {},
  'more': WHOLE | {'color': 'red'},
  'no rows': WHOLE | {'rows': []},
  'rows': WHOLE | {'rows': 3},
  'row': WHOLE | {'rows': ['a']},
  'field': WHOLE | {'rows': [{'inputs': 'a'}]},
  'answer': WHOLE | {'rows': [WHOLE['rows'][0] | {'answer': None}]},
  'references': WHOLE | {'rows': [WHOLE['rows'][0] | {'references': 'one'}]},
  'shares': WHOLE | {'rows': [WHOLE['rows'][0] | {'probabilities': ['a', 'b']}]},
  'share': WHOLE | {'rows': [WHOLE['rows'][0] | {'probabilities': [1.0]}]},
  'uneven': WHOLE | {'rows': [WHOLE['rows'][0] | {'probabilities': [0.5, 0.5]}, WHOLE['rows'][1]]},
  'value': WHOLE | {'values': {'bleu': 'high'}},
  'infinite': WHOLE | {'values': {'bleu': float('inf')}},
  'values': WHOLE | {'values': [1]},
  'step': WHOLE | {'step': '1'},
  'way': WHOLE | {'way': 'guess'},
  'name': WHOLE | {'name': 'other'},
}


@pytest.mark.parametrize('content', DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_result_is_one_line(workdir, content):
  path = task_results.path_of(workdir, 'translate', 'test')
  path.write_bytes(content)
  with pytest.raises(errors.DataError, match=f'damaged result of a task: {path}') as caught:
    report.write(workdir)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('content', FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_result_is_one_line(workdir, content):
  path = task_results.path_of(workdir, 'translate', 'test')
  path.write_text(json.dumps(WHOLE))
  report.write(workdir)
  path.write_text(json.dumps(content))
  with pytest.raises(errors.DataError, match=f'not the result of a task: {path} .*evaluate'):
    report.write(workdir)


def test_shares_that_do_not_add_up_are_told(workdir):
  judged = ranked()
  keep(workdir, dataclasses.replace(judged, rows=[judged.rows[0] | {'probabilities': [0.9, 0.9]}]))
  with pytest.raises(errors.DataError, match='not probabilities'):
    report.write(workdir)
