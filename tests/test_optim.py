"""Schedules at points worked out by hand; optimizers against float64 numpy, from the papers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5lite import config as config_lib
from t5lite import errors
from t5lite import models
from t5lite import optim
from t5lite import presets
from t5lite import sharding

NAMES = ('adafactor', 'adamw', 'adamw_rms', 'lion', 'muon')
LAYERS, WIDTH, HEADS, SIZE, MLP, VOCAB = 2, 128, 2, 64, 192, 256
LETTERS = {
  'token_embed': {'embedding': 'VD'},
  'encoder': {
    'layers': {
      'attention': {
        'query': {'kernel': 'LDJ', 'bias': 'LJ'},
        'output': {'kernel': 'LJD', 'bias': 'LD'},
      },
      'attention_norm': {'scale': 'LD'},
      'mlp': {'input': {'kernel': 'LDF'}},
    },
    'relative_bias': {'embedding': 'PN'},
  },
  'lm_head': {'kernel': 'DV'},
}
EXPERTS = {
  'layers': {
    'experts': {
      'input': {'kernel': 'LXWF', 'bias': 'LXF'},
      'output': {'kernel': 'LXFW', 'bias': 'LXW'},
    },
    'router': {'kernel': 'LDE'},
  }
}
DIMS = {'L': LAYERS, 'D': WIDTH, 'N': HEADS, 'J': HEADS * SIZE, 'F': MLP, 'V': VOCAB, 'P': 32}
DIMS |= {'X': 4, 'E': 4, 'W': WIDTH}
MODEL = presets.t5_1_1(
  vocab_size=VOCAB, num_layers=2, d_model=WIDTH, d_ff=MLP, num_heads=HEADS, head_dim=SIZE
)


def make_config(steps: int = 100, model: config_lib.Model = MODEL, **changes) -> config_lib.Config:
  fields = {'name': 'adafactor', 'learning_rate': 0.01, 'schedule': 'constant', **changes}
  return config_lib.Config(
    model=model,
    objective=config_lib.Objective(name=config_lib.OBJECTIVES_OF[model.architecture][0]),
    data=config_lib.Data(
      batch_size=8, input_length=16, target_length=8 if model.num_decoder_layers else 0
    ),
    optim=config_lib.Optim(**fields),
    train=config_lib.Train(steps=steps),
  )


def draw(seed: int, scale: float = 1.0, tree=LETTERS):
  """Returns parameters, or gradients of uneven size, sharded by the mesh that is set."""
  rng = np.random.default_rng(seed)

  def one(letters: str) -> jax.Array:
    shape = [DIMS[letter] for letter in letters]
    x = scale * rng.standard_normal(shape) * rng.gamma(1.0, size=shape)
    if 'L' in letters:  # layers differ in size, so that a mean over them would show
      x = x * np.float64([1.0, 7.0]).reshape(2, *[1] * (len(shape) - 1))
    spec = sharding.parameter_spec(letters)
    return jnp.asarray(x, jnp.float32) if spec is None else jax.device_put(np.float32(x), spec)

  return jax.tree.map(one, tree)


def run(config: config_lib.Config, params, gradients):
  """Returns the parameters and the optimizer state after a step for each of the gradients."""
  optimizer = optim.optimizer(config)

  @jax.jit
  def step(params, state, grads):
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  state = jax.jit(optimizer.init)(params)
  for grads in gradients:
    params, state = step(params, state, grads)
  return params, state


def named(tree) -> dict[str, np.ndarray]:
  leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
  return {jax.tree_util.keystr(path, simple=True, separator='/'): x for path, x in leaves}


def assert_close(got, wanted, tolerance: float):
  got, wanted = named(got), named(wanted)
  assert got.keys() == wanted.keys()
  for name in got:
    np.testing.assert_allclose(got[name], wanted[name], tolerance, tolerance, err_msg=name)


# Peak 0.01; of 100 steps, 10 of warm-up.
@pytest.mark.parametrize(
  ('fields', 'points'),
  [
    ({'schedule': 'constant'}, {0: 0.0, 5: 0.005, 10: 0.01, 100: 0.01}),
    ({'schedule': 'linear', 'final_ratio': 0.1}, {1: 0.001, 10: 0.01, 55: 0.0055, 100: 0.001}),
    ({'schedule': 'cosine', 'final_ratio': 0.2}, {10: 0.01, 55: 0.006, 100: 0.002, 120: 0.002}),
    ({'schedule': 'cosine'}, {40: 0.0075, 70: 0.0025, 100: 0.0}),
    ({'schedule': 'wsd', 'decay_steps': 20}, {5: 0.005, 11: 0.01, 80: 0.01, 90: 0.005, 100: 0.0}),
    ({'schedule': 'rsqrt'}, {5: 0.005, 10: 0.01, 40: 0.005, 90: 0.01 / 3, 1000: 0.001}),
  ],
)
def test_schedule_passes_through_points_worked_out_by_hand(fields, points):
  learning_rate = optim.schedule(make_config(warmup_steps=10, **fields))
  for step, wanted in points.items():
    assert float(learning_rate(jnp.int32(step))) == pytest.approx(wanted, rel=1e-5, abs=1e-9), step


def test_rsqrt_without_warmup_is_t5s_schedule():
  learning_rate = optim.schedule(make_config(schedule='rsqrt'))
  for n in (0, 1, 9_999, 10_000, 10_001, 40_000, 524_288):
    assert float(learning_rate(jnp.int32(n))) == pytest.approx(max(n, 10_000) ** -0.5, rel=1e-6)


@pytest.mark.parametrize('name', ['linear', 'cosine', 'rsqrt', 'constant'])
def test_a_run_may_end_within_its_warmup(name):
  learning_rate = optim.schedule(make_config(steps=5, schedule=name, warmup_steps=10))
  assert float(learning_rate(jnp.int32(4))) == pytest.approx(0.004)


def test_wsd_that_does_not_fit_the_run_is_a_config_error():
  with pytest.raises(errors.ConfigError, match='optim.decay_steps=95'):
    make_config(schedule='wsd', warmup_steps=10, decay_steps=95)


def rms(x: np.ndarray) -> float:
  return float(np.sqrt(np.mean(x * x)))


def by_layer(name: str, x: np.ndarray) -> list[np.ndarray]:
  """Returns float64 views of a parameter as the papers see it: one matrix or vector a layer."""
  x = np.asarray(x, np.float64)
  return list(x) if '/layers/' in name else [x]


def adafactor_reference(w: np.ndarray, gradients: list[np.ndarray], rate: float) -> np.ndarray:
  """Shazeer & Stern 2018: algorithms 4 and 5, with section 7.2's decay and section 6's clipping."""
  factored = w.ndim == 2 and min(w.shape) >= 128
  rows, columns, second = 0.0, 0.0, 0.0
  for t, g in enumerate(gradients, start=1):
    b2 = 1 - t**-0.8
    square = g * g + 1e-30
    if factored:
      rows = b2 * rows + (1 - b2) * square.sum(axis=1)
      columns = b2 * columns + (1 - b2) * square.sum(axis=0)
      second = np.outer(rows, columns) / rows.sum()
    else:
      second = b2 * second + (1 - b2) * square
    u = g / np.sqrt(second)
    u = u / max(1.0, rms(u))
    w = w - rate * max(1e-3, rms(w)) * u
  return w


def test_adafactor_is_the_papers():
  params, gradients = draw(0, 0.02), [draw(i, 1e-3) for i in range(1, 6)]
  got, _ = run(make_config(name='adafactor', learning_rate=0.05), params, gradients)
  got, params, gradients = named(got), named(params), [named(grads) for grads in gradients]
  for name, w in params.items():
    histories = zip(*(by_layer(name, grads[name]) for grads in gradients), strict=True)
    for layer, (new, old, history) in enumerate(
      zip(by_layer(name, got[name]), by_layer(name, w), histories, strict=True)
    ):
      wanted = adafactor_reference(old, list(history), 0.05)
      np.testing.assert_allclose(new - old, wanted - old, 2e-3, 1e-7, err_msg=f'{name} {layer}')


def adamw_rms_reference(w, gradients, scales, config: config_lib.Optim) -> np.ndarray:
  """Kingma & Ba 2015, algorithm 1, times RMS(w); Loshchilov & Hutter 2019's decay."""
  m, v = np.zeros_like(w), np.zeros_like(w)
  for t, (g, scale) in enumerate(zip(gradients, scales, strict=True), start=1):
    m = config.b1 * m + (1 - config.b1) * g * scale
    v = config.b2 * v + (1 - config.b2) * (g * scale) ** 2
    u = m / (1 - config.b1**t) / (np.sqrt(v / (1 - config.b2**t)) + config.epsilon)
    w = w - config.learning_rate * (max(1e-3, rms(w)) * u + config.weight_decay * w)
  return w


