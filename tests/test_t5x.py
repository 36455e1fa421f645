"""Checkpoints in T5X's layout, written here as T5X writes them, come in bit for bit."""

import dataclasses
import pathlib
import re

from flax import serialization
import jax
import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts

import interop_cases
from t5lite import config as config_lib
from t5lite import errors
from t5lite import initial
from t5lite import interop
from t5lite import main

# In shapes there is no distance at which the buckets end: T5's is 128.
MODELS = {
  name: dataclasses.replace(interop_cases.MODELS[name], relative_max_distance=128)
  for name in ('t5_1_0', 't5_1_1', 'umt5')
}


def target_of(params, model) -> dict:
  """Returns the tree that T5X has for our parameters, by hand."""
  tree = {'token_embedder': params['token_embed']}
  for stack in ('encoder', 'decoder'):
    ours = params[stack]
    side = {f'{stack}_norm': ours['final_norm']}
    if not model.relative_per_layer:
      side['relpos_bias'] = {'rel_embedding': ours['relative_bias']['embedding'].T}
    depth = model.num_layers if stack == 'encoder' else model.num_decoder_layers
    for i in range(depth):
      layer = jax.tree.map(lambda x, i=i: x[i], ours['layers'])
      prefix = 'self_' if stack == 'decoder' else ''
      made = {
        f'{prefix}attention': attention_of(layer['attention']),
        f'pre_{prefix}attention_layer_norm': layer['attention_norm'],
        'pre_mlp_layer_norm': layer['mlp_norm'],
      }
      if stack == 'decoder':
        made['encoder_decoder_attention'] = attention_of(layer['cross_attention'])
        made['pre_cross_attention_layer_norm'] = layer['cross_norm']
      if model.relative_per_layer:
        made['relpos_bias'] = {'rel_embedding': layer['relative_bias']['embedding'].T}
      mlp = layer['mlp']
      inputs = {'wi_0': mlp['gate'], 'wi_1': mlp['input']} if model.gated else {'wi': mlp['input']}
      side[f'layers_{i}'] = {**made, 'mlp': {**inputs, 'wo': mlp['output']}}
    tree[stack] = side
  if not model.tie_embeddings:
    tree['decoder']['logits_dense'] = params['lm_head']
  return tree


def scanned_of(params, model, name: str) -> dict:
  """Returns the tree of scalable T5, with all layers of an array along its second dimension.

  Args:
    params: ours.
    model: theirs, a umT5.
    name: of the layers: 'layers', and heads are in one dimension with their sizes, as today's T5X
      writes; or '', that of the stack, and they are not, as in the checkpoints that are released.
  """
  target = target_of(params, model)
  for stack, depth in (('encoder', model.num_layers), ('decoder', model.num_decoder_layers)):
    layers = [target[stack].pop(f'layers_{i}') for i in range(depth)]
    if name:
      layers = [renamed(layer) for layer in layers]
    else:
      layers = [apart(layer, model) for layer in layers]
    target[stack][name or stack] = jax.tree.map(lambda *x: np.stack(x, axis=1), *layers)
  return target


def renamed(layer: dict) -> dict:
  return {key.replace('relpos_bias', 'relative_posemb'): value for key, value in layer.items()}


def apart(layer: dict, model) -> dict:
  """Returns a layer whose attention has the heads in a dimension of their own."""
  heads = (model.num_heads, model.head_dim)

  def reshaped(path, x):
    if not path[0].key.endswith('attention'):
      return x
    out = path[1].key == 'out'
    return x.reshape(*heads, x.shape[1]) if out else x.reshape(x.shape[0], *heads)

  return jax.tree_util.tree_map_with_path(reshaped, layer)


def attention_of(ours) -> dict:
  return {'query': ours['query'], 'key': ours['key'], 'value': ours['value'], 'out': ours['output']}


def write(folder: pathlib.Path, target, dtype=np.float32) -> None:
  """Writes a checkpoint: matrices as zarr arrays, of which the tree has a note, the rest in it."""
  folder.mkdir()

  def put(path, x):
    name = '.'.join(['target', *(key.key for key in path)])
    x = np.ascontiguousarray(x.astype(dtype))
    if x.ndim < 2:
      return x
    spec = {'driver': 'zarr', 'kvstore': {'driver': 'file', 'path': f'{folder / name}/'}}
    kind = 'bfloat16' if dtype == ml_dtypes.bfloat16 else np.dtype(dtype).str
    chunks = [max(1, n // 2) for n in x.shape]
    metadata = {'shape': x.shape, 'chunks': chunks, 'dtype': kind, 'compressor': {'id': 'gzip'}}
    ts.open({**spec, 'metadata': metadata}, create=True).result().write(x).result()
    if name.endswith('query.kernel'):  # older ones have a string
      return f'PLACEHOLDER://{name}'
    kvstore = {'driver': 'gfile', 'path': name}
    return {
      'driver': 'zarr',
      'dtype': 'float32',
      'kvstore': kvstore,
      'metadata': {'chunks': chunks},
    }

  tree = {
    'version': 3,
    'optimizer': {
      'target': jax.tree_util.tree_map_with_path(put, target),
      'state': {'step': np.int32(7), 'param_states': {}},
    },
  }
  (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(tree))


def assert_same(got, expected) -> None:
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))


