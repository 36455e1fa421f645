"""init_from: a workdir or a folder of Hugging Face's, the same model or one that begins with it."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import families
import interop_cases
from t5lite import adaptation
from t5lite import config as config_lib
from t5lite import errors
from t5lite import initial
from t5lite import interop
from t5lite import models
from t5lite import stored
from t5lite import tasks
from t5lite import train
from t5lite.interop import importing

EVEN = dict(d_model=16, num_heads=4, num_kv_heads=4, head_dim=4, vocab_size=8192, max_length=128)
GPT2 = families.odd(families.GPT2, **EVEN)
LLAMA = families.odd(families.DECODER, **{**EVEN, 'num_kv_heads': 2, 'max_length': 0})


@pytest.fixture(scope='module')
def origins(tmp_path_factory):
  """A folder with a workdir and an export of each of two decoders."""
  folder = tmp_path_factory.mktemp('origins')
  for name, model in (('gpt2', GPT2), ('llama', LLAMA)):
    interop_cases.write_workdir(
      folder / name, model, interop_cases.float32(model), with_tokenizer=True
    )
    interop.export(folder / name, folder / f'{name}.hf')
  return folder


def run_config(model: config_lib.Model, init_from: object) -> config_lib.Config:
  lengths = ['data.input_length=64', 'data.batch_size=8', 'train.steps=0', 'eval.batches=1']
  if model.architecture == 'encoder_decoder':
    lengths.append('data.target_length=32')
  config = importing.run_config(model, 'corpus', '', lengths)
  return dataclasses.replace(config, init_from=str(init_from))


def drawn_params(first: initial.Initial, model: config_lib.Model):
  """Returns the parameters that a run begins with."""
  one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  shapes = initial.abstract_params(model)
  abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), shapes)
  return first.params(abstract, jax.random.key(3))


def first_params(model: config_lib.Model, init_from: object):
  """Returns the parameters that a run begins with, by path, and what it says of them."""
  first = initial.Initial(run_config(model, init_from))
  return drawn_params(first, model), first.told


def assert_same(got, expected) -> None:
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_array_equal(np.asarray(a).view(np.uint32), np.asarray(b).view(np.uint32))


@pytest.mark.parametrize('name', ['gpt2', 'gpt2.hf', 'llama.hf'])
def test_a_run_begins_with_what_is_there(name, origins, tmp_path, capsys, monkeypatch):
  """On a mesh of 8: exactly the parameters of the workdir, or of the folder that it went to."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(origins / 'cache'))
  model = GPT2 if name.startswith('gpt2') else LLAMA
  state = train.run(run_config(model, origins / name), tmp_path / 'new')
  assert_same(state.params, interop_cases.float32(model))
  assert f'the first parameters are those of {origins / name}\n' in capsys.readouterr().out
  assert stored.steps(tmp_path / 'new') == [0]


def test_an_encoder_begins_with_a_decoder(origins):
  """Its states are those of the decoder whose tokens all see each other."""
  model = dataclasses.replace(GPT2, architecture='encoder', mlm_head=True)
  params, told = first_params(model, origins / 'gpt2.hf')
  assert "architecture 'decoder' -> 'encoder'" in told
  new = told.partition('new: ')[2]
  assert new and all(name.startswith('mlm_head.') for name in new.split(', '))
  tokens = np.random.default_rng(0).integers(1, 8192, (2, 9), np.int32)
  decoded = {'decoder_input_tokens': tokens, 'decoder_causal_attention': np.ones_like(tokens)}
  old = jax.tree.map(jnp.asarray, interop_cases.float32(GPT2))
  expected = models.hidden(GPT2, old, decoded)
  got = models.hidden(model, params, {'encoder_input_tokens': tokens})
  np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
  causal = models.hidden(GPT2, old, {'decoder_input_tokens': tokens})
  assert np.abs(causal - expected).max() > 1e-2


def test_an_encoder_decoder_begins_with_a_decoder_on_both_sides(origins):
  model = dataclasses.replace(LLAMA, architecture='encoder_decoder', num_decoder_layers=3)
  params, told = first_params(model, origins / 'llama')
  assert 'new: ' not in told and 'left out: ' not in told
  old = interop_cases.float32(LLAMA)
  assert_same(params['encoder'], old['decoder'])
  assert_same(params['lm_head'], old['lm_head'])
  layers = dict(params['decoder']['layers'])
  assert_same(layers.pop('cross_attention'), old['decoder']['layers']['attention'])
  assert_same(layers.pop('cross_norm'), old['decoder']['layers']['attention_norm'])
  assert_same({**params['decoder'], 'layers': layers}, old['decoder'])
  batch = {
    'encoder_input_tokens': np.ones((1, 5), np.int32),
    'decoder_input_tokens': np.ones((1, 4), np.int32),
  }
  assert np.isfinite(models.apply(model, params, batch)).all()


