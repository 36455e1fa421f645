"""Checkpoints of T5X (Roberts et al. 2022): a msgpack file with the tree, zarr arrays beside it.

The tree has small arrays itself and, for others, a note, of which only its place counts: what is
`target/encoder/encoder_norm/scale` in it lies in `target.encoder.encoder_norm.scale`. Read are the
parameters, `target`. T5X keeps its model in gin files: here the shapes say what it is.

T5X's scalable T5, which umT5 is, scans its layers: an array has all of them along its second
dimension, in a folder `target.encoder.layers.` or, in released ones, `target.encoder.encoder.`.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import math
import pathlib
import re
from typing import Any, NamedTuple

import ml_dtypes
import msgpack
import numpy as np
import tensorstore as ts

from t5lite import config as config_lib
from t5lite import errors
from t5lite import presets
from t5lite.interop import family as family_lib
from t5lite.interop import t5
from t5lite.interop import tables

TREE, ARRAYS = 'checkpoint', 'target.'
SCANNED = re.compile(r'target\.(encoder|decoder)\.(?:\1|layers)\.(.+)')
BIAS = 'relpos_bias.rel_embedding'
MOST_LAYERS = 1000  # more are no layers, and a shape that lies would name them for ever
CHUNKS = 2**30  # bytes: a chunk with all layers is kept until the last of them is read
ARRAY = 1  # flax's msgpack extension type: (shape, dtype, bytes)
FLOATS = {'float32': np.float32, 'bfloat16': ml_dtypes.bfloat16, 'float16': np.float16}


def is_t5x(folder: pathlib.Path) -> bool:
  """Returns whether a folder looks like a checkpoint of T5X."""
  return (folder / TREE).is_file() and any(folder.glob(f'{ARRAYS}*'))


# Our attention of a stack: its name, and that of the norm before it.
ATTENTION = {
  'encoder': {'attention': ('attention', 'pre_attention_layer_norm')},
  'decoder': {
    'attention': ('self_attention', 'pre_self_attention_layer_norm'),
    'cross_attention': ('encoder_decoder_attention', 'pre_cross_attention_layer_norm'),
  },
}
NORMS = {'attention': 'attention_norm', 'cross_attention': 'cross_norm'}
OF_ATTENTION = {'query': 'query', 'key': 'key', 'value': 'value', 'output': 'out'}


def entries(model: config_lib.Model) -> list[tables.Entry]:
  """Returns the arrays of a T5 of T5X: matrices as here, position biases transposed."""
  made = [tables.Entry(f'{ARRAYS}token_embedder.embedding', ('token_embed.embedding',))]
  mlp = {'gate': 'wi_0', 'input': 'wi_1'} if model.gated else {'input': 'wi'}
  for stack, attentions in ATTENTION.items():
    pairs = {f'mlp.{ours}.kernel': f'mlp.{theirs}.kernel' for ours, theirs in mlp.items()}
    pairs |= {'mlp.output.kernel': 'mlp.wo.kernel', 'mlp_norm.scale': 'pre_mlp_layer_norm.scale'}
    for ours, (theirs, norm) in attentions.items():
      pairs[f'{NORMS[ours]}.scale'] = f'{norm}.scale'
      for part, name in OF_ATTENTION.items():
        pairs[f'{ours}.{part}.kernel'] = f'{theirs}.{name}.kernel'
    made += [
      tables.Entry(f'{ARRAYS}{stack}.layers_{{}}.{theirs}', (f'{stack}.layers.{ours}',))
      for ours, theirs in pairs.items()
    ]
    number, of_layers = ('layers_{}.', 'layers.') if model.relative_per_layer else ('', '')
    bias = f'{ARRAYS}{stack}.{number}{BIAS}'
    made += [
      tables.Entry(bias, (f'{stack}.{of_layers}relative_bias.embedding',), transposed=True),
      tables.Entry(f'{ARRAYS}{stack}.{stack}_norm.scale', (f'{stack}.final_norm.scale',)),
    ]
  if not model.tie_embeddings:
    made.append(tables.Entry(f'{ARRAYS}decoder.logits_dense.kernel', ('lm_head.kernel',)))
  return made


def family(model: config_lib.Model) -> family_lib.Family:
  """Returns T5's family, or umT5's, with the names of T5X."""
  like = t5.UMT5 if model.relative_per_layer else t5.T5
  return dataclasses.replace(like, model_type='t5x', entries=entries, copies={}, buffers=())


class Place(NamedTuple):
  """Where an array lies."""

  own: str  # name of its folder
  layer: int | None  # of the folder's array along its second dimension; None: all of it


class Reader:
  """The parameters of a checkpoint, by the names that they have where layers are not scanned.

  Attributes:
    shapes: of each; of attention's, two dimensions, though scalable T5 has heads for themselves.

  Raises:
    CheckpointError: the tree or an array cannot be read.
  """

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._context = ts.Context({'cache_pool': {'total_bytes_limit': CHUNKS}})
    try:
      tree = msgpack.unpackb((folder / TREE).read_bytes(), ext_hook=_array, strict_map_key=False)
      target = tree.get('optimizer', tree)['target']
      leaves = dict(_leaves(target, ARRAYS.removesuffix('.')))
    except (ValueError, TypeError, LookupError, AttributeError, msgpack.UnpackException) as error:
      raise damaged(f'{folder / TREE} ({type(error).__name__}: {error})') from error
    self._stores = {k: x if isinstance(x, np.ndarray) else self._open(k) for k, x in leaves.items()}
    self._places, self.shapes = {}, {}
    for own, store in self._stores.items():
      for name, layer in _layers(own, tuple(store.shape)):
        self._places[name] = Place(own, layer)
        shape = store.shape if layer is None else (store.shape[0], *store.shape[2:])
        self.shapes[name] = _matrix(name, shape)

  def _open(self, name: str) -> ts.TensorStore:
    if pathlib.PurePath(name).name != name:
      raise damaged(f'{name!r} in {self._folder / TREE}, a name outside of the folder')
    path = f'{self._folder.absolute() / name}/'
    spec = {'driver': 'zarr', 'kvstore': {'driver': 'file', 'path': path}}
    try:
      return ts.open(spec, open=True, read=True, context=self._context).result()
    except (ValueError, OSError) as error:
      raise damaged(f'{path} ({str(error).splitlines()[0][:200]})') from error

  def check_float(self, name: str) -> None:
    """Raises CheckpointError unless the array is a float of 32 or 16 bits."""
    kind = self._stores[self._places[name].own].dtype.name
    if kind not in FLOATS:
      remedy = f'give weights of {", ".join(FLOATS)}'
      raise errors.CheckpointError('not a float of 32 or 16 bits', f'{name} is {kind}', remedy)

  def read(self, name: str) -> np.ndarray:
    """Returns an array in float32."""
    own, layer = self._places[name]
    x = self._stores[own]
    x = x if layer is None else x[:, layer]
    try:
      x = x if isinstance(x, np.ndarray) else x.read().result()
    except (ValueError, OSError) as error:
      raise damaged(f'{self._folder / own} ({str(error).splitlines()[0][:200]})') from error
    return x.astype(np.float32, copy=False).reshape(self.shapes[name])


def model_of(shapes: Mapping[str, tables.Shape], folder: pathlib.Path) -> config_lib.Model:
  """Returns the T5 that arrays of these shapes are of: 1.1 if gated, 1.0 if not.

  Raises:
    CheckpointError: they are of no such model.
  """
  depths = {stack: depth(shapes, stack) for stack in ATTENTION}
  first = f'{ARRAYS}encoder.layers_0.'
  gated = f'{first}mlp.wi_0.kernel' in shapes
  per_layer = f'{first}{BIAS}' in shapes
  try:
    heads, buckets = shapes[f'{first if per_layer else f"{ARRAYS}encoder."}{BIAS}']
    width, inner = shapes[f'{first}attention.query.kernel']
    make = presets.t5_1_1 if gated else presets.t5_1_0
    model = make(
      vocab_size=shapes[f'{ARRAYS}token_embedder.embedding'][0],
      num_layers=depths['encoder'],
      d_model=width,
      d_ff=shapes[f'{first}mlp.{"wi_0" if gated else "wi"}.kernel'][1],
      num_heads=heads,
      head_dim=inner // heads,
    )
  except (LookupError, ValueError) as error:
    raise errors.CheckpointError(
      'not a T5 of T5X',
      f'{folder} ({type(error).__name__}: {error})',
      'give a checkpoint of its minimal or its scalable T5',
    ) from error
  tied = f'{ARRAYS}decoder.logits_dense.kernel' not in shapes
  return dataclasses.replace(
    model,
    num_decoder_layers=depths['decoder'],
    relative_buckets=buckets,
    relative_per_layer=per_layer,
    tie_embeddings=tied,
    scale_tied_logits=tied,
  )


def depth(shapes: Mapping[str, tables.Shape], stack: str) -> int:
  """Returns the number of a stack's layers."""
  before = f'{ARRAYS}{stack}.layers_'
  return len({k.removeprefix(before).partition('.')[0] for k in shapes if k.startswith(before)})


