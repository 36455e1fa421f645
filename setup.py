"""Packaging of t5lite.

Tested with Python 3.11 and jax 0.10.2, the last for it, and with Python 3.12, 3.13 and the newest
jax: launch/constraints-*.txt name every version. The bounds below are the oldest releases that
the tests passed with.
"""

import pathlib
import re

import setuptools

REQUIRED = [
  'absl-py>=2.3',
  'array_record>=0.8.1',
  'flax>=0.12.6',
  'grain>=0.2.15',
  'jax>=0.10.2',
  'matplotlib>=3.10',
  'numpy>=2.1',
  'optax>=0.2.8',
  'orbax-checkpoint>=0.12',
  'protobuf>=7.36.1',  # sentencepiece 0.2.3 needs it and does not say so
  'pyarrow>=21',
  'rich>=14',
  'sentencepiece>=0.2.3',  # 0.2.2 aborts on BPE
  'tensorboardX>=2.6.4',
  'tensorflow-datasets>=4.9.10',  # without TensorFlow: only its `data_source` path is used
  'tensorstore>=0.1.80',
]

EXTRAS = {
  'tpu': ['jax[tpu]'],
  'cuda13': ['jax[cuda13]'],
  'hf': ['msgpack>=1.1', 'safetensors>=0.8', 'tokenizers>=0.22'],
  # pytablewriter: of older ones, lm-eval's tables have no headers.
  'lm-eval': ['lm-eval>=0.4.13', 'pytablewriter>=1.2'],
  'tasks': [
    'rouge-score>=0.1.2',
    'sacrebleu>=2.6',
    'scikit-learn>=1.9',
    'scipy>=1.17',
    'seqeval>=1.2.2',
  ],
  'dev': [
    # tpu: its compiler needs no TPU, and the tests of `plan` need it.
    't5lite[hf,lm-eval,tasks,tpu]',
    # The same for GPU: of NVIDIA's gigabytes only the assembler and the device library.
    'jax-cuda13-plugin>=0.10.2',
    'nvidia-cuda-nvcc>=13.0.48',
    'build>=1.3',
    'ipykernel>=7',
    'nbclient>=0.10.2',
    'nbformat>=5.10',
    'pyright[nodejs]>=1.1.414',  # nodejs: from the package index, not downloaded at the first run
    'pytest>=9',
    'pytest-xdist>=3.8',
    'PyYAML>=6',
    'ruff>=0.17',
  ],
  # t5lite beside Hugging Face's models: for tests alone, nothing else needs torch.
  'parity': ['t5lite[hf]', 'pytest>=9', 'torch==2.13.0', 'transformers>=5'],
}

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (HERE / 't5lite/__init__.py').read_text())
assert VERSION, 't5lite/__init__.py has no __version__'

setuptools.setup(
  name='t5lite',
  version=VERSION[1],
  description='Pre-trains T5, BERT and GPT with JAX, on TPU and GPU meshes and on laptops',
  long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE', 't5lite/data/corpus/NOTICE', 't5lite/data/corpus/LICENSE.*'],
  python_requires='>=3.11',
  install_requires=REQUIRED,
  extras_require=EXTRAS,
  packages=setuptools.find_packages(include=['t5lite', 't5lite.*']),
  package_data={
    't5lite.data.corpus': ['corpus.txt.xz', 'tokenizer.model', 'NOTICE', 'LICENSE.*'],
    't5lite.insight': ['*.js'],
  },
  entry_points={'console_scripts': ['t5lite = t5lite.main:main']},
  classifiers=[
    'Development Status :: 4 - Beta',
    'Intended Audience :: Science/Research',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Typing :: Typed',
  ],
)
