"""Export and import are each other's inverse, bit for bit, and refuse what they cannot hold."""

import dataclasses
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import families
import interop_cases
from t5lite import config as config_lib
from t5lite import errors
from t5lite import evaluate
from t5lite import interop
from t5lite import flops
from t5lite import main
from t5lite import metrics
from t5lite import models
from t5lite import stored
from t5lite.interop import card
from t5lite.interop import families as families_lib
from t5lite.interop import folders
from t5lite.interop import labels
from t5lite.interop import tensors

ROOT = pathlib.Path(__file__).parents[1]
WEIGHTS = tensors.ONE


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  """A folder with, for each model, a workdir NAME and its export NAME.hf."""
  folder = tmp_path_factory.mktemp('exported')
  for name, model in interop_cases.MODELS.items():
    pad = interop_cases.PADS.get(name, 0)
    task = interop_cases.task_of(name)
    params = interop_cases.float32(model)
    interop_cases.write_workdir(folder / name, model, params, pad=pad, overrides=task)
    interop.export(folder / name, folder / f'{name}.hf')
  return folder


@pytest.fixture
def copied(exported, tmp_path):
  """A function that gives a copy of an export, to be spoilt."""
  return lambda name: pathlib.Path(shutil.copytree(exported / f'{name}.hf', tmp_path / 'in'))


def assert_same(got, expected) -> None:
  """Two trees of arrays have the same bits."""
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_array_equal(np.asarray(a).view(np.uint32), b.view(np.uint32))


def change(folder: pathlib.Path, edit) -> None:
  """Writes the weights of a folder anew, with a dict of tensors that `edit` has changed."""
  found = safetensors.numpy.load_file(folder / WEIGHTS)
  edit(found)
  safetensors.numpy.save_file(found, folder / WEIGHTS)


def set_config(folder: pathlib.Path, **changes) -> None:
  hf = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps({**hf, **changes}))


@pytest.mark.parametrize('name', interop_cases.MODELS)
def test_round_trip_is_bitwise(name, exported, tmp_path):
  model = interop_cases.MODELS[name]
  task = interop_cases.task_of(name)
  interop.import_model(exported / f'{name}.hf', tmp_path / 'new', overrides=task)
  assert_same(interop_cases.read_params(tmp_path / 'new', model), interop_cases.float32(model))
  config = config_lib.load(tmp_path / 'new/config.json')
  assert config.data.tokenizer == ''  # there was none: the one that ships would be another
  got = config.model
  assert dataclasses.replace(got, layers=model.layers) == model
  # And back again: the same files, byte for byte, but for the card.
  interop.export(tmp_path / 'new', tmp_path / 'out')
  for path in (exported / f'{name}.hf').iterdir():
    assert path.name == 'README.md' or (tmp_path / 'out' / path.name).read_bytes() == (
      path.read_bytes()
    )


def test_tensors_lie_as_torch_has_them(exported):
  """By hand: Linear as [out, in], Conv1D as [in, out] with queries, keys and values in a row."""
  params = interop_cases.float32(interop_cases.MODELS['t5_1_1'])
  found = safetensors.numpy.load_file(exported / 't5_1_1.hf' / WEIGHTS)
  keys = params['decoder']['layers']['cross_attention']['key']['kernel'][3]
  np.testing.assert_array_equal(found['decoder.block.3.layer.1.EncDecAttention.k.weight'], keys.T)
  np.testing.assert_array_equal(found['lm_head.weight'], params['lm_head']['kernel'].T)
  params = interop_cases.float32(interop_cases.MODELS['gpt2'])
  found = safetensors.numpy.load_file(exported / 'gpt2.hf' / WEIGHTS)
  attention = params['decoder']['layers']['attention']
  three = [attention[part]['kernel'][1] for part in ('query', 'key', 'value')]
  np.testing.assert_array_equal(
    found['transformer.h.1.attn.c_attn.weight'], np.concatenate(three, axis=1)
  )