LAYOUTS = {  # name: of the model, and the tree of its parameters
  't5_1_0': ('t5_1_0', target_of),
  't5_1_1': ('t5_1_1', target_of),
  'umt5': ('umt5', target_of),
  'umt5 scanned': ('umt5', lambda params, model: scanned_of(params, model, 'layers')),
  'umt5 released': ('umt5', lambda params, model: scanned_of(params, model, '')),
}


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_checkpoint_comes_in_bit_for_bit(layout, dtype, tmp_path):
  name, target = LAYOUTS[layout]
  model, kind = MODELS[name], np.dtype(getattr(ml_dtypes, dtype, dtype))
  params = interop_cases.float32(model)
  write(tmp_path / 't5x', target(params, model), kind)
  made = interop.import_model(tmp_path / 't5x', tmp_path / 'new')
  prefix = 'UMT5' if name == 'umt5' else 'T5'
  assert (made.architecture, made.left_out) == (f'{prefix}ForConditionalGeneration', [])
  got = config_lib.load(tmp_path / 'new/config.json').model
  assert dataclasses.replace(got, layers=model.layers, dropout=model.dropout) == model
  expected = jax.tree.map(lambda x: x.astype(kind).astype(np.float32), params)
  assert_same(interop_cases.read_params(tmp_path / 'new', model), expected)
  # And on to transformers.
  interop.export(tmp_path / 'new', tmp_path / 'out')
  assert (tmp_path / 'out/model.safetensors').is_file()


def test_a_run_begins_with_a_checkpoint_of_t5x(tmp_path):
  write(tmp_path / 't5x', target_of(interop_cases.float32(MODELS['t5_1_1']), MODELS['t5_1_1']))
  origin = initial.open_origin(str(tmp_path / 't5x'))
  assert dataclasses.replace(origin.model, layers='scan') == MODELS['t5_1_1']
  expected = interop_cases.float32(MODELS['t5_1_1'])['encoder']['layers']['mlp']['gate']['kernel']
  np.testing.assert_array_equal(origin.read('encoder.layers.mlp.gate.kernel'), expected)


def lost(folder):
  (folder / 'target.encoder.layers_1.mlp.wo.kernel/.zarray').unlink()


def cut(folder):
  content = (folder / 'checkpoint').read_bytes()
  (folder / 'checkpoint').write_bytes(content[: len(content) // 2])


def edit(change):
  def spoil(folder):
    tree = serialization.msgpack_restore((folder / 'checkpoint').read_bytes())
    change(tree['optimizer']['target'])
    (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(tree))

  return spoil


def outside(target):
  target['../../etc'] = {'driver': 'zarr'}


def endless(folder):
  """An array that is said to have 10**15 layers; no chunk of it is there."""
  name = 'target.encoder.layers.mlp.wo.kernel'
  edit(lambda t: t['encoder'].update(layers={'mlp': {'wo': {'kernel': 'PLACEHOLDER'}}}))(folder)
  spec = {'driver': 'zarr', 'kvstore': {'driver': 'file', 'path': f'{folder / name}/'}}
  metadata = {'shape': [14, 10**15, 3], 'chunks': [14, 1, 3], 'dtype': '<f4'}
  ts.open({**spec, 'metadata': metadata}, create=True).result()


BAD = {
  'lost': (lost, 'damaged checkpoint of T5X: .*layers_1.mlp.wo.kernel'),
  'cut': (cut, 'damaged checkpoint of T5X: .*checkpoint .'),
  'list': (lambda f: (f / 'checkpoint').write_bytes(b'\x90'), 'damaged checkpoint of T5X: .*Attr'),
  'outside': (edit(outside), "damaged checkpoint of T5X: 'target.../../etc' .* outside"),
  'endless': (endless, 'unexpected tensor: target.encoder.layers.mlp.wo.kernel in'),
  'half': (edit(lambda t: t.pop('encoder')), 'not a T5 of T5X: .*: give a checkpoint of its min'),
  'norm': (
    edit(lambda t: t['encoder'].pop('encoder_norm')),
    'missing tensor: target.encoder.encoder_norm.scale',
  ),
  'more': (
    edit(lambda t: t.update(odd=np.ones(3, np.float32))),
    'unexpected tensor: target.odd in',
  ),
  'integer': (
    edit(lambda t: t['encoder']['encoder_norm'].update(scale=np.ones(14, np.int32))),
    'not a float of 32 or 16 bits: target.encoder.encoder_norm.scale is int32',
  ),
}


@pytest.mark.parametrize('case', BAD)
def test_what_cannot_be_read_is_one_line_and_nothing_is_written(case, tmp_path, capsys):
  write(tmp_path / 'in', target_of(interop_cases.float32(MODELS['t5_1_0']), MODELS['t5_1_0']))
  spoil, line = BAD[case]
  spoil(tmp_path / 'in')
  assert main.main(['import', f'--from={tmp_path}/in', f'--workdir={tmp_path}/new']) == 66
  err = capsys.readouterr().err
  assert err.count('\n') == 1 and re.match(f't5lite: .*{line}', err), err
  assert [path.name for path in tmp_path.iterdir()] == ['in']
  with pytest.raises(errors.CheckpointError):
    initial.open_origin(str(tmp_path / 'in'))
