"""What a run is: frozen dataclasses, a strict loader and `--set` overrides.

`load('configs/tiny_t5.py', ['train.steps=10'])` returns a checked `Config`. A workdir's
`config.json` loads the same way. Nothing here imports jax: a wrong value shows in milliseconds.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import difflib
import json
import pathlib
import runpy
import traceback
import types
from typing import Any, Literal

from t5lite import errors
from t5lite import strict

Architecture = Literal['encoder_decoder', 'decoder', 'encoder']
ObjectiveName = Literal['span_corruption', 'mlm', 'causal_lm', 'prefix_lm', 'ul2']

OBJECTIVES_OF: Mapping[str, tuple[str, ...]] = types.MappingProxyType(
  {
    'encoder_decoder': ('span_corruption', 'prefix_lm', 'ul2'),
    'decoder': ('causal_lm', 'prefix_lm', 'span_corruption', 'ul2'),
    'encoder': ('mlm',),
  }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """The network. `t5lite.presets` has one function per published family that fills this in."""

  architecture: Architecture
  vocab_size: int
  num_layers: int  # encoder_decoder: the encoder's; else of the one stack
  num_decoder_layers: int = 0  # encoder_decoder only
  d_model: int
  d_ff: int
  num_heads: int
  num_kv_heads: int  # fewer than num_heads: grouped-query attention
  head_dim: int
  activation: Literal['relu', 'gelu', 'gelu_tanh', 'silu']
  gated: bool  # act(x W0) * (x W1), then Wo
  norm: Literal['rms', 'layer']
  norm_order: Literal['pre', 'post']
  norm_epsilon: float
  use_bias: bool  # on every matmul of attention and mlp
  positions: Literal['relative', 'learned', 'sinusoidal', 'rotary', 'none']
  max_length: int  # rows of a learned position table; 0: no such table
  relative_buckets: int = 32
  relative_max_distance: int = 128
  rotary_base: float = 10_000.0
  num_token_types: int = 0  # BERT's segment embeddings
  scale_attention: bool  # divide scores by sqrt(head_dim); T5 folds it into its initialiser
  local_window: int = 0  # local layers see keys less than this far away; 0: every layer is global
  global_every: int = 1  # with local_window: layers 0, n, 2n, ... are global
  tie_embeddings: bool
  scale_tied_logits: bool = False  # T5 1.0: tied logits times d_model ** -0.5
  mlm_head: bool = False  # BERT: dense, activation, norm before the output, and an output bias
  embedding_norm: bool = False  # a norm on the embeddings (BERT)
  initializer: Literal['t5', 'bert', 'gpt2', 'scaled']
  dropout: float
  dtype: Literal['auto', 'float32', 'bfloat16'] = 'auto'  # of the matmuls; parameters are float32
  layers: Literal['auto', 'scan', 'unroll'] = 'auto'
  num_experts: int = 0  # of each sparse mlp (Mixture of Experts); 0: every mlp is dense
  experts_per_token: int = 1  # 1: Switch Transformers'; 2: GShard's
  expert_capacity: float = 1.25  # places of an expert / its even share of a row's choices
  moe_every: int = 2  # with num_experts: the last mlp of each so many layers is sparse
  remat: Literal['none', 'minimal', 'dots', 'offload', 'full'] = 'none'

  def __post_init__(self):
    sizes = ('vocab_size', 'num_layers', 'd_model', 'd_ff', 'num_heads', 'num_kv_heads', 'head_dim')
    errors.check_at_least('model', {name: getattr(self, name) for name in sizes}, 1)
    errors.check(
      self.num_heads % self.num_kv_heads == 0,
      'heads do not divide into key-value groups',
      f'model.num_heads={self.num_heads} model.num_kv_heads={self.num_kv_heads}',
      'make num_kv_heads a divisor of num_heads',
    )
    errors.check(
      (self.num_decoder_layers > 0) == (self.architecture == 'encoder_decoder'),
      'wrong decoder depth',
      f'model.num_decoder_layers={self.num_decoder_layers} for {self.architecture}',
      'set it for an encoder_decoder, leave it 0 for one stack',
    )
    errors.check(
      (self.max_length > 0) == (self.positions == 'learned'),
      'wrong position table',
      f'model.max_length={self.max_length} with positions={self.positions!r}',
      'set max_length for learned positions, leave it 0 for the others',
    )
    errors.check(
      self.positions != 'rotary' or self.head_dim % 2 == 0,
      'odd head size for rotary positions',
      f'model.head_dim={self.head_dim}',
      'use an even head_dim',
    )
    errors.check(
      0 <= self.dropout < 1,
      'not a dropout rate',
      f'model.dropout={self.dropout}',
      'use 0 <= dropout < 1',
    )
    errors.check(
      self.positions != 'sinusoidal' or self.d_model % 2 == 0,
      'odd width for sinusoidal positions',
      f'model.d_model={self.d_model}',
      'use an even d_model',
    )
    errors.check_at_least('model', {'global_every': self.global_every}, 1)
    self._check_experts()

  def _check_experts(self) -> None:
    errors.check_at_least('model', {'num_experts': self.num_experts}, 0)
    sizes = {'experts_per_token': self.experts_per_token, 'moe_every': self.moe_every}
    errors.check_at_least('model', sizes, 1)
    errors.check(
      self.expert_capacity > 0,
      'not a capacity factor',
      f'model.expert_capacity={self.expert_capacity}',
      'use a number above 0, e.g. 1.25',
    )
    if not self.num_experts:
      return
    errors.check(
      self.experts_per_token <= self.num_experts,
      'more experts for a token than there are',
      f'model.experts_per_token={self.experts_per_token} model.num_experts={self.num_experts}',
      f'use experts_per_token <= {self.num_experts}',
    )
    depths = {'num_layers': self.num_layers, 'num_decoder_layers': self.num_decoder_layers}
    for name, depth in depths.items():
      errors.check(
        depth % self.moe_every == 0,
        'layers do not divide into groups with a sparse one each',
        f'model.{name}={depth} model.moe_every={self.moe_every}',
        f'make moe_every a divisor of {depth}',
      )

  @property
  def num_sparse_layers(self) -> int:
    """Layers, of both stacks, whose mlp is a mixture of experts."""
    depth = self.num_layers + self.num_decoder_layers
    return depth // self.moe_every if self.num_experts else 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
  """What the model is trained to predict."""

  name: ObjectiveName
  noise_density: float = 0.15  # share of the tokens that is masked (span_corruption, mlm)
  mean_span_length: float = 3.0  # span_corruption
  whole_word: bool = False  # mlm: the pieces of a word are masked together

  def __post_init__(self):
    errors.check(
      0 < self.noise_density < 1,
      'not a share',
      f'objective.noise_density={self.noise_density}',
      'use a number between 0 and 1',
    )
    errors.check_at_least('objective', {'mean_span_length': self.mean_span_length}, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
  """Where text comes from and how it becomes batches."""

  source: str | tuple[tuple[str, float] | tuple[str, float, float], ...] = 'corpus'
  # one source, or a mixture of (source, weight) or (source, weight, most epochs)
  temperature: float | None = (
    None  # rates ~ (weight * examples) ** (1 / temperature); None: ~ weight
  )
  tokenizer: str = 'corpus'  # the one that ships, or the path of a sentencepiece model
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

  def __post_init__(self):
    errors.check_at_least('eval', {'every': self.every}, 0)
    errors.check_at_least('eval', {'batches': self.batches}, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
  """When to save and what to keep. The last step is always saved."""

  every: int = 1000  # steps; 0: only at the end
  keep_last: int = 2
  keep_every: int = 0  # steps; checkpoints at its multiples stay for ever; 0: none

  def __post_init__(self):
    errors.check_at_least('checkpoint', {'every': self.every, 'keep_every': self.keep_every}, 0)
    errors.check_at_least('checkpoint', {'keep_last': self.keep_last}, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """One run."""

  model: Model
  objective: Objective
  data: Data
  optim: Optim
  train: Train
  parallel: Parallel = Parallel()
  eval: Eval = Eval()
  checkpoint: Checkpoint = Checkpoint()
  init_from: str = ''  # a workdir whose newest checkpoint gives the first parameters

  def __post_init__(self):
    names = OBJECTIVES_OF[self.model.architecture]
    errors.check(
      self.objective.name in names,
      'objective does not fit the architecture',
      f'objective.name={self.objective.name!r} with {self.model.architecture}',
      f'use one of {", ".join(names)}',
    )
    data = self.data
    errors.check(
      (data.target_length > 0) == (self.model.architecture == 'encoder_decoder'),
      'wrong target length',
      f'data.target_length={data.target_length} for {self.model.architecture}',
      'set it for an encoder_decoder, leave it 0 for one stack',
    )
    longest = max(data.input_length, data.target_length)
    errors.check(
      self.model.positions != 'learned' or longest <= self.model.max_length,
      'sequence longer than the position table',
      f'{longest} tokens with model.max_length={self.model.max_length}',
      'shorten the data or enlarge the table',
    )
    optim, steps = self.optim, self.train.steps
    errors.check(
      optim.schedule != 'wsd' or not steps or optim.warmup_steps + optim.decay_steps <= steps,
      'wsd does not fit into the run',
      f'optim.warmup_steps={optim.warmup_steps} optim.decay_steps={optim.decay_steps} of {steps}',
      'shorten them or set a larger train.steps',
    )
    errors.check(
      data.batch_size % self.train.microbatches == 0,
      'batch does not divide into microbatches',
      f'data.batch_size={data.batch_size} train.microbatches={self.train.microbatches}',
      f'use a multiple of {self.train.microbatches}',
    )


def resolve(model: Model, backend: str) -> Model:
  """Returns the model with 'auto' settled: float32, unrolled on 'cpu'; else bfloat16, scanned."""
  cpu = backend == 'cpu'
  dtype = ('float32' if cpu else 'bfloat16') if model.dtype == 'auto' else model.dtype
  layers = ('unroll' if cpu else 'scan') if model.layers == 'auto' else model.layers
  return dataclasses.replace(model, dtype=dtype, layers=layers)


def load(path: str | pathlib.Path, overrides: Iterable[str] = ()) -> Config:
  """Returns the config of a Python file with get_config(), or of a config.json, with overrides.

  Args:
    path: `configs/x.py` or `WORKDIR/config.json`.
    overrides: `section.field=value`, later ones win.

  Raises:
    ConfigError: no such file, no get_config(), an unknown key, a value of wrong type or range.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    near = difflib.get_close_matches(
      path.name, [p.name for p in path.parent.glob(f'*{path.suffix}')], n=1
    )
    remedy = f'did you mean {path.parent / near[0]}?' if near else 'give the path of a config file'
    raise errors.ConfigError('no such config file', path, remedy)
  if path.suffix == '.json':
    tree = _read_json(path)
  else:
    tree = to_dict(_run_python(path))
  for override in overrides:
    tree = strict.override(Config, tree, override)
  return strict.from_dict(Config, tree)


def to_dict(config: Any) -> dict[str, Any]:
  """Returns the config as nested dicts of plain values, ready for JSON."""
  return dataclasses.asdict(config)


def save(config: Config, path: str | pathlib.Path) -> None:
  """Writes the config as JSON; `load` gives it back equal."""
  pathlib.Path(path).write_text(json.dumps(to_dict(config), indent=2) + '\n')


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise errors.ConfigError(
      'not JSON', f'{path} ({error})', 'restore the file that the run wrote'
    ) from error


def _run_python(path: pathlib.Path) -> Config:
  try:
    names = runpy.run_path(str(path))
    errors.check(
      'get_config' in names,
      'no get_config() in the config file',
      path,
      'define get_config() -> Config',
    )
    config = names['get_config']()
  except errors.UserError:
    raise
  except Exception as error:
    # Whatever a config file raises is for its author to mend.
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else [1, *lines][-1]
    where = f'{path}:{line} ({type(error).__name__}: {error})'
    raise errors.ConfigError('config file fails', where, 'mend that line') from error
  errors.check(
    isinstance(config, Config),
    'get_config() does not return a Config',
    f'{path} gives {type(config).__name__}',
    'return t5lite.config.Config(...)',
  )
  return config
