"""Metrics of texts against their references, by the field's own libraries.

`compute('rouge', predictions, references)` returns numbers by name. BLEU and chrF are on their
scale of 0 to 100; all others are shares, or correlations between -1 and 1. No number is NaN: what a
metric does not define is said at each. Libraries are imported when a metric needs them.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
import re
import string
import types
from typing import Any, Literal, get_args

from t5lite import config
from t5lite import errors
from t5lite import extras

Name = config.MetricName
METRICS: tuple[Name, ...] = get_args(Name)
# Those that take several references.
MANY: tuple[Name, ...] = ('exact_match', 'token_f1', 'bleu', 'chrf', 'rouge')
ROUGE = ('rouge1', 'rouge2', 'rougeL', 'rougeLsum')
ENTITY = re.compile('O|[BIES]-.+')  # beginning, inside, end, single
References = Sequence[str] | Sequence[Sequence[str]]  # one a row, or several
Values = dict[str, float]


def compute(name: Name, predictions: Sequence[str], references: References) -> Values:
  """Returns the values of a metric: mostly one, under its name.

  'f1' gives `f1_macro` and `f1/LABEL` for each label of the references; 'entity_f1' precision and
  recall too, and `entity_f1/KIND`; 'pearson' and 'spearman'
  also the share of predictions that are no numbers; 'rouge' the F-measures `rouge1`, `rouge2`,
  `rougeL` and `rougeLsum`.

  Args:
    name: of the metric.
    predictions: texts of the model.
    references: the right text of each, or several; these only for exact_match, token_f1, bleu, chrf
      and rouge.

  Raises:
    ConfigError: no such metric, or its library is not installed.
    DataError: no rows, a row without its reference, or a reference that the metric cannot use.
  """
  errors.check(name in _COMPUTE, 'unknown metric', repr(name), f'use one of {", ".join(METRICS)}')
  rows = _rows(predictions, references)
  if name not in MANY and (crowded := [i for i, row in enumerate(rows) if len(row) > 1]):
    where = f'row {crowded[0]} has {len(rows[crowded[0]])} for {name}'
    raise errors.DataError('several references', where, f'keep one, or use {", ".join(MANY)}')
  return _COMPUTE[name](predictions, rows if name in MANY else [row[0] for row in rows])


def names(name: Name) -> tuple[str, ...]:
  """Returns the names of a metric's values, but for those of single labels."""
  return _NAMES.get(name, (name,))


def signature(name: Name, references: References) -> str:
  """Returns what to report beside a score so that others can repeat it; '' where nothing is open.

  That is sacrebleu's signature (Post 2018) for BLEU and chrF, the settings for ROUGE.
  """
  if name == 'rouge':
    with extras.needed('tasks'):
      import rouge_score  # noqa: F401
    return 'rouge_score|stemmer:yes|mean F-measure|best reference'
  if name not in ('bleu', 'chrf'):
    return ''
  rows = _rows([''] * len(references), references)
  return str(_sacrebleu(name)(references=_streams(rows)).get_signature())


def _rows(predictions: Sequence[str], references: References) -> list[tuple[str, ...]]:
  """Returns the references of each row, one or more."""
  if not predictions or len(predictions) != len(references):
    where = f'{len(predictions)} predictions, {len(references)} references'
    raise errors.DataError('nothing to compare', where, 'give one reference or more a prediction')
  rows = [(row,) if isinstance(row, str) else tuple(row) for row in references]
  if empty := [number for number, row in enumerate(rows) if not row]:
    remedy = 'give it one or leave it out'
    raise errors.DataError('row without a reference', f'row {empty[0]}', remedy)
  return rows


def _accuracy(predictions: Sequence[str], references: Sequence[str]) -> Values:
  """Returns the share of equal texts; one outside the labels is as wrong as any."""
  with extras.needed('tasks'):
    from sklearn import metrics
  return {'accuracy': float(metrics.accuracy_score(list(references), list(predictions)))}


def _f1(predictions: Sequence[str], references: Sequence[str]) -> Values:
  """Returns F1 of each label of the references, and their mean.

  A prediction outside these labels is a miss of the right one, and no label's false alarm.
  """
  with extras.needed('tasks'):
    from sklearn import metrics
  labels = sorted(set(references))
  score: Any = metrics.f1_score  # whose types are guessed from its defaults
  scores = score(list(references), list(predictions), labels=labels, average=None, zero_division=0)
  each = {f'f1/{label}': float(value) for label, value in zip(labels, scores, strict=True)}
  return {'f1_macro': sum(each.values()) / len(each), **each}