def test_adapters_are_added_to_their_matrices(tmp_path):
  model = dataclasses.replace(interop_cases.MODELS['llama'], lora_rank=2)
  params = interop_cases.float32(model)
  interop_cases.write_workdir(tmp_path / 'run', model, params)
  interop.export(tmp_path / 'run', tmp_path / 'out')
  interop.import_model(tmp_path / 'out', tmp_path / 'new')
  whole, expected = models.without_adapters(model, params)
  got = interop_cases.read_params(tmp_path / 'new', whole)
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_weights_over_the_limit_are_cut_into_files(exported, tmp_path):
  interop.export(exported / 't5_1_1', tmp_path / 'out', limit=4000)
  index = json.loads((tmp_path / 'out' / tensors.INDEX).read_text())
  names = sorted(set(index['weight_map'].values()))
  last = len(names)
  assert last > 5 and names[0] == f'model-00001-of-{last:05}.safetensors'
  assert names == sorted(path.name for path in (tmp_path / 'out').glob('*.safetensors'))
  found = {}
  for name in names:
    part = safetensors.numpy.load_file(tmp_path / 'out' / name)
    assert sum(x.nbytes for x in part.values()) <= 4000 or len(part) == 1
    assert part.keys() == {tensor for tensor, at in index['weight_map'].items() if at == name}
    found |= part
  whole = safetensors.numpy.load_file(exported / 't5_1_1.hf' / WEIGHTS)
  assert_same(found, whole)
  assert index['metadata']['total_size'] == sum(x.nbytes for x in whole.values())
  interop.import_model(tmp_path / 'out', tmp_path / 'new')
  model = interop_cases.MODELS['t5_1_1']
  assert_same(interop_cases.read_params(tmp_path / 'new', model), interop_cases.float32(model))


@pytest.mark.parametrize('kind', ['float16', 'bfloat16'])
def test_half_precision_is_widened_exactly(kind, copied, tmp_path):
  folder, kind = copied('bert'), np.dtype(getattr(ml_dtypes, kind, kind))
  change(folder, lambda found: found.update({k: x.astype(kind) for k, x in found.items()}))
  interop.import_model(folder, tmp_path / 'new')
  model = interop_cases.MODELS['bert']
  expected = jax.tree.map(lambda x: x.astype(kind).astype(np.float32), interop_cases.float32(model))
  assert_same(interop_cases.read_params(tmp_path / 'new', model), expected)


def old_bert(found):
  for name in [name for name in found if 'LayerNorm' in name]:
    new = name.replace('LayerNorm.weight', 'LayerNorm.gamma')
    found[new.replace('LayerNorm.bias', 'LayerNorm.beta')] = found.pop(name)
  found['bert.embeddings.position_ids'] = np.arange(11.0, dtype=np.float32)
  found['cls.predictions.decoder.weight'] = found['bert.embeddings.word_embeddings.weight']
  found['bert.pooler.dense.weight'] = np.zeros((15, 15), np.float32)


def old_gpt2(found):
  for name in list(found):
    found[name.removeprefix('transformer.')] = found.pop(name)
  found['h.0.attn.bias'] = np.ones((1, 1, 11, 11), np.float32)


def old_t5(found):
  found['encoder.embed_tokens.weight'] = found.pop('shared.weight')


OLD = {'bert': old_bert, 'gpt2': old_gpt2, 't5_1_0': old_t5}


@pytest.mark.parametrize('name', OLD)
def test_older_names_copies_and_buffers_are_read(name, copied, tmp_path):
  folder, model = copied(name), interop_cases.MODELS[name]
  change(folder, OLD[name])
  made = interop.import_model(folder, tmp_path / 'new')
  assert made.left_out == (['bert.pooler.dense.weight'] if name == 'bert' else [])
  assert_same(interop_cases.read_params(tmp_path / 'new', model), interop_cases.float32(model))


MNLI = {'0': 'CONTRADICTION', '1': 'Entailment', '2': 'neutral'}  # not in the task's order


@pytest.mark.parametrize('name', ['bert_pooled', 'roberta_pooled', 'modernbert_pooled'])
def test_labels_take_the_order_of_the_task(name, copied, tmp_path):
  """By hand: a head that says contradiction first does glue_mnli, which says it last."""
  folder, model = copied(name), interop_cases.MODELS[name]
  set_config(folder, id2label=MNLI)
  interop.import_model(folder, tmp_path / 'new', overrides=interop_cases.task_of(name))
  got = interop_cases.read_params(tmp_path / 'new', model)['label_head']['output']
  given = interop_cases.float32(model)['label_head']['output']
  np.testing.assert_array_equal(got['kernel'], given['kernel'][:, [1, 2, 0]])
  np.testing.assert_array_equal(got['bias'], given['bias'][[1, 2, 0]])
  interop.export(tmp_path / 'new', tmp_path / 'out')
  hf = json.loads((tmp_path / 'out/config.json').read_text())
  assert hf['id2label'] == {'0': 'entailment', '1': 'neutral', '2': 'contradiction'}
  assert hf['label2id'] == {'entailment': 0, 'neutral': 1, 'contradiction': 2}


