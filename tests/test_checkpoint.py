"""Checkpoints are whole or absent, whatever happens: real files, real processes, real kills."""

import contextlib
import errno
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5lite import checkpoint
from t5lite import config
from t5lite import errors
from t5lite import integrity
from t5lite import meshes
from t5lite import sharding
from t5lite import stored

POLICY = config.Checkpoint()
MANIFEST = {'step': 1, 'config': {'sizes': (1, 2)}, 'learning_rate': 0.1}


class State(NamedTuple):
  step: jax.Array
  params: Any
  opt_state: Any


@jax.jit
def init(seed: int) -> State:
  """Returns a state with all that may be in one, laid out over the mesh that is set."""
  key = jax.random.key(seed)
  split = sharding.RULES.spec
  params = {
    'embed': jax.random.normal(key, (128, 64), out_sharding=split('vocab', 'embed')),
    'layers': {
      'kernel': jax.random.normal(key, (3, 8, 4), out_sharding=split(None, 'embed', 'mlp'))
    },
    'bf16': jax.random.normal(key, (8, 6), jnp.bfloat16, out_sharding=split('embed', None)),
    'counts': jnp.arange(7) + seed,
    'bytes': jnp.arange(5, dtype=jnp.uint8),
    'mask': jnp.arange(4) % 3 == 0,
    'empty': jnp.zeros((0, 8), jnp.bfloat16),
  }
  kernels = {name: params[name] for name in ('embed', 'layers')}
  opt_state = optax.chain(optax.clip(1.0), optax.adamw(lambda step: 0.1)).init(kernels)
  return State(jnp.int32(seed), params, opt_state)


def abstract_state(mesh: jax.sharding.Mesh) -> State:
  with jax.set_mesh(mesh):
    return sharding.shard_like(jax.eval_shape(init, 0), mesh)


def saved(workdir: pathlib.Path, *steps: int, policy: config.Checkpoint = POLICY) -> State:
  """Saves a state for each step, and returns the last."""
  with checkpoint.Checkpointer(workdir, policy) as checkpointer:
    for step in steps:
      checkpointer.save(step, init(step), MANIFEST)
  return init(steps[-1])


def restored(workdir: pathlib.Path, abstract: Any) -> tuple[State, dict[str, Any]]:
  with checkpoint.Checkpointer(workdir, POLICY) as checkpointer:
    return checkpointer.restore(abstract)


def assert_same_bits(a: Any, b: Any) -> None:
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert (x.dtype, x.shape) == (y.dtype, y.shape)
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_round_trip_is_bitwise(tmp_path, mesh):
  state = saved(tmp_path, 3)
  found, manifest = restored(tmp_path, abstract_state(mesh))
  assert_same_bits(found, state)
  assert jax.tree.map(lambda x: x.sharding, found) == jax.tree.map(lambda x: x.sharding, state)
  assert manifest['config'] == {'sizes': [1, 2]} and manifest['learning_rate'] == 0.1
  assert stored.read_manifest(tmp_path) == manifest
  params, _ = stored.restore_params(tmp_path, abstract_state(mesh).params)
  assert_same_bits(params, state.params)


@pytest.mark.parametrize('shape', [(1, 1, 1), (1, 1, 4), (2, 2, 2)])
def test_restores_onto_another_mesh(tmp_path, mesh, shape):
  state = saved(tmp_path, 3)
  devices = jax.devices()[: np.prod(shape)]
  other = meshes.make(config.Parallel(replica=shape[0], data=shape[1], model=shape[2]), devices)
  with jax.set_mesh(other):
    found, _ = restored(tmp_path, abstract_state(other))
  assert_same_bits(found, state)
  assert found.params['embed'].sharding.mesh == other


def test_state_may_be_donated_while_it_is_written(tmp_path, mesh):
  shard = jax.NamedSharding(mesh, jax.P('data', 'model'))
  state = State(jnp.int32(1), {'w': jnp.ones((2048, 2048), device=shard)}, ())
  add = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
  other = add.lower(state).compile()
  abstract = sharding.shard_like(jax.eval_shape(lambda: state), mesh)
  with checkpoint.Checkpointer(tmp_path, POLICY) as checkpointer, jax.transfer_guard('disallow'):
    checkpointer.save(1, state, MANIFEST)
    for _ in range(5):
      state = other(state)
  found, _ = restored(tmp_path, abstract)
  assert int(found.step) == 1 and int(state.step) == 6
  assert bool((found.params['w'] == 1).all())


