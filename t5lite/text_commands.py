"""The commands that let a trained model write: generate, fill and chat, with their flags.

What can be told to be wrong is told before parameters are read.
"""

from collections.abc import Iterator, Sequence
import sys
from typing import Any

from absl import flags

from t5lite import backend
from t5lite import errors
from t5lite import prompt_files
from t5lite import sampler_flags

Flags = flags.FlagValues


def define_writing(f: Flags, kinds: Sequence[str]) -> None:
  flags.DEFINE_string('workdir', None, 'directory of the run', flag_values=f, required=True)
  flags.DEFINE_integer('max_tokens', 64, 'new tokens at most', flag_values=f, lower_bound=1)
  sampler_flags.define(f, kinds)


def define_generate(f: Flags) -> None:
  define_writing(f, ['greedy', 'sample', 'beam'])
  flags.DEFINE_string('prompt', None, 'text to go on from; of T5: its input', flag_values=f)
  help = 'file with a prompt on each line, or x.jsonl of {"prompt": ...}, whose other fields stay'
  flags.DEFINE_string('input', None, help, flag_values=f)
  help = 'file x.jsonl to write: the fields of the prompt and "output"'
  flags.DEFINE_string('output', '', help, flag_values=f)
  help = 'texts of each prompt: of sample; of beam, the best ones'
  flags.DEFINE_integer('num_samples', 1, help, flag_values=f, lower_bound=1)
  help = 'end before this text; repeatable'
  flags.DEFINE_multi_string('stop', [], help, flag_values=f)
  flags.DEFINE_integer('batch_size', 32, 'texts at a time', flag_values=f, lower_bound=1)
  help = 'show the text as it grows; of one prompt, and without saying so on a terminal'
  flags.DEFINE_boolean('stream', None, help, flag_values=f)


def generate(f: Flags) -> None:
  sampler_flags.check(f)
  errors.check('' not in f.stop, 'empty stop', '--stop=', 'give a text, or leave it out')
  rows = prompt_rows(f)
  streams = check_output(f, len(rows))
  backend.start()
  import jax

  from t5lite import decoding

  sampler = sampler_flags.sampler(f)
  decoding.check_sampler(sampler, f.max_tokens, f.num_samples)
  prompts = [row[prompt_files.PROMPT] for row in rows]
  config, tokenizer = load_config(f.workdir)
  say_long(config, decoding.check_texts(config, tokenizer, prompts, f.max_tokens))
  mesh, params = load_params(f.workdir)
  options: dict[str, Any] = dict(
    max_tokens=f.max_tokens, sampler=sampler, key=jax.random.key(f.seed)
  )
  options['stops'] = f.stop
  with jax.set_mesh(mesh):
    if streams:
      show(decoding.stream(config, params, tokenizer, prompts[0], **options))
      return
    options |= dict(num_samples=f.num_samples, batch_size=f.batch_size)
    texts = decoding.write(config, params, tokenizer, prompts, **options)
  if f.output:
    prompt_files.write(f.output, prompt_files.lines(rows, texts))
  else:
    print('\n'.join(prompt_files.lines(rows, texts) if prompt_files.is_jsonl(f.input) else texts))


def prompt_rows(f: Flags) -> list[prompt_files.Row]:
  """Returns a row with a prompt for each; raises ConfigError or DataError if one is missing."""
  if (f.prompt is None) == (f.input is None):
    raise errors.ConfigError('give one of two flags', '--prompt, --input', 'a text, or a file')
  if f.prompt is None:
    return prompt_files.read(f.input)
  if not f.prompt.strip():
    remedy = 'write something to go on from'
    raise errors.DataError('empty prompt', f'--prompt={f.prompt}', remedy)
  return [{prompt_files.PROMPT: f.prompt}]


def check_output(f: Flags, num_prompts: int) -> bool:
  """Returns whether the text is shown as it grows; raises ConfigError for what does not agree."""
  if f.output:
    prompt_files.check_output(f.output)
  single = num_prompts * f.num_samples == 1 and f.sampler != 'beam' and not f.output
  if f.stream and not single:
    remedy = 'stream one text of --sampler=greedy or sample, without --output'
    where = f'{num_prompts} prompts, --num_samples={f.num_samples} --sampler={f.sampler}'
    raise errors.ConfigError('this cannot be streamed', where, remedy)
  return f.stream or (f.stream is None and single and sys.stdout.isatty())


