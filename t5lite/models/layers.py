"""The small parts of a Transformer: linear maps, norms, embeddings, dropout and the mlp.

Letters of shapes and einsums, here and in the other files of `models`:
B batch, T query length, S key length, D model, N heads, K key-value heads, G heads a key-value
head, H head size, J all heads one behind another (N H or K H), F mlp, V vocabulary, P positions or
buckets, L layers, R rank of adapters. Of experts (moe.py): X experts, A rows of tokens at an
expert, W the model's width.
Parameters are float32; matmuls run in `config.Model.dtype`, norms and softmax in float32.
"""

from collections.abc import Sequence
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from t5lite import config
from t5lite import hashing
from t5lite import sharding

Key = jax.Array | None  # a PRNG key; None: deterministic, no dropout
LORA_SCALE = 2.0  # of adapters: alpha / rank (Hu et al. 2021, section 4.1)


def stddev(model: config.Model, role: str, fan_in: int) -> float:
  """Returns the standard deviation from which a weight is drawn.

  t5: Mesh TensorFlow's T5, whose queries take up the 1 / sqrt(H) of attention. bert: 0.02. gpt2:
  0.02, positions 0.01, and projections back into the residual stream over sqrt(2 L) (Radford et
  al. 2019, section 2.3). scaled: 1 / sqrt(fan in), with the same residual rule.

  Args:
    model: says which scheme.
    role: 'embedding', 'position', 'query', 'residual' (back into the residual stream), 'other'.
    fan_in: number of inputs that are summed.
  """
  depth = math.sqrt(2 * max(model.num_layers, model.num_decoder_layers))
  match model.initializer, role:
    case 't5', 'embedding':
      return 1.0
    case 't5', 'query':
      return (fan_in * model.head_dim) ** -0.5
    case 'bert', _:
      return 0.02
    case 'gpt2', 'position':
      return 0.01
    case 'gpt2', 'residual':
      return 0.02 / depth
    case 'gpt2', _:
      return 0.02
    case 'scaled', 'residual':
      return fan_in**-0.5 / depth
    case _:
      return fan_in**-0.5


def weight(key: jax.Array, letters: str, shape: tuple[int, ...], scale: float) -> nnx.Param:
  """Returns a float32 parameter drawn from N(0, scale ** 2), sharded by its letters."""
  out_sharding = sharding.parameter_spec(letters)
  return nnx.Param(scale * jax.random.normal(key, shape, jnp.float32, out_sharding=out_sharding))


def constant(value: float, letters: str, shape: tuple[int, ...]) -> nnx.Param:
  """Returns a float32 parameter filled with `value`: norms and biases, sharded by their letters."""
  return nnx.Param(
    jnp.full(shape, value, jnp.float32, out_sharding=sharding.parameter_spec(letters))
  )


def dropout(x: jax.Array, rate: float, key: Key, numbers_A: jax.Array | None = None) -> jax.Array:
  """Returns x with a share `rate` of its elements zeroed, the rest scaled up; x without a key."""
  if key is None or rate == 0:
    return x
  return jnp.where(kept(random_bits(key, x, numbers_A), rate), x / (1 - rate), 0)


def kept(bits: jax.Array, rate: float) -> jax.Array:
  """Returns which elements dropout leaves, all but a share `rate`, from uniform uint32."""
  return bits >= jnp.uint32(rate * 2**32)


def random_bits(key: jax.Array, x: jax.Array, numbers_A: jax.Array | None = None) -> jax.Array:
  """Returns a random uint32 for each element of x, the same on every mesh.

  Args:
    key: randomness.
    x: gives shape and sharding.
    numbers_A: what the rows of x [X, A, F] are called on every mesh, where their order differs.
  """
  spec = jax.typeof(x).sharding
  index = [
    jax.lax.broadcasted_iota(jnp.uint32, x.shape, d, out_sharding=spec) for d in range(x.ndim)
  ]
  if numbers_A is not None:
    index[1] = jnp.zeros_like(index[1]) + like(numbers_A[None, :, None], x)
  return hashed(seeds(key), index, x.shape)