def damaged(where: str) -> errors.CheckpointError:
  return errors.CheckpointError('damaged checkpoint of T5X', where, 'give a folder that T5X wrote')


def _leaves(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
  """Yields (name, array or note) of the leaves: a note is no dict, or a tensorstore spec."""
  if isinstance(tree, dict) and 'driver' not in tree:
    for key, part in tree.items():
      yield from _leaves(part, f'{name}.{key}')
  else:
    yield name, tree


def _layers(own: str, shape: tables.Shape) -> Iterator[tuple[str, int | None]]:
  """Yields (name, layer) of what an array holds; scalable T5 has another name for its biases."""
  scanned = SCANNED.fullmatch(own)
  if scanned and len(shape) > 1 and shape[1] <= MOST_LAYERS:
    stack, rest = scanned.groups()
    rest = rest.replace('relative_posemb.', 'relpos_bias.')
    yield from ((f'{ARRAYS}{stack}.layers_{i}.{rest}', i) for i in range(shape[1]))
  else:
    yield own, None


def _matrix(name: str, shape: tables.Shape) -> tables.Shape:
  """Returns the shape of a matrix of attention with its heads in one dimension with their sizes."""
  if len(shape) != 3:
    return shape
  first = 2 if name.endswith('.out.kernel') else 1
  return math.prod(shape[:first]), math.prod(shape[first:])


def _array(code: int, data: bytes) -> Any:
  if code != ARRAY:
    return msgpack.ExtType(code, data)
  shape, dtype, content = msgpack.unpackb(data)
  kind = FLOATS.get(dtype, dtype)
  return np.frombuffer(content, np.dtype(kind)).reshape(shape)
