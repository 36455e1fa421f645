"""The tasks in a report: metrics, answers right and wrong, and how confidence is borne out."""

from collections.abc import Sequence
import html

import numpy as np

from t5lite.insight import charts
from t5lite.insight import page
from t5lite.insight import task_results
from t5lite.tasks import calibration

SHOWN_ROWS = 4  # of the right and of the wrong
SHOWN_LENGTH = 400  # characters of a text
RATES = ('accuracy', 'exact_match')  # shares of rows, whose uncertainty is known
OF_HUNDRED = ('bleu', 'chrf')


def section(results: Sequence[task_results.Result]) -> str:
  """Returns the section, '' without results."""
  if not results:
    return ''
  cells = [row_of_table(result) for result in results]
  columns = ['task', 'split', 'rows', 'step', 'answered', 'metrics']
  table = page.table(columns, cells, kind='plain')
  parts = ['<h2>Tasks</h2>', table, footnotes(results), *map(details, results)]
  return '\n'.join(part for part in parts if part)


def row_of_table(result: task_results.Result) -> list[str]:
  values = '\n'.join(
    f'{name} {formatted(name, value)}{interval(result, name)}'
    for name, value in result.values.items()
    if '/' not in name
  )
  how = [str(result.sampler['kind'])] if result.sampler else []
  if (penalty := result.sampler.get('repetition_penalty', 1.0)) != 1.0:
    of_new = '' if result.sampler.get('penalize_prompt', True) else ' of new tokens'
    how.append(f'repetition penalty {penalty}{of_new}')
  if size := result.sampler.get('no_repeat_ngram_size', 0):
    how.append(f'no {size} tokens twice')
  if min_tokens := result.sampler.get('min_tokens', 0):
    how.append(f'{min_tokens} tokens at least')
  way = ', '.join([task_results.WAYS[result.way], *how])
  counts = [f'{len(result.rows):,}', f'{result.step:,}', way]
  return [result.name, result.split, *counts, values]


def formatted(name: str, value: float) -> str:
  return f'{value:.1f}' if name in OF_HUNDRED else f'{value:.3f}'


def interval(result: task_results.Result, name: str) -> str:
  if name not in RATES:
    return ''
  num_trials, value = result.trials.get(name, len(result.rows)), result.values[name]
  low, high = calibration.interval(round(value * num_trials), num_trials)
  return f' ({low:.3f} to {high:.3f})'


def footnotes(results: Sequence[task_results.Result]) -> str:
  """Returns what the numbers are, and what others need to repeat them."""
  notes = ['BLEU and chrF are of 100, all others shares or correlations.']
  if any(name in result.values for result in results for name in RATES):
    notes.append("In brackets: the 95 % interval (Wilson's).")
  signatures = [(n, text) for one in results for n, text in one.signatures.items() if text]
  notes += [f'{name}: {text}' for name, text in dict.fromkeys(signatures)]
  return ''.join(f'<p class="note">{html.escape(note)}</p>\n' for note in notes)


def details(result: task_results.Result) -> str:
  """Returns the charts and the answers of one task."""
  figures = [figure for figure in (reliability(result), per_class(result)) if figure]
  shown = '<div class="small few">\n' + '\n'.join(figures) + '\n</div>\n' if figures else ''
  title = html.escape(f'{result.name}, {result.split}')
  return f'<h3>{title}</h3>\n{shown}{answers(result)}'


def reliability(result: task_results.Result) -> str:
  """Returns the reliability diagram (Guo et al. 2017), '' without probabilities."""
  if not result.rows[0].probabilities:
    return ''
  shares_NxK = np.array([row.probabilities for row in result.rows])
  best_N = shares_NxK.argmax(axis=1)
  right_N = np.array([row.answer == row.target for row in result.rows])
  # All that counts is whether the likeliest is right; if not, any other label stands for that.
  labels_N = np.where(right_N, best_N, (best_N + 1) % shares_NxK.shape[1])
  bins = calibration.reliability(shares_NxK, labels_N)
  title = f'Reliability of {result.name}, {result.side}'
  keys: list[tuple[str, str]] = [
    (f'expected calibration error {calibration.expected_error(bins):.3f}', 'train'),
    ('confidence as it should be', 'baseline'),
  ]
  return page.figure('Reliability', keys, charts.reliability(title, bins, 4.3, 3.4))


def per_class(result: task_results.Result) -> str:
  """Returns F1 of each label as bars, '' where it was not measured."""
  scores = {n.removeprefix('f1/'): v for n, v in result.values.items() if n.startswith('f1/')}
  if not scores:
    return ''
  return page.figure('F1 of each label', [], page.bars(scores))


def answers(result: task_results.Result) -> str:
  """Returns a table of answers, some right and some wrong."""
  right = [row for row in result.rows if result.is_right(row)]
  wrong = [row for row in result.rows if not result.is_right(row)]
  cells = [
    [word, shortened(row.inputs), shortened(row.target), shortened(row.answer) + confidence(row)]
    for word, rows in (('right', right), ('wrong', wrong))
    for row in spread(rows)
  ]
  kind = 'equal to a reference'
  if 'exact_match' in result.values:
    kind += ' but for case, punctuation and articles'
  note = f'{len(right):,} right ({kind}), {len(wrong):,} not; of each at most {SHOWN_ROWS} here.'
  return f'<p class="note">{note}</p>\n{page.table(["", "input", "target", "answer"], cells)}'


def spread(rows: Sequence[task_results.Row]) -> list[task_results.Row]:
  """Returns a few rows, spread evenly from the first to the last."""
  index = np.linspace(0, len(rows) - 1, min(len(rows), SHOWN_ROWS)).round().astype(int)
  return [rows[i] for i in index]


def shortened(text: str) -> str:
  return text if len(text) <= SHOWN_LENGTH else text[:SHOWN_LENGTH] + ' ...'


def confidence(row: task_results.Row) -> str:
  return f' ({max(row.probabilities):.0%} sure)' if row.probabilities else ''