def seeds(key: jax.Array) -> jax.Array:
  """Returns the two uint32 of a key that `hashed` takes."""
  return jax.random.bits(key, (2,), jnp.uint32)


def hashed(seeds: jax.Array, index: Sequence[jax.Array], shape: tuple[int, ...]) -> jax.Array:
  """Returns a random uint32 for each element of an array of `shape` that `index` names.

  A hash of the seeds and the element's index, each part through MurmurHash3's finaliser.
  A mask needs no more, and jax.random's Threefry costs a CPU 10 ns an element and, in a
  whole model, seconds to compile.

  Args:
    seeds: two uint32.
    index: uint32, along each dimension; they broadcast together.
    shape: of the whole array, of which `index` may name a part.
  """
  inner = jnp.zeros_like(index[0])
  for size, one in zip(shape[1:], index[1:], strict=True):
    inner = inner * size + one
  return hashing.mix(hashing.mix(inner ^ seeds[0]) ^ index[0] ^ seeds[1])


def split(key: Key, num: int) -> list[Key]:
  """Returns `num` keys, all None for None."""
  return [None] * num if key is None else list(jax.random.split(key, num))


class Linear(nnx.Module):
  """A product with a kernel, and optional bias: Linear(model, 'BTD,DF->BTF', (d, f), key).

  With a rank, there is an adapter beside it: 2 x A B, where B begins at 0 (Hu et al. 2021,
  equation 3, with alpha twice the rank).
  """

  def __init__(
    self,
    model: config.Model,
    equation: str,
    shape: tuple[int, ...],
    key: jax.Array,
    *,
    role: str = 'other',
    use_bias: bool | None = None,
    rank: int = 0,
  ):
    inputs, _, outputs = equation.partition('->')
    letters = inputs.split(',')[1]
    fan_in = math.prod(n for n, letter in zip(shape, letters, strict=True) if letter not in outputs)
    self.equation = equation
    self.dtype = model.dtype
    scale = math.sqrt(model.init_scale) * stddev(model, role, fan_in)
    self.kernel = weight(key, letters, shape, scale)
    if model.use_bias if use_bias is None else use_bias:
      kept = [(n, letter) for n, letter in zip(shape, letters, strict=True) if letter in outputs]
      self.bias = constant(0.0, ''.join(letter for _, letter in kept), tuple(n for n, _ in kept))
    else:
      self.bias = None
    if rank:
      last_key = jax.random.fold_in(key, 1)
      self.lora_a = weight(last_key, f'{letters[0]}R', (shape[0], rank), shape[0] ** -0.5)
      self.lora_b = constant(0.0, f'R{letters[1]}', (rank, shape[1]))
    else:
      self.lora_a = self.lora_b = None

  def __call__(self, x: jax.Array) -> jax.Array:
    y = sharding.project(x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.equation)
    if self.lora_a is not None:
      y = y + LORA_SCALE * self._adapted(x)
    return y if self.bias is None else add_bias(y, self.bias[...].astype(self.dtype))

  def _adapted(self, x: jax.Array) -> jax.Array:
    assert self.lora_a is not None and self.lora_b is not None
    left, _, outputs = self.equation.partition('->')
    rows, letters = left.split(',')
    for kernel, equation in (
      (self.lora_a, f'{rows},{letters[0]}R->{rows[:-1]}R'),
      (self.lora_b, f'{rows[:-1]}R,R{letters[1]}->{outputs}'),
    ):
      x = sharding.project(x.astype(self.dtype), kernel[...].astype(self.dtype), equation)
    return x