def test_labels_without_names_stay_as_they_are():
  assert labels.order(['LABEL_0', 'LABEL_1'], ['no', 'yes']) == [0, 1]
  assert labels.order(['0', '1', '2'], ['no', 'yes']) == [0, 1, 2]
  assert labels.order(['YES', 'No'], ['no', 'yes']) == [1, 0]
  assert labels.order(['a', 'A'], ['A', 'a']) == [1, 0]
  for other in (['no'], ['no', 'maybe'], ['no', 'no'], ['no', 'yes', 'maybe'], ['LABEL_0']):
    assert labels.order(other, ['no', 'yes']) is None


@pytest.mark.parametrize('name', ['bert_pooled', 'roberta_spans', 'modernbert_tokens'])
def test_a_head_can_be_left_out(name, copied, tmp_path):
  sets = ['model.num_labels=0']
  made = interop.import_model(copied(name), tmp_path / 'new', overrides=sets)
  output = 'qa_outputs' if name == 'roberta_spans' else 'classifier'
  assert {f'{output}.weight', f'{output}.bias'} <= set(made.left_out)
  model = config_lib.load(tmp_path / 'new/config.json').model
  assert not (model.num_labels or model.pooler or model.spans or model.mlm_head)
  expected = interop_cases.float32(interop_cases.MODELS[name])
  for head in ('label_head', 'mlm_head'):
    expected.pop(head, None)
  assert_same(interop_cases.read_params(tmp_path / 'new', model), expected)


LEARNT = ['data.source=task:glue_mnli']
BAD_HEADS = {
  'no_task': ({}, [], 64, "a head for labels learns one task: .*source='corpus': use data.source="),
  'no_such': ({}, ['data.source=task:mnli'], 64, "no such task: 'mnli': did you mean"),
  'other': (
    {'id2label': {'0': 'x', '1': 'neutral', '2': 'y'}},
    LEARNT,
    66,
    "other labels: .*config.json: x, neutral, y; task 'glue_mnli': entailment, .*: write the task",
  ),
  'many': ({}, ['data.source=task:glue_stsb'], 64, 'too few outputs for the labels'),
  'words': ({'id2label': None}, ['data.source=task:conll2003'], 64, 'too few outputs for the'),
  'span': ({}, ['data.source=task:squad'], 64, 'not the head for the task'),
  'several': (
    {'problem_type': 'multi_label_classification'},
    LEARNT,
    66,
    "not a head for labels: .*problem_type='multi_label_classification': only 'single_label",
  ),
  'gap': ({'id2label': {'0': 'a', '2': 'b'}}, LEARNT, 66, 'not a list of labels: .*id2label={'),
  'list': ({'id2label': ['a', 'b', 'c']}, LEARNT, 66, r"not a list of labels: .*id2label=\['a'"),
  'count': ({'id2label': None, 'num_labels': '3'}, LEARNT, 66, "list of labels: .*num_labels='3'"),
}


@pytest.mark.parametrize('case', BAD_HEADS)
def test_a_head_without_its_task_is_one_line(case, copied, tmp_path, capsys):
  changes, sets, code, line = BAD_HEADS[case]
  set_config(copied('bert_pooled'), **changes)
  arguments = ['import', f'--from={tmp_path}/in', f'--workdir={tmp_path}/new']
  assert main.main([*arguments, *(f'--set={each}' for each in sets)]) == code
  err = capsys.readouterr().err
  assert err.count('\n') == 1 and re.match(f't5lite: .*{line}', err), err
  assert [path.name for path in tmp_path.iterdir()] == ['in']


def pickle_only(folder):
  (folder / WEIGHTS).rename(folder / 'pytorch_model.bin')


def index_of(name):
  def spoil(folder):
    (folder / WEIGHTS).rename(folder / 'x.safetensors')
    places = {'shared.weight': name.format(folder)}
    (folder / tensors.INDEX).write_text(json.dumps({'weight_map': places}))

  return spoil


