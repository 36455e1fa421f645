"""Plans every published config and says what that took: CPU seconds and memory.

  python tests/benchmarks/plan.py [--only=t5_base] [--only=h100:8] [--output=plans.jsonl]
  python tests/benchmarks/plan.py --table plans.jsonl

The first prints a JSON line for each config, in a process of its own; the second makes the table of
docs/plan.md of such lines. It needs no TPU and no GPU, but pip install 't5lite[tpu,cuda13]'.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]
# (config, topology, overrides): microbatches where the whole batch does not fit.
ROWS = (
  ('t5_11b', 'v5p:4x4x4', ()),
  ('gpt2_xl', 'v5e:4x4', ()),
  ('t5_11b', 'v5p:16x16x16', ('parallel.data=256', 'parallel.replica=16', 'data.batch_size=8192')),
  ('t5_base', 'v5e:4x4', ('train.microbatches=2',)),
  ('t5_11b', 'v5p:4x4x4', ('parallel.data=16', 'parallel.replica=4')),
  ('bert_base', 'v5e:4x4', ()),
  ('gpt2_small', 'v5e:4x4', ()),
  ('t5_small', 'v5e:4x4', ()),
  ('bert_large', 'v5e:4x4', ()),
  ('t5_3b', 'v5p:4x4x4', ()),
  ('t5_large', 'v5e:16x16', ()),
  ('gpt2_medium', 'v5e:4x4', ('train.microbatches=2',)),
  ('gpt2_large', 'v5e:4x4', ('train.microbatches=4',)),
  ('t5_1_0_base', 'v5e:4x4', ()),
  ('ul2_base', 'v5e:4x4', ()),
  ('switch_base_8', 'v5e:4x4', ('parallel.expert=4', 'train.microbatches=4')),
  ('bert_tiny', 'v5e:2x4', ()),
  ('bert_mini', 'v5e:2x4', ()),
  ('bert_small', 'v5e:2x4', ()),
  ('bert_medium', 'v5e:2x4', ()),
  ('t5_base', 'h100:8', ()),
  ('t5_11b', 'h100:4x8', ()),
  ('t5_11b', 'h100:4x8', ('parallel.data=8', 'parallel.replica=4')),
  ('gpt2_xl', 'h100:8', ()),
  ('bert_large', 'h100:8', ()),
  ('t5_base', 'a100:8', ()),
  ('t5_3b', 'h200:8', ()),
  ('t5_11b', 'b200:2x8', ()),
)


def measure(config: str, topology: str, overrides: tuple[str, ...]) -> dict:
  """Returns the plan of a config with the CPU seconds and the peak MiB of its process."""
  with tempfile.TemporaryDirectory() as folder:
    output = pathlib.Path(folder) / 'plan.json'
    command = [sys.executable, '-m', 't5lite', 'plan', f'--config=configs/{config}.py']
    command += [f'--topology={topology}', f'--output={output}']
    command += [f'--set={override}' for override in overrides]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    page = pathlib.Path(folder) / 'page.txt'
    with page.open('w') as out:
      process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out)
      _, status, usage = os.wait4(process.pid, 0)
    line = {'config': config, 'topology': topology, 'overrides': overrides, 'status': status}
    line['cpu_seconds'] = round(usage.ru_utime + usage.ru_stime, 1)
    line['peak_mib'] = usage.ru_maxrss // 1024
    line['page'] = page.read_text()
    if status == 0:
      plan = json.loads(output.read_text())
      if plan['program']:  # hundreds of collectives
        del plan['program']['collectives']
      line['plan'] = plan
  return line


def row(line: dict) -> str:
  """Returns a line of the table."""
  name = f'{line["config"]} {" ".join(line["overrides"])}'.strip()
  plan, gib = line.get('plan'), 2**30
  if plan is None:
    return f'| {name} | {line["topology"]} | failed | | | | | | | | |'
  memory, bounds = plan['memory'], plan['bounds']
  fits = {True: 'yes', False: 'no'}[memory['fits']]
  counted = ''
  if memory['arguments']:
    share = memory['arguments'] / memory['arguments_by_hand']
    counted = f'{memory["arguments"] / gib:.2f}, {share:.1%}'
  sizes = f'{counted} | {memory["peak"] / gib:.2f} of {memory["limit"] / gib:.2f} | {fits}'
  times = ' | | | '
  if bounds:
    step = (
      f'{bounds["step_seconds_bound"] * 1e3:,.0f} / {bounds["step_seconds_estimate"] * 1e3:,.0f}'
    )
    mfu = f'{bounds["mfu_bound"]:.0%} / {bounds["mfu_estimate"]:.0%}'
    days = f'{plan["at_bound"]["days"]:,.3g} / {plan["at_estimate"]["days"]:,.3g}'
    times = f'{step} | {mfu} | {days} | {bounds["largest"]}'
  cost = f'{line["cpu_seconds"]:.0f} s, {line["peak_mib"] / 1024:.1f} GiB'
  return f'| {name} | {line["topology"]} | {sizes} | {times} | {cost} |'


def table(lines: list[dict]) -> str:
  """Returns the Markdown table."""
  heads = (
    *('config', 'topology', 'arguments, of the hand count', 'GiB a device', 'fits', 'ms a step'),
    *('MFU', 'days', 'largest roof', 'planning took'),
  )
  rule = '| ' + ' | '.join(['---'] * len(heads)) + ' |'
  return '\n'.join(['| ' + ' | '.join(heads) + ' |', rule, *map(row, lines)])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--only', action='append', help='a config or a topology; repeatable')
  parser.add_argument('--output', help='also append the lines to this file')
  parser.add_argument('--table', help='print the table of such a file, and run nothing')
  options = parser.parse_args()
  if options.table:
    lines = pathlib.Path(options.table).read_text().splitlines()
    print(table([json.loads(line) for line in lines]))
    return
  for config, topology, overrides in ROWS:
    if not options.only or {config, topology} & set(options.only):
      line = json.dumps(measure(config, topology, overrides))
      print(line, flush=True)
      if options.output:
        with open(options.output, 'a') as file:
          file.write(line + '\n')


if __name__ == '__main__':
  main()
