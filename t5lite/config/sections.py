"""The other sections of a config, each with the checks that it can make by itself."""

import dataclasses
from typing import Literal

from t5lite import errors

ObjectiveName = Literal['span_corruption', 'text_infilling', 'mlm', 'causal_lm', 'prefix_lm', 'ul2']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
  """What the model is trained to predict."""

  name: ObjectiveName
  noise_density: float = 0.15  # share of the tokens that is masked, but in UL2
  mean_span_length: float = 3.0  # span_corruption, text_infilling
  whole_word: bool = False  # mlm: the pieces of a word are masked together

  def __post_init__(self):
    errors.check(
      0 < self.noise_density < 1,
      'not a share',
      f'objective.noise_density={self.noise_density}',
      'use a number between 0 and 1',
    )
    errors.check_at_least('objective', {'mean_span_length': self.mean_span_length}, 1)

  @property
  def sees_both_ways(self) -> bool:
    """Whether what a decoder is given sees itself in both directions, as a prefix does."""
    return self.name not in ('causal_lm', 'text_infilling')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """Where text comes from and how it becomes batches."""

  source: str | tuple[tuple[str, float] | tuple[str, float, float], ...] = 'corpus'
  # one source, or a mixture of (source, weight) or (source, weight, most epochs)
  temperature: float | None = (
    None  # rates ~ (weight * examples) ** (1 / temperature); None: ~ weight
  )
  most_examples: int = 0  # that a set counts for in these rates (T5's K); 0: all that it has
  # The one that ships, or the path of a sentencepiece model or of a tokenizer.json.
  tokenizer: str = 'corpus'
  batch_size: int  # examples of the global batch
  input_length: int  # tokens: of the encoder, or of the one stack
  target_length: int = 0  # tokens of the decoder; 0 for one stack
  examples: Literal['windows', 'documents'] = 'windows'
  # windows: documents concatenated, then cut: no padding; documents: one example each, packed
  held_out: float = 0.01  # share of the documents kept for evaluation
  workers: int = 0  # reader processes; 0: a thread
  cache: str = ''  # where tokenised sources are kept; '': the user's cache directory

  def __post_init__(self):
    errors.check_at_least(
      'data', {'batch_size': self.batch_size, 'input_length': self.input_length}, 1
    )
    errors.check_at_least('data', {'target_length': self.target_length, 'workers': self.workers}, 0)
    errors.check(
      0 <= self.held_out < 1,
      'not a share',
      f'data.held_out={self.held_out}',
      'use 0 <= held_out < 1',
    )
    errors.check(
      self.temperature is None or self.temperature > 0,
      'not a temperature',
      f'data.temperature={self.temperature}',
      'use a number above 0, or None for the rates as given',
    )
    errors.check_at_least('data', {'most_examples': self.most_examples}, 0)
    errors.check(
      not self.most_examples or self.temperature is not None,
      'a limit for rates that do not depend on sizes',
      f'data.most_examples={self.most_examples} with data.temperature=None',
      'set data.temperature, 1 for rates in proportion to sizes',
    )
    errors.check(
      bool(self.source),
      'no data source',
      f'data.source={self.source!r}',
      "use 'corpus' or KIND:WHERE",
    )
    for entry in self.mixture:
      errors.check(
        bool(entry[0]) and all(number > 0 for number in entry[1:]),
        'not a mixture entry',
        entry,
        'use (source, weight) or (source, weight, epochs), with numbers above 0',
      )

  @property
  def mixture(self) -> tuple[tuple[str, float, float], ...]:
    """(source, weight, most epochs) of every set; one source is a mixture of one."""
    entries = ((self.source, 1.0),) if isinstance(self.source, str) else self.source
    return tuple(
      (entry[0], entry[1], entry[2] if len(entry) == 3 else float('inf')) for entry in entries
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optim:
  """Optimizer and learning-rate schedule."""

  name: Literal['adafactor', 'adamw', 'adamw_rms', 'lion', 'muon']
  learning_rate: float  # peak
  schedule: Literal['rsqrt', 'cosine', 'linear', 'wsd', 'constant']
  warmup_steps: int = 0  # from 0 to the peak; 0 with rsqrt: T5's, flat for its first 10,000 steps
  decay_steps: int = 0  # wsd: length of the last, falling stretch
  final_ratio: float = 0.0  # cosine, linear, wsd: last learning rate / peak
  weight_decay: float = 0.0  # not on norms, biases and position biases
  clip: float = 0.0  # global gradient norm; 0: no clipping
  b1: float = 0.9
  b2: float = 0.999
  epsilon: float = 1e-8
  frozen: tuple[str, ...] = ()  # parameters that stay as they are, by path: ('token_embed.*',)

  def __post_init__(self):
    numbers = (
      'learning_rate',
      'warmup_steps',
      'decay_steps',
      'final_ratio',
      'weight_decay',
      'clip',
    )
    errors.check_at_least('optim', {name: getattr(self, name) for name in numbers}, 0)
    errors.check(
      self.schedule != 'wsd' or self.decay_steps > 0,
      'wsd needs its falling stretch',
      f'optim.decay_steps={self.decay_steps}',
      'give the number of steps, e.g. a tenth of train.steps',
    )
    for name in ('b1', 'b2'):
      errors.check(
        0 <= getattr(self, name) < 1,
        'not a decay rate',
        f'optim.{name}={getattr(self, name)}',
        'use 0 <= b < 1',
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parallel:
  """Sizes of the mesh axes; -1 takes the devices that are left."""

  replica: int = 1  # whole copies (between slices)
  expert: int = 1  # experts and batch
  data: int = -1  # batch and parameters (FSDP)
  sequence: int = 1  # positions (context parallel)
  model: int = 1  # heads, mlp and vocabulary (tensor parallel)

  def __post_init__(self):
    sizes = dataclasses.asdict(self)
    errors.check(
      all(size == -1 or size >= 1 for size in sizes.values()),
      'not an axis size',
      f'parallel={sizes}',
      'use 1 or more, or -1 for the rest',
    )
    errors.check(
      list(sizes.values()).count(-1) <= 1,
      'more than one axis takes the rest',
      f'parallel={sizes}',
      'give all sizes but one',
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
  """Length, randomness and loss of a run."""

  steps: int
  seed: int = 0
  log_every: int = 10
  sample_every: int = 0  # steps between samples of text; 0: none
  microbatches: int = 1  # gradient accumulation: parts of the batch, one after another
  z_loss: float = 0.0  # T5: 1e-4, times log(Z) ** 2
  label_smoothing: float = 0.0
  load_balance_loss: float = 1e-2  # with experts: its weight, of each sparse layer
  router_z_loss: float = 1e-3  # with experts: its weight, of each sparse layer

  def __post_init__(self):
    errors.check_at_least(
      'train', {'log_every': self.log_every, 'microbatches': self.microbatches}, 1
    )
    errors.check_at_least(
      'train', {'steps': self.steps, 'seed': self.seed, 'sample_every': self.sample_every}, 0
    )
    losses = ('z_loss', 'label_smoothing', 'load_balance_loss', 'router_z_loss')
    errors.check_at_least('train', {name: getattr(self, name) for name in losses}, 0)
    errors.check(
      self.seed < 2**32, 'seed too large', f'train.seed={self.seed}', 'use 0 <= seed < 2**32'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval:
  """Evaluation on held-out text."""

  every: int = 0  # steps; 0: only at the end
  batches: int = 16  # at most, from the start of the held-out text
  source: str = ''  # '': the held-out documents of data.source
  tasks: tuple[str, ...] = ()  # done at each evaluation too, by name; one not trained on: zero-shot
  examples: int = 200  # of each of these tasks, from the start of its validation rows; 0: all

  def __post_init__(self):
    errors.check_at_least('eval', {'every': self.every, 'examples': self.examples}, 0)
    errors.check_at_least('eval', {'batches': self.batches}, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
  """When to save and what to keep. The last step is always saved."""

  every: int = 1000  # steps; 0: only at the end
  keep_last: int = 2
  keep_every: int = 0  # steps; checkpoints at its multiples stay for ever; 0: none
  best: str = ''  # 'eval/loss' or another of evaluation: its best is saved, stays and is used
  patience: int = 0  # evaluations without a better one after which training ends; 0: it goes on

  def __post_init__(self):
    counts = {name: getattr(self, name) for name in ('every', 'keep_every', 'patience')}
    errors.check_at_least('checkpoint', counts, 0)
    errors.check(
      not self.best or self.best.startswith('eval/'),
      'not a metric of evaluation',
      f'checkpoint.best={self.best!r}',
      "use 'eval/loss', or 'eval/TASK/METRIC'",
    )
    errors.check(
      bool(self.best) or not self.patience,
      'patience for nothing',
      f'checkpoint.patience={self.patience} without checkpoint.best',
      "set checkpoint.best='eval/loss'",
    )
    errors.check_at_least('checkpoint', {'keep_last': self.keep_last}, 1)