def lying(folder):
  content = (folder / WEIGHTS).read_bytes()
  (folder / WEIGHTS).write_bytes(content.replace(b'"shape":[29,14]', b'"shape":[29,15]'))


def cut_short(folder):
  content = (folder / WEIGHTS).read_bytes()
  (folder / WEIGHTS).write_bytes(content[:-1])


def huge_header(folder):
  content = (folder / WEIGHTS).read_bytes()
  (folder / WEIGHTS).write_bytes(b'\xff' * 7 + b'\x7f' + content[8:])


def tensor(name, value):
  def spoil(folder):
    change(folder, lambda found: found.update({name: value} if value is not None else {}))
    if value is None:
      change(folder, lambda found: found.pop(name))

  return spoil


def config(**changes):
  return lambda folder: set_config(folder, **changes)


LAST = 'encoder.final_layer_norm.weight'
BAD = {
  'pickle': (pickle_only, 'no safetensors files, and pickles are not read: .*model.bin: convert'),
  'nothing': (lambda folder: (folder / WEIGHTS).unlink(), 'no weights: .* has no model.safet'),
  'above': (index_of('../in/x.safetensors'), r"a file outside of the folder: '\.\./in/x.*: give"),
  'absolute': (index_of('{}/x.safetensors'), "a file outside of the folder: '/.*: give"),
  'up': (index_of('..'), r"a file outside of the folder: '\.\.' in"),
  'index': (lambda f: (f / tensors.INDEX).write_text('[]'), 'damaged index: .*: give'),
  'absent': (index_of('y.safetensors'), 'damaged weights: .*y.safetensors .*No such file'),
  'lying': (lying, 'damaged weights: .*model.safetensors .SafetensorError: '),
  'short': (cut_short, 'damaged weights: .*SafetensorError: '),
  'header': (huge_header, 'damaged weights: .*SafetensorError: '),
  'missing': (tensor(LAST, None), f'missing tensor: {LAST} in .*/in: give the weights of a T5For'),
  'shape': (tensor(LAST, np.ones(13, np.float32)), rf'another shape: {LAST} .*\[13\], not \[14\]'),
  'new': (tensor('odd.weight', np.ones(3, np.float32)), 'unexpected tensor: odd.weight in'),
  'integer': (tensor(LAST, np.ones(14, np.int32)), f'not a float .*: {LAST} in .* is I32: give'),
  'untied': (
    tensor('lm_head.weight', np.ones((29, 14), np.float32)),
    'tied tensors differ: lm_head.weight and shared.weight in .*: if .* "tie_word_embeddings": fal',
  ),
  'layers': (config(num_layers=10**9), 'layers without tensors: 1,000,000,00. layers, .* in .*/in'),
  'kinds': (config(model_type=['t5']), r"not a model of t5lite: .*model_type=\['t5'\]: import one"),
  'kind': (config(model_type='opt'), "not a model of t5lite: .*config.json: model_type='opt'"),
  'activation': (config(feed_forward_proj='gated-tanh'), "feed_forward_proj='gated-tanh': use one"),
  'padding': (config(pad_token_id=3), 'config.json: pad_token_id=3: only 0 can be imported'),
  'type': (config(num_heads='3'), "config.json: num_heads='3'"),
  'no_key': (config(d_model=None), 'config.json: no d_model: give'),
  'list': (lambda f: (f / 'config.json').write_text('[]'), 'no config of a model: .*config.json'),
  'no_config': (lambda f: (f / 'config.json').unlink(), 'no config of a model: .*FileNotFound'),
}


@pytest.mark.parametrize('case', BAD)
def test_what_cannot_be_imported_is_one_line_and_nothing_is_written(case, copied, tmp_path, capsys):
  spoil, line = BAD[case]
  spoil(copied('t5_1_0'))
  assert main.main(['import', f'--from={tmp_path}/in', f'--workdir={tmp_path}/new']) == 66
  err = capsys.readouterr().err
  assert err.count('\n') == 1 and re.match(f't5lite: .*{line}', err), err
  assert [path.name for path in tmp_path.iterdir()] == ['in']


@pytest.mark.parametrize(
  'changes', [{'num_attention_heads': 'four'}, {'num_attention_heads': 0}, {'rope_parameters': 'x'}]
)
def test_a_config_with_values_of_other_kinds_is_one_line(changes, copied, tmp_path, capsys):
  set_config(copied('llama'), **changes)
  assert main.main(['import', f'--from={tmp_path}/in', f'--workdir={tmp_path}/new']) == 66
  err = capsys.readouterr().err
  assert err.count('\n') == 1 and 'not a model of t5lite: ' in err and 'config.json: ' in err, err


