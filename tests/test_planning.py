"""`t5lite plan`: the program's reader against counts made otherwise, and real TPU compilations."""

import collections
import dataclasses
import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
from jax.sharding import PartitionSpec as P
import jax.numpy as jnp
import pytest

import test_flops
from t5lite import config as config_lib
from t5lite import errors
from t5lite import flops
from t5lite import planning
from t5lite import meshes
from t5lite import train
from t5lite.planning import abstract
from t5lite.planning import bounds
from t5lite.planning import chips
from t5lite.planning import groups
from t5lite.planning import hlo
from t5lite.planning import page
from t5lite.planning import program
from t5lite.planning import topologies
from t5lite.planning import tpus

ROOT = pathlib.Path(__file__).parents[1]
MESH = {'replica': 2, 'expert': 1, 'data': 4, 'sequence': 1, 'model': 2}


def instruction(attributes: str) -> hlo.Instruction:
  return hlo.Instruction('x', 'all-reduce', (), (), '', attributes, is_root=False)


GROUPS = {
  'replica_groups={{0,2,4,6},{1,3,5,7},{8,10,12,14},{9,11,13,15}}, to_apply=%add': ('data',),
  'replica_groups={{0,8},{1,9}}': ('replica',),
  'replica_groups=[8,2]<=[16], to_apply=%add': ('model',),
  'replica_groups=[4,4]<=[2,4,2]T(0,2,1), use_global_device_ids=true': ('data',),
  'replica_groups=[2,8]<=[2,4,2]T(2,0,1)': ('replica', 'data'),
  "replica_groups=mesh['a'=16] {'a'}, to_apply=%add": ('replica', 'data', 'model'),
  "replica_groups=mesh['replica'=2,'data'=4,'model'=2] {'data'}": ('data',),
  "replica_groups=mesh['replica'=2,'data'=4,'model'=2] {'replica','model'}": ('replica', 'model'),
  "replica_groups=mesh['a'=16] {'a':(2)4}": ('data',),
  'replica_groups={}, to_apply=%add': ('replica', 'data', 'model'),
  'source_target_pairs={{0,2},{2,4},{4,6},{6,0}}': ('data',),
  'source_target_pairs={{0,9},{9,0}}': ('replica', 'model'),
}


@pytest.mark.parametrize('attributes', GROUPS)
def test_axes_of_a_collective_are_found_from_its_groups(attributes):
  found = groups.all_groups(instruction(attributes), 16)
  assert all(groups.axes(group, MESH) == GROUPS[attributes] for group in found)


def test_groups_of_an_unknown_form_are_not_guessed():
  with pytest.raises(ValueError, match='unknown form of replica groups'):
    groups.all_groups(instruction('replica_groups=[2,x]<=[4]'), 4)


def on_mesh(function, *shapes: tuple[tuple[int, ...], P], mesh) -> program.Program:
  """Returns the work of a function compiled for this machine's simulated devices."""
  arguments = [
    jax.ShapeDtypeStruct(shape, 'float32', sharding=jax.sharding.NamedSharding(mesh, spec))
    for shape, spec in shapes
  ]
  return program.measure(jax.jit(function).lower(*arguments).compile().as_text(), dict(mesh.shape))


def only(measured: program.Program) -> program.Collective:
  (collective,) = (c for c in measured.collectives if c.num_devices > 1)
  return collective


