"""The command line: what is wrong is one line with its exit code, before anything begins."""

import os
import pathlib
import re
import subprocess
import sys

from array_record.python import array_record_module
import pytest

from t5lite import backend
from t5lite import commands
from t5lite import main

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = ROOT / 'configs/tiny_gpt.py'
SMALL = ('model.num_layers=1', 'model.d_model=64', 'data.batch_size=8', 'eval.batches=1')


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> pathlib.Path:
  """Text files of several kinds of badness, and `start`: a workdir with a checkpoint of step 0."""
  folder = tmp_path_factory.mktemp('main')
  documents = '\n\n'.join(f'Document {i} says this and that.' * 20 for i in range(200))
  (folder / 'good.txt').write_text(documents)
  (folder / 'empty.txt').touch()
  (folder / 'short.txt').write_text('One sentence.')
  (folder / 'latin.txt').write_bytes('Grüße'.encode('latin-1'))
  (folder / 'garbage.model').write_bytes(b'garbage')
  (folder / 'bad.py').write_text('def get_config():\n  return 1 / 0\n')
  record_file = folder / 'flipped.array_record'
  writer = array_record_module.ArrayRecordWriter(str(record_file), 'group_size:1')
  for document in documents.split('\n\n'):
    writer.write(document.encode())
  writer.close()
  content = bytearray(record_file.read_bytes())
  content[2000] ^= 1
  record_file.write_bytes(content)
  return folder


@pytest.fixture(autouse=True)
def caches(monkeypatch, folder):
  monkeypatch.setenv('XDG_CACHE_HOME', str(folder / 'cache'))
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(folder / 'xla'))


def train(workdir: pathlib.Path, *overrides: str, config: pathlib.Path = CONFIG) -> list[str]:
  sets = [f'--set={override}' for override in (*SMALL, *overrides)]
  return ['train', f'--config={config}', f'--workdir={workdir}', *sets]


def told(capsys, arguments: list[str], code: int) -> str:
  """Returns the one line on stderr of a command that ends with `code`."""
  capsys.readouterr()
  assert main.main(arguments) == code, capsys.readouterr().err
  err = capsys.readouterr().err
  assert err.count('\n') == 1 and err.startswith('t5lite: '), err
  return err


FLAGS = {
  ('trian',): 'unknown command: trian: use one of train,',
  ('train',): 'missing flag: --config: see t5lite train --help',
  ('train', '--stpes=3'): "wrong flag: Unknown command line flag 'stpes'.*: see t5lite train",
  ('evaluate',): 'missing flag: --workdir: see t5lite evaluate --help',
  (
    'evaluate',
    '--workdir=x',
    '--output=/no/way/x.json',
  ): 'no such directory: --output=/no/way/x.js',
  ('generate', '--workdir=x', '--prompt=a', f'--seed={2**63}'): 'flag --seed=',
  ('evaluate', '--workdir=x', 'y'): 'unexpected argument: y: see',
  ('generate', '--workdir=x', '--prompt=', '--input='): 'give one of two flags: --prompt, --input',
  ('generate', '--workdir=x', '--prompt=a', '--sampler=bean'): 'wrong flag: .*sampler.*bean.*: see',
  ('tokenizer', '--input=corpus', '--vocab_size=x', '--output=y'): 'wrong flag: .*vocab_size=x',
}


@pytest.mark.parametrize('arguments', FLAGS)
def test_a_wrong_flag_is_told_and_where_to_look(capsys, arguments):
  assert re.search(FLAGS[arguments], told(capsys, list(arguments), 64))


OVERRIDES = {
  'optim.learning_rte=1': (64, r'unknown key: optim.learning_rte: did you mean learning_rate\?'),
  'model.dropout=high': (64, r"wrong type or value: model.dropout='high': use float"),
  'model.vocab_size=4096': (64, 'vocabulary larger than the model: 8192 tokens in corpus with'),
  'data.batch_size=12': (64, r'not divide over the mesh: data.batch_size .*=12 .*: use 8 or 16'),
  'parallel.data=3': (
    64,
    'mesh does not fit the devices: .*on 8 devices: use -1 for one of them, or a mesh of data=8; ',
  ),
  'data.tokenizer={}/no.model': (65, 'no such tokenizer: .*/no.model: give the path'),
  'data.tokenizer={}/garbage.model': (65, 'not a sentencepiece model: .*/garbage.model: give'),
  'data.source=text:{}/no.txt': (65, 'no such file: .*/no.txt: give a path or a glob'),
  'data.source=text:{}/empty.txt': (65, 'no text in the source: text:.*/empty.txt: give'),
  'data.source=text:{}/short.txt': (65, 'too little training text .*: lower data.held_out'),
  'data.source=text:{}/latin.txt': (65, 'not UTF-8: .*/latin.txt:1: convert it'),
  'data.source=array_record:{}/flipped.array_record': (65, 'damaged record: .*: restore'),
  'init_from={}/nowhere': (66, 'no checkpoint: .*/nowhere: give the workdir'),
}


@pytest.mark.parametrize('override', OVERRIDES)
def test_bad_input_is_one_line_before_anything_begins(capsys, folder, override):
  code, line = OVERRIDES[override]
  assert re.search(line, told(capsys, train(folder / 'new', override.format(folder)), code))
  assert not (folder / 'new').exists()


def test_a_bad_config_file_is_one_line(capsys, folder):
  no_file = train(folder / 'new', config=CONFIG.with_name('tiny_gtp.py'))
  assert re.search(
    r'no such config file: .*: did you mean .*tiny_gpt.py\?', told(capsys, no_file, 64)
  )
  bad = train(folder / 'new', config=folder / 'bad.py')
  assert 'bad.py:2 (ZeroDivisionError: division by zero): mend' in told(capsys, bad, 64)
  assert not (folder / 'new').exists()