def test_adamw_rms_is_adamw_times_the_parameters_rms():
  config = make_config(
    name='adamw_rms', learning_rate=0.05, b2=0.99, epsilon=1e-6, weight_decay=0.1, clip=0.3
  )
  params, gradients = draw(0, 0.02), [draw(i, 1e-3) for i in range(1, 6)]
  got, _ = run(config, params, gradients)
  got, params, gradients = named(got), named(params), [named(grads) for grads in gradients]
  norms = [np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in grads.values())) for grads in gradients]
  scales = [min(1.0, 0.3 / norm) for norm in norms]
  assert min(scales) < 1
  for name, w in params.items():
    spared = name.endswith(('bias', 'scale')) or 'relative_bias' in name
    recipe = dataclasses.replace(config.optim, weight_decay=0.0 if spared else 0.1)
    histories = zip(*(by_layer(name, grads[name]) for grads in gradients), strict=True)
    for new, old, history in zip(
      by_layer(name, got[name]), by_layer(name, w), histories, strict=True
    ):
      wanted = adamw_rms_reference(old, history, scales, recipe)
      np.testing.assert_allclose(new - old, wanted - old, 2e-3, 1e-7, err_msg=name)


def test_lion_steps_by_the_sign_of_its_momentum():
  params, gradients = draw(0), [draw(1), draw(2)]
  config = make_config(name='lion', b1=0.9, b2=0.99)
  before, _ = run(config, params, gradients[:1])
  after, _ = run(config, params, gradients)
  first, second = (named(grads)['lm_head/kernel'] for grads in gradients)
  step = named(after)['lm_head/kernel'] - named(before)['lm_head/kernel']
  wanted = -0.01 * np.sign(0.9 * 0.01 * first + 0.1 * second)
  np.testing.assert_allclose(step, wanted, atol=1e-6)


