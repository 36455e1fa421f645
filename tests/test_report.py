"""The report holds what was logged, stands alone, and is a sound page for any run."""

import html.parser
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from t5lite import config as config_lib
from t5lite import errors
from t5lite import metrics
from t5lite.insight import charts
from t5lite.insight import report

ROOT = pathlib.Path(__file__).parents[1]
VOID = {'meta', 'br', 'link', 'img', 'hr', 'input'}


class Page(html.parser.HTMLParser):
  """Reads a page: raises on tags that do not match, keeps tags, attributes and visible text."""

  def __init__(self, text: str):
    super().__init__()
    self.open, self.tags, self.attributes, self.text = [], [], [], ''
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.handle_startendtag(tag, attrs)
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += attrs

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open[-1:] != ['style']:
      self.text += data


def train_values(step: int) -> dict[str, float]:
  return {
    'train/loss': 5 + 4 * math.exp(-step / 100),
    'train/accuracy': 0.2,
    'train/grad_norm': 1.5,
    'train/learning_rate': 0.001,
    'train/tokens_per_second': 54321.0,
    'train/step_seconds': 0.25,
    'train/data_wait_seconds': 0.01,
    'train/tflops_per_device': 85.5,
    'train/mfu': 0.432,
    'train/tokens_seen': step * 5120,
    'train/parameters': 7_278_976,
    'train/compile_seconds': 12.3,
  }


EVAL = {
  'eval/loss': 4.5,
  'eval/perplexity': 90.0171,
  'eval/bits_per_byte': 1.987,
  'eval/accuracy': 0.213,
  'eval/unigram_entropy': 6.75,
}


@pytest.fixture
def workdir(tmp_path):
  config = config_lib.load(
    ROOT / 'configs/tiny_t5.py', ['train.steps=600', 'optim.learning_rate=0.002']
  )
  config_lib.save(config, tmp_path / 'config.json')
  return tmp_path


@pytest.fixture
def finished(workdir):
  with metrics.Writer(workdir, 600, steps_done=0) as writer:
    for step in range(10, 601, 10):
      writer.write(step, train_values(step))
    for step in (200, 400, 600):
      writer.write(step, EVAL)
      writer.text(step, '0/input', 'Thank <extra_id_0> inviting')
      writer.text(step, '0/prediction', f'<script>alert({step})</script> & "you"')
  return workdir


def test_page_holds_the_numbers_of_the_run(finished):
  text = Page(report.write(finished).read_text()).text
  for expected in (
    'Encoder-decoder, 7.28 M parameters',
    'span corruption',
    '4.500',
    '2.250 below the unigram entropy, 6.750',
    '90.02',
    '1.987',
    '21.3%',
    '5.010',  # 5 + 4 exp(-6), the last training loss
    '3.07 M',
    '54.3 k',
    '85.5',
    '43.2%',
    '12.3 s',
    'unigram entropy of the held-out targets, 6.75',
    'ln(vocabulary) = 9.01',
    'step 600 of 600',
    '"learning_rate": 0.002',
  ):
    assert expected in text, expected


def test_energy_is_told_while_the_watts_of_all_that_ran_are_known(workdir):
  with metrics.Writer(workdir, 600, steps_done=0, watts=200) as writer:
    writer._started -= 3600
    writer.write(300, train_values(300))
  note = 'estimate from the watts in t5lite/flops.py'
  assert f'0.2 kWh{note}' in Page(report.write(workdir).read_text()).text
  with metrics.Writer(workdir, 600, steps_done=300) as writer:  # on devices of unknown watts
    writer.write(600, train_values(600))
  assert note not in Page(report.write(workdir).read_text()).text


def test_page_loads_nothing(finished):
  content = report.write(finished).read_text()
  assert not re.search(r'https?:|//[a-z]|@import|<script|<link|<img|<iframe', content)
  targets = [value for name, value in Page(content).attributes if name in ('src', 'href', 'data')]
  assert targets and all(target.startswith('#') for target in targets)
  assert set(re.findall(r'url\(([^)]*)\)', content)) == {
    f'#{name}' for name in re.findall(r'<clipPath id="([^"]*)"', content)
  }


def test_ids_are_unique_and_all_there(finished):
  attributes = Page(report.write(finished).read_text()).attributes
  ids = [value for name, value in attributes if name == 'id']
  assert len(ids) == len(set(ids))
  assert {value[1:] for name, value in attributes if name == 'href'} <= set(ids)


def test_samples_are_text_not_markup(finished):
  page = Page(report.write(finished).read_text())
  for step in (200, 400, 600):
    assert f'<script>alert({step})</script> & "you"' in page.text
  assert 'script' not in page.tags
  assert page.text.count('inviting') == 1  # the same at every step


def test_every_metric_has_its_chart(finished):
  page = Page(report.write(finished).read_text())
  labels = [value for name, value in page.attributes if name == 'aria-label']
  assert labels == [
    *['Loss'] * 2,  # for wide and narrow screens
    'Accuracy',
    'Learning rate',
    'Gradient norm',
    'Throughput',
    'Time of a step',
  ]


def test_tasks_evaluated_in_training_have_their_charts(finished):
  with metrics.Writer(finished, 600, steps_done=600) as writer:
    for step, accuracy in ((600, 0.5), (800, 0.75)):
      writer.write(step, {'eval/sections/accuracy': accuracy, 'eval/sections/f1_macro': accuracy})
  page = Page(report.write(finished).read_text())
  labels = [value for name, value in page.attributes if name == 'aria-label']
  assert labels[-2:] == ['sections accuracy', 'sections f1_macro']


