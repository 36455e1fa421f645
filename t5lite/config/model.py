"""The network's section of a config."""

import dataclasses
from typing import Literal

from t5lite import errors

Architecture = Literal['encoder_decoder', 'decoder', 'encoder']


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
  use_bias: bool  # on every matmul of attention and mlp, and on layer norms
  positions: Literal['relative', 'learned', 'sinusoidal', 'rotary', 'none']
  # Rows of a learned position table; of rotary positions 0, or the longest text that the model is
  # for, where that is more than data.input_length (an import says so); of others 0.
  max_length: int
  relative_buckets: int = 32
  relative_max_distance: int = 128
  relative_per_layer: bool = False  # a bias for each layer (umT5), not one for the stack
  rotary_base: float = 10_000.0
  local_rotary_base: float | None = None  # of local layers; None: the same
  num_token_types: int = 0  # BERT's segment embeddings
  scale_attention: bool  # divide scores by sqrt(head_dim); T5 folds it into its initialiser
  local_window: int = 0  # local layers see keys less than this far away; 0: every layer is global
  global_every: int = 1  # with local_window: layers 0, n, 2n, ... are global
  tie_embeddings: bool
  scale_tied_logits: bool = False  # T5 1.0: tied logits times d_model ** -0.5
  mlm_head: bool = False  # BERT: dense, activation, norm before the output, and an output bias
  # Of an encoder: outputs of its head for tasks, in place of the vocabulary's; 0: none.
  num_labels: int = 0
  # With num_labels: the first token's are the text's, behind dense and tanh (BERT) or, with
  # norm_order 'pre' and mlm_head, its layers, which the labels of words have, too (ModernBERT).
  pooler: bool = False
  spans: bool = False  # with num_labels=2: they say where a span begins, and where it ends
  # Of adapters beside the matrices of attention and mlp (Hu et al. 2021); 0: none.
  lora_rank: int = 0
  # A norm on the embeddings (BERT); with norm_order 'pre' the first layer's attention has none of
  # its own (ModernBERT).
  embedding_norm: bool = False
  initializer: Literal['t5', 'bert', 'gpt2', 'scaled']
  init_scale: float = (
    1.0  # of the variance of initial kernels (Fedus et al. 2022, section 2.4: 0.1)
  )
  dropout: float
  dtype: Literal['auto', 'float32', 'bfloat16'] = 'auto'  # of the matmuls; parameters are float32
  layers: Literal['auto', 'scan', 'unroll'] = 'auto'
  num_experts: int = 0  # of each sparse mlp (Mixture of Experts); 0: every mlp is dense
  experts_per_token: int = 1  # 1: Switch Transformers'; 2: GShard's
  expert_capacity: float = 1.25  # places of an expert / its even share of a row's choices
  eval_expert_capacity: float | None = None  # in evaluation; None: the same
  router_jitter: float = 0.0  # training: the router's input times uniform(1 - this, 1 + this)
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
    fits = {'learned': self.max_length > 0, 'rotary': self.max_length >= 0}
    errors.check(
      fits.get(self.positions, self.max_length == 0),
      'wrong position table',
      f'model.max_length={self.max_length} with positions={self.positions!r}',
      'set max_length for learned positions, leave it 0 for the others (rotary ones may say it)',
    )
    errors.check(
      not self.relative_per_layer or self.positions == 'relative',
      'bias without relative positions',
      f'model.relative_per_layer=True with positions={self.positions!r}',
      "use positions='relative'",
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
    errors.check(
      self.init_scale > 0,
      'not a scale',
      f'model.init_scale={self.init_scale}',
      'use a number above 0',
    )
    errors.check_at_least('model', {'global_every': self.global_every}, 1)
    errors.check_at_least('model', {'local_window': self.local_window}, 0)
    errors.check(
      self.num_labels >= 0 and (not self.num_labels or self.architecture == 'encoder'),
      'not a head for tasks',
      f'model.num_labels={self.num_labels} of an {self.architecture}',
      'use 0: an encoder has labels, the others answer in text',
    )
    errors.check(
      not self.spans or (self.num_labels == 2 and not self.pooler),
      'not a head for spans',
      f'model.spans=True model.num_labels={self.num_labels} model.pooler={self.pooler}',
      'use model.num_labels=2 model.pooler=False',
    )
    errors.check_at_least('model', {'lora_rank': self.lora_rank}, 0)
    self._check_experts()

  def _check_experts(self) -> None:
    errors.check_at_least('model', {'num_experts': self.num_experts}, 0)
    sizes = {'experts_per_token': self.experts_per_token, 'moe_every': self.moe_every}
    errors.check_at_least('model', sizes, 1)
    for name in ('expert_capacity', 'eval_expert_capacity'):
      value = getattr(self, name)
      errors.check(
        value is None or value > 0,
        'not a capacity factor',
        f'model.{name}={value}',
        'use a number above 0, e.g. 1.25',
      )
    errors.check(
      0 <= self.router_jitter < 1,
      'not a share',
      f'model.router_jitter={self.router_jitter}',
      'use 0 <= router_jitter < 1',
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
  def num_outputs(self) -> int:
    """What the output layer gives for a token: a number for each label, or for the vocabulary's."""
    return self.num_labels or self.vocab_size

  @property
  def has_mlm_layers(self) -> bool:
    """Whether dense, activation and norm stand before the output: for labels, ModernBERT's do."""
    return self.mlm_head and (not self.num_labels or self.norm_order == 'pre')

  @property
  def num_sparse_layers(self) -> int:
    """Layers, of both stacks, whose mlp is a mixture of experts."""
    depth = self.num_layers + self.num_decoder_layers
    return depth // self.moe_every if self.num_experts else 0


def resolve(model: Model, backend: str) -> Model:
  """Returns the model with 'auto' settled: float32, unrolled on 'cpu'; else bfloat16, scanned."""
  cpu = backend == 'cpu'
  dtype = ('float32' if cpu else 'bfloat16') if model.dtype == 'auto' else model.dtype
  layers = ('unroll' if cpu else 'scan') if model.layers == 'auto' else model.layers
  return dataclasses.replace(model, dtype=dtype, layers=layers)