def test_muon_makes_the_layers_matrices_orthogonal_and_leaves_the_rest_to_adamw():
  params, gradients = draw(0), [draw(1), draw(2)]
  recipe = {'learning_rate': 0.01, 'weight_decay': 0.1}
  muon = named(run(make_config(name='muon', **recipe), params, gradients)[0])
  adamw = named(run(make_config(name='adamw', **recipe), params, gradients)[0])
  before = named(run(make_config(name='muon', **recipe), params, gradients[:1])[0])
  for name, new in muon.items():
    if not ('/layers/' in name and name.endswith('kernel')):
      np.testing.assert_allclose(new, adamw[name], 1e-6, 1e-7, err_msg=name)
      continue
    for w, old in zip(by_layer(name, new), by_layer(name, before[name]), strict=True):
      step = (old * (1 - 0.01 * 0.1) - w) / 0.01
      values = np.linalg.svd(step, compute_uv=False) / (0.2 * np.sqrt(max(w.shape)))
      # Newton-Schulz's fifth step leaves 0.7 to 1.2; a square matrix may have a few tiny ones.
      assert np.quantile(values, 0.05) > 0.6 and values.max() < 1.3, (name, values)


@pytest.mark.parametrize('name', ['adafactor', 'adamw_rms', 'muon'])
def test_stacked_layers_train_as_separate_ones(name):
  config = make_config(name=name, weight_decay=0.1)
  params, gradients = draw(0), [draw(1), draw(2)]
  together, _ = run(config, params, gradients)
  for layer in range(LAYERS):
    pick = lambda tree, i=layer: {'layers': jax.tree.map(lambda x: x[i : i + 1], tree)}
    alone, _ = run(
      config,
      pick(params['encoder']['layers']),
      [pick(grads['encoder']['layers']) for grads in gradients],
    )
    assert_close(alone, pick(together['encoder']['layers']), 1e-6)


@pytest.mark.parametrize('name', ['adafactor', 'adamw_rms', 'muon'])
def test_stacks_of_two_depths_train_as_each_alone(name):
  config = make_config(name=name, weight_decay=0.1)
  half = lambda tree: jax.tree.map(lambda x: x[:1], tree['encoder']['layers'])
  trees = [draw(seed) for seed in range(3)]
  deep = [{'encoder': {'layers': tree['encoder']['layers']}} for tree in trees]
  flat = [{'decoder': {'layers': half(tree)}} for tree in trees[::-1]]
  both = [one | other for one, other in zip(deep, flat, strict=True)]
  together, _ = run(config, both[0], both[1:])
  for alone in (deep, flat):
    (stack,) = alone[0]
    got, _ = run(config, alone[0], alone[1:])
    assert_close(got[stack], together[stack], 1e-6)


