"""generate, fill and chat as users call them: files in and out, streams, dialogues, bad input."""

import dataclasses
import io
import json
import pathlib
import re

import pytest

import families
import interop_cases
from t5lite import decoding
from t5lite import errors
from t5lite import evaluate
from t5lite import main
from t5lite import sampler_flags
from t5lite.data import tokenizer as tokenizer_lib
from test_main import told

SIZE = tokenizer_lib.load('corpus').vocabulary.size
MODELS = {
  't5': dataclasses.replace(families.MODELS['t5_1_1'], vocab_size=SIZE),
  'gpt': dataclasses.replace(families.MODELS['gpt2'], vocab_size=SIZE, max_length=48),
  'bert': dataclasses.replace(families.MODELS['bert'], vocab_size=SIZE, max_length=32),
}
PROMPTS = ['It was the best of times', 'Grüße', 'and so on']


@pytest.fixture(scope='module')
def runs(tmp_path_factory) -> pathlib.Path:
  """Workdirs of random parameters; `NAME_empty` has a config and no checkpoint."""
  folder = tmp_path_factory.mktemp('runs')
  for name, model in MODELS.items():
    params = interop_cases.float32(model)
    interop_cases.write_workdir(folder / name, model, params, with_tokenizer=True)
    (folder / f'{name}_empty').mkdir()
    (folder / f'{name}_empty/config.json').write_bytes((folder / name / 'config.json').read_bytes())
  bart = json.loads((folder / 't5/config.json').read_text())
  bart['objective']['name'] = 'text_infilling'
  (folder / 'bart_empty').mkdir()
  (folder / 'bart_empty/config.json').write_text(json.dumps(bart))
  return folder


def said(capsys, *arguments: str) -> str:
  """Returns what a command prints; it ends well."""
  capsys.readouterr()
  code = main.main(list(arguments))
  captured = capsys.readouterr()
  assert code == 0, captured.err
  return captured.out


def generated(capsys, runs, *flags: str, name: str = 'gpt') -> str:
  return said(capsys, 'generate', f'--workdir={runs}/{name}', '--max_tokens=6', *flags)


def test_fields_of_a_row_stay_and_the_text_is_added(capsys, runs, tmp_path):
  """Through a file, to the screen, and as prompts of a text file: the same texts in order."""
  rows = [{'id': i, 'prompt': prompt, 'more': {'a': [1]}} for i, prompt in enumerate(PROMPTS)]
  lines = [json.dumps(row) for row in rows]
  (tmp_path / 'in.jsonl').write_text('\n'.join(lines))
  (tmp_path / 'in.txt').write_text('\n'.join(PROMPTS) + '\n')
  out = tmp_path / 'out.jsonl'
  assert generated(capsys, runs, f'--input={tmp_path}/in.jsonl', f'--output={out}') == ''
  made = [json.loads(line) for line in out.read_text().splitlines()]
  texts = [row.pop('output') for row in made]
  assert made == rows and len(set(texts)) == 3
  shown = generated(capsys, runs, f'--input={tmp_path}/in.jsonl', '--batch_size=1')
  assert [json.loads(line)['output'] for line in shown.splitlines()] == texts
  assert generated(capsys, runs, f'--input={tmp_path}/in.txt') == '\n'.join(texts) + '\n'
  assert generated(capsys, runs, f'--prompt={PROMPTS[1]}') == texts[1] + '\n'


def test_samples_of_a_prompt_are_rows_one_behind_another(capsys, runs, tmp_path):
  (tmp_path / 'in.txt').write_text('\n'.join(PROMPTS))
  flags = ['--sampler=sample', '--num_samples=2', '--temperature=1.2', '--seed=3']
  out = tmp_path / 'out.jsonl'
  generated(capsys, runs, f'--input={tmp_path}/in.txt', f'--output={out}', *flags)
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  assert [row['prompt'] for row in rows] == [prompt for prompt in PROMPTS for _ in range(2)]
  assert len({row['output'] for row in rows}) == 6