def test_loops_count_times_their_length(mesh):
  def seven(x, w):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

  def nested(x, w):
    return jax.lax.fori_loop(0, 3, lambda _, x: seven(x, w), x)

  shapes = ((8, 16), P('data', None)), ((7, 16, 16), P(None, None, None))
  once = 2 * (8 // 4) * 16 * 16
  assert on_mesh(seven, *shapes, mesh=mesh).flops == 7 * once
  assert on_mesh(nested, *shapes, mesh=mesh).flops == 3 * 7 * once


def test_a_loop_without_a_length_is_told(mesh):
  def until(x):
    return jax.lax.while_loop(lambda x: jnp.sum(x) < 9, lambda x: x + 1, x)

  assert len(on_mesh(until, ((8,), P(None)), mesh=mesh).unknown_loops) == 1


def test_collectives_have_their_axes_and_bytes(mesh):
  def product(x, w):
    return jnp.einsum('bd,df->bf', x, w, out_sharding=P('data', None))

  def gathered(x):
    return jax.sharding.reshard(x, P(None, 'model'))

  reduced = only(
    on_mesh(product, ((8, 16), P('data', 'model')), ((16, 32), P('model', None)), mesh=mesh)
  )
  assert (reduced.kind, reduced.axes, reduced.num_devices) == ('all-reduce', ('model',), 2)
  assert reduced.num_bytes == (8 // 4) * 32 * 4
  assert reduced.wire_bytes == reduced.num_bytes  # 2 (n - 1) / n of it
  gather = only(on_mesh(gathered, ((8, 16), P('data', 'model')), mesh=mesh))
  assert (gather.kind, gather.axes, gather.num_devices) == ('all-gather', ('data',), 4)
  assert gather.num_bytes == 8 * (16 // 2) * 4
  assert gather.wire_bytes == 0.75 * gather.num_bytes


@pytest.mark.parametrize('family, model', [('t5_1_1', 2), ('gpt2', 2), ('bert', 1)])
def test_flops_of_the_compiled_step_are_the_traced_ones(family, model):
  """Scanned layers, recomputation and microbatches on a mesh, against the jaxpr without one."""
  config = test_flops.make_config(test_flops.FAMILIES[family], layers='scan', remat='full')
  config = dataclasses.replace(
    config,
    data=dataclasses.replace(config.data, batch_size=16),
    train=dataclasses.replace(config.train, microbatches=2),
    parallel=config_lib.Parallel(model=model),
  )
  mesh = meshes.make(config.parallel)
  compiled = abstract.lowered_step(config, mesh, 'cpu').compile()
  found = program.measure(compiled.as_text(), dict(mesh.shape))
  state = jax.eval_shape(functools.partial(train.init_state, config))
  traced = train.step_function(config).trace(state, abstract.batch(config))
  assert not found.unknown_loops
  wanted = test_flops.jaxpr_flops(traced.jaxpr.jaxpr)
  assert found.flops * mesh.size == pytest.approx(wanted, rel=0.01)


# As TPUs' programs have them: an all-gather that goes on in three fusions, a reduce-scatter that is
# an all-reduce in a fusion which keeps parts, a plain all-reduce behind it, and a counted loop.
TPU_STEP = pathlib.Path(__file__).with_name('tpu_step.hlo')


def test_collectives_of_a_tpu_program_are_told_apart():
  found = program.measure(TPU_STEP.read_text(), {'replica': 2, 'data': 4}, slices=2)
  assert not found.unknown_loops and found.cycles == 500  # 5 = ceil(9 / 2) runs of the loop
  told = [
    (c.kind, c.axes, c.network, c.asynchronous, c.count, c.num_bytes) for c in found.collectives
  ]
  assert len(told) == 4 and set(told) == {
    ('all-gather', ('data',), 'ici', True, 5, 32 * 128 * 2),
    ('reduce-scatter', ('data',), 'ici', False, 5, 32 * 128 * 2),
    ('all-reduce', ('data',), 'ici', False, 1, 1024),
    ('all-reduce', ('replica',), 'dcn', True, 1, 1024),
  }


CONVOLUTIONS = {
  # A product of 48 x 2048 with 2048 x 768, as TPUs write a matmul.
  ('bf16[2048,48]', 'bf16[2048,768]', 'bf16[48,768]', 'dim_labels=fb_io->bf'): 2 * 48 * 768 * 2048,
  # 12 products in a batch, which is a spatial dimension of one pixel each by padding and dilation.
  (
    'f32[12,64,32]',
    'f32[12,32,16]',
    'f32[12,64,16]',
    'window={size=12 stride=11 pad=0_0 lhs_dilate=12}, dim_labels=0bf_0io->0bf',
  ): 2 * 12 * 64 * 16 * 32,
  # A real one: 8 inputs, a kernel of 3, padded to 8 outputs; 22 of its 24 meetings are on inputs.
  ('f32[5,8,2]', 'f32[3,2,7]', 'f32[5,8,7]', 'window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f'): (
    2 * 5 * 7 * 2 * 22
  ),
}


@pytest.mark.parametrize('convolution', CONVOLUTIONS)
def test_matmuls_that_are_convolutions_count_without_their_padding(convolution):
  left, right, out, attributes = convolution
  text = f"""HloModule m

ENTRY %main (a: {left}, b: {right}) -> {out} {{
  %a = {left} parameter(0)
  %b = {right} parameter(1)
  ROOT %c = {out} convolution(%a, %b), {attributes}
}}
"""
  assert program.measure(text, {'data': 1}).flops == CONVOLUTIONS[convolution]


def test_hbm_traffic_counts_a_slice_not_the_array():
  text = """HloModule m

%fused (p: f32[100,64], q: s32[]) -> f32[1,64] {
  %p = f32[100,64] parameter(0)
  %q = s32[] parameter(1)
  ROOT %s = f32[1,64] dynamic-slice(%p, %q, %q), dynamic_slice_sizes={1,64}
}

ENTRY %main (a: f32[100,64], i: s32[]) -> f32[1,64] {
  %a = f32[100,64] parameter(0)
  %i = s32[]{:S(6)} parameter(1)
  ROOT %f = f32[1,64] fusion(%a, %i), kind=kLoop, calls=%fused
}
"""
  assert program.measure(text, {'data': 1}).hbm_bytes == 2 * 64 * 4


def test_bounds_are_the_roofs_by_hand():
  gather = program.Collective('all-gather', ('data',), 4, True, 3, 800_000, 800_000, '')
  chip = chips.Chip(
    peak_flops=1e12,
    hbm_bandwidth=1e9,
    ici_bandwidth=1e8,
    dcn_bandwidth=1e7,
    clock=1e9,
    watts=100,
    watts_source='',
  )
  work = program.Program(flops=10**10, hbm_bytes=10**6, cycles=10**6, collectives=(gather,))
  found = bounds.bounds(work, chip, devices=4, model_flops=2e10)
  assert found.matrix_seconds == pytest.approx(0.01)
  assert found.interconnect_seconds == pytest.approx(3 * 0.75 * 800_000 / 1e8)
  assert (found.hbm_seconds, found.cycles_seconds) == (pytest.approx(1e-3), pytest.approx(1e-3))
  assert found.largest == 'interconnect' and found.step_seconds_bound == pytest.approx(0.018)
  assert found.mfu_bound == pytest.approx(2e10 / 4 / 1e12 / 0.018)
  run = bounds.run(0.018, tokens_per_step=9, steps=2_000_000, devices=4, chip=chip)
  assert run.tokens_per_second == pytest.approx(500) and run.chip_hours == pytest.approx(40)
  assert run.kwh == pytest.approx(40 * 0.1 * bounds.POWER_USAGE)


def test_the_refusal_of_the_compiler_is_read():
  text = (
    'RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory '
    'required for HLO temporaries (18.53G) exceeds available HBM (15.75G). HLO module: jit_f.'
  )
  assert tpus.out_of_memory(ValueError(text)) == (round(18.53 * 2**30), round(15.75 * 2**30))
  with pytest.raises(ValueError, match='something else'):
    tpus.out_of_memory(ValueError('something else'))


ONE_HEAD = ['model.num_heads=1', 'model.num_kv_heads=1', 'model.head_dim=128']
TINY = ['model.num_layers=1', 'data.batch_size=16']


def test_plan_for_cpu_devices_is_a_page_and_json():
  config = config_lib.load(ROOT / 'configs/tiny_gpt.py', TINY)
  found = planning.plan(config, topologies.cpu(8))
  assert found.mesh['data'] == 8 and found.num_params == flops.num_params(config.model)
  assert found.memory.fits is None and found.bounds is None  # nothing is published of a CPU
  assert found.memory.arguments == pytest.approx(found.memory.arguments_by_hand, rel=0.02)
  text = page.text(found)
  assert 'measured' not in text and f'{found.num_params:,} parameters' in text
  tree = json.loads(json.dumps(found.to_dict()))
  assert tree['program']['flops'] == found.program.flops and tree['memory']['fits'] is None


def test_slices_must_divide_the_replicas():
  def devices(platform: str) -> list:
    kinds = {'platform': platform}
    return [type('Device', (), kinds | {'slice_index': i // 4})() for i in range(8)]

  with pytest.raises(errors.ConfigError, match='slices do not divide .*parallel.replica=2'):
    meshes.make(config_lib.Parallel(), devices('tpu'))
  assert meshes.num_slices(devices('tpu')) == 2
  assert meshes.num_slices(devices('gpu')) == 1  # there it numbers parts of one network


def test_a_missing_compiler_is_told_with_how_to_get_it(monkeypatch):
  monkeypatch.setattr(tpus.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(errors.ConfigError, match=r"libtpu: pip install 't5lite\[tpu\]'"):
    topologies.named('v5e:2x2')


def command(*arguments: str) -> subprocess.CompletedProcess:
  """Returns the ended `t5lite plan` of a process of its own, as libtpu wants one."""
  environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'XLA_FLAGS': ''}
  words = [sys.executable, '-m', 't5lite', 'plan', *arguments]
  return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)


def planned(folder: pathlib.Path, name: str, topology: str, *sets: str, slices: int = 1) -> dict:
  """Returns the JSON of `t5lite plan`."""
  output = folder / 'plan.json'
  flags = [f'--set={override}' for override in sets]
  where = [f'--topology={topology}', f'--slices={slices}', f'--output={output}']
  ended = command(f'--config=configs/{name}.py', *where, *flags)
  assert ended.returncode == 0, ended.stderr
  return json.loads(output.read_text()) | {'page': ended.stdout}


REFUSED = {
  ('--topology=v9:2x2',): 'no such topology: v9:2x2: use KIND:SHAPE.*v5p:4x4x4',
  ('--topology=v5p:3x4x4',): 'no such topology: v5p:3x4x4 .*not divisible',
  ('--topology=v5e:2x4', '--set=parallel.data=3'): 'does not fit the devices.*of data=8; ',
  ('--topology=v5p:4x4x4', '--set=parallel.model=2', '--set=data.batch_size=64'): (
    "does not lie on the devices' torus.*a mesh of data=64; data=16 model=4; .*replica=4 data=16"
  ),
  ('--topology=v5e:2x4', '--slices=2'): 'slices do not divide the replicas.*parallel.replica=2',
  ('--topology=v5e:2x4', '--devices=cpu:8'): 'give one of two flags',
  ('--devices=cpu:8', '--slices=2'): 'CPU devices have no slices',
  ('--devices=cpu:8', '--output=nowhere/x.json'): 'no such directory: --output=nowhere/x.json',
  ('--devices=gpu:8',): 'give one of two flags.*cpu:8',
}


@pytest.mark.slow
@pytest.mark.parametrize('arguments', REFUSED)
def test_what_cannot_be_is_refused_with_what_can(arguments):
  ended = command('--config=configs/tiny_gpt.py', *arguments)
  assert ended.returncode == 64 and ended.stderr.count('\n') == 1, ended.stderr
  assert re.search(REFUSED[arguments], ended.stderr)


@pytest.mark.slow
def test_what_does_not_fit_says_by_how_much_and_what_to_change(tmp_path):
  big = ('model.d_model=4096', 'model.d_ff=65536', 'data.batch_size=4096', 'model.num_layers=2')
  found = planned(tmp_path, 'tiny_gpt', 'v5e:2x2', *big)
  memory = found['memory']
  assert memory['fits'] is False and memory['peak'] > memory['limit'] > 15 * 2**30
  assert '--set=train.microbatches=2' in found['advice'] and found['program'] is None
  assert re.search(r'fits +no +\d+\.\d\d GiB too much', found['page'])


# Fully sharded, of sizes that 256 chips divide into whole tiles.
WIDE = (
  *('model.d_model=2048', 'model.d_ff=2048', 'model.num_layers=2', 'model.num_decoder_layers=2'),
  *('model.num_heads=32', 'model.num_kv_heads=32', 'model.head_dim=64', 'data.batch_size=256'),
)


@pytest.fixture(scope='module')
def ring(tmp_path_factory) -> dict:
  """The plan of a fully sharded T5 on eight chips in a ring."""
  return planned(tmp_path_factory.mktemp('ring'), 'tiny_t5', 'v5e:2x4', *WIDE)


@pytest.mark.slow
def test_argument_bytes_fall_with_the_chips_and_are_those_of_the_hand(ring, tmp_path):
  few, many = ring['memory'], planned(tmp_path, 'tiny_t5', 'v5e:16x16', *WIDE)['memory']
  for memory in (few, many):
    assert memory['arguments'] == pytest.approx(memory['arguments_by_hand'], rel=0.02)
  assert few['arguments'] / many['arguments'] == pytest.approx(256 / 8, rel=0.1)


@pytest.mark.slow
def test_gradients_are_scattered_not_reduced_whole(ring):
  """On a ring. Over a whole square torus libtpu reduces instead: see docs/plan.md.

  What is reduced whole: vectors, and the tables of T5's biases.
  """
  config = config_lib.load(ROOT / 'configs/tiny_t5.py', WIDE)
  small = small_parameters(config)
  collectives = ring['program']['collectives']
  scattered = sum(c['count'] * c['num_bytes'] for c in collectives if c['kind'] == 'reduce-scatter')
  assert scattered >= 2 * (ring['num_params'] - small)  # every matrix, in bfloat16 or wider
  assert all(c['largest'] <= 4 * small for c in collectives if c['kind'] == 'all-reduce')
  assert all(c['axes'] == ['data'] for c in collectives)


@pytest.mark.slow
def test_gathers_are_no_loops_of_permutes(ring):
  """Windowed einsums, which double a step by libtpu's own estimate, are off: t5lite.compiler."""
  times = collections.Counter()
  for c in ring['program']['collectives']:
    times[c['kind']] += c['count']
  assert times['all-gather'] > 10 * times['collective-permute']


def small_parameters(config: config_lib.Config) -> int:
  """Returns how many parameters are in no matrix: norms, and the tables of T5's biases."""
  params = jax.eval_shape(functools.partial(train.init_state, config)).params
  leaves = jax.tree_util.tree_leaves_with_path(params)
  few = [x.size for _, x in leaves if x.size < config.model.num_layers * config.model.d_model * 8]
  return sum(few)


@pytest.mark.slow
def test_only_replicas_cross_the_network_between_slices(tmp_path):
  found = planned(tmp_path, 'tiny_gpt', 'v5e:2x4', *TINY, 'parallel.replica=2', slices=2)
  assert found['num_devices'] == 16 and found['mesh']['replica'] == 2
  collectives = found['program']['collectives']
  between = [c for c in collectives if c['network'] == 'dcn']
  assert between and all(c['axes'] == ['replica'] for c in between)
  assert all(c['axes'] == ['data'] for c in collectives if c['network'] == 'ici')
  # The gradients cross once, each device its own part of them.
  crossed = sum(c['count'] * c['num_bytes'] for c in between)
  assert 2 * found['num_params'] / 8 < crossed < 2 * 4 * found['num_params'] / 8


@pytest.mark.slow
def test_search_ranks_what_fits(tmp_path):
  output = tmp_path / 'plans.json'
  ended = command(
    *('--config=configs/tiny_gpt.py', '--topology=v5e:2x2', '--search', f'--output={output}'),
    *(f'--set={override}' for override in (*TINY, *ONE_HEAD)),
  )
  assert ended.returncode == 0, ended.stderr
  plans = json.loads(output.read_text())
  steps = [plan['bounds']['step_seconds_estimate'] for plan in plans]
  assert len({(*plan['mesh'].values(), plan['remat']) for plan in plans}) == len(plans) == 6
  assert steps == sorted(steps) and f'--set=model.remat={plans[0]["remat"]}' in ended.stdout
