"""What a model answers to a task is read as in training, and judged row by row."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from t5lite import config as config_lib
from t5lite import data
from t5lite import decoding
from t5lite import errors
from t5lite import evaluate
from t5lite import judging
from t5lite import main
from t5lite import meshes
from t5lite import models
from t5lite import presets
from t5lite import stored
from t5lite import tasks
from t5lite import samples
from t5lite import train
from t5lite.data import tokenizer as tokenizer_lib
from t5lite.decoding import ranking
from t5lite.tasks import rendering

SIZES = {'vocab_size': 8192, 'num_layers': 1, 'd_model': 64}
T5 = presets.t5_1_1(**SIZES, d_ff=64, num_heads=1, head_dim=64)
GPT = presets.gpt2(**SIZES, num_heads=1, max_length=64)
BERT = presets.bert(**SIZES)
HEAD = dataclasses.replace(BERT, num_labels=2, pooler=True, dropout=0.0)
OBJECTIVES = {'encoder_decoder': 'span_corruption', 'decoder': 'causal_lm', 'encoder': 'mlm'}
ANIMALS = ('cat', 'dog', 'horse', 'cow', 'hen', 'fox', 'owl', 'pig')
SPLITS = ('train', 'train', 'train', 'validation', 'test')


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def tokenizer() -> tokenizer_lib.Tokenizer:
  return tokenizer_lib.load('corpus')


@pytest.fixture
def task(tmp_path) -> config_lib.Task:
  """Is it an animal? 400 rows that differ, of which the first word tells."""
  rows = []
  for i in range(400):
    word = ANIMALS[i % 8] if i % 2 else ('house', 'river', 'stone', 'cloud')[i % 4]
    rest = ' '.join(ANIMALS[(i // 3**k) % 8] for k in range(6))
    label = int(word in ANIMALS)
    rows.append({'text': f'{word} {rest}', 'is': label, 'split': SPLITS[i % 5]})
  path = tmp_path / 'rows.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return config_lib.Task(
    name='animals',
    source=f'jsonl:{path}',
    inputs='Does it live? {text} Answer:',
    targets='{is}',
    labels=('no', 'yes'),
    texts=('{text}',),
    metrics=('accuracy', 'f1'),
    split_field='split',
  )


def make_config(task, model, source='task:animals', steps=0, **settings) -> config_lib.Config:
  target_length = 8 if model.architecture == 'encoder_decoder' else 0
  settings = {'batch_size': 16, 'input_length': 48, 'target_length': target_length} | settings
  return config_lib.Config(
    model=model,
    objective=config_lib.Objective(name=OBJECTIVES[model.architecture]),
    data=config_lib.Data(source=source, **settings),
    optim=config_lib.Optim(name='adamw_rms', learning_rate=0.02, schedule='linear'),
    train=config_lib.Train(steps=steps),
    tasks=(task,),
  )


def judge(config, params, tokenizer, **settings):
  with jax.set_mesh(meshes.make(config.parallel)):
    return judging.judge(config, params, tokenizer, 'animals', 'validation', **settings)


def initial(config) -> models.Params:
  with jax.set_mesh(meshes.make(config.parallel)):
    return models.init(config.model, jax.random.key(0))


@pytest.mark.parametrize('model', [T5, GPT], ids=['t5', 'gpt'])
@pytest.mark.parametrize(
  ('input_length', 'truncation_side'), [(48, 'right'), (20, 'right'), (20, 'left')]
)
def test_prompts_are_what_training_shows(model, input_length, truncation_side, task, tokenizer):
  task = dataclasses.replace(task, truncation_side=truncation_side)
  config = make_config(task, model, input_length=input_length)
  side = 'encoder' if model is T5 else 'decoder'
  batch = data.open(config, 'held_out').batch(0)
  shown = set()
  for row in range(16):
    tokens = batch[f'{side}_input_tokens'][row]
    given = tokens > 0
    if model is GPT:  # up to what is asked for
      given = np.arange(len(tokens)) <= (batch['decoder_loss_weights'][row] > 0).argmax()
    shown.add(tuple(tokens[given].tolist()))
  source = judging.task_rows.open(task, 'validation', model.architecture)
  examples = list(source.documents())
  room = judging.longest_target(config, tokenizer, examples)
  assert room == (config.data.target_length or 2)  # 'yes' or 'no', and the end of text
  prompts = judging._prompts(config, tokenizer, task, examples, room)
  assert len(shown) > 8 and shown <= {tuple(prompt.tolist()) for prompt in prompts}


@pytest.mark.parametrize(('input_length', 'truncation_side'), [(48, 'right'), (8, 'left')])
def test_a_head_answers_as_it_is_measured(input_length, truncation_side, task, tokenizer):
  task = dataclasses.replace(task, truncation_side=truncation_side)
  config = make_config(task, HEAD, input_length=input_length)
  params = initial(config)
  judged = judge(config, params, tokenizer)
  assert judged.way == 'head' and len(judged.rows) == 80
  with jax.set_mesh(mesh := meshes.make(config.parallel)):
    measured = evaluate.Evaluator(config, mesh).measure(params)
  assert judged.values['accuracy'] == pytest.approx(measured['eval/accuracy'])
  probabilities = np.array([row['probabilities'] for row in judged.rows])
  targets = [task.labels.index(row['target']) for row in judged.rows]
  loss = -np.log(probabilities[np.arange(80), targets]).mean()
  assert loss == pytest.approx(measured['eval/loss'], rel=1e-5)
  few = judge(config, params, tokenizer, most=5)  # fills no batch
  np.testing.assert_allclose([r['probabilities'] for r in few.rows], probabilities[:5], rtol=1e-5)


@pytest.mark.parametrize('model', [T5, GPT, BERT], ids=['t5', 'gpt', 'bert'])
def test_a_task_not_trained_on_is_ranked(model, task, tokenizer):
  config = make_config(task, model, 'corpus')
  params = initial(config)
  judged = judge(config, params, tokenizer, most=6)
  assert judged.way == 'rank'
  with jax.set_mesh(meshes.make(config.parallel)):
    texts, labels = [row['inputs'] for row in judged.rows], task.labels
    if model is T5:  # which knows only what stands for a sentinel
      texts = [f'{text} <extra_id_0>' for text in texts]
      labels = [f'<extra_id_0> {label}' for label in labels]
    found = ranking.rank(config, params, tokenizer, texts, [labels] * 6)
  assert [row['answer'] for row in judged.rows] == [task.labels[each.best] for each in found]
  assert 0 <= judged.values['calibration_error'] <= 1


def test_answers_are_written_as_the_sampler_says(task, tokenizer):
  config = make_config(dataclasses.replace(task, labels=()), T5)
  params, kinds = initial(config), []

  def answers(sampler, seed: int) -> list[str]:
    judged = judge(config, params, tokenizer, sampler=sampler, seed=seed, most=8)
    kinds.append(judged.sampler['kind'])
    assert judged.sampler['seed'] == seed
    return [row['answer'] for row in judged.rows]

  drawn = [answers(decoding.Sampler(temperature=1.0), seed) for seed in (3, 3, 4)]
  assert drawn[0] == drawn[1] != drawn[2]
  assert answers(decoding.Beam(num_beams=3), 0) != answers(judging.GREEDY, 0)
  assert kinds == ['sample'] * 3 + ['beam', 'greedy']


def test_values_are_those_of_the_rows(task):
  examples = [rendering.Example((f'{i}',), label, (label,)) for i, label in enumerate('aabb')]
  lettered = dataclasses.replace(task, labels=('a', 'b'))
  answers = [judging.Answer(text, [0.9, 0.1]) for text in 'aaba']
  judged = judging._judged(lettered, 'test', 'rank', examples, answers)
  assert judged.values['accuracy'] == 0.75
  assert judged.values['calibration_error'] == pytest.approx(0.4)  # says 0.9, has half of 'a' right
  assert [row['target'] for row in judged.rows] == list('aabb')


def test_a_group_is_right_when_all_of_its_rows_are(task):
  groups = ['x', 'y', 'x', 'y', 'z']
  examples = [rendering.Example(('?',), 'yes', ('yes',), group=group) for group in groups]
  answers = [judging.Answer(text) for text in ('yes', 'yes', 'no', 'yes', 'yes')]
  grouped = dataclasses.replace(task, metrics=('accuracy', 'exact_match'), group='{text}')
  values = judging._judged(grouped, 'test', 'text', examples, answers).values
  assert values == {'accuracy': pytest.approx(4 / 5), 'exact_match': pytest.approx(2 / 3)}


SLOWER = [pytest.param(model, marks=pytest.mark.slow) for model in (T5, GPT)]


@pytest.mark.parametrize('model', [HEAD, *SLOWER], ids=['bert', 't5', 'gpt'])
def test_training_on_a_task_teaches_it(model, task, tmp_path, capsys):
  config = make_config(task, dataclasses.replace(model, dropout=0.0), steps=120)
  train.run(config, tmp_path / 'run')
  ((step, judged),) = evaluate.run_tasks(tmp_path / 'run', ['animals'], 'test')
  assert (step, judged.way) == (120, 'head' if model is HEAD else 'text')
  assert judged.values['accuracy'] >= 0.95
  written = json.loads((tmp_path / 'run/tasks/animals-test.json').read_text())
  assert written['values'] == judged.values and len(written['rows']) == 80


def test_tasks_are_done_at_each_evaluation_and_the_best_is_kept(task, tmp_path, capsys):
  config = make_config(task, HEAD, steps=8)
  best = 'eval/animals/accuracy'
  config = dataclasses.replace(
    config,
    eval=config_lib.Eval(every=1, tasks=('animals',), examples=20),
    checkpoint=config_lib.Checkpoint(every=0, keep_last=1, best=best),  # saved as it is the best
  )
  train.run(config, tmp_path)
  logged = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  values = {record['step']: record[best] for record in logged if best in record}
  assert len(values) == 8 and f'{best.removeprefix("eval/")} ' in capsys.readouterr().out
  first = max(values, key=lambda step: (values[step], -step))
  assert stored.steps(tmp_path) == sorted({first, 8})
  assert stored.best_step(tmp_path, best) == first
  # What uses the run uses its best; training goes on from the newest.
  ((step, judged),) = evaluate.run_tasks(tmp_path, ['animals'], 'validation', 20)
  assert (step, judged.values['accuracy']) == (first, values[first])
  assert stored.chosen(tmp_path).step == first < 8
  assert int(train.run(config, tmp_path).step) == 8


def test_training_ends_when_it_is_out_of_patience(task, tmp_path, capsys):
  config = make_config(task, HEAD, steps=40)
  config = dataclasses.replace(
    config,
    optim=dataclasses.replace(config.optim, learning_rate=0.0),
    eval=config_lib.Eval(every=2),
    checkpoint=config_lib.Checkpoint(every=2, keep_last=1, best='eval/loss', patience=3),
  )
  state = train.run(config, tmp_path)
  assert int(state.step) == 8  # the first is best, then three
  assert stored.steps(tmp_path) == [2, 8]
  assert 'ends at step 8 of 40: eval/loss was best at step 2' in capsys.readouterr().out
  assert int(train.run(config, tmp_path).step) == 8
  assert 'nothing to do: eval/loss was best at step 2' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('best', 'tasks', 'what'),
  [
    ('loss', (), 'not a metric of evaluation'),
    ('eval/animals/accuracy', (), 'the best of a task that is not evaluated'),
  ],
)
def test_a_wrong_best_shows_at_once(best, tasks, what, task):
  with pytest.raises(errors.ConfigError, match=what):
    dataclasses.replace(
      make_config(task, HEAD),
      eval=config_lib.Eval(tasks=tasks),
      checkpoint=config_lib.Checkpoint(best=best),
    )


@pytest.mark.parametrize(
  'name',
  ['bleu', 'animals/nope', 'animals/f1', 'animals/accuracyy', 'animals/f1/yes', 'bits_per_byte'],
)
def test_a_metric_that_no_evaluation_gives_shows_at_once(name, task, tmp_path):
  config = dataclasses.replace(
    make_config(task, HEAD, steps=1),
    eval=config_lib.Eval(tasks=('animals',)),
    checkpoint=config_lib.Checkpoint(best=f'eval/{name}'),
  )
  with pytest.raises(errors.ConfigError, match=f"no such metric: .*'eval/{name}': use one of "):
    train.run(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('model', [T5, GPT, BERT], ids=['t5', 'gpt', 'bert'])
@pytest.mark.parametrize('side', ['right', 'left'])
def test_zero_shot_reads_of_a_long_row_what_training_would_show(
  model, side, task, tokenizer, monkeypatch
):
  rows = [{'text': 'One. ' + 'It sat. ' * 50 + 'Last.', 'is': 'no', 'split': 'validation'}]
  path = pathlib.Path(task.source.removeprefix('jsonl:'))
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  config = make_config(wrong(task, truncation_side=side), model, source='corpus')
  asked = []
  score = judging.likelihood.score
  monkeypatch.setattr(
    judging.likelihood, 'score', lambda *given: asked.extend(given[3]) or score(*given)
  )
  judge(config, initial(config), tokenizer)
  assert len(asked) == 2
  for pair in asked:
    shown = tokenizer.decode(pair.inputs).removeprefix('</s> ').removeprefix('[CLS] ')
    assert shown.startswith('Does it live?') and 'It sat.' in shown
    assert ('One.' in shown, 'Last.' in shown) == (side == 'right', side == 'left')
    shown = shown.removesuffix(' </s>').removesuffix(' <extra_id_0>')
    assert shown.endswith(' Answer:')
    length = judging.likelihood.lengths_of(model.architecture, pair)[0]
    assert 44 <= length <= config.data.input_length == 48


@pytest.mark.parametrize(
  ('changes', 'what'),
  [
    ({'validation': ''}, 'task without rows for validation'),
    ({'source': 'jsonl:/nowhere'}, 'no such file: .*/nowhere'),
    ({'validation': 'dev'}, "no rows: .*split 'dev'"),
  ],
)
def test_a_probe_without_rows_shows_at_once(changes, what, task, tmp_path):
  config = make_config(wrong(task, **changes), GPT, source='corpus', steps=1)
  config = dataclasses.replace(config, eval=config_lib.Eval(tasks=('animals',)))
  with pytest.raises(errors.UserError, match=what):
    train.run(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('model', [T5, GPT, HEAD], ids=['t5', 'gpt', 'head'])
def test_a_batch_of_one_row_gives_a_sample(model, task, tokenizer):
  config = make_config(task, model)
  batch = {name: x[:1] for name, x in data.batch(config, 0).items()}
  params = jax.jit(models.init, static_argnums=0)(config.model, jax.random.key(0))
  made = samples.of_batch(config, params, tokenizer, batch)
  assert [name for name, _ in made] == ['0/input', '0/target', '0/prediction']


def test_a_head_for_labels_is_asked_for_nothing_else(task, tokenizer, tmp_path):
  """Its outputs are no pieces of text: what came out would be nonsense."""
  from t5lite.harness import workdir

  config = make_config(task, HEAD)
  with pytest.raises(errors.ConfigError, match='a head for labels fills no gaps: .*=2: use eval'):
    decoding.marked(config, tokenizer, 'a [MASK]')
  config_lib.save(config, tmp_path / 'config.json')  # told before parameters are looked for
  with pytest.raises(errors.ConfigError, match='a head for labels knows no texts: .*num_labels=2'):
    workdir.Workdir(tmp_path)


def wrong(task, **changes):
  return dataclasses.replace(task, **changes)


@pytest.mark.parametrize(
  ('model', 'source', 'changes', 'what'),
  [
    (BERT, 'corpus', {'labels': (), 'targets': '{text}'}, 'an encoder does not write'),
    (HEAD, 'task:other', {}, 'the head was trained for another task'),
    (T5, 'task:animals', {'validation': ''}, 'task without rows for validation'),
    (T5, 'task:animals', {'validation': 'dev'}, "no rows.*split 'dev'"),
  ],
)
def test_what_cannot_be_judged_is_refused(model, source, changes, what, task, tokenizer):
  config = make_config(wrong(task, **changes), model, source)
  with pytest.raises(errors.UserError, match=what):
    judge(config, None, tokenizer)


def test_an_unknown_task_shows_before_the_checkpoint_is_read(task, tmp_path: pathlib.Path):
  config_lib.save(make_config(task, T5), tmp_path / 'config.json')
  with pytest.raises(errors.ConfigError, match='did you mean animals'):
    next(evaluate.run_tasks(tmp_path, ['animal'], 'test'))
  assert tasks.is_task('task:animals')


def test_a_sampler_for_what_is_not_written_shows_at_once(task, tmp_path, capsys):
  config_lib.save(make_config(task, T5, 'corpus'), tmp_path / 'config.json')
  with pytest.raises(errors.ConfigError, match="sampler for an .*'animals' is answered by rank: "):
    next(evaluate.run_tasks(tmp_path, ['animals'], 'test', sampler=decoding.Beam()))
  for flag in ('--repetition_penalty=1.2', '--no_repeat_ngram_size=3', '--min_tokens=3'):
    assert main.main(['evaluate', f'--workdir={tmp_path}', flag]) == 64
    assert f'flag of --tasks: {flag}: name' in capsys.readouterr().err