def show(pieces: Iterator[str]) -> str:
  """Prints a text in pieces and returns it."""
  text = ''
  for piece in pieces:
    print(piece, end='', flush=True)
    text += piece
  print(flush=True)
  return text


def load_config(workdir: str):
  """Returns the config and the tokenizer of a workdir."""
  from t5lite import evaluate as evaluate_lib
  from t5lite.data import tokenizer as tokenizer_lib

  config = evaluate_lib.load_config(workdir)
  return config, tokenizer_lib.load(config.data.tokenizer)


def load_params(workdir: str):
  """Returns the mesh and the parameters of a workdir."""
  from t5lite import decoding
  from t5lite import evaluate as evaluate_lib

  config, mesh, params, _ = evaluate_lib.load(workdir)
  return mesh, decoding.apart(config.model, params)


def say_long(config, length: int) -> None:
  """Says on stderr if a text is longer than those that the model was trained on."""
  if length > config.data.input_length:
    where = f'{length} tokens with data.input_length={config.data.input_length}'
    note = 'longer than what the model was trained on, so that it may write badly'
    print(f't5lite: {note}: {where}', file=sys.stderr)


def define_fill(f: Flags) -> None:
  flags.DEFINE_string('workdir', None, 'directory of the run', flag_values=f, required=True)
  help = 'text with [MASK] or <extra_id_0>, <extra_id_1>, ... in it'
  flags.DEFINE_string('text', None, help, flag_values=f, required=True)
  flags.DEFINE_integer('top_k', 5, 'candidates a gap', flag_values=f, lower_bound=1)


def fill(f: Flags) -> None:
  backend.start()
  import jax

  from t5lite import decoding

  config, tokenizer = load_config(f.workdir)
  say_long(config, len(decoding.marked(config, tokenizer, f.text)[0]))
  mesh, params = load_params(f.workdir)
  with jax.set_mesh(mesh):
    gaps = decoding.fill(config, params, tokenizer, f.text, f.top_k)
  for gap in gaps:
    print(gap.mark)
    for text, probability in gap.candidates:
      print(f'  {probability:6.1%}  {text!r}')


def define_chat(f: Flags) -> None:
  define_writing(f, ['greedy', 'sample'])
  flags.DEFINE_string('separator', ' </t> ', 'text between two turns', flag_values=f)
  flags.DEFINE_string('prefix', '', "text before the turns, e.g. 'dialogue: '", flag_values=f)
  help = "text behind the turns, e.g. $'\\nanswer:'; a decoder without it reads a separator"
  flags.DEFINE_string('suffix', '', help, flag_values=f)


def chat(f: Flags) -> None:
  sampler_flags.check(f)
  backend.start()
  import jax

  from t5lite import decoding

  sampler = sampler_flags.sampler(f)
  decoding.check_sampler(sampler, f.max_tokens)
  config, tokenizer = load_config(f.workdir)
  dialogue = decoding.Dialogue(
    config, tokenizer, f.separator, f.prefix, f.max_tokens, suffix=f.suffix
  )
  mesh, params = load_params(f.workdir)
  options: dict[str, Any] = dict(max_tokens=f.max_tokens, sampler=sampler, stops=dialogue.stops)
  for number, line in enumerate(typed_lines()):
    if line == '/quit':
      return
    if line == '/reset':
      dialogue.turns.clear()
    elif line.startswith('/'):
      print('commands: /reset, /quit', file=sys.stderr)
    elif line:
      try:
        prompt = dialogue.ask(line)
      except errors.DataError as error:  # of this turn alone
        print(f't5lite: {error}', file=sys.stderr)
        continue
      key = jax.random.fold_in(jax.random.key(f.seed), number)
      with jax.set_mesh(mesh):
        answer = show(decoding.stream(config, params, tokenizer, prompt, key=key, **options))
      dialogue.answer(answer)


def typed_lines() -> Iterator[str]:
  """Yields the lines of stdin, stripped; asks for them on a terminal."""
  while True:
    try:
      yield input('> ' if sys.stdin.isatty() else '').strip()
    except EOFError:
      return
