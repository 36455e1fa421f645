"""The curves of a report: which metrics stand in which chart."""

import math

import numpy as np

from t5lite.insight import charts
from t5lite.insight import logs
from t5lite.insight import page

WIDE, SMALL = (8.6, 3.6), (4.3, 2.7)  # inches


def section(run: logs.Logs) -> str:
  """Returns the charts: the loss wide, the others beside each other."""
  found = [loss_chart(run), *small_charts(run), *probes(run)]
  figures = []
  for index, chart in enumerate(chart for chart in found if chart.series):
    keys = [(series.label, series.color) for series in chart.series if series.label]
    picture = charts.svg(chart, *SMALL)
    if index == 0:  # wide and narrow screens
      wide = charts.svg(chart, *WIDE)
      picture = f'<div class="wide">{wide}</div><div class="narrow">{picture}</div>'
    figures.append(page.figure(chart.title, [*keys, *peaks(chart)], picture))
  small = '<div class="small">\n' + '\n'.join(figures[1:]) + '\n</div>'
  return '\n'.join(['<h2>Curves</h2>', *figures[:1], small])


def peaks(chart: charts.Chart) -> list[tuple[str, str]]:
  """Returns a key for the highest spike if it stands above the chart."""
  series = chart.series[0]
  top = int(np.nanargmax(series.values))
  if series.values[top] <= charts.ceiling(chart):
    return []
  return [(f'up to {series.values[top]:.4g}, at step {series.steps[top]:,.0f}', 'faint')]


def loss_chart(run: logs.Logs) -> charts.Chart:
  levels = []
  if not run.config.model.num_labels:
    uniform = math.log(run.config.model.vocab_size)
    levels.append(charts.Level(f'a uniform guess, ln(vocabulary) = {uniform:.2f}', uniform))
  entropy = run.last('eval/unigram_entropy')
  if entropy is not None:
    levels.append(charts.Level(f'unigram entropy of the held-out targets, {entropy:.2f}', entropy))
  return charts.Chart(
    'Loss',
    'loss (nats per target token)',
    existing(
      charts.Series('training', *run.series('train/loss'), 'train', 'smoothed'),
      charts.Series('held-out', *run.series('eval/loss'), 'held-out', 'points'),
    ),
    levels,
  )


def small_charts(run: logs.Logs) -> list[charts.Chart]:
  def of(name: str, style, label: str = '', color: charts.Color = 'train') -> charts.Series:
    return charts.Series(label, *run.series(name), color, style)

  found = [
    charts.Chart(
      'Accuracy',
      'of target tokens',
      existing(
        of('train/accuracy', 'smoothed', 'training'),
        of('eval/accuracy', 'points', 'held-out', 'held-out'),
      ),
      percent=True,
    ),
    charts.Chart('Learning rate', 'learning rate', existing(of('train/learning_rate', 'line'))),
    charts.Chart(
      'Gradient norm', 'L2 norm, before clipping', existing(of('train/grad_norm', 'smoothed'))
    ),
    charts.Chart(
      'Throughput',
      'tokens per second',
      existing(of('train/tokens_per_second', 'smoothed')),
      from_zero=True,
    ),
    charts.Chart(
      'Time of a step',
      'seconds',
      existing(
        of('train/step_seconds', 'smoothed', 'step'),
        of('train/data_wait_seconds', 'smoothed', 'of it waiting for data', 'held-out'),
      ),
      from_zero=True,
    ),
    charts.Chart(
      'Padding',
      'of the tokens in a batch',
      existing(of('train/padding_share', 'smoothed')),
      from_zero=True,
      percent=True,
    ),
    charts.Chart('Energy', 'kWh', existing(of('train/energy_kwh', 'line')), from_zero=True),
  ]
  return [chart for chart in found if chart.series]


def probes(run: logs.Logs) -> list[charts.Chart]:
  """Returns a chart for each number of the tasks that were evaluated in training."""
  names = sorted({name for record in run.records for name in record if name.count('/') == 2})
  return [
    charts.Chart(
      ' '.join(name.split('/')[1:]),
      name.split('/')[-1],
      existing(charts.Series('validation', *run.series(name), 'held-out', 'points')),
    )
    for name in names
  ]


def existing(*series: charts.Series) -> list[charts.Series]:
  """Returns the series that say something: not those without a number, or with nothing but 0."""
  return [one for one in series if np.nan_to_num(one.values).any()]
