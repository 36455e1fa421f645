"""Small models of every family with random parameters, examples for them, and batches of these.

Shared by the tests of the models and of decoding. Sizes differ pairwise, so that no transposed
matrix passes. An example is a dict of seqio features without a batch dimension or padding.
"""

import dataclasses

import jax
import numpy as np

import reference
from t5lite import models
from t5lite import presets
from t5lite.config import Model

SIZES = dict(vocab_size=29, num_layers=2, d_model=14, d_ff=23, num_heads=3, head_dim=5)
GROUPED = SIZES | dict(num_layers=3, num_heads=6, num_kv_heads=2, head_dim=8)


def odd(model: Model, **changes) -> Model:
  """Returns the family at odd sizes, without dropout and scanned, which compiles sooner."""
  sizes = dict(d_model=14, d_ff=23, num_heads=3, num_kv_heads=3, head_dim=5)
  return dataclasses.replace(model, **(sizes | dict(dropout=0.0, layers='scan') | changes))


BERT = presets.bert(vocab_size=29, num_layers=2, d_model=64, max_length=11)
GPT2 = presets.gpt2(vocab_size=29, num_layers=2, d_model=14, num_heads=1, max_length=11)
DECODER = presets.modern(architecture='decoder', **GROUPED)
ENCODER = presets.modern(architecture='encoder', **GROUPED)
VASWANI = dataclasses.replace(
  presets.t5_1_0(**SIZES),
  positions='sinusoidal',
  norm='layer',
  norm_order='post',
  use_bias=True,
  scale_attention=True,
  scale_tied_logits=False,
)
HEADS = dict(num_heads=6, num_kv_heads=2, head_dim=8)
BUCKETS = dict(relative_buckets=10, relative_max_distance=8)  # short texts reach the wide ones
LOCAL = dict(local_window=3, global_every=2)

MODELS = {
  't5_1_0': odd(presets.t5_1_0(**SIZES), num_decoder_layers=4, **BUCKETS),
  't5_1_1': odd(presets.t5_1_1(**SIZES), num_decoder_layers=4, **BUCKETS),
  'bert': odd(BERT),
  'gpt2': odd(GPT2),
  'modern_decoder': odd(DECODER, **HEADS, **LOCAL),
  'modern_encoder': odd(ENCODER, **HEADS, **LOCAL),
  'vaswani': odd(VASWANI, num_decoder_layers=4),
  'no_positions': odd(DECODER, **HEADS, positions='none'),
}


def reference_logits(name: str, params, example) -> np.ndarray:
  """Returns the float64 logits [T, V] of one example."""
  inputs = example.get('encoder_input_tokens')
  targets = example.get('decoder_input_tokens')
  params = by_head(params, MODELS[name].head_dim)
  match name:
    case 't5_1_0':
      return reference.t5(params, inputs, targets, gated=False, tied=True, max_distance=8)
    case 't5_1_1':
      return reference.t5(params, inputs, targets, gated=True, tied=False, max_distance=8)
    case 'bert':
      return reference.bert(params, inputs, example['encoder_token_types'])
    case 'gpt2':
      return reference.gpt2(params, targets, prefix_of(example))
    case 'modern_decoder':
      return reference.modern_decoder(
        params, targets, window=3, global_every=2, prefix=prefix_of(example)
      )
    case 'modern_encoder':
      return reference.modern_encoder(params, inputs, window=3, global_every=2)
    case 'vaswani':
      return reference.vaswani(params, inputs, targets)
    case 'no_positions':
      return reference.modern_decoder(
        params, targets, window=99, global_every=1, rotated=False, prefix=prefix_of(example)
      )
  raise AssertionError(name)


def by_head(params, head_dim: int):
  """Returns params with attention's kernels cut into heads [L, D, N, H], outputs [L, N, H, D]."""

  def cut(path, x):
    *_, module, part, kind = '', '', *(key.key for key in path)
    if module not in ('attention', 'cross_attention'):
      return x
    if part == 'output':
      return x.reshape(len(x), -1, head_dim, x.shape[-1]) if kind == 'kernel' else x
    return x.reshape(*x.shape[:-1], -1, head_dim)

  return jax.tree.map_with_path(cut, params)


def prefix_of(example) -> int:
  return int(example['decoder_causal_attention'].sum())


def random_params(model: Model, seed: int = 0):
  """Returns float64 parameters, none at its initial value: norms and biases too."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))

  def draw(path, leaf):
    mean, deviation = (1, 0.3) if path[-1].key == 'scale' else (0, 0.3)
    values = mean + deviation * rng.normal(size=leaf.shape)
    return values.astype(np.float32).astype(np.float64)  # both precisions start from the same

  return jax.tree.map_with_path(draw, shapes)


def flat(tree) -> np.ndarray:
  """Returns all numbers of a tree of arrays as one vector."""
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def example(model: Model, inputs: int, targets: int, seed: int) -> dict[str, np.ndarray]:
  """Returns a random example; a decoder alone sees the first `inputs` tokens from everywhere."""
  rng = np.random.default_rng(seed)
  first, second = (rng.integers(1, model.vocab_size, n) for n in (inputs, targets))
  match model.architecture:
    case 'encoder_decoder':
      return {'encoder_input_tokens': first, 'decoder_input_tokens': second}
    case 'decoder':
      seen = (np.arange(targets) < inputs).astype(int)
      return {'decoder_input_tokens': second, 'decoder_causal_attention': seen}
    case 'encoder':
      types = rng.integers(0, 2, inputs)
      return {'encoder_input_tokens': first, 'encoder_token_types': types}


def batch_of(rows, lengths: dict[str, int], *, packed: bool) -> dict[str, np.ndarray]:
  """Returns rows of examples, one after another, as a batch padded to each side's length.

  Args:
    rows: examples of each row; without `packed`, one each.
    lengths: of 'encoder' and 'decoder' features.
    packed: with segment ids and positions.
  """
  batch = {}
  for name in rows[0][0]:
    side = name.split('_')[0]
    names = [name] + packed * [f'{side}_segment_ids', f'{side}_positions']
    for b, row in enumerate(rows):
      at = 0
      for segment, one in enumerate(row, start=1):
        values = [one[name], segment, np.arange(len(one[name]))]
        for key, value in zip(names, values, strict=False):
          array = batch.setdefault(key, np.zeros((len(rows), lengths[side]), np.int32))
          array[b, at : at + len(one[name])] = value
        at += len(one[name])
  return batch


def pieces(model: Model, rows, logits_BTV):
  """Yields (example, its logits) of a batch that `batch_of` made of `rows`."""
  side = 'encoder' if model.architecture == 'encoder' else 'decoder'
  for b, row in enumerate(rows):
    at = 0
    for one in row:
      length = len(one[f'{side}_input_tokens'])
      yield one, np.asarray(logits_BTV[b, at : at + length])
      at += length