def test_a_deeper_stack_begins_with_the_layers_again(origins):
  """If the second half adds nothing, it is the shallower one; and it is a copy of the first."""
  model = dataclasses.replace(GPT2, num_layers=4)
  params, told = first_params(model, origins / 'gpt2')
  assert told.endswith(': num_layers 2 -> 4')
  old = interop_cases.float32(GPT2)
  for half in (slice(0, 2), slice(2, 4)):
    part = jax.tree.map(lambda x, half=half: x[half], params['decoder']['layers'])
    assert_same(part, old['decoder']['layers'])
  for module in ('attention', 'mlp'):
    output = params['decoder']['layers'][module]['output']
    for name, x in output.items():
      output[name] = x.at[2:].set(0)
  batch = {'decoder_input_tokens': np.arange(1, 8, dtype=np.int32)[None]}
  expected = models.apply(GPT2, jax.tree.map(jnp.asarray, old), batch)
  np.testing.assert_allclose(models.apply(model, params, batch), expected, rtol=0, atol=1e-5)


HEAD = dataclasses.replace(
  interop_cases.HEADS['bert_pooled'], vocab_size=8192, max_length=128, mlm_head=False
)


def head_from(folder, task: str, **changes):
  """Returns the label head that a run on a task begins with, and what it says of it."""
  model = dataclasses.replace(HEAD, **changes)
  config = importing.run_config(
    model, 'corpus', '', ['data.input_length=64', f'data.source={task}']
  )
  first = initial.Initial(dataclasses.replace(config, init_from=str(folder)))
  return drawn_params(first, model)['label_head'], first.told


@pytest.mark.parametrize('kind', ['run', 'out'])
def test_a_head_for_the_same_labels_is_taken_over_and_another_is_new(kind, tmp_path):
  mnli, params = 'task:glue_mnli', interop_cases.float32(HEAD)
  interop_cases.write_workdir(
    tmp_path / 'run', HEAD, params, with_tokenizer=True, overrides=[f'data.source={mnli}']
  )
  interop.export(tmp_path / 'run', tmp_path / 'out')
  given = params['label_head']
  got, told = head_from(tmp_path / kind, mnli)
  assert_same(got, given)
  assert 'new: ' not in told
  got, told = head_from(tmp_path / kind, 'task:glue_rte', num_labels=2)
  assert told.endswith(
    ': num_labels 3 -> 2; new: label_head.output.bias, label_head.output.kernel; '
    'left out: label_head.output.bias, label_head.output.kernel'
  )
  assert got['output']['kernel'].shape == (15, 2) and not np.asarray(got['output']['bias']).any()
  assert_same(got['pooler'], given['pooler'])
  got, told = head_from(tmp_path / kind, 'task:superglue_cb')  # mnli's labels, the last two swapped
  if kind == 'run':
    assert 'new: label_head.output.bias' in told
    assert not np.asarray(got['output']['bias']).any()
  else:
    np.testing.assert_array_equal(got['output']['bias'], given['output']['bias'][[0, 2, 1]])
  if kind == 'out':
    path = tmp_path / 'out/config.json'
    hf = json.loads(path.read_text())
    for names, order in ((['neutral', 'Contradiction', 'ENTAILMENT'], [2, 0, 1]), ('abc', None)):
      path.write_text(json.dumps(hf | {'id2label': {str(i): n for i, n in enumerate(names)}}))
      got, told = head_from(tmp_path / kind, mnli)
      assert ('new: ' in told) == (order is None)
      if order:
        np.testing.assert_array_equal(got['output']['kernel'], given['output']['kernel'][:, order])


def test_a_head_of_a_task_that_is_gone_is_one_line(tmp_path, monkeypatch):
  params, mnli = interop_cases.float32(HEAD), ['data.source=task:glue_mnli']
  interop_cases.write_workdir(tmp_path / 'run', HEAD, params, with_tokenizer=True, overrides=mnli)
  monkeypatch.delitem(tasks.SHIPPED, 'glue_mnli')
  with pytest.raises(
    errors.CheckpointError, match=r"unknown labels: .*/run \(no such task: 'glue_m"
  ):
    head_from(tmp_path / 'run', 'task:superglue_cb')


