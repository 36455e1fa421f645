"""An export gives transformers the function that t5lite has, and an import gives it back."""

import functools

import jax
import numpy as np
import pytest
import torch
import transformers

import families
import interop_cases
import peers
from t5lite import config as config_lib
from t5lite import interop
from t5lite import models

pytestmark = pytest.mark.parity


def logits_of(model, params, batch) -> np.ndarray:
  """Returns our logits; of an encoder without a head its hidden states."""
  headless = model.architecture == 'encoder' and not (model.mlm_head or model.num_labels)
  apply = models.hidden if headless else models.apply
  return np.asarray(jax.jit(functools.partial(apply, model))(params, batch))


def assert_close(ours, theirs, batch):
  """The logits differ by less than 1e-4 where there is text, and are not small."""
  if theirs.shape[1] == 1:  # of the first token alone
    ours, theirs = ours[:, 0], theirs[:, 0]
  else:
    ours, theirs = (x[peers.text_of(batch)] for x in (ours, theirs))
  assert np.abs(ours).max() > 0.5
  assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize('name', interop_cases.MODELS)
def test_an_export_has_the_same_logits(name, tmp_path, caplog):
  model = interop_cases.MODELS[name]
  pad = interop_cases.PADS.get(name, 0)
  params, batch = interop_cases.float32(model), peers.batch_of(model, pad)
  task = interop_cases.task_of(name)
  interop_cases.write_workdir(tmp_path / 'run', model, params, pad=pad, overrides=task)
  interop.export(tmp_path / 'run', tmp_path / 'out')
  caplog.clear()
  theirs = peers.load(tmp_path / 'out')
  if name in ('t5_1_1', 'umt5'):
    # transformers 5 says it of every T5 1.1: its config class ties, whatever config.json says.
    (said,) = caplog.messages
    assert 'so we will NOT tie them' in said
  else:
    assert caplog.messages == []
  assert_close(logits_of(model, params, batch), peers.logits_of(theirs, batch), batch)


@pytest.mark.parametrize('name', [*interop_cases.MODELS, 'mt5'])
def test_an_import_has_the_same_logits(name, tmp_path):
  """Of a torch model with random parameters, saved by transformers."""
  name, is_mt5 = 't5_1_1' if name == 'mt5' else name, name == 'mt5'
  model, pad = interop_cases.MODELS[name], interop_cases.PADS.get(name, 0)
  params, task = interop_cases.float32(model), interop_cases.task_of(name)
  interop_cases.write_workdir(tmp_path / 'run', model, params, pad=pad, overrides=task)
  interop.export(tmp_path / 'run', tmp_path / 'out')  # for its config.json
  hf = transformers.AutoConfig.from_pretrained(tmp_path / 'out')
  if is_mt5:
    hf = transformers.MT5Config(**{**hf.to_dict(), 'model_type': 'mt5'})
    hf.architectures = ['MT5ForConditionalGeneration']
  torch.manual_seed(0)
  theirs = getattr(transformers, hf.architectures[0])(hf).eval()
  with torch.no_grad():
    for parameter in theirs.parameters():
      parameter += 0.2 * torch.randn_like(parameter)
  theirs.save_pretrained(tmp_path / 'hf')
  interop.import_model(tmp_path / 'hf', tmp_path / 'new', overrides=task)
  model = config_lib.load(tmp_path / 'new/config.json').model
  params = interop_cases.read_params(tmp_path / 'new', model)
  batch = peers.batch_of(model, pad)
  assert_close(logits_of(model, params, batch), peers.logits_of(theirs, batch), batch)


UNPACKED = {*interop_cases.PADS, 'bert_pooled', 'modernbert_pooled'}  # of other tokens; one a row


@pytest.mark.parametrize('name', sorted(interop_cases.MODELS.keys() - UNPACKED))
def test_a_packed_row_has_the_logits_of_each_example_alone(name, tmp_path):
  """Where transformers, which packs no rows, reads one at a time."""
  model, lengths = interop_cases.MODELS[name], peers.LENGTHS
  params, task = interop_cases.float32(model), interop_cases.task_of(name)
  interop_cases.write_workdir(tmp_path / 'run', model, params, overrides=task)
  interop.export(tmp_path / 'run', tmp_path / 'out')
  theirs = peers.load(tmp_path / 'out')
  sizes = [[(4, 5), (3, 2)], [(2, 1), (3, 4), (4, 3)]]
  rows = [[families.example(model, *size, seed=sum(size)) for size in row] for row in sizes]
  batch = families.batch_of(rows, lengths, packed=True)
  batch.pop('decoder_causal_attention', None)
  for one, ours in families.pieces(model, rows, logits_of(model, params, batch)):
    one.pop('decoder_causal_attention', None)
    alone = {feature: x[None] for feature, x in one.items()}
    assert np.abs(ours).max() > 0.1
    assert np.abs(ours - peers.logits_of(theirs, alone)[0]).max() < 1e-4
