"""Times generation on a CPU: t5lite beside transformers in torch, on the same weights.

  python tests/benchmarks/generation.py --peer=PYTHON [--one] [--rounds=3] [--only=gpt] [--new=64]

PYTHON has torch and transformers. It makes a model of the size of T5 1.1 small and one of GPT-2
small with random weights, which t5lite imports. Both then write so many new tokens for the same
prompts, no text ending earlier, in turns; what is compiled is compiled before. With --one they do
so on one pinned core with one thread, where tokens per CPU second compare however busy the machine
is, else on all cores, where tokens per second do. One JSON line for each workload, of medians;
`ratio` is how many times t5lite's speed is torch's, `same_texts` how many came out equal. Of beams,
the tokens of the best one count.
"""

import argparse
import contextlib
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import workloads

THREADS = workloads.pin()

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
# Model, prompts, their tokens, beams.
WORKLOADS = (
  ('gpt', 1, 64, 1),
  ('gpt', 8, 64, 1),
  ('gpt', 4, 64, 4),
  ('t5', 1, 128, 1),
  ('t5', 16, 128, 1),
  ('t5', 8, 128, 4),
)


def prompts_of(num_prompts: int, length: int) -> np.ndarray:
  return np.random.default_rng(0).integers(5, 32_000, (num_prompts, length))


def torch_model(name: str):
  import torch
  import transformers

  torch.manual_seed(0)
  if name == 'gpt':
    return transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
  config = transformers.T5Config(
    vocab_size=32_128,
    d_model=512,
    d_kv=64,
    d_ff=1024,
    num_layers=8,
    num_heads=6,
    feed_forward_proj='gated-gelu',
    tie_word_embeddings=False,
    decoder_start_token_id=0,
  )
  model = transformers.T5ForConditionalGeneration(config).eval()
  if model.lm_head.weight is model.shared.weight:  # transformers 5 ties T5's whatever is asked for
    model.lm_head.weight = torch.nn.Parameter(0.05 * torch.randn_like(model.lm_head.weight))
  return model


def serve_torch(name: str, folder: str):
  """Returns a function of (prompts, new, beams) that gives tokens, and the version."""
  import torch
  import transformers

  transformers.utils.logging.set_verbosity_error()
  torch.set_num_threads(THREADS)
  model = torch_model(name)
  model.save_pretrained(folder)
  if name == 't5':  # transformers 5 writes the contrary
    config = pathlib.Path(folder) / 'config.json'
    tree = json.loads(config.read_text()) | {'tie_word_embeddings': False}
    config.write_text(json.dumps(tree))

  def write(prompts: np.ndarray, new: int, beams: int) -> np.ndarray:
    ids = torch.tensor(prompts)
    made = model.generate(
      input_ids=ids,
      attention_mask=torch.ones_like(ids),
      max_new_tokens=new,
      do_sample=False,
      num_beams=beams,
      eos_token_id=None,
      pad_token_id=0,
    )
    return made.numpy()[:, -new:]

  return write, f'torch {torch.__version__}, transformers {transformers.__version__}'


def serve_t5lite(name: str, folder: str):
  """Returns the same of t5lite."""
  from t5lite import backend

  backend.start()
  import jax

  from t5lite import decoding
  from t5lite import evaluate
  from t5lite import interop

  jax.config.update('jax_enable_compilation_cache', False)
  workdir = f'{folder}_run'
  interop.import_model(folder, workdir)
  config, mesh, params, _ = evaluate.load(workdir)
  params = decoding.apart(config.model, params)  # as the command does

  def write(prompts: np.ndarray, new: int, beams: int) -> np.ndarray:
    sampler = decoding.Beam(num_beams=beams) if beams > 1 else decoding.Sampler()
    with jax.set_mesh(mesh):
      texts = decoding.generate(
        config.model,
        params,
        list(prompts),
        max_tokens=new,
        sampler=sampler,
        key=jax.random.key(0),
        eos=-1,
      )
    return np.array(texts)

  return write, f'jax {jax.__version__}'