def test_a_modernbert_without_the_layers_of_its_head_is_refused(copied, tmp_path, capsys):
  copied('modernbert_pooled')
  sets = ['--set=model.mlm_head=False', f'--set={interop_cases.task_of("modernbert_pooled")[0]}']
  assert main.main(['import', f'--from={tmp_path}/in', f'--workdir={tmp_path}/new', *sets]) == 64
  assert 'ModernBertForSequenceClassification has mlm_head=True' in capsys.readouterr().err
  assert [path.name for path in tmp_path.iterdir()] == ['in']


def test_a_mean_of_tokens_is_refused_where_a_head_reads_it(exported, tmp_path, capsys):
  """ModernBERT's own config says mean, which its masked-LM head does not read."""
  line = "classifier_pooling='mean': only 'single_label_classification' of the first token does"
  for name, code in (('modernbert', 0), ('modernbert_tokens', 0), ('modernbert_pooled', 66)):
    folder = pathlib.Path(shutil.copytree(exported / f'{name}.hf', tmp_path / name))
    set_config(folder, classifier_pooling='mean')
    sets = [f'--set={each}' for each in interop_cases.task_of(name)]
    assert (
      main.main(['import', f'--from={folder}', f'--workdir={tmp_path}/{name}.run', *sets]) == code
    )
  assert line in capsys.readouterr().err
  made = interop.import_model(folder, tmp_path / 'encoder', overrides=['model.num_labels=0'])
  assert 'classifier.weight' in made.left_out


T5, BERT = interop_cases.MODELS['t5_1_1'], interop_cases.MODELS['bert']
GPT2, LLAMA = interop_cases.MODELS['gpt2'], interop_cases.MODELS['llama']
UNKNOWN = {
  "model.norm='layer': T5For.* has norm='rms'": (T5, dict(norm='layer')),
  "model.activation='gelu' model.gated=True: T5": (T5, dict(activation='gelu')),
  'model.num_kv_heads=1: T5.* has num_kv_heads=3': (T5, dict(num_kv_heads=1)),
  'model.num_experts=4: T5.* has num_experts=0': (T5, dict(num_experts=4)),
  "model.positions='none': Bert.* has positions='lea": (BERT, dict(positions='none', max_length=0)),
  "model.norm='rms': ModernBert.* has norm='layer'": (interop_cases.MODERNBERT, dict(norm='rms')),
  'model.num_token_types=0: Bert.* has num_token_types=1': (BERT, dict(num_token_types=0)),
  'model.head_dim=7: GPT2.* has head_dim=5': (GPT2, dict(head_dim=7)),
  'model.mlm_head=False model.pooler=True .*: ModernBertForSequenceClassification has mlm_': (
    interop_cases.HEADS['modernbert_pooled'],
    dict(mlm_head=False),
  ),
  'model.global_every=3: ModernBert.* has global_every=1': (
    interop_cases.MODERNBERT,
    dict(local_window=0),
  ),
  'model.local_window=3: Llama.* has local_window=0': (LLAMA, dict(local_window=3)),
  'model.d_model=14: Llama.* has d_model=12': (LLAMA, dict(d_model=14)),
}


@pytest.mark.parametrize('line', UNKNOWN)
def test_a_model_that_transformers_does_not_have_is_refused(line):
  model, changes = UNKNOWN[line]
  with pytest.raises(errors.ConfigError, match=f'not a model of transformers: {line}'):
    model = dataclasses.replace(model, **changes)
    families_lib.to_huggingface(families_lib.of_model(model), model)


