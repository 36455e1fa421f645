"""How well a model does a task: what it answers to the rows of a split, and the metrics of that.

A task that the run was trained on is answered in text or by an encoder's head. Another one with
labels of texts is zero-shot: the answer is the label that the model finds likeliest behind
the inputs (rank classification; Brown et al. 2020, section 2.4), or, after span corruption alone,
in the place of a sentinel there.
"""

from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from t5lite import config as config_lib
from t5lite import decoding
from t5lite import errors
from t5lite import models
from t5lite import objectives
from t5lite import tasks
from t5lite.data import task_rows
from t5lite.data import tokenizer as tokenizer_lib
from t5lite.decoding import heads
from t5lite.decoding import likelihood
from t5lite.decoding import ranking
from t5lite.tasks import calibration
from t5lite.tasks import metrics
from t5lite.tasks import rendering

SENTINEL = '<extra_id_0>'
GREEDY = decoding.Sampler()
Way = Literal['text', 'head', 'rank']


class Answer(NamedTuple):
  """What a model makes of a row."""

  text: str
  probabilities: list[float] | None = None  # of the task's labels, where it chose among them


@dataclasses.dataclass(frozen=True)
class Judged:
  """A task's result.

  Attributes:
    name: of the task.
    split: of its rows.
    way: how the answers were had.
    sampler: how they were written, with its seed; {}: not in text.
    values: metrics by name; see `tasks.metrics.compute`.
    signatures: of each metric, what others need to repeat it; '' where nothing is open.
    trials: of a metric that does not count rows, how many of what it counts there are.
    rows: input, target, references and answer of each row, and the labels' probabilities.
  """

  name: str
  split: str
  way: Way
  sampler: dict[str, Any]
  values: dict[str, float]
  signatures: dict[str, str]
  trials: dict[str, int]
  rows: list[dict[str, Any]]

  def summary(self) -> dict[str, float]:
    """Returns the values but for those of single labels."""
    return {name: value for name, value in self.values.items() if '/' not in name}

  def __str__(self) -> str:
    values = '  '.join(f'{name} {value:.4g}' for name, value in self.summary().items())
    return f'{self.name} ({self.split}, {len(self.rows):,} rows, by {self.way})  {values}'


def judge(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: tokenizer_lib.Tokenizer,
  name: str,
  side: Literal['validation', 'test'],
  most: int = 0,
  sampler: decoding.Method = GREEDY,
  seed: int = 0,
) -> Judged:
  """Returns how well a model does a task.

  Args:
    config: of the run.
    params: its parameters, on the mesh that is set.
    tokenizer: of the run.
    name: of a task that ships, or of one of the config's.
    side: which rows.
    most: rows, from the first; 0: all.
    sampler: how answers in text are written.
    seed: of its draws.

  Raises:
    ConfigError: no such task or split, or the model has no way to do it.
    DataError: its rows are missing or damaged.
  """
  task, way, examples = rows_of(config, name, side, most)
  if way == 'text':
    answers = _written(config, params, tokenizer, task, examples, sampler, seed)
  else:
    answer = {'head': _by_head, 'rank': _ranked}[way]
    answers = answer(config, params, tokenizer, task, examples)
  judged = _judged(task, getattr(task, side), way, examples, answers)
  if way != 'text':
    return judged
  drawn = 'sample' if getattr(sampler, 'temperature', 0) else 'greedy'
  kind = 'beam' if isinstance(sampler, decoding.Beam) else drawn
  said = {'kind': kind, **dataclasses.asdict(sampler), 'seed': seed}
  return dataclasses.replace(judged, sampler=said)


