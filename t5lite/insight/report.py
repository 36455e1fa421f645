"""The report of a run: one page with its numbers, curves, tasks, samples of text and config.

`write(workdir)` makes `report.html`, which needs nothing but itself: no script, no network.
"""

import datetime
import html
import itertools
import math
import pathlib

import numpy as np

from t5lite import errors
from t5lite import jsonl
from t5lite import metrics
from t5lite.insight import curves
from t5lite.insight import logs
from t5lite.insight import page
from t5lite.insight import task_results
from t5lite.insight import task_section

SHOWN_SAMPLES = 12  # steps in the table, spread over the run; samples.jsonl has all

NAMES = {
  'encoder_decoder': 'encoder-decoder',
  'span_corruption': 'span corruption',
  'text_infilling': 'text infilling',
  'mlm': 'masked language modelling',
  'causal_lm': 'next-token prediction',
  'prefix_lm': 'prefix language modelling',
  'ul2': 'the UL2 mixture of denoisers',
  'corpus': 'the text that ships with t5lite',
}


def write(workdir: str | pathlib.Path) -> pathlib.Path:
  """Writes `report.html` into a workdir, of a run that still goes on too, and returns its path.

  Raises:
    CheckpointError: not a workdir.
    DataError: nothing logged yet and no task done, or a damaged log or result.
    DiskError: the page cannot be written.
  """
  run = logs.read(workdir)
  results = task_results.read_all(run.workdir)
  if not run.records and not results:
    remedy = 'wait for the first line of the run, or evaluate a task'
    raise errors.DataError('nothing logged yet', run.workdir / metrics.METRICS, remedy)
  sections = [heading(run)]
  if run.records:
    sections += [page.numbers(headlines(run)), *warnings(run), curves.section(run)]
  sections += [task_section.section(results), samples(run), manifest(run)]
  path = run.workdir / 'report.html'
  content = page.document(f'{run.workdir.name}: t5lite', '\n'.join(sections))
  jsonl.replace(path, content)
  return path


def heading(run: logs.Logs) -> str:
  """Returns what was trained, on what and how far."""
  config = run.config
  model, data = config.model, config.data
  kind = NAMES.get(model.architecture, model.architecture)
  parameters = run.last('train/parameters')
  size = f', {count(parameters)} parameters' if parameters else ''
  depth = f'{model.num_layers}'
  if model.num_decoder_layers:
    depth += f' + {model.num_decoder_layers}'
  sources = ', '.join(
    NAMES.get(source, source) + (f' ({weight:g})' if len(data.mixture) > 1 else '')
    for source, weight, _ in data.mixture
  )
  lengths = f'{data.input_length}'
  if data.target_length:
    lengths += f' + {data.target_length}'
  facts = (
    f'{depth} layers of width {model.d_model}, vocabulary {model.vocab_size:,}',
    f'{data.batch_size} examples of {lengths} tokens a batch',
    f'{config.optim.name}, learning rate {config.optim.learning_rate:g} ({config.optim.schedule})',
    f'step {run.last_step:,} of {config.train.steps:,}',
  )
  title = f'{kind[0].upper()}{kind[1:]}{size}'
  trained = f'Trained by {NAMES[config.objective.name]} on {sources}'
  if not run.records:
    trained, facts = 'No training was logged here', facts[:1]
  return (
    f'<p class="above">{html.escape(run.workdir.name)}</p>\n'
    f'<h1>{html.escape(title)}</h1>\n<p>{html.escape(trained)}</p>\n'
    f'<p class="faint">{html.escape("; ".join(facts))}</p>'
  )