def merged(params: Any) -> Any:
  """Returns parameters with the adapters added to the kernels that they stand beside."""
  if not isinstance(params, dict):
    return params
  made = {name: merged(part) for name, part in params.items()}
  a, b = made.pop('lora_a', None), made.pop('lora_b', None)
  if a is not None:
    spec = jax.typeof(made['kernel']).sharding.spec
    spec = None if jax.sharding.get_abstract_mesh().empty else spec
    made['kernel'] += LORA_SCALE * jnp.einsum('...dr,...rf->...df', a, b, out_sharding=spec)
  return made


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
  """Returns x + bias over the last dimensions of x, without leaving the sharding of x."""
  bias = bias.reshape((1,) * (x.ndim - bias.ndim) + bias.shape)
  return x + like(bias, x)


def like(x: jax.Array, activation: jax.Array) -> jax.Array:
  """Returns x, of as many dimensions as `activation`, resharded so that both broadcast together."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  axes = jax.typeof(activation).sharding.spec
  spec = [None if n == 1 else axis for n, axis in zip(x.shape, axes, strict=True)]
  return jax.sharding.reshard(x, jax.sharding.PartitionSpec(*spec))


class Norm(nnx.Module):
  """RMSNorm (Zhang & Sennrich 2019, equation 4) or LayerNorm (Ba et al. 2016), in float32."""

  def __init__(self, model: config.Model):
    self.centered = model.norm == 'layer'
    self.epsilon = model.norm_epsilon
    self.scale = constant(1.0, 'D', (model.d_model,))
    self.bias = constant(0.0, 'D', (model.d_model,)) if self.centered and model.use_bias else None

  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    x = x_BTD.astype(jnp.float32)
    if self.centered:
      x = x - jnp.mean(x, axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
    x = x * like(self.scale[...][None, None], x)
    if self.bias is not None:
      x = add_bias(x, self.bias[...])
    return x.astype(x_BTD.dtype)


class Embed(nnx.Module):
  """A table of vectors [rows, D]."""

  def __init__(self, model: config.Model, letter: str, rows: int, key: jax.Array, role: str):
    self.letter = letter
    self.dtype = model.dtype
    scale = stddev(model, role, model.d_model)
    self.embedding = weight(key, f'{letter}D', (rows, model.d_model), scale)

  def __call__(self, ids_BxT: jax.Array) -> jax.Array:
    return sharding.look_up(self.embedding[...], ids_BxT, self.letter).astype(self.dtype)


def activate(model: config.Model, x: jax.Array) -> jax.Array:
  """Returns the model's activation function of x."""
  match model.activation:
    case 'relu':
      return jax.nn.relu(x)
    case 'silu':
      return jax.nn.silu(x)
    case 'gelu':
      # jax.nn's takes erfc, exact in the far tail at twice the cost on a CPU.
      return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))
    case 'gelu_tanh':
      return jax.nn.gelu(x, approximate=True)


class Mlp(nnx.Module):
  """Wo act(Wi x), or Wo (act(Wg x) * Wi x) if gated (Shazeer 2020, equation 6)."""

  def __init__(self, model: config.Model, rngs: nnx.Rngs):
    self.model = model
    shape = (model.d_model, model.d_ff)
    self.input = Linear(model, 'BTD,DF->BTF', shape, rngs(), rank=model.lora_rank)
    self.gate = (
      Linear(model, 'BTD,DF->BTF', shape, rngs(), rank=model.lora_rank) if model.gated else None
    )
    self.output = Linear(
      model, 'BTF,FD->BTD', shape[::-1], rngs(), role='residual', rank=model.lora_rank
    )

  def __call__(
    self, x_BTD: jax.Array, key: Key = None, numbers_A: jax.Array | None = None
  ) -> jax.Array:
    x_BTF = self.input(x_BTD)
    if self.gate is None:
      x_BTF = activate(self.model, x_BTF)
    else:
      x_BTF = activate(self.model, self.gate(x_BTD)) * x_BTF
    # T5 drops hidden units too; BERT and GPT-2 have no dropout here.
    rate = self.model.dropout if self.model.initializer == 't5' else 0.0
    return self.output(dropout(x_BTF, rate, key, numbers_A))
