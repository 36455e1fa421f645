"""Greedy and beam search give transformers' tokens and scores, on the same weights."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch
import transformers

import interop_cases
import peers
from t5lite import decoding
from t5lite import evaluate
from t5lite import interop
from t5lite.data import tokenizer as tokenizer_lib

pytestmark = pytest.mark.parity
LENGTHS = (7, 1, 12, 4, 9)
NEW = 12  # tokens
MODELS = {
  # As deep on both sides: the cache of transformers 5.24 has as many layers as the encoder.
  't5': dataclasses.replace(interop_cases.MODELS['t5_1_1'], num_decoder_layers=2),
  'gpt2': dataclasses.replace(interop_cases.MODELS['gpt2'], max_length=32),
  'llama': interop_cases.MODELS['llama'],
}
rng = np.random.default_rng(5)
PROMPTS = [rng.integers(2, 29, length) for length in LENGTHS]


@pytest.fixture(scope='module', params=MODELS)
def pair(request, tmp_path_factory):
  """A model with its parameters, and the torch model of its export."""
  model, folder = MODELS[request.param], tmp_path_factory.mktemp(request.param)
  # Smaller weights, flatter distributions: beams that differ, and end here and there.
  params = jax.tree.map(lambda x: x * np.float32(0.6), interop_cases.float32(model, seed=2))
  interop_cases.write_workdir(folder / 'run', model, params)
  interop.export(folder / 'run', folder / 'out')
  return model, jax.tree.map(jax.numpy.asarray, params), peers.load(folder / 'out')


def theirs(model, torch_model, eos, prompts=PROMPTS, **options):
  """Returns (tokens up to the end, score) of each text of each prompt; scores of beams only."""
  left = model.architecture == 'decoder'
  most = max(map(len, prompts))
  pads = [(most - len(p), 0) if left else (0, most - len(p)) for p in prompts]
  ids = np.array([np.pad(prompt, pad) for prompt, pad in zip(prompts, pads, strict=True)])
  made = torch_model.generate(
    input_ids=torch.tensor(ids),
    attention_mask=torch.tensor(ids != 0).long(),
    max_new_tokens=NEW,
    do_sample=False,
    eos_token_id=eos,
    pad_token_id=0,
    bos_token_id=None,
    output_scores=True,
    return_dict_in_generate=True,
    **options,
  )
  found = []
  scores = made.get('sequences_scores')
  for row, tokens in enumerate(made.sequences.numpy()):
    tokens = tokens[most if left else 1 :].tolist()
    tokens = tokens[: tokens.index(eos)] if eos in tokens else tokens
    found.append((tokens, None if scores is None else float(scores[row])))
  return found


def assert_same(ours, expected):
  assert [output.tokens.tolist() for output in ours] == [tokens for tokens, _ in expected]
  if expected[0][1] is not None:
    scores = [score for _, score in expected]
    np.testing.assert_allclose([output.score for output in ours], scores, rtol=1e-4, atol=1e-4)


def ours(pair, eos, sampler, num_samples=1):
  model, params, _ = pair
  return decoding.scored(
    model,
    params,
    PROMPTS,
    max_tokens=NEW,
    sampler=sampler,
    key=jax.random.key(0),
    eos=eos,
    num_samples=num_samples,
  )


@pytest.mark.parametrize('penalty', [1.0, 1.4, 0.8])
def test_greedy_is_theirs(pair, penalty):
  model, _, torch_model = pair
  free = ours(pair, -1, decoding.Sampler(repetition_penalty=penalty))
  eos = int(free[0].tokens[3])  # a token that comes up
  got = ours(pair, eos, decoding.Sampler(repetition_penalty=penalty))
  assert_same(got, theirs(model, torch_model, eos, num_beams=1, repetition_penalty=penalty))
  assert min(len(output.tokens) for output in got) < NEW


@pytest.mark.parametrize('penalty', [1.4, 0.8])
def test_penalties_of_new_tokens_alone_are_theirs(pair, penalty):
  model, _, torch_model = pair
  got = ours(pair, -1, decoding.Sampler(repetition_penalty=penalty, penalize_prompt=False))
  length = max(LENGTHS) if model.architecture == 'decoder' else 1
  theirs_is = transformers.RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=length)
  processors = transformers.LogitsProcessorList([theirs_is])
  assert_same(got, theirs(model, torch_model, -1, num_beams=1, logits_processor=processors))
  of_prompt = ours(pair, -1, decoding.Sampler(repetition_penalty=penalty))
  if model.architecture == 'decoder':
    assert [list(x.tokens) for x in got] != [list(x.tokens) for x in of_prompt]


@pytest.mark.parametrize('shortest', [2, 5])
def test_minimum_lengths_are_theirs(pair, shortest):
  """The end is the token that comes up most, so that texts end early without one."""
  model, _, torch_model = pair
  free = np.concatenate([output.tokens for output in ours(pair, -1, decoding.Sampler())])
  eos = int(np.bincount(free).argmax())
  assert min(len(output.tokens) for output in ours(pair, eos, decoding.Sampler())) < shortest
  got = ours(pair, eos, decoding.Sampler(min_tokens=shortest))
  options = dict(num_beams=1, min_new_tokens=shortest)
  assert_same(got, theirs(model, torch_model, eos, **options))
  assert shortest <= min(len(output.tokens) for output in got) < NEW


BEAMS = [
  dict(num_beams=4),
  dict(num_beams=3, early_stopping=True),
  dict(num_beams=4, length_penalty=0.0),
  dict(num_beams=4, length_penalty=2.5),
  dict(num_beams=2, length_penalty=-1.0),
  dict(num_beams=5, length_penalty=0.6, early_stopping=True, repetition_penalty=1.3),
  dict(num_beams=3, min_new_tokens=4),
  dict(num_beams=1),
]


@pytest.mark.parametrize('options', BEAMS, ids=str)
def test_beams_are_theirs(pair, options):
  """All beams of each prompt, where the end of text is one of the tokens that come up, in turn."""
  model, _, torch_model = pair
  free = ours(pair, -1, decoding.Beam(num_beams=4), 4)
  tokens, counts = np.unique([output.tokens[1:] for output in free], return_counts=True)
  lengths = set()
  for eos in tokens[np.argsort(-counts)[:3]].tolist():
    named = {'min_tokens' if k == 'min_new_tokens' else k: v for k, v in options.items()}
    got = ours(pair, eos, decoding.Beam(**named), options['num_beams'])
    expected = theirs(model, torch_model, eos, num_return_sequences=options['num_beams'], **options)
    if options['num_beams'] == 1:  # greedy, to transformers, which gives no score for it
      expected = [(tokens, None) for tokens, _ in expected]
    assert_same(got, expected)
    lengths |= {len(output.tokens) for output in got}
  assert min(lengths) < max(lengths) == NEW, 'no text ended, or all did'


@pytest.mark.parametrize('size', [1, 2, 3])
@pytest.mark.parametrize('sampler', [decoding.Sampler(), decoding.Beam(num_beams=3)], ids=str)
def test_what_is_not_repeated_is_theirs(pair, sampler, size):
  """Of each prompt alone: to transformers a sequence of padding is one that is there already."""
  model, _, torch_model = pair
  free = ours(pair, -1, sampler)
  got = ours(pair, -1, dataclasses.replace(sampler, no_repeat_ngram_size=size))
  assert [list(output.tokens) for output in got] != [list(output.tokens) for output in free]
  options = dict(num_beams=getattr(sampler, 'num_beams', 1), no_repeat_ngram_size=size)
  of = lambda prompt: theirs(model, torch_model, -1, prompts=[prompt], **options)
  assert_same(got, [text for prompt in PROMPTS for text in of(prompt)])


def test_the_benchmark_of_generation_runs():
  """Not how fast it finds t5lite to be, but that both write the same."""
  root = pathlib.Path(__file__).parents[2]
  command = [sys.executable, 'tests/benchmarks/generation.py', f'--peer={sys.executable}']
  command += ['--one', '--only=t5', '--rounds=1', '--new=3']
  environment = {**os.environ, 'XLA_FLAGS': ''}
  out = subprocess.check_output(command, cwd=root, env=environment, text=True)
  lines = [json.loads(line) for line in out.splitlines()]
  assert {line['beams'] for line in lines} == {1, 4}
  for line in lines:
    assert line['same_texts'] == line['prompts'] and line['threads'] == 1
    assert line['t5lite']['tokens_per_cpu_second'] > 0 and line['ratio'] > 0


TEXTS = ['The House of Representatives', 'On  the\nfirst day, I said that']


@pytest.mark.parametrize('name', ['t5', 'gpt2', 'llama'])
def test_an_export_writes_our_text(name, tmp_path):
  """From text to text: with its own tokenizer and generation_config.json."""
  model = dataclasses.replace(MODELS[name], vocab_size=8192)
  interop_cases.write_workdir(
    tmp_path / 'run', model, interop_cases.float32(model), with_tokenizer=True
  )
  interop.export(tmp_path / 'run', tmp_path / 'out')
  config, mesh, params, _ = evaluate.load(tmp_path / 'run')
  tokenizer = tokenizer_lib.load('corpus')
  with jax.set_mesh(mesh):
    options = dict(max_tokens=NEW, sampler=decoding.Sampler(), key=jax.random.key(0))
    ours = decoding.write(config, params, tokenizer, TEXTS, **options)
  torch_model, read = (
    peers.load(tmp_path / 'out'),
    transformers.AutoTokenizer.from_pretrained(tmp_path / 'out'),
  )
  for text, expected in zip(TEXTS, ours, strict=True):
    inputs = read(text, return_tensors='pt')
    made = torch_model.generate(**inputs, max_new_tokens=NEW, do_sample=False)[0]
    new = made if name == 't5' else made[inputs.input_ids.shape[1] :]
    assert read.decode(new, skip_special_tokens=True).strip() == expected.strip()


@pytest.mark.parametrize('name', ['bert', 'modernbert'])
def test_an_export_fills_masks_as_we_do(name, tmp_path):
  model = dataclasses.replace(interop_cases.MODELS[name], vocab_size=8192)
  if model.max_length:
    model = dataclasses.replace(model, max_length=32)
  interop_cases.write_workdir(
    tmp_path / 'run', model, interop_cases.float32(model), with_tokenizer=True
  )
  interop.export(tmp_path / 'run', tmp_path / 'out')
  config, mesh, params, _ = evaluate.load(tmp_path / 'run')
  text = 'Hello, my dog is [MASK].'
  with jax.set_mesh(mesh):
    (gap,) = decoding.fill(config, params, tokenizer_lib.load('corpus'), text, 5)
  pipeline = transformers.pipeline('fill-mask', model=str(tmp_path / 'out'))
  theirs = pipeline(text, top_k=5)
  assert [each['token_str'].strip() for each in theirs] == [c.text.strip() for c in gap.candidates]
  scores = [each['score'] for each in theirs]
  np.testing.assert_allclose([c.probability for c in gap.candidates], scores, rtol=1e-3)