def headlines(run: logs.Logs) -> list[tuple[str, str, str]]:
  """Returns (name, number, note) of what the run has come to, as far as it was measured."""
  entries = [
    ('Held-out loss', number(run.last('eval/loss'), '{:.3f}'), against_baseline(run)),
    ('Training loss', number(run.last('train/loss'), '{:.3f}'), 'nats per token, last logged'),
    ('Held-out perplexity', number(run.last('eval/perplexity'), '{:,.2f}'), ''),
    ('Held-out bits per byte', number(run.last('eval/bits_per_byte'), '{:.3f}'), 'of UTF-8 text'),
    ('Held-out accuracy', number(run.last('eval/accuracy'), '{:.1%}'), 'of target tokens'),
    ('Tokens seen', count(run.last('train/tokens_seen')), ''),
    ('Wall time', duration(run.last('train/wall_seconds')), 'evaluation included'),
    ('Tokens per second', count(run.median('train/tokens_per_second')), 'median while training'),
    (
      'Model TFLOP/s of a device',
      number(run.median('train/tflops_per_device'), '{:.3g}'),
      'forward and backward, median',
    ),
    ('MFU', number(run.median('train/mfu'), '{:.1%}'), 'model FLOPs / peak, median'),
    ('Compilation', number(run.last('train/compile_seconds'), '{:.1f} s'), ''),
    (
      'Energy',
      number(run.records[-1].get('train/energy_kwh'), '{:.3g} kWh'),  # not of unknown devices
      'estimate from the watts in t5lite/flops.py',
    ),
  ]
  return [entry for entry in entries if entry[1]]


def against_baseline(run: logs.Logs) -> str:
  loss, entropy = run.last('eval/loss'), run.last('eval/unigram_entropy')
  if loss is None or entropy is None:
    return 'nats per token'
  side = 'below' if loss < entropy else 'above'
  return f'nats per token; {abs(entropy - loss):.3f} {side} the unigram entropy, {entropy:.3f}'


def warnings(run: logs.Logs) -> list[str]:
  """Returns a paragraph for what a reader of the curves must know."""
  steps, losses = run.series('train/loss')
  bad = steps[~np.isfinite(losses)]
  if not bad.size:
    return []
  text = f'{bad.size} logged losses are not finite, the first at step {bad[0]:,.0f}.'
  return [f'<p class="warning">{text}</p>']


def samples(run: logs.Logs) -> str:
  """Returns the table of text that the run wrote: the examples, each over the steps."""
  rows: dict[tuple[str, int], dict[str, str]] = {}
  for sample in run.samples:
    example, _, column = sample['name'].rpartition('/')
    rows.setdefault((example, sample['step']), {})[column] = sample['text']
  if not rows:
    return ''
  columns = list(dict.fromkeys(column for row in rows.values() for column in row))
  steps = sorted({step for _, step in rows})
  spread = np.linspace(0, len(steps) - 1, min(len(steps), SHOWN_SAMPLES)).round().astype(int)
  shown = [key for key in sorted(rows) if key[1] in {steps[index] for index in spread}]
  note = ''
  if len(spread) < len(steps):
    note = f'<p class="faint">{len(spread)} of {len(steps)} steps; samples.jsonl has all.</p>\n'
  cells = sample_cells(rows, shown, columns)
  return f'<h2>Samples over the training</h2>\n{note}{page.table(["step", *columns], cells)}'


def sample_cells(
  rows: dict[tuple[str, int], dict[str, str]], shown: list[tuple[str, int]], columns: list[str]
) -> list[list[str]]:
  """Returns the table's cells; what stays the same over an example's steps stands once."""
  cells = []
  for _, group in itertools.groupby(shown, key=lambda key: key[0]):
    keys = list(group)
    same = {c for c in columns[:-1] if len({rows[key].get(c) for key in keys}) == 1}
    for place, key in enumerate(keys):
      texts = ['' if place and c in same else rows[key].get(c, '') for c in columns]
      cells.append([f'{key[1]:,}', *texts])
  return cells


def manifest(run: logs.Logs) -> str:
  """Returns the config as the run resolved it, folded."""
  text = (run.workdir / 'config.json').read_text()
  return '<h2>Manifest</h2>\n' + page.folded('config.json', text)


def number(value: float | None, form: str) -> str:
  return '' if value is None else form.format(value)


def count(value: float | None) -> str:
  """Returns a count in three or four digits: 512, 3,456, 12.3 k, 7.28 M."""
  if value is None:
    return ''
  if value < 10_000:
    return f'{value:,.0f}'
  value = float(f'{value:.3g}')
  exponent = min(int(math.log10(value)) // 3, 4)
  return f'{value / 1000**exponent:#.3g}'.rstrip('.') + ' ' + ' kMGT'[exponent]


def duration(seconds: float | None) -> str:
  return '' if seconds is None else str(datetime.timedelta(seconds=round(seconds)))