def by_word(
  predictions: Sequence[str], references: Sequence[str], missing: str = ''
) -> tuple[list[str], list[str]]:
  """Returns the labels of all words: those of the predictions, as many as there are references.

  `missing` stands for labels that a prediction does not have; those it has too many are left out.
  """
  rows = [_tags(*pair, missing) for pair in zip(predictions, references, strict=True)]
  return [tag for found, _ in rows for tag in found], [tag for _, right in rows for tag in right]


def by_group(texts: Sequence[str], groups: Sequence[str]) -> list[str]:
  """Returns the texts of each group as one, in the order in which groups begin."""
  found: dict[str, list[str]] = {}
  for text, group in zip(texts, groups, strict=True):
    found.setdefault(group, []).append(text)
  return ['\n'.join(parts) for parts in found.values()]


def _tags(prediction: str, reference: str, missing: str) -> tuple[list[str], list[str]]:
  found, right = prediction.split(), reference.split()
  return [*found, *[missing] * len(right)][: len(right)], right


def _entity_f1(predictions: Sequence[str], references: Sequence[str]) -> Values:
  """Returns precision, recall and F1 of entities, each a run of words (Tjong Kim Sang 2003).

  Labels are such as B-PER, I-PER and O. An entity is right when all its words are, no more and no
  fewer. F1 is also given of each kind, as `entity_f1/KIND`. A prediction that is no such label is
  taken for O.
  """
  with extras.needed('tasks'):
    from seqeval import metrics
  pairs = [_tags(*pair, 'O') for pair in zip(predictions, references, strict=True)]
  right = [tags for _, tags in pairs]
  if strays := [tag for tags in right for tag in tags if not ENTITY.fullmatch(tag)]:
    remedy = 'name labels O, B-KIND, I-KIND, or use accuracy and f1'
    raise errors.DataError('label is no part of an entity', repr(strays[0]), remedy)
  found = [[tag if ENTITY.fullmatch(tag) else 'O' for tag in tags] for tags, _ in pairs]
  if not any(tag != 'O' for tags in right + found for tag in tags):
    return dict.fromkeys(('entity_precision', 'entity_recall', 'entity_f1'), 0.0)
  report_of: Any = metrics.classification_report  # whose types are guessed from its defaults
  report = report_of(right, found, output_dict=True, zero_division=0)
  total = report['micro avg']
  kinds = {kind: row for kind, row in report.items() if not kind.endswith(' avg')}
  return {
    'entity_precision': float(total['precision']),
    'entity_recall': float(total['recall']),
    'entity_f1': float(total['f1-score']),
    **{f'entity_f1/{kind}': float(row['f1-score']) for kind, row in kinds.items()},
  }


def _matthews(predictions: Sequence[str], references: Sequence[str]) -> Values:
  """Returns Matthews' correlation for any number of labels; 0 where either side is constant."""
  if len(set(predictions)) == 1 or len(set(references)) == 1:
    return {'matthews': 0.0}  # as sklearn has it, which warns
  with extras.needed('tasks'):
    from sklearn import metrics
  return {'matthews': float(metrics.matthews_corrcoef(list(references), list(predictions)))}


def _correlation(name: Literal['pearson', 'spearman']) -> Callable[..., Values]:
  """Returns the metric of two columns of numbers; 0 where either side is constant.

  A prediction that is no number counts as the reference that is farthest from its own.
  """

  def compute(predictions: Sequence[str], references: Sequence[str]) -> Values:
    with extras.needed('tasks'):
      from scipy import stats
    right = [number for reference in references if (number := _number(reference)) is not None]
    if strays := [reference for reference in references if _number(reference) is None]:
      where = f'{strays[0]!r} for {name}'
      raise errors.DataError('reference is no number', where, 'use accuracy for labels')
    ends = min(right), max(right)
    given = [_number(prediction) for prediction in predictions]
    worst = [max(ends, key=lambda end: abs(end - y)) for y in right]
    filled = [far if x is None else x for x, far in zip(given, worst, strict=True)]
    value = 0.0
    if len(set(filled)) > 1 and len(set(right)) > 1:
      correlation = {'pearson': stats.pearsonr, 'spearman': stats.spearmanr}[name]
      value = float(correlation(filled, right).statistic)
    return {name: value, f'{name}_no_numbers': given.count(None) / len(given)}

  return compute