def test_a_card_says_what_the_run_took_up_to_its_checkpoint(tmp_path):
  log = tmp_path / 'metrics.jsonl'
  assert card.history(log, {'step': 0})['Energy'] == 'not measured'  # an import
  with metrics.Writer(tmp_path, 30, steps_done=0) as writer:  # on a CPU
    writer.write(10, {'train/loss': 2.0})
  assert card.history(log, {'step': 10})['Energy'] == 'not measured'
  with metrics.Writer(tmp_path, 30, steps_done=10, watts=8 * flops.WATTS['TPU v5 lite']) as writer:
    writer._started -= 1800
    writer.write(20, {'train/loss': 1.0})
  with metrics.Writer(tmp_path, 40, steps_done=20, watts=flops.WATTS['TPU v5 lite']) as writer:
    writer._started -= 3600  # on one of the eight
    writer.write(30, {'train/loss': 0.5})
  with metrics.Writer(tmp_path, 40, steps_done=30) as writer:  # and on the CPU
    writer.write(40, {'train/loss': 0.4})
  said = card.history(log, {'step': 20})
  assert said['Energy'].startswith('about 0.8 kWh in 0.5 h, ')  # 8 x 200 W x 0.5 h
  assert said['Training loss'].startswith('1.0000 ')
  assert card.history(log, {'step': 30})['Energy'].startswith('about 1 kWh in 1.5 h, ')
  assert card.history(log, {'step': 40})['Energy'] == 'not measured'


def test_mt5_is_a_t5(copied, tmp_path):
  """Its class in transformers is T5's, its config.json calls it mt5."""
  set_config(
    copied('t5_1_1'), model_type='mt5', architectures=['MT5ForConditionalGeneration'], d_kv=3
  )
  with pytest.raises(errors.CheckpointError, match='of another shape'):
    interop.import_model(tmp_path / 'in', tmp_path / 'new')
  model = interop_cases.MODELS['t5_1_1']
  set_config(tmp_path / 'in', d_kv=model.head_dim)
  made = interop.import_model(tmp_path / 'in', tmp_path / 'new')
  assert made.architecture == 'MT5ForConditionalGeneration'
  assert_same(interop_cases.read_params(tmp_path / 'new', model), interop_cases.float32(model))


def test_rates_of_dropout_may_differ(copied, tmp_path):
  set_config(copied('bert'), hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.0)
  interop.import_model(tmp_path / 'in', tmp_path / 'new')
  assert config_lib.load(tmp_path / 'new/config.json').model.dropout == 0.2


def test_what_is_there_is_not_overwritten(exported, tmp_path, capsys):
  for arguments in (
    ['export', f'--workdir={exported}/bert', f'--output={exported}/bert.hf'],
    ['import', f'--from={exported}/bert.hf', f'--workdir={exported}/bert'],
  ):
    assert main.main(arguments) == 64
    assert 'already there' in capsys.readouterr().err
  inner = tmp_path / 'made/with/it'
  assert main.main(['export', f'--workdir={exported}/bert', f'--output={inner}']) == 0
  assert (inner / WEIGHTS).read_bytes() == (exported / 'bert.hf' / WEIGHTS).read_bytes()
  beneath_a_file = f'--output={inner}/config.json/out'
  assert main.main(['export', f'--workdir={exported}/bert', beneath_a_file]) == 73


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
  command = [sys.executable, '-c', program, *map(str, arguments)]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_killed_export_leaves_nothing_under_its_name(exported, tmp_path):
  killed = run(
    """
import itertools, os, signal, sys
from t5lite import interop
from t5lite.interop import tables
count, joined = itertools.count(), tables.joined
def kill_the_third(*arguments):
  if next(count) == 2:
    os.kill(os.getpid(), signal.SIGKILL)
  return joined(*arguments)
tables.joined = kill_the_third
interop.export(*sys.argv[1:])
""",
    exported / 'gpt2',
    tmp_path / 'out',
  )
  assert killed.returncode == -9, killed.stderr
  (partial,) = tmp_path.iterdir()
  assert partial.name == '.out.partial' and len(list(partial.iterdir())) > 1
  interop.export(exported / 'gpt2', tmp_path / 'out')
  assert [path.name for path in tmp_path.iterdir()] == ['out']
  assert not (tmp_path / 'out/lock').exists()
  weights = [folder / WEIGHTS for folder in (tmp_path / 'out', exported / 'gpt2.hf')]
  assert weights[0].read_bytes() == weights[1].read_bytes()


def test_two_do_not_write_the_same_folder(exported, tmp_path):
  with folders.whole(tmp_path / 'out') as partial:
    (partial / 'mine').touch()
    with pytest.raises(errors.ConfigError, match='another process writes there: .*out.partial'):
      interop.export(exported / 'gpt2', tmp_path / 'out')
    assert (partial / 'mine').exists()
  assert [path.name for path in (tmp_path / 'out').iterdir()] == ['mine']


