"""Objectives: from raw tokens to what a model reads and predicts, in numpy.

`batch` is a pure function of tokens and keys, vectorised over the examples, and no example depends
on another. The keys of a batch are seqio's, with two more: `decoder_causal_attention` is 1 on a
prefix that sees itself in both directions, `encoder_prediction_positions` says where an encoder's
output layer is needed.

Letters: N examples, L raw tokens.
"""

import numpy as np

from t5lite import config as config_lib
from t5lite import errors
from t5lite.objectives import converters
from t5lite.objectives import mlm
from t5lite.objectives import pairs
from t5lite.objectives import prefix_lm
from t5lite.objectives import span_corruption
from t5lite.objectives import supervised as supervised
from t5lite.objectives import ul2
from t5lite.objectives.supervised import around as around
from t5lite.objectives.vocabulary import Vocabulary as Vocabulary


def check(config: config_lib.Config, vocabulary: Vocabulary) -> None:
  """Raises ConfigError if the vocabulary or the lengths do not fit the objective or the model."""
  check_vocabulary(config, vocabulary)
  check_lengths(config, vocabulary)


def check_vocabulary(config: config_lib.Config, vocabulary: Vocabulary) -> None:
  """Raises ConfigError if the vocabulary does not fit the objective or the model."""
  name, data = config.objective.name, config.data
  errors.check(
    vocabulary.size <= config.model.vocab_size,
    'vocabulary larger than the model',
    f'{vocabulary.size} tokens in {data.tokenizer} with model.vocab_size={config.model.vocab_size}',
    f'use --set=model.vocab_size={vocabulary.size} or more',
  )
  if name == 'mlm':
    missing = [mark for mark in ('mask', 'cls', 'sep') if getattr(vocabulary, mark) is None]
    errors.check(
      not missing,
      'vocabulary without the tokens of masked language modelling',
      f'no {", ".join(f"[{mark.upper()}]" for mark in missing)} in {data.tokenizer}',
      'train one with t5lite tokenizer',
    )


def check_lengths(config: config_lib.Config, vocabulary: Vocabulary) -> None:
  """Raises ConfigError if what the objective makes of text does not fit the rows."""
  data = config.data
  length = window_length(config, vocabulary)
  _, (targets,) = lengths(config, vocabulary, np.array([length]))
  errors.check(
    targets <= data.target_length,
    'targets longer than the decoder',
    f'data.target_length={data.target_length} for data.input_length={data.input_length}',
    f'use --set=data.target_length={targets}',
  )
  spans = [
    span_corruption.counts(np.array([length]), density, mean)[1][0]
    for density, mean in _noises(config)
  ]
  errors.check(
    max(spans, default=0) <= len(vocabulary.sentinels),
    'more spans than sentinels',
    f'{max(spans, default=0)} spans, {len(vocabulary.sentinels)} sentinels in {data.tokenizer}',
    'use a smaller data.input_length or a larger objective.mean_span_length',
  )


def check_task(config: config_lib.Config, vocabulary: Vocabulary, task: config_lib.Task) -> None:
  """Raises ConfigError if the rows have no room for a task's examples, or the model no head."""
  data, most = config.data, np.array([10**6])
  (inputs,), (targets,) = supervised.cut(config, vocabulary, most, most)
  errors.check(
    inputs > 0 and targets > 1,
    'no room for the examples of a task',
    f'data.input_length={data.input_length} data.target_length={data.target_length}',
    'enlarge them',
  )
  if config.model.architecture == 'encoder':
    errors.check(
      bool(task.labels or task.span),
      'an encoder has no answer for this task',
      f'task {task.name!r} has neither labels nor a span',
      'use an encoder_decoder or a decoder',
    )
    check_head(config, task)


def check_head(config: config_lib.Config, task: config_lib.Task) -> None:
  """Raises ConfigError if the model's head is not what a task's answers are read from."""
  model, num_labels = config.model, 2 if task.span else len(task.labels)
  pooler = not task.span and not task.words
  remedy = f'use --set=model.num_labels={num_labels} --set=model.pooler={pooler}'
  remedy += f' --set=model.spans={bool(task.span)}'
  errors.check(
    model.num_labels >= num_labels,
    'too few outputs for the labels of the task',
    f'model.num_labels={model.num_labels}, task {task.name!r} has {num_labels}',
    remedy,
  )
  errors.check(
    model.spans == bool(task.span) and not (model.pooler and task.words),
    'not the head for the task',
    f'model.pooler={model.pooler} model.spans={model.spans}, task {task.name!r}',
    remedy,
  )
  errors.check(
    not task.span or config.data.examples == 'windows',
    'a span is found in a row of one example',
    f'data.examples={config.data.examples!r}, task {task.name!r}',
    "use data.examples='windows'",
  )