def test_keeps_the_last_and_every_nth(tmp_path, mesh):
  policy = config.Checkpoint(keep_last=2, keep_every=4)
  saved(tmp_path, 2, 4, 5, policy=policy)
  assert stored.steps(tmp_path) == [4, 5]
  saved(tmp_path, 6, 8, 9, 10, policy=policy)
  assert stored.steps(tmp_path) == [4, 8, 9, 10]


def test_foreign_directories_are_neither_read_nor_counted_nor_deleted(tmp_path, mesh):
  foreign = tmp_path / 'checkpoints' / '99999' / 'of_mine'
  foreign.mkdir(parents=True)
  state = saved(tmp_path, 1, 2, 3)
  assert stored.steps(tmp_path) == [2, 3] and foreign.exists()
  assert stored.latest_step(tmp_path) == 3
  assert_same_bits(restored(tmp_path, abstract_state(mesh))[0], state)


def test_older_step_goes_on_when_the_newest_is_moved_away(tmp_path, mesh):
  saved(tmp_path, 2, 3)
  folder = tmp_path / 'checkpoints'
  (folder / '3').rename(folder / '3.damaged')
  (folder / '4').mkdir()
  assert_same_bits(restored(tmp_path, abstract_state(mesh))[0], init(2))
  saved(tmp_path, 3)
  assert stored.steps(tmp_path) == [2, 3]
  with pytest.raises(errors.DiskError, match='something else.*/4: move it away'):
    saved(tmp_path, 4)


def test_saving_a_step_again_changes_nothing(tmp_path, mesh):
  state = saved(tmp_path, 3, 3)
  before = (tmp_path / 'checkpoints' / '3').stat()
  saved(tmp_path, 3)
  assert (tmp_path / 'checkpoints' / '3').stat() == before
  assert_same_bits(restored(tmp_path, abstract_state(mesh))[0], state)


def test_exception_right_after_a_save_keeps_it(tmp_path, mesh):
  with pytest.raises(KeyError, match='a bug'):
    with checkpoint.Checkpointer(tmp_path, POLICY) as checkpointer:
      checkpointer.save(1, init(1), MANIFEST)
      raise KeyError('a bug')
  assert_same_bits(restored(tmp_path, abstract_state(mesh))[0], init(1))


def test_checkpoint_of_another_model_is_refused_before_it_is_read(tmp_path, mesh):
  saved(tmp_path, 3)
  for folder in ('params', 'rest'):
    shutil.rmtree(tmp_path / 'checkpoints' / '3' / folder)
  abstract = abstract_state(mesh)

  def refusal(**params: Any) -> str:
    changed = {name: x for name, x in {**abstract.params, **params}.items() if x is not None}
    with pytest.raises(errors.CheckpointError) as raised:
      restored(tmp_path, abstract._replace(params=changed))
    return str(raised.value)

  def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.NamedSharding(mesh, jax.P()))

  shape = refusal(embed=array(32, 8))
  assert 'params.embed is float32[128, 64] in' in shape and 'float32[32, 8] in the config' in shape
  assert 'use the config that it was trained with' in shape
  assert 'bfloat16[8, 6] in' in refusal(bf16=array(8, 6))
  assert 'params.more is missing in' in refusal(more=array(2))
  assert 'missing in the config' in refusal(mask=None)


def test_flipped_bit_is_never_silent(tmp_path, mesh):
  state, abstract = saved(tmp_path, 2, 3), abstract_state(mesh)
  files = [path for path in (tmp_path / 'checkpoints/3').rglob('*') if path.is_file()]
  arrays = [path for path in files if path.parent.name == 'd']
  draw = random.Random(0)
  drawn = draw.choices(arrays, [path.stat().st_size for path in arrays], k=20)
  raised = []
  with checkpoint.Checkpointer(tmp_path, POLICY) as checkpointer:
    for path in drawn + files:
      with flipped_bit(path, draw):
        try:
          found, manifest = checkpointer.restore(abstract)
          assert_same_bits(found, state)
          assert manifest['learning_rate'] == 0.1
        except errors.CheckpointError as error:
          raised.append(str(error))
  assert all('\n' not in text and text.endswith('to go on from step 2') for text in raised)
  assert any('params.embed does not have its digest' in text for text in raised)
  assert len(raised) > 10  # the others hit bytes that mean nothing