def test_axes_are_labelled_and_colours_follow_the_theme():
  steps = np.arange(1.0, 50)
  series = charts.Series('training', steps, 1 / steps, 'train', 'smoothed')
  chart = charts.Chart(
    'Loss', 'loss (nats per target token)', [series], [charts.Level('base', 0.5)]
  )
  picture = charts.svg(chart, 4, 3)
  for text in ('>step<', '>loss (nats per target token)<', '>base<'):
    assert text in picture
  assert 'stroke: var(--train)' in picture and 'stroke: var(--baseline)' in picture
  assert not set(re.findall(r'#[0-9a-f]{6}\b', picture)) - {'#000000'}


def test_ticks_of_small_shares_differ():
  series = charts.Series('padding', np.arange(5), np.full(5, 0.01875), 'train')
  picture = charts.svg(charts.Chart('Padding', '', [series], from_zero=True, percent=True), 4, 3)
  ticks = re.findall(r'>([0-9.]+%)<', picture)
  assert '0.5%' in ticks and len(ticks) == len(set(ticks))


def test_one_line_is_enough(workdir):
  with metrics.Writer(workdir, 600, steps_done=0) as writer:
    writer.write(1, {'train/loss': 8.9})
  text = Page(report.write(workdir).read_text()).text
  assert '8.900' in text and 'step 1 of 600' in text and 'Held-out' not in text


def test_diverged_run_is_said_to_be_one(workdir):
  with metrics.Writer(workdir, 600, steps_done=0) as writer:
    for step in range(10, 101, 10):
      writer.write(step, {'train/loss': 8.0 if step < 50 else math.nan})
  text = Page(report.write(workdir).read_text()).text
  assert '6 logged losses are not finite, the first at step 50.' in text


def test_loss_above_the_baseline_is_said_to_be_above(workdir):
  with metrics.Writer(workdir, 600, steps_done=0) as writer:
    writer.write(10, EVAL | {'eval/loss': 7.0})
  assert '0.250 above the unigram entropy' in report.write(workdir).read_text()


def test_page_of_a_long_run_stays_small(workdir):
  with metrics.Writer(workdir, 600, steps_done=0) as writer:
    writer.write(0, train_values(0))
  path = workdir / 'metrics.jsonl'
  record = json.loads(path.read_text())
  noise = np.random.default_rng(0).random(20_000)
  lines = [json.dumps(record | {'step': n, 'train/loss': x}) for n, x in enumerate(noise)]
  path.write_text('\n'.join([*lines, '']))
  assert report.write(workdir).stat().st_size < 200_000


def test_thinning_keeps_the_spikes():
  values = np.ones(100_000)
  values[[31_234, 77_777]] = 9, -9
  steps, kept = charts.thin(np.arange(100_000.0), values)
  assert len(kept) <= charts.MAX_POINTS
  assert steps[kept == 9] == 31_234 and steps[kept == -9] == 77_777


def test_spike_is_told_but_does_not_flatten_the_curve(workdir):
  with metrics.Writer(workdir, 600, steps_done=0) as writer:
    for step in range(1, 601):
      writer.write(step, {'train/loss': 777.0 if step == 300 else 4.0})
  content = report.write(workdir).read_text()
  labels = re.findall(r'<text[^>]*text-anchor: end[^>]*>([\d.]+)<', content)
  assert 'up to 777, at step 300' in content and max(map(float, labels)) < 10


def test_smoothing_does_not_shift_a_straight_line():
  line = np.arange(200.0)
  np.testing.assert_allclose(charts.smooth(line)[1:-1], line[1:-1])
  line[50] = np.nan
  assert charts.smooth(line)[50] == 50


def test_other_directory_is_refused(finished):
  os.remove(finished / 'config.json')
  with pytest.raises(errors.CheckpointError, match='not a workdir: .*config.json is missing: give'):
    report.write(finished)


def test_run_that_has_logged_nothing_is_refused(workdir):
  """An imported one, too, and where a first evaluation failed."""
  metrics.Writer(workdir, 600, steps_done=0).__exit__()
  for spoil in (lambda: None, (workdir / 'metrics.jsonl').unlink, (workdir / 'tasks').mkdir):
    spoil()
    with pytest.raises(errors.DataError, match='nothing logged yet: .*, or evaluate a task'):
      report.write(workdir)


def test_a_task_is_reported_where_nothing_was_logged(workdir):
  """As of an imported model."""
  task = {'step': 0, 'name': 'glue_rte', 'split': 'validation', 'way': 'head'}
  row = {'inputs': 'a | b', 'target': 'entailment', 'references': ['entailment'], 'answer': 'no'}
  result = task | {'values': {'accuracy': 0.0}, 'signatures': {}, 'rows': [row]}
  (workdir / 'tasks').mkdir()
  (workdir / 'tasks/glue_rte-test.json').write_text(json.dumps(result))
  content = report.write(workdir).read_text()
  assert 'No training was logged here' in content and 'glue_rte' in content
  assert 'Held-out' not in content and '<h2>Curves' not in content


def test_report_starts_no_accelerator(finished):
  script = f"""
import sys
from t5lite.insight import report
report.write({str(finished)!r})
print('jax' in sys.modules)
"""
  out = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True)
  assert out.stdout == 'False\n', out.stderr
