"""A wrong config is one line with the value and the remedy, wherever it is wrong."""

import pathlib

import pytest

from t5lite import config
from t5lite import errors

TINY = pathlib.Path(__file__).parents[1] / 'configs/tiny_gpt.py'


@pytest.mark.parametrize(
  'body, where',
  [
    ('import nothing_of_that_name\n', ":1 (ModuleNotFoundError: No module named 'nothing_of_that"),
    ('x = (\n', ":1 (SyntaxError: '(' was never closed"),
    ('from t5lite import config\n\ndef get_config():\n  return config.Train(step=5)\n', ':4 (Type'),
    ('def get_config():\n  return undefined\n', ':2 (NameError: '),
  ],
)
def test_error_in_a_config_file_names_its_line(tmp_path, body, where):
  path = tmp_path / 'mine.py'
  path.write_text(body)
  with pytest.raises(errors.ConfigError) as raised:
    config.load(path)
  assert str(raised.value).startswith(f'config file fails: {path}{where}')


def test_wrong_value_in_a_config_file_is_told_as_it_is(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text('from t5lite import config\n\ndef get_config():\n  config.Train(steps=-1)\n')
  with pytest.raises(errors.ConfigError, match=r'value too small: train\.steps=-1: use 0 or more'):
    config.load(path)


@pytest.mark.parametrize(
  'override, told',
  [
    ('train.stepz=5', 'unknown key: train.stepz: did you mean steps?'),
    ('trian.steps=5', 'unknown section: trian.steps: did you mean train?'),
    ('train.steps=ten', "wrong type or value: train.steps='ten': use int"),
    ('train.steps', "not an override: 'train.steps': use --set=section.field=value"),
    ('train=5', "not a section: train='5': set its fields: train.KEY=VALUE"),
    ('optim.name=sgd', "wrong type or value: optim.name='sgd': use one of adafactor, adamw,"),
    ('train.microbatches=5', 'batch does not divide into microbatches: data.batch_size='),
  ],
)
def test_wrong_override_names_the_value_and_the_remedy(override, told):
  with pytest.raises(errors.ConfigError) as raised:
    config.load(TINY, [override])
  assert str(raised.value).startswith(told)


def test_odd_width_with_sinusoidal_positions_is_refused():
  sets = ['model.positions=sinusoidal', 'model.max_length=0', 'model.d_model=65']
  with pytest.raises(errors.ConfigError, match=r'odd width .*: model\.d_model=65: use an even'):
    config.load(TINY, sets)