MEMORY = """
import gc, pathlib, re, sys
import families, interop_cases
from t5lite import interop
def memory(name):
  said = pathlib.Path('/proc/self/status').read_text()
  return int(re.search(name + ':[ \\t]*([0-9]+) kB', said)[1]) / 2**10  # MiB
def convert(name):
  interop.export(folder / name, folder / f'{name}.hf')
  interop.import_model(folder / f'{name}.hf', folder / f'{name}.new')
folder = pathlib.Path(sys.argv[1])
convert('small')  # what is loaded and compiled at first
gc.collect()
before = memory('VmRSS')
pathlib.Path('/proc/self/clear_refs').write_text('5')  # the peak begins anew
convert('large')
print(memory('VmHWM') - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='about Linux and its malloc')
def test_a_model_is_converted_in_the_memory_of_a_layer(tmp_path):
  """24 layers, whose largest stack has 96 MiB and whose largest matrix 4, 216 MiB in all."""
  large = families.odd(
    families.GPT2, d_model=256, num_heads=4, num_kv_heads=4, head_dim=64, d_ff=4096, num_layers=24
  )
  for name, model in (('small', dataclasses.replace(large, num_layers=1)), ('large', large)):
    interop_cases.write_workdir(tmp_path / name, model, interop_cases.float32(model))
  command = [sys.executable, '-c', MEMORY, str(tmp_path)]
  environment = {**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT}/tests', 'JAX_PLATFORMS': 'cpu'}
  assert float(subprocess.check_output(command, env=environment)) < 48


def test_a_full_disk_is_told_and_leaves_nothing(exported, tmp_path):
  """The system refuses a file of more than 4096 bytes."""
  done = run(
    """
import resource, sys
from t5lite import main
from t5lite import models
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
sys.exit(main.main(sys.argv[1:]))
""",
    'export',
    f'--workdir={exported}/gpt2',
    f'--output={tmp_path}/out',
  )
  assert done.returncode == 73 and re.match('t5lite: not written: .*/out .*File too', done.stderr)
  assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_of_an_import_is_found(exported, tmp_path):
  """In any file: it is told, or lies in what later writes have replaced and changes nothing."""
  name, found = 'llama', 0
  interop.import_model(exported / f'{name}.hf', tmp_path / 'new')
  files = [path for path in (tmp_path / 'new/checkpoints/0').rglob('*') if path.is_file()]
  for path in sorted(files):
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    path.write_bytes(flipped)
    try:
      got = interop_cases.read_params(tmp_path / 'new', interop_cases.MODELS[name])
      assert_same(got, interop_cases.float32(interop_cases.MODELS[name]))
    except errors.CheckpointError as error:
      assert 'damaged checkpoint' in str(error)
      with pytest.raises(errors.CheckpointError, match='damaged checkpoint'):
        interop.export(tmp_path / 'new', tmp_path / 'out')
      found += 1
    path.write_bytes(content)
  assert found


WHOLE = families.odd(families.GPT2, d_model=16, num_heads=4, num_kv_heads=4, head_dim=4)
WHOLE = dataclasses.replace(WHOLE, vocab_size=8192, max_length=16)


@pytest.mark.slow
def test_an_import_is_evaluated_trained_and_continued(tmp_path, capsys, monkeypatch):
  """With its tokenizer: all that was said of the first run is true of what comes back."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'xla'))
  run, new, more = (tmp_path / name for name in ('run', 'new', 'more'))
  interop_cases.write_workdir(run, WHOLE, interop_cases.float32(WHOLE), with_tokenizer=True)
  measured = {'eval/loss': 9.87654321, 'step': 2}
  (run / 'metrics.jsonl').write_text(json.dumps(measured) + '\n' + json.dumps({'step': 3}) + '\n')
  assert main.main(['export', f'--workdir={run}', f'--output={tmp_path}/out']) == 0
  said = (tmp_path / 'out/README.md').read_text()
  assert 'Held-out loss: 9.8765 nats per token, at step 2\n' in said and 'Step: 3\n' in said
  ids = json.loads((tmp_path / 'out/generation_config.json').read_text())
  assert ids == {'bos_token_id': 1, 'eos_token_id': 1, 'pad_token_id': 0}

  arguments = ['import', f'--from={tmp_path}/out', f'--workdir={new}', '--set=eval.batches=1']
  assert main.main(arguments) == 0
  assert 'no tokenizer' not in capsys.readouterr().out
  assert stored.steps(new) == [0]
  assert (new / 't5lite.model').read_bytes() == (tmp_path / 'out/t5lite.model').read_bytes()
  config = config_lib.load(new / 'config.json')
  assert config.data.tokenizer == str(new / 't5lite.model')
  loss = evaluate.run(new)['eval/loss']

  frozen = ['--set=optim.learning_rate=0', '--set=train.steps=2', '--set=checkpoint.every=1']
  train = ['train', f'--config={new}/config.json', *frozen, '--set=checkpoint.keep_last=1']
  assert main.main([*train, f'--workdir={more}', f'--set=init_from={new}']) == 0
  assert main.main([*train, f'--workdir={new}']) == 0
  for workdir in (new, more):
    assert stored.steps(workdir) == [2]
    assert_same(interop_cases.read_params(workdir, WHOLE), interop_cases.float32(WHOLE))
    assert evaluate.run(workdir)['eval/loss'] == loss
  assert main.main(['generate', f'--workdir={new}', '--prompt=The', '--max_tokens=3']) == 0


