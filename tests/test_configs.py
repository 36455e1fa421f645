"""Every config loads, counts its parameters as published, and its train step lowers for TPU."""

import ast
import dataclasses
import functools
import pathlib

import jax
import pytest

from t5lite import config as config_lib
from t5lite import flops
from t5lite import sharding
from t5lite import train
from t5lite.planning import abstract

CONFIGS = pathlib.Path(__file__).parent.parent / 'configs'


def masked_lm(bert_model: int, d_model: int) -> int:
  """Returns the parameters of BERT with its MLM head, from the published number with its pooler.

  The head's dense layer is as large as the pooler, which goes; its norm and output bias come.
  """
  return bert_model + 2 * d_model + 30_522


# As counted from the published checkpoints. T5 1.1 and 1.0: google/t5-v1_1-*, t5-base; GPT-2: gpt2,
# gpt2-medium, ...; BERT: google/bert_uncased_*, bert-base-uncased, bert-large-uncased.
PUBLISHED = {
  't5_small': 76_961_152,
  't5_base': 247_577_856,
  't5_large': 783_150_080,
  't5_3b': 2_849_757_184,
  't5_11b': 11_135_332_352,
  't5_1_0_base': 222_903_552,
  # T5 1.0 base's, 7 more mlps and a router in each of 12 layers: computed, not counted
  'switch_base_8': 222_903_552 + 12 * (7 * 2 * 768 * 3072 + 768 * 8),
  'ul2_base': 247_577_856,  # not published: T5 1.1 base's, with another activation
  'bert_tiny': masked_lm(4_385_920, 128),
  'bert_mini': masked_lm(11_170_560, 256),
  'bert_small': masked_lm(28_763_648, 512),
  'bert_medium': masked_lm(41_373_184, 512),
  'bert_base': masked_lm(109_482_240, 768),
  'bert_large': 335_174_458,
  'gpt2_small': 124_439_808,
  'gpt2_medium': 354_823_168,
  'gpt2_large': 774_030_080,
  'gpt2_xl': 1_557_611_200,
}
QUICK = ('t5_base', 'bert_base', 'gpt2_small', 'ul2_base', 'switch_base_8')


def load(name: str) -> config_lib.Config:
  return config_lib.load(CONFIGS / f'{name}.py')


def test_every_config_has_its_published_number_here():
  small = ('tiny_', 'starter_')
  names = {path.stem for path in CONFIGS.glob('*.py') if not path.stem.startswith(small)}
  assert names == PUBLISHED.keys()


@pytest.mark.parametrize('name', PUBLISHED)
def test_config_counts_its_parameters_as_published(name):
  assert flops.num_params(load(name).model) == PUBLISHED[name]


@pytest.mark.parametrize('name', PUBLISHED)
def test_config_says_what_it_is(name):
  text = ast.get_docstring(ast.parse((CONFIGS / f'{name}.py').read_text())) or ''
  assert f'{PUBLISHED[name]:,} parameters' in text
  for words in ('Source: ', 'Text: ', 'Tokenizer: ', 'Hardware, wall time', 'oss to expect'):
    assert words in text, words


def lowered(config: config_lib.Config, mesh_shape: tuple[int, ...]) -> str:
  """Returns the program of a train step for TPU chips of which there need be none."""
  config = dataclasses.replace(config, model=config_lib.resolve(config.model, 'tpu'))
  kinds = (jax.sharding.AxisType.Explicit,) * 5
  mesh = jax.sharding.AbstractMesh(mesh_shape, sharding.AXES, axis_types=kinds)
  with jax.sharding.use_abstract_mesh(mesh):
    init, step = (functools.partial(f, config) for f in (train.init_state, train.train_step))
    state = sharding.shard_like(jax.eval_shape(init), mesh)
    traced = jax.jit(step).trace(state, abstract.batch(config))
    after, _ = traced.out_info
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
    return traced.lower(lowering_platforms=('tpu',)).as_text()


@pytest.mark.parametrize(
  'name',
  [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED],
)
def test_train_step_lowers_for_64_chips(name):
  assert 'stablehlo.dot_general' in lowered(load(name), (1, 1, 64, 1, 1))


@pytest.mark.parametrize('name', ['t5_11b', pytest.param('bert_large', marks=pytest.mark.slow)])
def test_train_step_lowers_with_tensor_parallelism(name):
  assert 'stablehlo.dot_general' in lowered(load(name), (2, 1, 16, 1, 2))


def test_train_step_lowers_with_experts_on_devices_of_their_own():
  assert 'stablehlo.all_to_all' in lowered(load('switch_base_8'), (2, 8, 4, 1, 4))