@pytest.mark.parametrize('name', ['adafactor', 'adamw_rms', 'muon'])
def test_each_expert_trains_as_an_mlp_of_its_own(name):
  """And on a mesh that splits the experts as well, where every sharding stays."""
  model = dataclasses.replace(MODEL, num_experts=4)
  config = make_config(model=model, name=name, weight_decay=0.1)
  trees = [draw(seed, tree=EXPERTS) for seed in range(3)]
  # A size for each expert, so that a mean over them would show.
  sizes = np.float32([1, 3, 9, 27])[None, :, None]
  for tree in trees:
    for part in tree['layers']['experts'].values():
      part |= {'kernel': part['kernel'] * sizes[..., None], 'bias': part['bias'] * sizes}
  together, _ = run(config, trees[0], trees[1:])
  for expert in range(4):
    pick = lambda tree, i=expert: {
      'layers': {'mlp': jax.tree.map(lambda x: x[:, i], tree['layers']['experts'])}
    }
    alone, _ = run(
      make_config(name=name, weight_decay=0.1), pick(trees[0]), [*map(pick, trees[1:])]
    )
    assert_close(alone, pick(together), 1e-6)

  kinds = (jax.sharding.AxisType.Explicit,) * 5
  with jax.set_mesh(jax.make_mesh((1, 2, 2, 1, 2), sharding.AXES, axis_types=kinds)):
    specs = jax.tree.map(sharding.parameter_spec, EXPERTS)
    here = [
      jax.tree.map(lambda x, s: jax.device_put(np.array(x), s), tree, specs) for tree in trees
    ]
    split, _ = run(config, here[0], here[1:])
    assert jax.tree.map(jax.typeof, split) == jax.tree.map(jax.typeof, here[0])
    assert_close(split, together, 1e-5)


def mesh_axes(letters: str) -> set[str]:
  """Returns the axes over which t5lite splits a parameter."""
  return {'data' if letter == 'D' else 'model' for letter in letters if letter in 'DNJFV'}


@pytest.mark.parametrize(
  'name',
  ['adafactor', 'muon', *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:4])],
)
def test_update_is_the_same_on_a_mesh_and_keeps_every_sharding(name, request):
  config = make_config(name=name, weight_decay=0.1, clip=1.0)
  alone, _ = run(config, draw(0), [draw(1), draw(2)])
  request.getfixturevalue('mesh')
  params = draw(0)
  new, state = run(config, params, [draw(1), draw(2)])
  assert_close(new, alone, 1e-6)
  assert jax.tree.map(jax.typeof, new) == jax.tree.map(jax.typeof, params)
  for path, moment in jax.tree_util.tree_leaves_with_path(state):
    letters = LETTERS
    for part in path:
      if isinstance(part, jax.tree_util.DictKey) and isinstance(letters, dict):
        letters = letters.get(part.key, letters)
    if isinstance(letters, str) and moment.shape[-1] > 1:
      used = {axis for axis in jax.tree.leaves(tuple(moment.sharding.spec)) if axis}
      factor = any(getattr(part, 'name', '') in ('v_row', 'v_col') for part in path)
      wanted = mesh_axes(letters)
      assert len(used) == 1 if factor else used == wanted, (path, moment.sharding)


FAMILIES = {
  't5': MODEL,
  'bert': presets.bert(vocab_size=64, num_layers=2, d_model=128, max_length=16),
  'gpt2': presets.gpt2(vocab_size=64, num_layers=2, d_model=64, num_heads=2, max_length=16),
  't5_moe': dataclasses.replace(MODEL, num_experts=4),
}


@pytest.mark.parametrize('family', FAMILIES)
def test_every_parameter_of_every_family_has_its_place(family):
  model = FAMILIES[family]
  params = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
  for path, decays in named(optim.decays(params)).items():
    assert decays == (path.endswith(('kernel', 'embedding')) and 'relative' not in path), path
  for name in NAMES:
    optimizer = optim.optimizer(make_config(model=model, name=name, weight_decay=0.1, clip=1.0))
    updates, _ = jax.eval_shape(
      lambda p, optimizer=optimizer: optimizer.update(p, optimizer.init(p), p), params
    )
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