def test_the_labels_of_a_modernbert_stand_behind_the_layers_that_filled_masks(tmp_path):
  """As in transformers, whose names for both heads' dense layer and norm are the same."""
  old = dataclasses.replace(interop_cases.MODERNBERT, vocab_size=8192)
  given = interop_cases.float32(old)
  interop_cases.write_workdir(tmp_path / 'run', old, given, with_tokenizer=True)
  interop.export(tmp_path / 'run', tmp_path / 'out')
  new = dataclasses.replace(old, num_labels=3, pooler=True)
  config = importing.run_config(
    new, 'corpus', '', ['data.input_length=64', 'data.source=task:glue_mnli']
  )
  for kind in ('run', 'out'):
    first = initial.Initial(dataclasses.replace(config, init_from=str(tmp_path / kind)))
    params = drawn_params(first, new)
    assert first.told.endswith(
      '; new: label_head.output.bias, label_head.output.kernel; left out: mlm_head.bias'
    )
    assert params['mlm_head'].keys() == {'dense', 'norm'}
    for part in ('dense', 'norm'):
      assert_same(params['mlm_head'][part], given['mlm_head'][part])


@pytest.mark.parametrize('rank', [0, 2])
def test_adapters_are_added_where_the_run_has_none(rank, tmp_path):
  tuned = dataclasses.replace(LLAMA, lora_rank=2)
  given = interop_cases.float32(tuned)
  interop_cases.write_workdir(tmp_path / 'run', tuned, given, with_tokenizer=True)
  got, told = first_params(dataclasses.replace(LLAMA, lora_rank=rank), tmp_path / 'run')
  if rank:
    assert_same(got, given)
    return
  assert told.endswith(': lora_rank 2 -> 0')
  _, merged = models.without_adapters(tuned, given)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), got, merged)
  kernels = [x['decoder']['layers']['mlp']['gate']['kernel'] for x in (got, given)]
  assert (kernels[0] != kernels[1]).all()


def test_a_folder_whose_tokens_are_others_is_refused(origins, tmp_path):
  """Of as many pieces; the same by another name is not."""
  same = run_config(GPT2, origins / 'gpt2.hf')
  own = dataclasses.replace(same.data, tokenizer=str(origins / 'gpt2.hf/tokenizer.json'))
  initial.Initial(dataclasses.replace(same, data=own))
  tree = json.loads((origins / 'gpt2.hf/tokenizer.json').read_text())
  shutil.copytree(origins / 'gpt2.hf', tmp_path / 'hf')
  (tmp_path / 'hf/t5lite.model').unlink()
  pieces = tree['model']['vocab']
  pieces[1000:] = reversed(pieces[1000:])
  (tmp_path / 'hf/tokenizer.json').write_text(json.dumps(tree))
  with pytest.raises(errors.CheckpointError, match='other tokens: .*=/.*/hf/tokenizer.json'):
    initial.Initial(run_config(GPT2, tmp_path / 'hf'))


def test_what_differs_without_parameters_is_told(origins):
  _, told = first_params(dataclasses.replace(LLAMA, rotary_base=5e5), origins / 'llama.hf')
  assert told.endswith(': rotary_base 10000.0 -> 500000.0')


T5 = dataclasses.replace(families.MODELS['t5_1_0'], vocab_size=8192)
BAD = {
  'width': (dataclasses.replace(GPT2, d_ff=24), r'another shape: .*mlp.* is .*23.*, .*24.* in the'),
  'shallower': (dataclasses.replace(GPT2, num_layers=1), r'another shape: decoder.layers.* is \[2'),
  'positions': (dataclasses.replace(GPT2, max_length=64), 'another shape: decoder.position_embed'),
}


@pytest.mark.parametrize('case', BAD)
def test_what_does_not_fit_is_told_before_anything_begins(case, origins, tmp_path):
  model, line = BAD[case]
  with pytest.raises(errors.CheckpointError, match=line):
    train.run(run_config(model, origins / 'gpt2.hf'), tmp_path / 'new')
  assert not (tmp_path / 'new').exists()


def test_an_architecture_that_does_not_begin_with_the_other_is_refused(origins, tmp_path):
  interop_cases.write_workdir(tmp_path / 't5', T5, interop_cases.float32(T5))
  with pytest.raises(errors.CheckpointError, match="architecture='decoder' from 'encoder_dec"):
    initial.Initial(run_config(GPT2, tmp_path / 't5'))


@pytest.mark.parametrize('spoil', ['absent', 'damaged'])
def test_what_cannot_be_read_is_one_line(spoil, origins, tmp_path):
  folder = tmp_path / 'hf'
  if spoil == 'damaged':
    folder.mkdir()
    (folder / 'config.json').write_bytes((origins / 'gpt2.hf/config.json').read_bytes())
  with pytest.raises(errors.CheckpointError) as caught:
    initial.Initial(run_config(GPT2, folder))
  line = {'absent': 'no checkpoint: .*hf: give', 'damaged': 'no weights: .*hf has no'}[spoil]
  assert re.search(line, str(caught.value))


def test_adapters_are_told_by_their_number():
  found = {'a.kernel': 'a.kernel', 'a.lora_a': None, 'a.lora_b': None, 'b.scale': None}
  assert adaptation.told({}, found, ['a.kernel']) == 'new: b.scale, 2 arrays of adapters'