def _noises(config: config_lib.Config) -> list[tuple[float, float]]:
  """Returns (density, mean span length) of every span corruption that the objective does."""
  objective = config.objective
  if objective.name == 'ul2':
    return [(denoiser.density, denoiser.mean) for denoiser in ul2.DENOISERS if denoiser.mean]
  if objective.name in ('span_corruption', 'text_infilling'):
    return [(objective.noise_density, objective.mean_span_length)]
  return []


def lengths(
  config: config_lib.Config, vocabulary: Vocabulary, raw_lengths_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the most that documents of so many tokens take of an encoder's and a decoder's row.

  An architecture with one stack has one kind of row: the first.
  """
  raw_N = np.asarray(raw_lengths_N)
  inputs_N, targets_N = _pair_lengths(config, vocabulary, raw_N)
  match config.model.architecture:
    case 'encoder_decoder':
      return inputs_N, targets_N
    case 'decoder':
      if config.objective.name == 'prefix_lm':  # its inputs and targets cannot both be longest
        return raw_N - 1, np.zeros_like(raw_N)
      return inputs_N + targets_N - 1, np.zeros_like(raw_N)
    case 'encoder':
      return inputs_N, np.zeros_like(raw_N)


def _pair_lengths(
  config: config_lib.Config, vocabulary: Vocabulary, raw_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  objective = config.objective
  match objective.name:
    case 'span_corruption' | 'text_infilling' as name:
      noise = objective.noise_density, objective.mean_span_length
      inputs_N, targets_N = span_corruption.lengths(raw_N, *noise)
      return inputs_N, targets_N if name == 'span_corruption' else raw_N + 1
    case 'ul2':
      if config.model.architecture == 'decoder':  # no denoiser has the longest of both
        sums = [denoiser.sum_lengths(raw_N, vocabulary) for denoiser in ul2.DENOISERS]
        return np.max(sums, axis=0), np.zeros_like(raw_N)
      each = [denoiser.lengths(raw_N, vocabulary) for denoiser in ul2.DENOISERS]
      inputs, targets = zip(*each, strict=True)
      return np.max(inputs, axis=0), np.max(targets, axis=0)
    case 'mlm':
      return raw_N + 2, np.zeros_like(raw_N)
    case 'causal_lm':
      start = int(config.data.examples == 'documents')
      return np.zeros_like(raw_N), raw_N + start
    case 'prefix_lm':
      most_N = np.maximum(raw_N - 1, 1)
      return most_N, most_N


def window_length(config: config_lib.Config, vocabulary: Vocabulary) -> int:
  """Returns the raw tokens that one example takes so that a row is full.

  It is the most that fits the encoder (or the one stack); for T5's span corruption 568 tokens for
  512, with targets of 114, as in its reference code. Other objectives of an encoder_decoder must
  fit the decoder as well, in the longest case.
  """
  data = config.data
  both = (
    config.model.architecture == 'encoder_decoder' and config.objective.name != 'span_corruption'
  )
  candidates = np.arange(1, 8 * (data.input_length + data.target_length) + 16)
  inputs, targets = lengths(config, vocabulary, candidates)
  fits = inputs <= data.input_length
  if both:
    fits &= targets <= data.target_length
  length = int(np.argmin(fits))  # candidates[:length] fit: lengths never fall as texts grow
  errors.check(
    length > 0 and not fits.all(),
    'no text fits the objective',
    f'data.input_length={data.input_length} data.target_length={data.target_length}',
    'enlarge them',
  )
  return length


def batch(
  config: config_lib.Config,
  vocabulary: Vocabulary,
  tokens_NxL: np.ndarray,
  lengths_N: np.ndarray,
  keys_N: np.ndarray,
  inputs_N: np.ndarray | None = None,
  rows_N: np.ndarray | None = None,
  num_rows: int | None = None,
) -> converters.Batch:
  """Returns the batch that the model reads, made of N examples.

  Args:
    config: objective, architecture and lengths.
    vocabulary: of the tokens.
    tokens_NxL: raw tokens, int32; what stands behind an example's is not looked at.
    lengths_N: raw tokens of each example, at most `window_length`.
    keys_N: uint64, one random key an example.
    inputs_N: how many of its tokens are a task's inputs, 0 of text; None: all are text.
    rows_N: the row of each example, where several share one; None: each has its own.
    num_rows: rows of the batch; None: as many as `rows_N` names.
  """
  raw = pairs.Ragged(np.asarray(tokens_NxL, np.int32), np.asarray(lengths_N))
  own = np.arange(len(keys_N))
  rows = own if rows_N is None else np.asarray(rows_N)
  num_rows = int(rows.max()) + 1 if num_rows is None else num_rows
  # Segment ids also tell a token 0 from the 0 that fills rows.
  packed = rows_N is not None or vocabulary.pad != 0
  layout = converters.Layout(rows, num_rows, packed)
  data, objective = config.data, config.objective
  inputs_N = np.zeros_like(own) if inputs_N is None else inputs_N
  if config.model.num_labels:
    labelled = supervised.examples(config, vocabulary, raw, inputs_N)
    most, spans = _num_labelled(config), config.model.spans
    return converters.labelled(
      layout, labelled, data.input_length, most, vocabulary.sep, spans=spans
    )
  if config.model.architecture == 'encoder':
    masked = mlm.mask(raw, keys_N, vocabulary, objective.noise_density, objective.whole_word)
    return converters.encoder(layout, masked, data.input_length, _num_predictions(config))
  examples = _examples(config, vocabulary, raw, keys_N, inputs_N)
  if config.model.architecture == 'decoder':
    prefix = objective.sees_both_ways
    return converters.decoder(layout, examples, data.input_length, prefix=prefix)
  return converters.encoder_decoder(layout, examples, data.input_length, data.target_length)


def _examples(
  config: config_lib.Config,
  vocabulary: Vocabulary,
  raw: pairs.Ragged,
  keys_N: np.ndarray,
  inputs_N: np.ndarray,
) -> pairs.Pairs:
  """Returns what is given and what is asked for: of text as the objective says, of tasks as is."""
  if not inputs_N.any():
    return _of_text(config, vocabulary, raw, keys_N)
  task, text = np.flatnonzero(inputs_N), np.flatnonzero(inputs_N == 0)
  made = supervised.examples(config, vocabulary, pairs.chosen(raw, task), inputs_N[task])
  parts = [(task, made)]
  if len(text):
    parts.append((text, _of_text(config, vocabulary, pairs.chosen(raw, text), keys_N[text])))
  return pairs.Pairs(
    pairs.merged([(numbers, part.inputs) for numbers, part in parts]),
    pairs.merged([(numbers, part.targets) for numbers, part in parts]),
  )


def _of_text(
  config: config_lib.Config, vocabulary: Vocabulary, raw: pairs.Ragged, keys_N: np.ndarray
) -> pairs.Pairs:
  objective = config.objective
  match objective.name:
    case 'span_corruption' | 'text_infilling' as name:
      noise = objective.noise_density, objective.mean_span_length
      part = span_corruption.corrupt(raw, keys_N, vocabulary, *noise)
      whole = pairs.ended(raw, vocabulary.eos)
      return part if name == 'span_corruption' else part._replace(targets=whole)
    case 'ul2':
      return ul2.denoise(raw, keys_N, vocabulary)
    case 'prefix_lm':
      return prefix_lm.cut(raw, keys_N)
    case 'causal_lm':
      # A document begins behind the end of the one before, as it does within a window, or BOS.
      if config.data.examples == 'documents':
        raw = pairs.joined(pairs.repeated((vocabulary.begin,), len(keys_N)), raw)
      return prefix_lm.whole(raw)
    case 'mlm':
      raise ValueError('masked language modelling has no pairs of inputs and targets')


def _num_labelled(config: config_lib.Config) -> int:
  """Returns the most labels that a row asks for: of each token, or one for each example.

  Packed, an example is [CLS], a token and [SEP] or more.
  """
  if not config.model.pooler:
    return config.data.input_length
  return 1 if config.data.examples == 'windows' else config.data.input_length // 3


def _num_predictions(config: config_lib.Config) -> int:
  """Returns the most predictions that a row can ask for; packed documents each have one or more."""
  density, length = config.objective.noise_density, config.data.input_length
  if config.data.examples == 'windows':
    return int(mlm.num_predictions(np.array([length - 2]), density)[0])
  raw = np.arange(1, length - 1)
  return int(np.ceil(length * np.max(mlm.num_predictions(raw, density) / (raw + 2))))