def test_flipped_bit_in_the_manifest_is_never_silent(tmp_path, mesh):
  saved(tmp_path, 1, 2)
  for seed in range(50):
    with flipped_bit(tmp_path / 'checkpoints/2/manifest/metadata', random.Random(seed)):
      with pytest.raises(errors.CheckpointError, match='damaged .* to go on from step 1'):
        stored.read_manifest(tmp_path)


@contextlib.contextmanager
def flipped_bit(path: pathlib.Path, draw: random.Random):
  good = path.read_bytes()
  bad = bytearray(good)
  bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
  path.write_bytes(bad)
  yield
  path.write_bytes(good)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int32', 'uint8', 'bool'])
def test_any_one_flipped_bit_changes_the_digest(dtype):
  x = np.random.default_rng(0).integers(0, 2, (4, 3)).astype(jnp.dtype(dtype))
  digests = {int(integrity.digest(jnp.asarray(x)))}
  bits = range(0, 8 * x.nbytes, 8 if dtype == 'bool' else 1)
  for bit in bits:
    flipped = x.copy()
    flipped.reshape(-1).view(np.uint8)[bit // 8] ^= 1 << bit % 8
    digests.add(int(integrity.digest(jnp.asarray(flipped))))
  assert len(digests) == 1 + len(bits)


def test_digest_is_the_same_for_every_sharding(mesh):
  x = np.random.default_rng(0).standard_normal((16, 8, 4), np.float32)
  specs = [(), ('data',), (None, 'model', 'data'), (('data', 'model'),), ('model', 'data')]
  placed = [jax.device_put(x, jax.NamedSharding(mesh, jax.P(*spec))) for spec in specs]
  assert len({x.sharding for x in placed}) == len(specs)
  digests = {int(integrity.digest(x)) for x in placed}
  with jax.set_mesh(meshes.make(config.Parallel(), jax.devices()[3:4])):
    assert digests == {int(integrity.digest(jnp.asarray(x)))}


def test_digest_sees_two_flips_of_the_same_bit(mesh):
  a = jnp.zeros((64, 64), device=jax.NamedSharding(mesh, jax.P('data', 'model')))
  signs = jnp.zeros((64, 64)).at[3, 5].set(-0.0).at[60, 7].set(-0.0)
  b = jax.device_put(signs, a.sharding)
  digests = integrity.describe({'a': a, 'b': b, 'transposed': b.T})
  assert len({x['digest'] for x in digests.values()}) == 3


def test_reading_parameters_reads_and_deletes_nothing_else(tmp_path, mesh):
  state = saved(tmp_path, 1, 2)
  shutil.rmtree(tmp_path / 'checkpoints/2/rest')
  left = tmp_path / 'checkpoints/3.orbax-checkpoint-tmp'
  left.mkdir()
  abstract = abstract_state(mesh).params
  assert_same_bits(stored.restore_params(tmp_path, abstract)[0], state.params)
  assert_same_bits(stored.restore_params(tmp_path, abstract, step=1)[0], init(1).params)
  with pytest.raises(errors.CheckpointError, match='no such checkpoint.*there are 1, 2'):
    stored.restore_params(tmp_path, abstract, step=7)
  with pytest.raises(errors.CheckpointError, match='no checkpoint: .*nowhere: give the workdir'):
    stored.restore_params(tmp_path / 'nowhere', abstract)
  assert left.exists() and not (tmp_path / 'nowhere').exists()


def test_no_room_is_said_before_writing(tmp_path):
  with pytest.raises(errors.DiskError, match='MiB needed.*MiB free.*lower checkpoint.keep_last'):
    stored.check_room(tmp_path, 2**60)


def test_workdir_that_cannot_be_written_is_a_disk_error(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.DiskError, match=f'{os.strerror(errno.ENOTDIR)}.*another --workdir'):
    checkpoint.Checkpointer(tmp_path / 'file' / 'run', POLICY)


TRAINER = """
import sys
import jax, jax.numpy as jnp
from t5lite import checkpoint, config, errors
from typing import NamedTuple
class State(NamedTuple):
  step: jax.Array
  params: dict
  opt_state: tuple
def state(step):
  return State(jnp.int32(step), {'w': jax.random.bits(jax.random.key(step), (SIZE,))}, ())
"""


@contextlib.contextmanager
def trainer(program: str, size: int, *arguments: object):
  """Runs a program that has `state(step)`, in a process of its own."""
  code = TRAINER.replace('SIZE', str(size)) + program
  command = [sys.executable, '-W', 'error', '-c', code, *map(str, arguments)]
  environment = {**os.environ, 'XLA_FLAGS': ''}
  with subprocess.Popen(
    command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
  ) as child:
    try:
      yield child
    finally:
      child.kill()


def weights(workdir: pathlib.Path, size: int) -> tuple[int, jax.Array]:
  """Returns the newest step and weights that a trainer saved."""
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = {'w': jax.ShapeDtypeStruct((size,), jnp.uint32, sharding=one)}
  params, manifest = stored.restore_params(workdir, abstract)
  return manifest['step'], params['w']


@pytest.mark.slow
def test_kill_in_a_save_leaves_the_earlier_one_and_frees_the_lock(tmp_path):
  size = 2**23
  program = """
with checkpoint.Checkpointer(sys.argv[1], config.Checkpoint()) as checkpointer:
  for step in range(1, 1000):
    checkpointer.save(step, state(step), {'step': step})
"""
  with trainer(program, size, tmp_path) as child:
    wait_for(lambda: stored.steps(tmp_path), child)
    with pytest.raises(errors.ConfigError) as refused:
      checkpoint.Checkpointer(tmp_path, POLICY)
    assert f'process {child.pid} on' in str(refused.value) and '\n' not in str(refused.value)
    wait_for(lambda: unfinished(tmp_path), child)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
  assert unfinished(tmp_path)
  step, w = weights(tmp_path, size)
  np.testing.assert_array_equal(w, jax.random.bits(jax.random.key(step), (size,)))
  with checkpoint.Checkpointer(tmp_path, POLICY) as checkpointer:
    checkpointer.save(10**6, State(jnp.int32(0), {'w': w}, ()), {})
  assert not unfinished(tmp_path)


def unfinished(workdir: pathlib.Path) -> list[pathlib.Path]:
  return list((workdir / 'checkpoints').glob('*orbax-checkpoint-tmp*'))


def wait_for(ready, child: subprocess.Popen) -> None:
  while not ready():
    assert child.poll() is None, child.stderr.read()
    time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize('ending', ['checkpointer.save(3, state(3), {})', 'pass'])
def test_full_disk_is_a_disk_error_and_leaves_the_earlier_one(tmp_path, ending):
  size = 2**18
  program = f"""
import resource
policy = config.Checkpoint(keep_last=1)
with checkpoint.Checkpointer(sys.argv[1], policy) as checkpointer:
  checkpointer.save(1, state(1), {{'step': 1}})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
  with checkpoint.Checkpointer(sys.argv[1], policy) as checkpointer:
    checkpointer.save(2, state(2), {{'step': 2}})
    {ending}
except errors.DiskError as error:
  print(error)
  sys.exit(error.code)
"""
  with trainer(program, size, tmp_path) as child:
    out, err = child.communicate()
  assert (child.returncode, err) == (73, '')
  assert out.startswith('checkpoint not written: ') and 'the earlier checkpoints are intact' in out
  assert len(out.splitlines()) == 1
  step, w = weights(tmp_path, size)
  assert step == 1
  np.testing.assert_array_equal(w, jax.random.bits(jax.random.key(1), (size,)))


def test_manifest_is_plain_json(tmp_path, mesh):
  saved(tmp_path, 1)
  manifest = json.loads((tmp_path / 'checkpoints/1/manifest/metadata').read_text())
  assert manifest['arrays']['params.bf16']['shape'] == [8, 6]
  assert manifest['format'] == stored.FORMAT