@pytest.mark.parametrize('name', ['t5', 'gpt'])
def test_a_stream_shows_the_text_and_a_stop_string_ends_it(capsys, runs, name):
  flags = ['--prompt=It was', '--sampler=sample', '--seed=5']
  whole = generated(capsys, runs, *flags, name=name)
  assert generated(capsys, runs, *flags, '--stream', name=name) == whole
  stop = whole[4:7]
  for more in ([], ['--stream']):
    got = generated(capsys, runs, *flags, f'--stop={stop}', '--stop=@@', *more, name=name)
    assert got == whole[: whole.index(stop)] + '\n'


def test_beams_and_penalties_change_what_is_written(capsys, runs):
  texts = {
    generated(capsys, runs, '--prompt=It was', *flags)
    for flags in ([], ['--sampler=beam', '--num_beams=3'], ['--repetition_penalty=1000'])
  }
  assert len(texts) == 3


def test_flags_of_the_sampler_reach_it():
  def asked(*flags: str):
    both = ['--repetition_penalty=1.5', '--nopenalize_prompt', '--no_repeat_ngram_size=2']
    both += ['--min_tokens=3']
    return sampler_flags.sampler(main.parse('generate', ['--workdir=x', *both, *flags]))

  both = dict(repetition_penalty=1.5, penalize_prompt=False, no_repeat_ngram_size=2, min_tokens=3)
  assert asked() == decoding.Sampler(**both)
  flags = ['--temperature=0.5', '--top_k=2', '--top_p=0.75', '--min_p=0.25']
  sample = dict(temperature=0.5, top_k=2, top_p=0.75, min_p=0.25)
  assert asked('--sampler=sample', *flags) == decoding.Sampler(**both, **sample)
  flags = ['--num_beams=2', '--length_penalty=0.5', '--early_stopping']
  beam = dict(num_beams=2, length_penalty=0.5, early_stopping=True)
  assert asked('--sampler=beam', *flags) == decoding.Beam(**both, **beam)


LONG = 'word ' * 60
BAD = {
  ('gpt', '--prompt='): (65, r'empty prompt: --prompt=: write'),
  ('gpt', '--input={}/blank.txt'): (65, r'empty prompt: .*/blank.txt:2 : write'),
  ('gpt', '--input={}/none.txt'): (65, 'no prompts: .*/none.txt: give'),
  ('gpt', '--input={}/no.jsonl'): (65, 'cannot read prompts: .*/no.jsonl'),
  ('gpt', '--input={}/list.jsonl'): (65, r'not a row with a prompt: .*/list.jsonl:2 \[1\]: write'),
  ('gpt', '--input={}/half.jsonl'): (
    65,
    r'not a row with a prompt: .*/half.jsonl:1 \{"prompt": "a',
  ),
  ('gpt', '--input={}/number.jsonl'): (65, r'not a row with a prompt: .*/number.jsonl:1'),
  ('gpt', '--input={}/done.jsonl'): (65, r'row has an output already: .*/done.jsonl:1 .*: rename'),
  ('gpt', f'--prompt={LONG}'): (
    64,
    'longer than the position table: prompt 0: .*max_length=48: sh',
  ),
  ('gpt', '--prompt=a', '--max_tokens=48'): (64, 'longer than the position table: .* fewer new'),
  ('gpt', '--prompt=a', '--top_k=3'): (64, 'flag of another sampler: --top_k=3 with --sampler=gr'),
  ('gpt', '--prompt=a', '--sampler=beam', '--seed=1'): (64, 'flag of another sampler: --seed=1'),
  ('gpt', '--prompt=a', '--num_beams=2'): (64, 'flag of .*: use --sampler=beam, or leave it out'),
  ('gpt', '--prompt=a', '--num_samples=2'): (64, 'greedy has one text: num_samples=2: sample'),
  ('gpt', '--prompt=a', '--sampler=beam', '--num_samples=9'): (64, 'more texts than beams'),
  ('gpt', '--prompt=a', '--sampler=beam', '--stream'): (64, 'cannot be streamed: 1 prompts'),
  ('gpt', '--prompt=a', '--repetition_penalty=0'): (64, 'not a penalty: .*=0.0: use a number abov'),
  ('gpt', '--prompt=a', '--nopenalize_prompt'): (
    64,
    'no penalty: --penalize_prompt=False with --r',
  ),
  ('gpt', '--prompt=a', '--sampler=sample', '--top_p=0'): (64, 'sampler.top_p=0.0: use 0 < top_p'),
  ('gpt', '--prompt=a', '--min_tokens=9', '--max_tokens=8'): (
    64,
    'above the maximum: min_tokens=9',
  ),
  ('gpt', '--prompt=a', '--stop='): (64, 'empty stop: --stop=: give a text'),
  ('gpt', '--prompt=a', '--output=x.txt'): (64, 'not a JSONL file: --output=x.txt: name it'),
  ('gpt', '--prompt=a', '--output={}/no/x.jsonl'): (64, 'no such directory: --output=.*: make'),
  ('bert', '--prompt=a'): (64, 'an encoder does not generate: .*: use fill'),
  ('t5', '--prompt=a \udcff'): (65, 'lone surrogate in a text: '),
}


