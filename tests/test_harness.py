"""lm-eval on workdirs: its numbers are ours, of every family; its command line, offline."""

import json
import os
import pathlib
import subprocess
import sys

import jax
from lm_eval.api.instance import Instance
import numpy as np
import pytest

from t5lite import config as config_lib
from t5lite import decoding
from t5lite import errors
from t5lite import evaluate
from t5lite import harness
from t5lite import models
from t5lite import stored
from t5lite.decoding import likelihood
from t5lite.decoding import ranking
from t5lite.harness import __main__ as harness_main
from t5lite.harness import workdir as workdir_lib

ROOT = pathlib.Path(__file__).parents[1]
SMALL = ['model.num_layers=1', 'model.d_model=64', 'data.batch_size=8', 'data.input_length=32']
SHORT_TARGETS = ['data.target_length=16', 'objective.noise_density=0.2']
TEXTS = ['It was the best', 'We hold these truths to be self-evident, that']
LONG = 'They say it was the age of wisdom, it was the age of foolishness. ' * 3
STOP = [' ', 'e']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Workdirs of untrained models: gpt, t5, bert."""
  folder = tmp_path_factory.mktemp('harness')
  for name, more in (('gpt', ['model.max_length=40']), ('t5', SHORT_TARGETS), ('bert', [])):
    config = config_lib.load(ROOT / f'configs/tiny_{name}.py', [*SMALL, *more])
    params = jax.jit(models.init, static_argnums=0)(config.model, jax.random.key(0))
    leaves = {path: np.asarray(x) for path, x in stored.flat(params).items()}
    parts = [(path, None, x) for path, x in leaves.items()]
    (folder / name).mkdir()
    config_lib.save(config, folder / name / 'config.json')
    manifest = {'step': 0, 'config': config_lib.to_dict(config), 'versions': {}}
    stored.write_params(folder / name, jax.eval_shape(lambda x: x, leaves), parts, manifest)
  return folder


@pytest.fixture(params=['gpt', 't5', 'bert'])
def model(request, folder):
  return workdir_lib.Workdir(folder / request.param)


@pytest.fixture
def gpt(folder):
  return workdir_lib.Workdir(folder / 'gpt')


def requests(kind, *arguments):
  return [Instance(kind, {}, args, number) for number, args in enumerate(arguments)]


def scored(model, pairs):
  config, mesh, params, _ = model._trained
  with jax.set_mesh(mesh):
    return likelihood.score(config, params, model._tokenizer.vocabulary, pairs)


def test_log_likelihoods_are_ours(model):
  texts = [*zip(TEXTS, [' of times', ' all men'], strict=True), ('', 'All men are')]
  got = model.loglikelihood(requests('loglikelihood', *texts))
  pairs = [ranking.of_texts(model._config, model._tokenizer, *pair) for pair in texts]
  expected = [(one.log_likelihood, one.is_greedy) for one in scored(model, pairs)]
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_long_context_loses_its_first_tokens(model, caplog):
  """As many as it must: the row is full, ends as it did and begins as all rows do."""
  got = model.loglikelihood(requests('loglikelihood', (LONG, ' of'), (TEXTS[0], ' of')))
  assert '1 contexts were too long' in caplog.text
  whole, short = (
    ranking.of_texts(model._config, model._tokenizer, text, ' of') for text in (LONG, TEXTS[0])
  )
  first = int(whole.inputs[0] == short.inputs[0])  # a mark that begins every row of GPT and BERT
  excess = likelihood.lengths_of(model._config.model.architecture, whole)[0] - model._longest
  kept = whole.inputs[first + excess :]
  assert first == (model._config.model.architecture != 'encoder_decoder') and excess > 0
  cut = whole._replace(inputs=np.array([*whole.inputs[:first], *kept]))
  expected = [(one.log_likelihood, one.is_greedy) for one in scored(model, [cut, short])]
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_windows_ask_for_each_token_once(model):
  tokens, short = model._tokenizer.encode([LONG, TEXTS[0]])
  assert len(tokens) > model._longest > len(short) + 2
  windows = list(model._windows(tokens))
  np.testing.assert_array_equal(np.concatenate([pair.targets for pair in windows]), tokens)
  architecture = model._config.model.architecture
  lengths = [likelihood.lengths_of(architecture, pair) for pair in windows]
  assert max(length for length, *_ in lengths) == model._longest
  if architecture != 'encoder':  # context is what comes before
    at = len(tokens) - len(windows[-1].targets)
    before = [t for t in windows[-1].inputs if t in tokens]
    np.testing.assert_array_equal(before, tokens[at - len(before) : at])
    assert len(before) >= 1
  assert list(model._windows(tokens[:0])) == []


def test_rolling_is_the_sum_over_windows(model):
  texts = [LONG, TEXTS[0], '']
  got = model.loglikelihood_rolling(requests('loglikelihood_rolling', *zip(texts)))
  tokens = model._tokenizer.encode(texts)
  expected = [
    sum(one.log_likelihood for one in scored(model, list(model._windows(t)))) for t in tokens
  ]
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  assert got[0] < got[1] < got[2] == 0


def test_a_short_text_rolls_behind_the_end_of_another(gpt):
  tokens = gpt._tokenizer.encode([TEXTS[0]])[0]
  pair = likelihood.Pair(np.array([gpt._tokenizer.vocabulary.eos]), tokens)
  got = gpt.loglikelihood_rolling(requests('loglikelihood_rolling', (TEXTS[0],)))
  np.testing.assert_allclose(got, [scored(gpt, [pair])[0].log_likelihood], rtol=1e-5)


@pytest.mark.parametrize('name', ['gpt', 't5'])
def test_generated_texts_are_ours_up_to_a_stop(name, folder):
  """Each request keeps its place and its own stops."""
  model = workdir_lib.Workdir(folder / name)
  config, mesh, params, _ = model._trained
  contexts = [TEXTS[0], TEXTS[1], TEXTS[0], 'All men are']
  options = [dict(until=until, max_gen_toks=6) for until in (STOP, 'e', [], STOP)]
  got = model.generate_until(requests('generate_until', *zip(contexts, options, strict=True)))
  with jax.set_mesh(mesh):
    written = decoding.write(
      config, params, model._tokenizer, contexts,
      max_tokens=6, sampler=decoding.Sampler(), key=jax.random.key(0),
    )  # fmt: skip
  assert got[2] == written[2] != ''
  for text, full, option in zip(got, written, options, strict=True):
    ends = [full.find(stop) for stop in option['until'] if stop in full]
    assert text == full[: min(ends, default=len(full))]
  assert got != written


def test_samples_differ(gpt):
  options = dict(until=[], max_gen_toks=6, do_sample=True, temperature=1.0, top_k=50)
  texts = gpt.generate_until(requests('generate_until', *[(TEXTS[0], options)] * 3))
  assert len(set(texts)) == 3


def test_a_long_prompt_leaves_room_for_what_is_written(gpt, caplog):
  prompts = gpt._prompts([LONG, TEXTS[0]], max_tokens=8)
  ids = gpt._tokenizer.encode_marked(LONG)
  eos = gpt._tokenizer.vocabulary.eos
  np.testing.assert_array_equal(prompts[0], [eos, *ids[-(40 - 8 - 1) :]])
  np.testing.assert_array_equal(prompts[1], [eos, *gpt._tokenizer.encode_marked(TEXTS[0])])
  assert '1 contexts were too long' in caplog.text


def write(name, folder, **options):
  model = workdir_lib.Workdir(folder / name)
  return model.generate_until(requests('generate_until', (TEXTS[0], options)))


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda folder: write('bert', folder, max_gen_toks=4), 'an encoder does not generate'),
    (
      lambda folder: write('gpt', folder, num_beams=2, max_gen_toks=4),
      'kwargs: num_beams: use do_',
    ),
    (
      lambda folder: write('gpt', folder),
      'max_gen_toks=256 of a model of 40 tokens: set a smaller',
    ),
    (lambda folder: workdir_lib.Workdir(), 'wrong model_args: no workdir'),
    (lambda folder: workdir_lib.Workdir('x', dtype='f'), 'wrong model_args: dtype=f'),
    (lambda folder: workdir_lib.Workdir(folder), 'not a workdir'),
  ],
)
def test_what_cannot_be_done_is_one_line(call, message, folder):
  with pytest.raises(errors.UserError, match=message) as error:
    call(folder)
  assert '\n' not in str(error.value)


def test_a_missing_lm_eval_is_told(monkeypatch, capsys):
  for name in [name for name in sys.modules if name.partition('.')[0] == 'lm_eval']:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, 'lm_eval', None)
  monkeypatch.delitem(sys.modules, 't5lite.harness.workdir')
  monkeypatch.delattr(harness, 'workdir')
  assert harness_main.main() == 64
  assert (
    capsys.readouterr().err == "t5lite: missing package: lm_eval: pip install 't5lite[lm-eval]'\n"
  )


TASK = """
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: {kind}
doc_to_text: "{{{{text}}}}"
doc_to_target: {target}
{more}
metric_list:
"""
MORE = {
  'multiple_choice': 'doc_to_choice: "{{choices}}"',
  'generate_until': 'generation_kwargs:\n  until: ["."]\n  max_gen_toks: 8',
  'loglikelihood_rolling': '',
}
METRICS = {
  'multiple_choice': ['acc', 'acc_norm'],
  'generate_until': ['exact_match'],
  'loglikelihood_rolling': ['bits_per_byte'],
}


@pytest.fixture(scope='module')
def tasks(folder):
  """A folder with three tasks in YAML over a few rows of JSON."""
  tasks = folder / 'tasks'
  tasks.mkdir()
  choices = [[' worst', ' age of wisdom'], [' all men', ' no', ' governments']]
  rows = [
    dict(text=text, choices=names, answer=1) for text, names in zip(TEXTS, choices, strict=True)
  ]
  (tasks / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  for kind, more in MORE.items():
    target = 'answer' if kind == 'multiple_choice' else '"{{text}}"'
    text = TASK.format(
      task=f'my_{kind}', rows=tasks / 'rows.jsonl', kind=kind, target=target, more=more
    )
    text += ''.join(f'  - metric: {metric}\n' for metric in METRICS[kind])
    (tasks / f'{kind}.yaml').write_text(text)
  return tasks


def command(folder, *arguments):
  """Runs lm-eval's command line, where no network can be reached."""
  nowhere = {name: 'http://127.0.0.1:9' for name in ('HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY')}
  variables = os.environ | nowhere | {'HF_HUB_OFFLINE': '1', 'HF_HOME': str(folder / 'hf')}
  return subprocess.run(
    [sys.executable, '-m', 't5lite.harness', '--model=t5lite', *arguments],
    cwd=ROOT, env=variables, capture_output=True, text=True,
  )  # fmt: skip


