"""Checks on a TPU or GPU, in one call, what a CPU cannot show.

  python tests/accelerator.py [--steps=100] [--backend=gpu] [--output=DIR]

For each family, with the tiny config as users run it (bfloat16, scanned layers): training falls
from about ln(vocabulary), a run killed with `kill -9` ends bit for bit as one that was not, and the
model evaluates and writes. Prints what it saw; ends with 1 and the reason where a check fails.
"""

import argparse
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from t5lite import evaluate
from t5lite import jsonl
from t5lite import stored

ROOT = pathlib.Path(__file__).parents[1]
USES = {
  't5': ('fill', '--text=The President of the United <extra_id_0> spoke.'),
  'bert': ('fill', '--text=The President of the United [MASK] spoke.'),
  'gpt': ('generate', '--prompt=The President of the United'),
}


def t5lite(*arguments: str) -> subprocess.Popen[str]:
  command = [sys.executable, '-m', 't5lite', *arguments]
  return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def said(*arguments: str) -> str:
  """Returns what a command printed; it must end well."""
  with t5lite(*arguments) as process:
    out = process.communicate()[0]
  check(process.returncode == 0, f'{" ".join(arguments)} ended with {process.returncode}')
  return out.strip()


def check(ok: bool, failure: str) -> None:
  if not ok:
    raise SystemExit(f'FAILED: {failure}')


def digests(workdir: pathlib.Path) -> dict[str, int]:
  manifest = stored.read_manifest(workdir)
  return {name: array['digest'] for name, array in manifest['arrays'].items()}


def kill_half_way(workdir: pathlib.Path, half: int, *arguments: str) -> None:
  with t5lite('train', f'--workdir={workdir}', *arguments) as process:
    while process.poll() is None and half not in stored.steps(workdir):
      time.sleep(0.05)
    check(process.poll() is None, f'training ended before it was killed: {workdir}')
    process.kill()


def check_training(family: str, workdir: pathlib.Path, backend: str, *arguments: str) -> None:
  print(said('train', f'--workdir={workdir}', *arguments).splitlines()[0])
  model = evaluate.load_config(workdir).model
  train = [record for record in jsonl.records(workdir / 'metrics.jsonl') if 'train/loss' in record]
  first, last = train[0]['train/loss'], train[-1]['train/loss']
  speed = sorted(record['train/tokens_per_second'] for record in train)[len(train) // 2]
  mfu = train[-1].get('train/mfu')
  made = f'{family}: {model.dtype}, {model.layers}'
  print(f'{made}, loss {first:.3f} to {last:.3f}, {speed:,.0f} tokens/s, MFU {mfu}', flush=True)
  wanted = ('float32', 'unroll') if backend == 'cpu' else ('bfloat16', 'scan')
  check((model.dtype, model.layers) == wanted, f'{made} on {backend}, not {wanted}')
  check(abs(first - math.log(model.vocab_size)) < 1, f'the first loss of {family} is {first}')
  check(last < first - 1, f'the loss of {family} fell from {first} to {last} only')
  known = backend == 'cpu' or mfu is not None
  check(known, f'no MFU for {family}: the peak of this device is not in t5lite/flops.py')


def check_resume(workdir: pathlib.Path, whole: pathlib.Path, half: int, *arguments: str) -> None:
  kill_half_way(workdir, half, *arguments)
  said('train', f'--workdir={workdir}', *arguments)
  ours, theirs = digests(workdir), digests(whole)
  different = [name for name in theirs if ours[name] != theirs[name]]
  check(not different, f'{workdir}: {len(different)} of {len(ours)} arrays differ: {different[:5]}')
  print(f'killed at step {half}, all {len(ours)} arrays are the same', flush=True)


def check_family(family: str, output: pathlib.Path, steps: int, backend: str) -> None:
  half, whole = steps // 2, output / family
  sets = (f'train.steps={steps}', 'train.log_every=1', f'checkpoint.every={half}', 'eval.every=0')
  arguments = (f'--config=configs/tiny_{family}.py', *(f'--set={text}' for text in sets))
  check_training(family, whole, backend, *arguments)
  check_resume(output / f'{family}_killed', whole, half, *arguments)
  print(said('evaluate', f'--workdir={whole}'))
  command, text = USES[family]
  print(said(command, f'--workdir={whole}', text), flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--steps', type=int, default=100, help='of each run')
  parser.add_argument('--backend', default='gpu', choices=('gpu', 'tpu', 'cpu'))
  parser.add_argument('--output', type=pathlib.Path, help='keeps the workdirs there')
  options = parser.parse_args()
  os.environ['JAX_PLATFORMS'] = {'gpu': 'cuda', 'tpu': 'tpu', 'cpu': 'cpu'}[options.backend]
  with tempfile.TemporaryDirectory() as directory:
    for family in USES:
      output = options.output or pathlib.Path(directory)
      check_family(family, output.resolve(), options.steps, options.backend)
  print('All checks passed.')


if __name__ == '__main__':
  main()
