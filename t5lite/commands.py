"""The commands of `t5lite`: the flags of each, and what it does with them.

Each imports only what it needs, so that a wrong flag shows at once.
"""

from collections.abc import Callable
import dataclasses
import json
import os
import pathlib
import re

from absl import flags

from t5lite import backend
from t5lite import errors
from t5lite import jsonl
from t5lite import sampler_flags
from t5lite import text_commands

Flags = flags.FlagValues


@dataclasses.dataclass(frozen=True)
class Command:
  """What a command is for, its flags, and what it does with them."""

  summary: str
  define: Callable[[Flags], None]
  run: Callable[[Flags], None]


def define_config(f: Flags) -> None:
  flags.DEFINE_string('config', None, 'config file: configs/x.py', flag_values=f, required=True)
  help = 'section.field=value over the config; repeatable'
  flags.DEFINE_multi_string('set', [], help, flag_values=f)


def define_workdir(f: Flags) -> None:
  flags.DEFINE_string('workdir', None, 'directory of the run', flag_values=f, required=True)


def define_train(f: Flags) -> None:
  define_config(f)
  flags.DEFINE_string('workdir', None, 'directory of the run', flag_values=f)
  help = 'print this many examples as the model sees them, and train nothing'
  flags.DEFINE_integer('preview', 0, help, flag_values=f, lower_bound=0)
  help = "HOST:PORT of process 0, if this is one of several; 'auto': as the cluster says"
  flags.DEFINE_string('coordinator', '', help, flag_values=f)
  help = 'how many processes there are'
  flags.DEFINE_integer('num_processes', None, help, flag_values=f, lower_bound=1)
  help = 'which of them this is, from 0'
  flags.DEFINE_integer('process_id', None, help, flag_values=f, lower_bound=0)


def train(f: Flags) -> None:
  from t5lite import config as config_lib

  config = config_lib.load(f.config, f.set)
  if f.preview:
    from t5lite.data import preview

    print(preview.preview(config, f.preview))
    return
  if not f.workdir:
    raise errors.ConfigError('missing flag', '--workdir', 'say where the run is kept')
  backend.start()
  from t5lite import processes
  from t5lite import train as train_lib

  if f.coordinator:
    processes.join(f.coordinator, f.num_processes, f.process_id)
  elif f.num_processes is not None or f.process_id is not None:
    raise errors.ConfigError('missing flag', '--coordinator', 'say where process 0 is')
  train_lib.run(config, f.workdir)


def define_evaluate(f: Flags) -> None:
  define_workdir(f)
  flags.DEFINE_string('output', '', 'also write the numbers to this JSON file', flag_values=f)
  help = 'tasks to do in place of the loss on held-out text, by name'
  flags.DEFINE_list('tasks', [], help, flag_values=f)
  flags.DEFINE_enum('split', 'test', ['validation', 'test'], 'rows of the tasks', flag_values=f)
  help = 'rows of each task, from its first; 0: all'
  flags.DEFINE_integer('examples', 0, help, flag_values=f, lower_bound=0)
  sampler_flags.define(f, ['greedy', 'sample', 'beam'])


def evaluate(f: Flags) -> None:
  sampler_flags.check(f)
  given = [name for name in ('sampler', *sampler_flags.PROCESSING) if f[name].present]
  if given and not f.tasks:
    where = f'--{given[0]}={f[given[0]].value}'
    raise errors.ConfigError('flag of --tasks', where, 'name the tasks, or leave it out')
  output = pathlib.Path(f.output)
  where, remedy = f'--output={f.output}', 'make the folder that it goes into'
  errors.check(output.parent.is_dir(), 'no such directory', where, remedy)
  backend.start()
  from t5lite import evaluate as evaluate_lib
  from t5lite import metrics

  if f.tasks:
    values = {}
    sampler = sampler_flags.sampler(f)
    results = evaluate_lib.run_tasks(f.workdir, f.tasks, f.split, f.examples, sampler, f.seed)
    for step, judged in results:
      values |= {'step': step, judged.name: judged.values}
      print(f'step {step}  {judged}', flush=True)
  else:
    values = evaluate_lib.run(f.workdir)
    print(f'step {values["step"]}  {metrics.describe_evaluation(values)}')
  if f.output:
    with jsonl.disk_errors(output):
      output.write_text(json.dumps(values, indent=2) + '\n')