@pytest.mark.slow
def test_lm_eval_runs_on_a_workdir(folder, tasks, gpt):
  """Three kinds of tasks in one run of its command line; the numbers are those of our own."""
  done = command(
    folder,
    f'--model_args=workdir={folder / "gpt"}',
    f'--tasks={",".join(f"my_{kind}" for kind in MORE)}',
    f'--include_path={tasks}',
    f'--output_path={folder / "results"}',
  )
  assert done.returncode == 0, done.stderr
  assert 'my_multiple_choice' in done.stdout and 'acc_norm' in done.stdout
  (file,) = (folder / 'results').rglob('results*.json')
  written = json.loads(file.read_text())
  got = {name: values for one in written['results'].values() for name, values in one.items()}
  rows = [json.loads(line) for line in (tasks / 'rows.jsonl').read_text().splitlines()]
  sums = [
    [
      one[0]
      for one in gpt.loglikelihood(
        requests('loglikelihood', *[(row['text'], ' ' + name) for name in row['choices']])
      )
    ]
    for row in rows
  ]
  assert got['acc,none'] == np.mean([np.argmax(each) == 1 for each in sums])
  nats = gpt.loglikelihood_rolling(requests('loglikelihood_rolling', *zip(TEXTS)))
  num_bytes = sum(len(text.encode()) for text in TEXTS)
  assert got['bits_per_byte,none'] == pytest.approx(-sum(nats) / np.log(2) / num_bytes, rel=1e-5)
  assert got['exact_match,none'] == 0
  assert written['config']['step'] == 0
  assert written['config']['model_num_parameters'] == sum(
    x.size for x in jax.tree.leaves(evaluate.load(folder / 'gpt').params)
  )


@pytest.mark.slow
def test_a_wrong_workdir_is_one_line_of_the_command(folder, tasks):
  done = command(
    folder, '--model_args=workdir=nowhere', '--tasks=my_generate_until', f'--include_path={tasks}'
  )
  assert done.returncode == 66
  assert done.stderr.splitlines()[-1].startswith('t5lite: not a workdir: nowhere: give')
  assert 'Traceback' not in done.stderr