def rows_of(
  config: config_lib.Config, name: str, side: Literal['validation', 'test'], most: int
) -> tuple[config_lib.Task, Way, list[rendering.Example]]:
  """Returns a task, how the run answers it, and its rows; arguments and errors as `judge`."""
  task = tasks.find(name, config.tasks)
  split = getattr(task, side)
  errors.check(
    bool(split), f'task without rows for {side}', f'task {task.name!r}', 'give it a split'
  )
  way = way_of(config, task)
  for_encoder = config.model.architecture == 'encoder' and way == 'head'
  source = task_rows.open(task, split, 'encoder' if for_encoder else 'decoder')
  examples = list(itertools.islice(source.documents(), most or None))
  if not examples:
    raise errors.DataError('no rows', f'task {task.name!r}, split {split!r}', 'name a split it has')
  return task, way, examples


def values_of(config: config_lib.Config, task: config_lib.Task) -> list[str]:
  """Returns the names of what is measured of a task."""
  found = [value for name in task.metrics for value in metrics.names(name)]
  of_shares = task.labels and not task.words and way_of(config, task) != 'text'
  return [*found, 'calibration_error'] if of_shares else found


def way_of(config: config_lib.Config, task: config_lib.Task) -> Way:
  """Returns how a run answers the rows of a task.

  Raises:
    ConfigError: it cannot.
  """
  trained = config_lib.TASK + task.name in [name for name, _, _ in config.data.mixture]
  if config.model.num_labels:
    errors.check(
      trained,
      'the head was trained for another task',
      f'task {task.name!r}, data.source={config.data.source!r}',
      'evaluate that one, or train a head for this one',
    )
    return 'head'
  if task.labels and not task.words and not trained:
    return 'rank'
  errors.check(
    config.model.architecture != 'encoder',
    'an encoder does not write',
    f'task {task.name!r} has no labels of texts, and there is no head',
    'train a head for it, or use another architecture',
  )
  return 'text'


def _written(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: tokenizer_lib.Tokenizer,
  task: config_lib.Task,
  examples: Sequence[rendering.Example],
  sampler: decoding.Method,
  seed: int,
) -> list[Answer]:
  most = longest_target(config, tokenizer, examples)
  outputs = decoding.generate(
    config.model,
    params,
    _prompts(config, tokenizer, task, examples, most),
    max_tokens=most,
    sampler=sampler,
    key=jax.random.key(seed),
    eos=tokenizer.vocabulary.eos,
    prefix=config.objective.sees_both_ways,
  )
  return [Answer(tokenizer.decode(tokens)) for tokens in outputs]