def _number(text: str) -> float | None:
  """Returns the finite number that a text is, or None."""
  try:
    value = float(text)
  except ValueError:
    return None
  return value if abs(value) < float('inf') else None


def _best(name: str, score: Callable[[str, str], float]) -> Callable[..., Values]:
  """Returns the metric that is the mean of each row's score with its best reference."""

  def compute(predictions: Sequence[str], rows: Sequence[Sequence[str]]) -> Values:
    scores = [max(score(p, r) for r in row) for p, row in zip(predictions, rows, strict=True)]
    return {name: sum(scores) / len(scores)}

  return compute


def normalised(text: str) -> str:
  """Returns a text as SQuAD v1.1 compares it (Rajpurkar et al. 2016, section 6.1).

  Lower case, without ASCII punctuation, the articles a, an and the, and needless spaces.
  """
  text = text.lower().translate(str.maketrans('', '', string.punctuation))
  return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', text).split())


def _exact_match(prediction: str, reference: str) -> float:
  return float(normalised(prediction) == normalised(reference))


def _token_f1(prediction: str, reference: str) -> float:
  """Returns the F1 of the words as a bag; 0 if none is shared, even where both have none."""
  words, right = normalised(prediction).split(), normalised(reference).split()
  shared = (Counter(words) & Counter(right)).total()
  return 2 * shared / (len(words) + len(right)) if shared else 0.0


def _sacrebleu(name: str) -> Any:
  with extras.needed('tasks'):
    from sacrebleu.metrics import bleu, chrf
  return {'bleu': bleu.BLEU, 'chrf': chrf.CHRF}[name]


def _streams(rows: Sequence[Sequence[str]]) -> list[list[str | None]]:
  """Returns sacrebleu's layout: the first reference of each row, then the second, ..."""
  most = max(map(len, rows))
  return [[row[i] if i < len(row) else None for row in rows] for i in range(most)]


def _of_corpus(name: Literal['bleu', 'chrf']) -> Callable[..., Values]:
  """Returns sacrebleu's metric with its defaults: 13a tokens; of characters, up to 6."""

  def compute(predictions: Sequence[str], rows: Sequence[Sequence[str]]) -> Values:
    score = _sacrebleu(name)().corpus_score(list(predictions), _streams(rows))
    return {name: float(score.score)}

  return compute


def _rouge(predictions: Sequence[str], rows: Sequence[Sequence[str]]) -> Values:
  """Returns F-measures with the best reference of each row (Lin 2004), stemmed, of a-z and 0-9.

  rougeLsum joins what the sentences share, as is usual for CNN/DailyMail; a sentence ends with a
  line, or with a full stop, question or exclamation mark before a space.
  """
  with extras.needed('tasks'):
    from rouge_score import rouge_scorer
  scorer = rouge_scorer.RougeScorer(ROUGE, use_stemmer=True)
  lines = lambda text: re.sub(r'(?<=[.?!])\s+', '\n', text)
  scores = [
    scorer.score_multi([lines(reference) for reference in row], lines(prediction))
    for prediction, row in zip(predictions, rows, strict=True)
  ]
  return {name: sum(score[name].fmeasure for score in scores) / len(scores) for name in ROUGE}


_NAMES: Mapping[Name, tuple[str, ...]] = types.MappingProxyType(
  {
    'f1': ('f1_macro',),
    'entity_f1': ('entity_precision', 'entity_recall', 'entity_f1'),
    'pearson': ('pearson', 'pearson_no_numbers'),
    'spearman': ('spearman', 'spearman_no_numbers'),
    'rouge': ROUGE,
  }
)
_COMPUTE: Mapping[Name, Callable[..., Values]] = types.MappingProxyType(
  {
    'accuracy': _accuracy,
    'f1': _f1,
    'matthews': _matthews,
    'pearson': _correlation('pearson'),
    'spearman': _correlation('spearman'),
    'exact_match': _best('exact_match', _exact_match),
    'token_f1': _best('token_f1', _token_f1),
    'entity_f1': _entity_f1,
    'bleu': _of_corpus('bleu'),
    'chrf': _of_corpus('chrf'),
    'rouge': _rouge,
  }
)