def test_a_checkpoint_of_another_shape_is_refused_and_kept(capsys, folder):
  workdir = folder / 'start'
  text = (f'data.source=text:{folder}/good.txt', 'data.held_out=0.3')
  assert main.main(train(workdir, *text, 'train.steps=0')) == 0
  before = {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()}
  err = told(capsys, train(workdir, *text, 'model.d_ff=384'), 66)
  assert re.search(r'of another model or optimizer: params.*512.* in .*/checkpoints/0, .*384', err)
  after = {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()}
  assert {path for path in before if before[path] != after.get(path)} <= {workdir / 'lock'}


def test_using_what_was_not_trained_is_told(capsys, tmp_path):
  writes = ['generate', '--prompt=a'], ['fill', '--text=[MASK]']
  for command in (['evaluate'], ['report'], *writes):
    assert 'not a workdir: ' in told(capsys, [*command, f'--workdir={tmp_path}'], 66)


@pytest.mark.parametrize('name', ['no.txt', 'latin.txt', '.'])
def test_prompts_that_cannot_be_read_are_told(capsys, folder, name):
  err = told(capsys, ['generate', '--workdir=x', f'--input={folder}/{name}'], 65)
  assert err.startswith(f't5lite: cannot read prompts: {folder / name}')


@pytest.mark.parametrize(
  ('package', 'arguments'),
  [
    ('tokenizers', ['export', '--workdir=x', '--output=y']),
    ('safetensors', ['import', '--from=x', '--workdir=y']),
    ('msgpack', ['export', '--workdir=x', '--output=y']),
  ],
)
def test_what_to_install_is_told(package, arguments, tmp_path):
  code = f'import sys; sys.modules[{package!r}] = None; from t5lite import main'
  done = subprocess.run(
    [sys.executable, '-c', f'{code}; sys.exit(main.main({arguments}))'],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.stderr == f"t5lite: missing package: {package}: pip install 't5lite[hf]'\n"
  assert done.returncode == 64


def test_our_bug_is_one_line_and_a_traceback_with_debug(capsys, monkeypatch):
  def broken(_):
    raise RuntimeError('two\nlines')

  monkeypatch.setitem(
    commands.COMMANDS, 'report', commands.Command('', commands.define_workdir, broken)
  )
  err = told(capsys, ['report', '--workdir=x'], 1)
  assert (
    err == 't5lite: internal error: RuntimeError two lines: run again with --debug and report it\n'
  )
  assert main.main(['report', '--workdir=x', '--debug']) == 1
  assert 'Traceback' in capsys.readouterr().err


def test_help_is_everywhere(capsys):
  assert main.main([]) == main.main(['--help']) == 0
  listed = capsys.readouterr().out
  for name in commands.COMMANDS:
    assert f'\n  {name} ' in listed
    assert main.main([name, '--help']) == 0
    assert f't5lite {name}: ' in capsys.readouterr().out


@pytest.mark.slow
def test_module_and_console_script_are_the_same():
  script = pathlib.Path(sys.executable).with_name('t5lite')
  for command in ([sys.executable, '-m', 't5lite'], [str(script)]):
    done = subprocess.run([*command, 'trian'], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 64
    assert (done.stdout, done.stderr.count('\n')) == ('', 1)


@pytest.mark.slow
def test_importing_t5lite_is_quick_and_starts_nothing():
  code = 'import sys, t5lite; print({"jax", "flax", "numpy"} & set(sys.modules))'
  out = subprocess.check_output([sys.executable, '-c', code], text=True, env={**os.environ})
  assert out == 'set()\n'


def test_a_tpu_is_looked_for_where_there_may_be_one(tmp_path):
  """The development environment has libtpu, so that the machine decides."""
  assert not backend.has_tpu(tmp_path)
  (tmp_path / 'vfio').mkdir()
  (tmp_path / 'vfio/vfio').touch()  # the driver without a device
  assert not backend.has_tpu(tmp_path)
  (tmp_path / 'vfio/0').touch()
  assert backend.has_tpu(tmp_path)


def test_a_gpu_is_looked_for_where_there_may_be_one(tmp_path, monkeypatch):
  """The development environment has jax's CUDA plugin, so that the machine decides."""
  assert not backend.has_gpu(tmp_path)
  (tmp_path / 'nvidia-caps').mkdir()  # the driver without a device
  assert not backend.has_gpu(tmp_path)
  for node in ('nvidia0', 'dxg'):  # Linux, and Windows' subsystem for it
    (tmp_path / node).touch()
    assert backend.has_gpu(tmp_path)
    (tmp_path / node).unlink()
  rocm = backend.importlib.metadata.EntryPoint('rocm7', 'x', 'jax_plugins')
  monkeypatch.setattr(backend.importlib.metadata, 'entry_points', lambda group: (rocm,))
  assert backend.has_gpu(tmp_path)  # jax knows where to look for it, we do not


@pytest.mark.skipif(
  backend.has_tpu() or backend.has_gpu(), reason='this machine may have a TPU or GPU'
)
def test_compilers_without_their_devices_say_nothing(tmp_path):
  """An error that comes after jax has looked for devices is one line all the same."""
  unset = ('JAX_PLATFORMS', 'XLA_FLAGS')
  environment = {name: value for name, value in os.environ.items() if name not in unset}
  command = [sys.executable, '-m', 't5lite', 'train', f'--config={CONFIG}']
  done = subprocess.run(
    [*command, f'--workdir={tmp_path}/run', '--set=parallel.model=3'],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=environment,
  )
  assert done.returncode == 64 and re.fullmatch(r't5lite: mesh does not fit.*\n', done.stderr)