def test_an_imported_head_answers_as_before(tmp_path, capsys):
  """Row for row, though its labels come in the other order; the task is of the config's own."""
  sizes = dict(vocab_size=8192, max_length=64, num_labels=2)
  model = dataclasses.replace(interop_cases.HEADS['bert_pooled'], **sizes)
  rows = [{'text': f'The {word}.', 'is': i % 2} for i, word in enumerate(('cat', 'hen', 'sea'))]
  (tmp_path / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  task = config_lib.Task(
    name='own',
    source=f'jsonl:{tmp_path}/rows.jsonl',
    inputs='{text}',
    targets='{is}',
    labels=('no', 'yes'),
    metrics=('accuracy',),
    train='',
    validation='',
  )
  run, new, out = (tmp_path / name for name in ('run', 'new', 'out'))
  sets = ['data.input_length=16', f'tasks={json.dumps([dataclasses.asdict(task)])}']
  interop_cases.write_workdir(
    run,
    model,
    interop_cases.float32(model),
    with_tokenizer=True,
    overrides=[*sets, 'data.source=task:own'],
  )
  interop.export(run, out)
  set_config(out, id2label={'0': 'Yes', '1': 'No'})
  turned = ('classifier.weight', 'classifier.bias')
  change(out, lambda found: found.update({name: found[name][::-1].copy() for name in turned}))
  arguments = ['import', f'--from={out}', f'--workdir={new}', f'--config={run}/config.json']
  assert main.main(arguments) == 0
  said = {}
  for workdir in (run, new):
    assert main.main(['evaluate', f'--workdir={workdir}', '--tasks=own']) == 0
    (path,) = (workdir / 'tasks').iterdir()
    said[workdir] = json.loads(path.read_text())
  assert 'by head' in capsys.readouterr().out
  assert said[new] == {**said[run], 'step': 0}
  for row in said[run]['rows']:
    assert abs(row['probabilities'][0] - 0.5) > 0.01  # the other order would be another answer


def test_a_short_model_has_rows_as_long(copied, tmp_path):
  """And says so in an export; of a rotary model no array does."""
  folder = copied('llama')
  for said, length in ((96, 96), (4096, 512), (None, 512)):
    set_config(folder, max_position_embeddings=said)
    new, out = tmp_path / f'{said}', tmp_path / f'{said}.hf'
    interop.import_model(folder, new)
    assert config_lib.load(new / 'config.json').data.input_length == length
    interop.export(new, out)
    hf = json.loads((out / 'config.json').read_text())
    assert hf['max_position_embeddings'] == (said or 2048)  # transformers' own for a Llama
  set_config(folder, max_position_embeddings='long')
  with pytest.raises(errors.CheckpointError, match="max_length='long'"):
    interop.import_model(folder, tmp_path / 'long')


def test_a_config_gives_all_but_the_model(exported, tmp_path):
  given = ROOT / 'configs/tiny_t5.py'
  interop.import_model(exported / 't5_1_0.hf', tmp_path / 'new', str(given), ['train.steps=7'])
  got, base = config_lib.load(tmp_path / 'new/config.json'), config_lib.load(given)
  assert (got.optim, got.data) == (base.optim, base.data)
  assert got.train == dataclasses.replace(base.train, steps=7)
  assert got.model.vocab_size == 29