@pytest.mark.parametrize('arguments', BAD, ids=lambda arguments: ' '.join(arguments)[:40])
def test_bad_input_is_told_before_parameters_are_read(capsys, runs, tmp_path, arguments):
  """The workdir has none, which would be told next."""
  (tmp_path / 'blank.txt').write_text('a\n\nb\n')
  (tmp_path / 'none.txt').touch()
  (tmp_path / 'list.jsonl').write_text('{"prompt": "a"}\n[1]\n')
  (tmp_path / 'half.jsonl').write_text('{"prompt": "a\n')
  (tmp_path / 'number.jsonl').write_text('{"prompt": 1}\n')
  (tmp_path / 'done.jsonl').write_text('{"prompt": "a", "output": "b"}\n')
  name, *flags = arguments
  flags = [flag.replace('{}', str(tmp_path)) for flag in flags]
  code, message = BAD[arguments]
  command = ['generate', f'--workdir={runs}/{name}_empty', *flags]
  assert re.search(message, told(capsys, command, code))
  assert 'no checkpoint' in told(
    capsys, ['generate', f'--workdir={runs}/gpt_empty', '--prompt=a', '--max_tokens=2'], 66
  )


FILLS = {
  ('bert', 'Nothing.'): (65, r'nothing to fill: .*: write \[MASK\]'),
  ('bert', ''): (65, "nothing to fill: '': write"),
  ('bert', 'An <extra_id_0> is no mask'): (65, r'nothing to fill: .*: write \[MASK\]'),
  ('bert', '[MASK] ' + LONG): (64, 'longer than the position table: .*max_length=32: shorten'),
  ('t5', 'Nothing.'): (65, 'nothing to fill: .*: write <extra_id_0>'),
  ('t5', '[MASK] ' * 101): (65, 'more gaps than sentinels: 101 gaps, 100 sentinels: fill a'),
  ('bart', 'A [MASK].'): (64, 'this model writes the whole text: .*: use generate, with <extra_'),
  ('gpt', 'A [MASK].'): (64, 'this model continues text and fills no gaps: .*: use generate'),
}


@pytest.mark.parametrize('name, text', FILLS)
def test_what_cannot_be_filled_is_told_before_parameters_are_read(capsys, runs, name, text):
  code, message = FILLS[name, text]
  command = ['fill', f'--workdir={runs}/{name}_empty', f'--text={text}']
  assert re.search(message, told(capsys, command, code))