def longest_target(
  config: config_lib.Config,
  tokenizer: tokenizer_lib.Tokenizer,
  examples: Sequence[rendering.Example],
) -> int:
  """Returns for how many tokens of an answer, its end included, there is room.

  Of a decoder that is the longest target, as in seqio's evaluation, but half of the row at most: a
  longer one would take from inputs that training has shown whole.
  """
  if config.data.target_length:
    return config.data.target_length
  longest = max(map(len, tokenizer.encode([example.targets for example in examples])))
  return min(longest + 1, config.data.input_length // 2)


def _prompts(
  config: config_lib.Config,
  tokenizer: tokenizer_lib.Tokenizer,
  task: config_lib.Task,
  examples: Sequence[rendering.Example],
  num_targets: int,
) -> list[np.ndarray]:
  """Returns the inputs as the model reads them, with room for so many tokens of targets."""
  vocabulary = tokenizer.vocabulary
  before, after = objectives.around(config, vocabulary)
  ids = tokenizer.encode([example.inputs[0] for example in examples])
  sizes_N, targets_N = np.array(list(map(len, ids))), np.full(len(ids), num_targets)
  kept_N, _ = objectives.supervised.cut(config, vocabulary, sizes_N, targets_N)
  trim = objectives.supervised.trim(task, tokenizer.encode, for_encoder=False)
  kept = objectives.supervised.trimmed(trim, ids, kept_N)
  return [np.array([*before, *each, *after], np.int32) for each in kept]


def _ranked(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: tokenizer_lib.Tokenizer,
  task: config_lib.Task,
  examples: Sequence[rendering.Example],
) -> list[Answer]:
  gap = SENTINEL if _fills_gaps(config) else ''
  labels = [f'{gap} {label}'.lstrip() for label in task.labels]
  longest, architecture = config.data.input_length, config.model.architecture
  alone = [ranking.of_texts(config, tokenizer, gap, label) for label in labels]
  room = longest - max(likelihood.lengths_of(architecture, pair)[0] for pair in alone)
  texts = [f'{text} {gap}'.rstrip() for text in _shown(tokenizer, task, examples, room)]
  found = ranking.rank(config, params, tokenizer, texts, [labels] * len(texts), longest=longest)
  sums = [[score.log_likelihood for score in each.scores] for each in found]
  return [_chosen(task, np.array(each)) for each in sums]


def _shown(
  tokenizer: tokenizer_lib.Tokenizer,
  task: config_lib.Task,
  examples: Sequence[rendering.Example],
  room: int,
) -> list[str]:
  """Returns the inputs, those of more tokens than there is room for cut as in training."""
  texts = [example.inputs[0] for example in examples]
  ids = tokenizer.encode(texts)
  trim = objectives.supervised.trim(task, tokenizer.encode, for_encoder=False)
  kept = objectives.supervised.trimmed(trim, ids, np.minimum(list(map(len, ids)), max(room, 1)))
  return [
    text if len(some) == len(whole) else tokenizer.decode(some)
    for text, whole, some in zip(texts, ids, kept, strict=True)
  ]


def _fills_gaps(config: config_lib.Config) -> bool:
  """Returns whether a model knows targets only as what stands for a sentinel."""
  only_text = not any(tasks.is_task(name) for name, _, _ in config.data.mixture)
  return only_text and config.objective.name == 'span_corruption'


def _by_head(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: tokenizer_lib.Tokenizer,
  task: config_lib.Task,
  examples: Sequence[rendering.Example],
) -> list[Answer]:
  if task.span:
    return list(map(Answer, heads.spans(config, params, tokenizer, examples)))
  if task.words:
    rows = heads.tags(config, params, tokenizer, examples, len(task.labels))
    return [Answer(' '.join(task.labels[tag] for tag in tags)) for tags in rows]
  logits = heads.labels(config, params, tokenizer, examples, task)
  return [_chosen(task, logits_V) for logits_V in logits]


def _chosen(task: config_lib.Task, logits_V: np.ndarray) -> Answer:
  """Returns the likeliest label, with the softmax over the labels."""
  shares_V = np.exp(logits_V - logits_V.max())
  shares_V = shares_V / shares_V.sum()
  return Answer(task.labels[int(shares_V.argmax())], [float(share) for share in shares_V])


def _judged(
  task: config_lib.Task,
  split: str,
  way: Way,
  examples: Sequence[rendering.Example],
  answers: Sequence[Answer],
) -> Judged:
  texts, targets = [one.text for one in answers], [one.targets for one in examples]
  references = [one.references for one in examples]
  values, signatures, trials = {}, {}, {}
  for metric in task.metrics:
    several = references if metric in metrics.MANY else targets
    of_words = metrics.by_word(texts, targets) if task.words and metric != 'entity_f1' else None
    if of_words:
      trials[metric] = len(of_words[0])
    if task.group and metric == 'exact_match':
      groups = [one.group for one in examples]
      trials[metric] = len(set(groups))
      values |= metrics.compute(metric, *[metrics.by_group(x, groups) for x in (texts, targets)])
    else:
      values |= metrics.compute(metric, *(of_words or (texts, several)))
    signatures[metric] = metrics.signature(metric, several)
  if answers[0].probabilities is not None:
    labels = [task.labels.index(one.targets) for one in examples]
    shares = np.array([one.probabilities for one in answers])
    values['calibration_error'] = calibration.expected_error(
      calibration.reliability(shares, labels)
    )
  rows = [
    {
      'inputs': ' | '.join(example.inputs),
      'target': example.targets,
      'references': list(example.references),
      'answer': answer.text,
      **({} if answer.probabilities is None else {'probabilities': answer.probabilities}),
    }
    for example, answer in zip(examples, answers, strict=True)
  ]
  return Judged(task.name, split, way, {}, values, signatures, trials, rows)