def serve(program: str, name: str, folder: str) -> None:
  """Answers each line of stdin, a workload as JSON, with its seconds and tokens."""
  write, version = (serve_torch if program == 'torch' else serve_t5lite)(name, folder)
  print(json.dumps({'version': version}), flush=True)
  for line in sys.stdin:
    num_prompts, length, new, beams = json.loads(line)
    prompts = prompts_of(num_prompts, length)
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = write(prompts, new, beams)
    answer = {'seconds': time.perf_counter() - wall, 'cpu_seconds': time.process_time() - cpu}
    answer['peak_mib'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(answer | {'tokens': tokens.tolist()}), flush=True)


class Program:
  """A process of `serve`."""

  def __init__(self, process: subprocess.Popen[str]):
    self.process = process
    self.version = self.line()['version']
    self.answers: list[dict] = []

  def line(self) -> dict:
    assert self.process.stdout is not None
    line = self.process.stdout.readline()
    if not line:
      raise SystemExit(f'{" ".join(map(str, self.process.args))} ended with {self.process.wait()}')
    return json.loads(line)

  def ask(self, workload: tuple[int, ...]) -> None:
    assert self.process.stdin is not None
    self.process.stdin.write(json.dumps(workload) + '\n')
    self.process.stdin.flush()
    self.answers.append(self.line())

  def summary(self, num_tokens: int) -> dict:
    timed = self.answers[1:]  # the first is the warm-up
    median = lambda name: statistics.median(answer[name] for answer in timed)
    return {
      'tokens_per_second': round(num_tokens / median('seconds'), 1),
      'tokens_per_cpu_second': round(num_tokens / median('cpu_seconds'), 1),
      'first_seconds': round(self.answers[0]['seconds'], 1),
      'peak_mib': timed[-1]['peak_mib'],
      'version': self.version,
    }


def measure(
  programs: dict[str, Program], workload: tuple[int, ...], rounds: int, speed: str
) -> dict:
  for program in programs.values():
    program.answers.clear()
  for _ in range(1 + rounds):
    for program in programs.values():
      program.ask(workload)
  num_prompts, _, new, _ = workload
  line = {name: program.summary(num_prompts * new) for name, program in programs.items()}
  tokens = [np.array(program.answers[-1]['tokens']) for program in programs.values()]
  line['ratio'] = round(line['t5lite'][speed] / line['torch'][speed], 2)
  line['same_texts'] = int((tokens[0] == tokens[1]).all(axis=1).sum())
  return line


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--peer', help='a Python with torch and transformers')
  parser.add_argument('--rounds', type=int, default=3, help='timed runs of each')
  parser.add_argument('--new', type=int, default=64, help='tokens to write')
  parser.add_argument('--only', choices=['gpt', 't5'])
  parser.add_argument('--one', action='store_true', help='on one core')
  parser.add_argument('--serve', nargs=3, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.serve:
    serve(*options.serve)
    return
  if not options.peer:
    parser.error('--peer is needed: it makes the weights')
  core = str(max(os.sched_getaffinity(0))) if options.one else ''
  speed = 'tokens_per_cpu_second' if core else 'tokens_per_second'
  for model in [options.only] if options.only else ['gpt', 't5']:
    with contextlib.ExitStack() as stack:
      folder = f'{stack.enter_context(tempfile.TemporaryDirectory())}/model'
      programs = {}
      for name, python in (('torch', options.peer), ('t5lite', sys.executable)):
        command = [python, __file__, '--serve', name, model, folder]
        environment = {
          **os.environ,
          'JAX_PLATFORMS': 'cpu',
          'PYTHONPATH': str(ROOT),
          'BENCHMARK_CORE': core,
        }
        pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
        process = subprocess.Popen(command, env=environment, **pipes)
        programs[name] = Program(stack.enter_context(process))
      for name, num_prompts, length, beams in WORKLOADS:
        if name == model:
          workload = (num_prompts, length, options.new, beams)
          line = {'model': name, 'prompts': num_prompts, 'length': length, 'beams': beams}
          line |= {'new': options.new, 'threads': 1 if core else os.cpu_count()}
          line |= measure(programs, workload, options.rounds, speed)
          print(json.dumps(line), flush=True)


if __name__ == '__main__':
  main()