def define_tokenizer(f: Flags) -> None:
  help = "glob of text files, 'corpus' or 'task:NAME'; repeatable"
  flags.DEFINE_multi_string('input', None, help, flag_values=f, required=True)
  help = 'tokens in all, the 100 sentinels included'
  flags.DEFINE_integer('vocab_size', None, help, flag_values=f, required=True, lower_bound=1)
  flags.DEFINE_string('output', None, 'model file to write', flag_values=f, required=True)
  kinds = ['unigram', 'bpe']
  flags.DEFINE_enum('model_type', 'unigram', kinds, 'kind of model', flag_values=f)


def tokenizer(f: Flags) -> None:
  from t5lite.data import tokenizer_training

  made = tokenizer_training.train(f.input, f.vocab_size, f.output, f.model_type)
  print(f'{made.path}: {made.vocabulary.size:,} tokens')


def define_prepare(f: Flags) -> None:
  define_config(f)
  flags.DEFINE_string('output', None, 'directory for the tokens', flag_values=f, required=True)
  help = 'that tokenise side by side; 0: one for each core'
  flags.DEFINE_integer('processes', 0, help, flag_values=f, lower_bound=0)


def prepare(f: Flags) -> None:
  from t5lite import config as config_lib
  from t5lite.data import prepare as prepare_lib

  config = config_lib.load(f.config, f.set)
  source = prepare_lib.prepare(config, f.output, f.processes or os.cpu_count() or 1)
  print(f'train from it with --set=data.source="{source}"')


def define_report(f: Flags) -> None:
  define_workdir(f)
  help = 'second workdir: write a page on which people rate the answers of both to --task, blinded'
  flags.DEFINE_string('versus', '', help, flag_values=f)
  flags.DEFINE_string('task', '', 'of --versus: the task, by name', flag_values=f)
  help = 'of --versus: rows of the task'
  flags.DEFINE_enum('split', 'test', ['validation', 'test'], help, flag_values=f)
  flags.DEFINE_integer('seed', 0, 'of --versus: draws order and sides', flag_values=f)
  flags.DEFINE_string('output', '', 'of --versus: file for the page', flag_values=f)
  help = 'file that such a page saved: print the win rate; repeatable, one of each rater'
  flags.DEFINE_multi_string('ratings', [], help, flag_values=f)


def report(f: Flags) -> None:
  given = ' '.join(f'--{n}={f[n].value}' for n in ('versus', 'task', 'output') if f[n].value)
  if bool(f.versus) != bool(f.task) or (given and not f.versus):
    raise errors.ConfigError('give both flags', given, 'use --versus=DIR --task=NAME')
  if f.versus and f.ratings:
    where = f'{given} --ratings={f.ratings[0]}'
    raise errors.ConfigError('give one of two flags', where, 'write a page, or read its ratings')
  if f.versus:
    from t5lite.insight import rating

    made = rating.write(f.workdir, f.versus, f.task, f.split, seed=f.seed, output=f.output)
    print(f'{made.page}: {made.num_pairs:,} pairs to rate')
    print(f'whose texts are where is in {made.key}: not for the raters')
  elif f.ratings:
    from t5lite.insight import win_rate

    print(win_rate.compute(f.workdir, f.ratings))
  else:
    from t5lite.insight import report as report_lib

    print(report_lib.write(f.workdir))


def define_plan(f: Flags) -> None:
  define_config(f)
  help = 'what to compile for; none of it need be there: v5e:4x4, v5p:4x4x4, h100:8, h100:4x8'
  flags.DEFINE_string('topology', '', help, flag_values=f)
  flags.DEFINE_integer('slices', 1, 'slices of that TPU topology', flag_values=f, lower_bound=1)
  flags.DEFINE_string('devices', '', 'instead of a topology: cpu:8', flag_values=f)
  flags.DEFINE_boolean('search', False, 'try meshes, remat and microbatches', flag_values=f)
  flags.DEFINE_string('output', '', 'also write the numbers to this JSON file', flag_values=f)


