"""A real BERT, of 22.7 million parameters, with its own tokenizer: an encoder without a head."""

import functools

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

import interop_cases
import packages
from t5lite import config as config_lib
from t5lite import interop
from t5lite import models
from t5lite.data import tokenizer as tokenizer_lib

pytestmark = pytest.mark.parity
SENTENCES = [
  'Call me Ishmael. Some years ago, never mind how long precisely, I went to sea.',
  'Whales are mammals.',
  'The café on Straße 7 sells naïve art — for €30!',
  'Mr. Speaker, the state of our Union is strong, and it has [MASK] been stronger.',
  '',
]


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('real') / 'run'
  made = interop.import_model(packages.folder(*packages.MINILM), path)
  assert made.num_params == 22_565_376  # less the pooler's
  assert made.left_out == ['pooler.dense.bias', 'pooler.dense.weight']
  return path


def test_hidden_states_are_those_of_transformers(workdir):
  folder = packages.folder(*packages.MINILM)
  config = config_lib.load(workdir / 'config.json')
  model = config.model
  assert (model.architecture, model.mlm_head, model.num_layers) == ('encoder', False, 6)
  ours = tokenizer_lib.load(config.data.tokenizer)
  v = ours.vocabulary
  assert v.cls is not None and v.sep is not None
  rows = [[v.cls, *ours.encode_marked(text), v.sep] for text in SENTENCES]
  length = max(map(len, rows))
  tokens = np.array([row + [v.pad] * (length - len(row)) for row in rows], np.int32)
  params = interop_cases.read_params(workdir, model)
  batch = {'encoder_input_tokens': tokens}
  got = np.asarray(jax.jit(functools.partial(models.hidden, model))(params, batch))

  inputs = transformers.AutoTokenizer.from_pretrained(folder)(
    SENTENCES, padding=True, return_tensors='pt'
  )
  np.testing.assert_array_equal(inputs['input_ids'].numpy(), tokens)
  theirs = transformers.AutoModel.from_pretrained(folder).eval()
  with torch.no_grad():
    expected = theirs(**inputs).last_hidden_state.numpy()
  is_text = tokens != v.pad
  assert np.abs(expected[is_text]).max() > 1
  difference = np.abs(got - expected)[is_text].max()
  print(f'largest difference of {is_text.sum()} hidden states: {difference:.1e}')
  assert difference < 1e-4


def test_it_goes_out_as_it_came_in(workdir, tmp_path):
  interop.export(workdir, tmp_path / 'out')
  folder = packages.folder(*packages.MINILM)
  got, given = (
    safetensors.numpy.load_file(path / 'model.safetensors') for path in (tmp_path / 'out', folder)
  )
  assert given.keys() - got.keys() == {
    *('embeddings.position_ids', 'pooler.dense.bias', 'pooler.dense.weight')
  }
  for name, x in got.items():
    np.testing.assert_array_equal(x.view(np.uint32), given[name].view(np.uint32))
  text = 'Hello, my dög is [MASK].'
  tokenizers = [transformers.AutoTokenizer.from_pretrained(p) for p in (tmp_path / 'out', folder)]
  assert tokenizers[0](text).input_ids == tokenizers[1](text).input_ids