def test_a_long_text_is_filled_with_a_word_of_warning(capsys, runs):
  """T5 has positions for any length, but was trained on some."""
  long = 'word ' * 600 + '<extra_id_0> end.'
  assert main.main(['fill', f'--workdir={runs}/t5', f'--text={long}', '--top_k=1']) == 0
  captured = capsys.readouterr()
  assert re.fullmatch(
    r't5lite: longer than .*: \d+ tokens with data.input_length=.*\n', captured.err
  )
  assert captured.out.startswith('<extra_id_0>\n')


@pytest.mark.parametrize('name', ['t5', 'gpt'])
def test_a_dialogue_begins_anew_when_it_is_reset(capsys, runs, monkeypatch, name):
  """Each answer is what `generate` writes behind the turns that there are."""
  typed = ['Hello!', '', '/help', 'x ' * 600, '/reset', 'Hello!', '/quit', 'never read']
  monkeypatch.setattr('sys.stdin', io.StringIO('\n'.join(typed)))
  assert main.main(['chat', f'--workdir={runs}/{name}', '--max_tokens=6', '--prefix=talk: ']) == 0
  captured = capsys.readouterr()
  first, again = captured.out.splitlines()
  prompt = 'talk: Hello!' + (' </t>' if name == 'gpt' else '')
  expected = generated(capsys, runs, f'--prompt={prompt}', '--stop=</t>', name=name)
  assert first == again == expected.split('\n')[0]
  help_line, too_long = captured.err.splitlines()
  assert help_line == 'commands: /reset, /quit' and 't5lite: turn too long: ' in too_long


def test_the_oldest_turns_go_when_there_is_no_room(runs):
  """A decoder reads the turns with a separator behind them, 48 tokens with the new ones."""
  config, tokenizer = evaluate.load_config(runs / 'gpt'), tokenizer_lib.load('corpus')
  dialogue = decoding.Dialogue(config, tokenizer, ' </t> ', 'talk: ', max_tokens=8)
  assert dialogue.stops == ['</t>', '\n']
  assert dialogue.ask('one') == 'talk: one </t>'
  dialogue.answer(' two ')
  assert dialogue.ask('three') == 'talk: one </t> two </t> three </t>'
  dialogue.answer('')
  asked = [dialogue.ask(f'{n} and so on') for n in range(9)]
  assert asked[0].startswith('talk: one </t>') and not asked[-1].startswith('talk: one')
  assert len(tokenizer.encode_marked(asked[-1])) + 1 <= 40
  before = list(dialogue.turns)
  assert asked[-1] == f'talk: {" </t> ".join(before)} </t>'
  with pytest.raises(errors.DataError, match='turn too long: .* of which 40 fit'):
    dialogue.ask(LONG)
  assert dialogue.turns == before and before[-1] == '8 and so on'
  with pytest.raises(errors.ConfigError, match='no room for a dialogue: --max_tokens=48 of 48'):
    decoding.Dialogue(config, tokenizer, ' </t> ', '', max_tokens=48)


def test_an_encoder_decoder_reads_the_turns_alone(runs):
  config, tokenizer = evaluate.load_config(runs / 't5'), tokenizer_lib.load('corpus')
  dialogue = decoding.Dialogue(config, tokenizer, ' </t> ', '', max_tokens=8)
  assert dialogue.stops == ['</t>']
  dialogue.ask('one')
  dialogue.answer('two')
  assert dialogue.ask('three') == 'one </t> two </t> three'


@pytest.mark.parametrize('name', ['t5', 'gpt'])
def test_a_suffix_makes_the_prompt_of_a_task(name, runs):
  """As tasks/starter.py writes it: 'dialogue: {input}\\nanswer:'."""
  config, tokenizer = evaluate.load_config(runs / name), tokenizer_lib.load('corpus')
  dialogue = decoding.Dialogue(
    config, tokenizer, ' </t> ', 'dialogue: ', max_tokens=8, suffix='\nanswer:'
  )
  dialogue.ask('one')
  dialogue.answer('two')
  assert dialogue.ask('three') == 'dialogue: one </t> two </t> three\nanswer:'
