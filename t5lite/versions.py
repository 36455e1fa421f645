"""The versions of what a run stands on, for its manifest."""

import hashlib
from importlib import metadata
import pathlib
import platform

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy', 'sentencepiece')


def installed() -> dict[str, str]:
  """Returns {package: version} of t5lite, Python and the libraries that decide a result."""
  from t5lite import __version__

  own = {'t5lite': __version__, 'python': platform.python_version()}
  return own | {name: metadata.version(name) for name in PACKAGES}


def source_digest() -> str:
  """Returns the SHA-256 of t5lite's own files, which tells apart what one version number may be."""
  root = pathlib.Path(__file__).parent
  digest = hashlib.sha256()
  for path in sorted(root.rglob('*.py')):
    digest.update(f'{path.relative_to(root)}\0{path.read_text()}\0'.encode())
  return digest.hexdigest()