def plan(f: Flags) -> None:
  count = re.fullmatch(r'cpu:([1-9]\d*)', f.devices)
  if bool(f.topology) == bool(f.devices) or bool(f.devices) != bool(count):
    given = f'--topology={f.topology} --devices={f.devices}'
    remedy = 'use --topology=v5e:4x4, --topology=h100:8 or --devices=cpu:8'
    raise errors.ConfigError('give one of two flags', given, remedy)
  if f.devices and f.slices > 1:
    raise errors.ConfigError('CPU devices have no slices', f'--slices={f.slices}', 'leave it out')
  if f.output and not pathlib.Path(f.output).absolute().parent.is_dir():
    raise errors.ConfigError('no such directory', f'--output={f.output}', 'make it first')
  from t5lite import compiler
  from t5lite import config as config_lib

  compiler.without_tpu()
  os.environ['JAX_PLATFORMS'] = 'cpu'  # compilers must not look for a device to run on
  config = config_lib.load(f.config, f.set)
  import jax

  jax.config.update('jax_platforms', 'cpu')
  if count:
    jax.config.update('jax_num_cpu_devices', int(count[1]))
  from t5lite import planning
  from t5lite.planning import page
  from t5lite.planning import search
  from t5lite.planning import topologies

  topology = topologies.cpu(int(count[1])) if count else topologies.named(f.topology, f.slices)
  if f.search:
    plans = search.search(config, topology, report=print)
    print(search.text(plans))
    made = [plan.to_dict() for plan in plans]
  else:
    plan = planning.plan(config, topology)
    print(page.text(plan))
    made = plan.to_dict()
  if f.output:
    output = pathlib.Path(f.output)
    with jsonl.disk_errors(output):
      output.write_text(json.dumps(made, indent=2) + '\n')


def define_export(f: Flags) -> None:
  define_workdir(f)
  flags.DEFINE_string('output', None, 'new folder for transformers', flag_values=f, required=True)


def export(f: Flags) -> None:
  backend.use_cpu()
  from t5lite import interop

  made = interop.export(f.workdir, f.output)
  print(f'{f.output}: {made.architecture}, {made.num_params:,} parameters, step {made.step:,}')
  print(f'tokenizer: {made.tokenizer}')


def define_import(f: Flags) -> None:
  flags.DEFINE_string('from', None, 'folder of transformers, or T5X', flag_values=f, required=True)
  flags.DEFINE_string('workdir', None, 'new directory of the run', flag_values=f, required=True)
  help = 'config file for all but the model; without, a usual one of the family'
  flags.DEFINE_string('config', '', help, flag_values=f)
  help = 'section.field=value over the config; repeatable'
  flags.DEFINE_multi_string('set', [], help, flag_values=f)


def import_(f: Flags) -> None:
  backend.use_cpu()
  from t5lite import interop

  made = interop.import_model(str(f['from'].value), f.workdir, f.config, f.set)
  print(f'{f.workdir}: {made.architecture}, {made.num_params:,} parameters, step 0')
  if made.left_out:
    print(f'left out, as the model has no such head: {", ".join(made.left_out)}')
  if not made.tokenizer:
    print('no tokenizer that t5lite reads was there: give one with --set=data.tokenizer=FILE')


COMMANDS = {
  'train': Command('pre-train, continue, fine-tune', define_train, train),
  'evaluate': Command('losses, or tasks, of a trained model', define_evaluate, evaluate),
  'generate': Command(
    'text out: a continuation, or the T5 target',
    text_commands.define_generate,
    text_commands.generate,
  ),
  'fill': Command(
    'fill BERT masks and T5 sentinels', text_commands.define_fill, text_commands.fill
  ),
  'chat': Command('talk with it', text_commands.define_chat, text_commands.chat),
  'tokenizer': Command('train a sentencepiece model', define_tokenizer, tokenizer),
  'prepare': Command('tokenise once, into array_record shards', define_prepare, prepare),
  'plan': Command('compile for devices that are not there', define_plan, plan),
  'export': Command('write a folder that transformers loads', define_export, export),
  'import': Command('make a workdir of such a folder', define_import, import_),
  'report': Command('write report.html; compare runs by human ratings', define_report, report),
}
