"""`t5lite plan` for GPUs that are not there: real compilations with jax's CUDA plugin."""

import collections
import dataclasses
import functools
import pathlib
import re
import sysconfig

import jax
from jax.sharding import PartitionSpec as P
import jax.numpy as jnp
import numpy as np
import pytest

import test_flops
import test_planning
from t5lite import compiler
from t5lite import config as config_lib
from t5lite import errors
from t5lite import flops
from t5lite import meshes
from t5lite import planning
from t5lite import train
from t5lite.planning import abstract
from t5lite.planning import bounds
from t5lite.planning import chips
from t5lite.planning import gpus
from t5lite.planning import groups
from t5lite.planning import page
from t5lite.planning import program
from t5lite.planning import topologies

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize('kind', gpus.KINDS)
def test_a_card_is_described_as_its_data_sheet_has_it(kind):
  found = topologies.named(f'{kind}:2x4')
  assert len(found.devices) == 8 and found.device_kind in flops.PEAK_FLOPS
  assert [device.process_index for device in found.devices] == [0] * 4 + [1] * 4
  assert found.chip and found.memory_limit and found.node_size == 4
  assert found.chip.ici_bandwidth * 2 == gpus.CARDS[kind].nvlink_gb_per_second * 1e9
  # All that a card can do in its cycles: bfloat16 runs on tensor cores, 16 times float32 or more.
  card = gpus.CARDS[kind]
  float32 = 2 * card.multiprocessors * card.lanes * card.boost_ghz * 1e9
  assert 14 < found.chip.peak_flops / float32 < 31


REFUSED = {
  'h300:8': 'no such topology: h300:8: use KIND:SHAPE.* h100:8, .*kinds: v4, .*, a100, h100, h200',
  'h100': 'no such topology: h100: use KIND:SHAPE',
  'h100:16': 'no such topology: h100:16: use h100:8, one node, or h100:4x8.* 1 to 8 GPUs a node',
  'h100:0': 'no such topology: h100:0: use h100:8',
  'h100:0x8': 'no such topology: h100:0x8: use h100:8',
  'h100:2x2x8': 'no such topology: h100:2x2x8: use h100:8',
  'h100:2048x8': 'no such topology: h100:2048x8: .*8192 in all',
}


@pytest.mark.parametrize('name', REFUSED)
def test_a_wrong_gpu_topology_is_refused_with_what_is_legal(name):
  with pytest.raises(errors.ConfigError, match=REFUSED[name]):
    topologies.named(name)


def test_gpus_have_no_slices():
  with pytest.raises(errors.ConfigError, match='GPUs have no slices: --slices=4: .*: h100:4x8$'):
    topologies.named('h100:8', slices=4)


def test_a_missing_compiler_is_told_with_how_to_get_it(monkeypatch):
  monkeypatch.setattr(gpus.importlib.metadata, 'entry_points', lambda group: ())
  with pytest.raises(errors.ConfigError, match=r"plugin: pip install 't5lite\[cuda13\]'"):
    topologies.named('h100:8')
  monkeypatch.undo()
  monkeypatch.setattr(gpus, 'toolkits', list)
  with pytest.raises(errors.ConfigError, match=r"libdevice: pip install 't5lite\[cuda13\]'"):
    topologies.named('h100:8')


def test_a_toolkit_is_found_where_xla_looks(monkeypatch, tmp_path):
  monkeypatch.setenv('XLA_FLAGS', f'--xla_gpu_cuda_data_dir={tmp_path}')
  assert tmp_path not in gpus.toolkits()
  library = tmp_path / 'nvvm/libdevice/libdevice.10.bc'
  library.parent.mkdir(parents=True)
  library.touch()
  assert tmp_path in gpus.toolkits()
  installed = pathlib.Path(sysconfig.get_path('purelib')) / 'nvidia/cu13'
  assert installed in gpus.toolkits()  # of the package that the development environment has


def test_a_plan_is_of_what_training_compiles():
  """Training asks with jax's name of the backend, 'gpu', a plan with the platform's, 'cuda'."""
  assert compiler.options('gpu') == compiler.options('cuda')
  model = config_lib.load(ROOT / 'configs/tiny_t5.py').model
  resolved = config_lib.resolve(model, 'cuda')
  assert resolved == config_lib.resolve(model, 'gpu')
  assert (resolved.dtype, resolved.layers) == ('bfloat16', 'scan')


@functools.cache
def gpu_mesh(name: str, **parallel: int) -> jax.sharding.Mesh:
  return meshes.make(config_lib.Parallel(**parallel), topologies.named(name).devices)


def compiled_on(mesh: jax.sharding.Mesh, function, *shapes: tuple, options=None):
  """Returns a function of bfloat16 arrays, each (shape, spec), compiled for GPUs."""
  arguments = [
    jax.ShapeDtypeStruct(shape, 'bfloat16', sharding=jax.sharding.NamedSharding(mesh, spec))
    for shape, spec in shapes
  ]
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=('cuda',))
  return lowered.compile(compiler_options=options or {})


# In training the card is asked which is faster; a plan must count either.
WAYS = {'cublas': {'xla_gpu_enable_triton_gemm': False}, 'triton': {}}


@pytest.mark.parametrize('way', WAYS)
def test_matmuls_of_a_gpu_program_are_counted(way):
  def products(x, w, y):
    return x @ w, jnp.einsum('bij,bjk->bik', y, y)

  shapes = ((1024, 768), P()), ((768, 2048), P()), ((12, 256, 256), P())
  compiled = compiled_on(gpu_mesh('h100:1'), products, *shapes, options=WAYS[way])
  text = compiled.as_text()
  assert ('__cublas$' in text) == (way == 'cublas')
  chip = topologies.named('h100:1').chip
  found = program.measure(text, {'data': 1}, chip=chip)
  flat, batched = 2 * 1024 * 768 * 2048, 2 * 12 * 256**3
  assert found.flops == flat + batched
  elements = 1024 * 768 + 768 * 2048 + 1024 * 2048, 2 * 12 * 256**2
  assert found.hbm_bytes == 2 * sum(elements)
  # One after the other, the first bound by the matrix units, the second by memory.
  one, other = flat / chip.peak_flops, 2 * elements[1] / chip.hbm_bandwidth
  assert found.kernel_seconds == pytest.approx(one + other)


# As GPUs' programs have them: an asynchronous slice, whose start returns its operands, its result
# and a context; a gather of two arrays; and a sum of which one version returns its operand, too.
STEP = """HloModule m

%sliced (p: f32[100,64], q: s32[]) -> f32[1,64] {
  %p = f32[100,64] parameter(0)
  %q = s32[] parameter(1)
  ROOT %s = f32[1,64] dynamic-slice(%p, %q, %q), dynamic_slice_sizes={1,64}
}

ENTRY %main (a: f32[100,64], i: s32[], b: bf16[4]) -> f32[1,64] {
  %a = f32[100,64] parameter(0)
  %i = s32[] parameter(1)
  %b = bf16[4] parameter(2)
  %c = s32[] constant(0)
  %f = ((f32[100,64], s32[]), f32[1,64], u32[]) fusion-start(%a, %c), kind=kLoop, calls=%sliced
  %g = ((bf16[4], bf16[4]), (bf16[8], bf16[8])) all-gather-start(%b, %b), replica_groups=[4,2]<=[8]
  %d = f32[1,64] fusion-done(%f)
  %h = (bf16[8], bf16[8]) all-gather-done(%g)
  %r = RESULT all-reduce-start(%d), replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%add
  ROOT %o = f32[1,64] all-reduce-done(%r)
}
"""


@pytest.mark.parametrize('result', ['f32[1,64]', '((f32[1,64]), f32[1,64])'])
def test_asynchronous_instructions_of_a_gpu_program_count_once(result):
  """On nodes of two GPUs: the gather stays in each, the sum goes over all."""
  shape = {'data': 4, 'model': 2}
  found = program.measure(STEP.replace('RESULT', result), shape, node_size=2)
  sliced, gathered, summed = 2 * 64 * 4 + 4, (4 + 2 * 8) * 2, 2 * 64 * 4  # + 4: its index
  assert found.hbm_bytes == sliced + gathered + summed
  told = [(c.kind, c.axes, c.network, c.asynchronous, c.num_bytes) for c in found.collectives]
  assert told == [
    ('all-gather', ('model',), 'ici', True, 2 * 8 * 2),
    ('all-reduce', ('data',), 'dcn', True, 64 * 4),
  ]


def test_peak_of_a_gpu_program_is_what_lives_at_once():
  """Of a chain of ten products two live beside the operand; all do, if all are used behind it."""
  topology = topologies.named('h100:1')

  def forwards(x):
    made = [x]
    for _ in range(10):
      made.append(jnp.tanh(made[-1] @ x))
    return made

  def back(x):
    *made, last = forwards(x)
    return functools.reduce(jnp.matmul, reversed(made), last)

  def peak(function):
    compiled = compiled_on(gpu_mesh('h100:1'), function, ((2048, 2048), P()))
    return planning.memory_of(compiled.memory_analysis(), 0, topology).peak

  size = 2 * 2048**2
  assert peak(lambda x: forwards(x)[-1] @ x) == pytest.approx(3 * size, rel=0.01)
  assert peak(back) == pytest.approx(12 * size, rel=0.01)  # and the first product on the way back


def test_groups_know_how_many_nodes_they_span():
  """Of the mesh data=2 model=6 on three nodes of four: the first group of model spans two."""
  over = lambda axis: [np.array(group) for group in axis]
  model, data = over(np.arange(12).reshape(2, 6)), over(np.arange(12).reshape(2, 6).T)
  assert groups.num_nodes(model, 4) == 2 and groups.num_nodes(data, 4) == 2
  assert groups.num_nodes(over([[0, 1], [2, 3], [4, 5]]), 4) == 1
  assert groups.num_nodes(over([[0, 1], [3, 4]]), 4) == 2  # only the second leaves its node
  assert groups.num_nodes(model, None) == 1


def collective(kind: str, num_devices: int, num_nodes: int) -> program.Collective:
  return program.Collective(
    kind, ('data',), num_devices, True, 1, 32_000, 32_000, '', num_nodes=num_nodes
  )


def test_bytes_between_nodes_are_shared_by_their_gpus():
  """Four nodes of eight gather 32,000 bytes: a node lacks 24,000, over eight ports."""
  gather, exchange = collective('all-gather', 32, 4), collective('all-to-all', 32, 4)
  assert (gather.network, gather.dcn_bytes) == ('dcn', 3_000)
  assert gather.wire_bytes == 31_000  # of which 28,000 come from its own node
  assert exchange.dcn_bytes == 24_000  # each device's own, for the 24 elsewhere
  assert collective('all-reduce', 32, 4).dcn_bytes == 2 * 3_000
  inside = collective('all-gather', 8, 1)
  assert (inside.network, inside.dcn_bytes) == ('ici', 0)


def test_time_of_collectives_is_that_of_the_slower_network():
  chip = chips.Chip(1e12, 1e12, 14e6, 1e6, None, 100, '')
  work = program.Program(
    kernel_seconds=0.5,
    collectives=(collective('all-gather', 32, 4), collective('all-reduce', 8, 1)),
  )
  found = bounds.bounds(work, chip, devices=32, model_flops=1e9)
  assert found.interconnect_seconds == pytest.approx((28_000 + 56_000) / 14e6)
  assert found.cycles_seconds is None and found.step_seconds_estimate == pytest.approx(0.5)
  # A switch that adds up halves what each sends to be reduced.
  switched = dataclasses.replace(chip, switch_reduces=True)
  halved = bounds.bounds(work, switched, devices=32, model_flops=1e9)
  assert halved.interconnect_seconds == pytest.approx((28_000 + 28_000) / 14e6)


def test_model_axis_stays_in_a_node_and_data_crosses():
  mesh = gpu_mesh('h100:2x4', data=2, model=4)

  def step(x, w):
    whole = jax.sharding.reshard(w, P(None, 'model'))
    return jnp.einsum('bf,fd->bd', x @ whole, w.T, out_sharding=P('data', None))

  shapes = ((64, 1024), P('data', None)), ((1024, 4096), P('data', 'model'))
  text = compiled_on(mesh, step, *shapes).as_text()
  found = program.measure(text, dict(mesh.shape), node_size=4).collectives
  networks = {(c.axes, c.network) for c in found if c.num_devices > 1}
  assert {(('data',), 'dcn'), (('model',), 'ici')} <= networks


@pytest.mark.slow
@pytest.mark.parametrize('family', ['t5_1_1', 'gpt2'])
def test_flops_of_the_compiled_step_are_the_traced_ones(family):
  """Scanned layers, recomputation and microbatches on GPUs, against the jaxpr without a mesh.

  The batch is large beside the map of T5's biases, which every device makes for itself.
  """
  config = test_flops.make_config(test_flops.FAMILIES[family], layers='scan', remat='full')
  model = config_lib.resolve(dataclasses.replace(config.model, dtype='auto'), 'cuda')
  config = dataclasses.replace(
    config,
    model=model,
    data=dataclasses.replace(config.data, batch_size=128),
    train=dataclasses.replace(config.train, microbatches=2),
  )
  mesh = gpu_mesh('h100:8')
  compiled = abstract.lowered_step(config, mesh, 'cuda').compile()
  found = program.measure(compiled.as_text(), dict(mesh.shape))
  state = jax.eval_shape(functools.partial(train.init_state, config))
  traced = train.step_function(config).trace(state, abstract.batch(config))
  assert not found.unknown_loops
  wanted = test_flops.jaxpr_flops(traced.jaxpr.jaxpr)
  assert found.flops * mesh.size == pytest.approx(wanted, rel=0.01)


WIDE = (
  *('model.d_model=512', 'model.d_ff=1024', 'model.num_layers=2', 'model.num_decoder_layers=2'),
  'data.batch_size=64',
)


@pytest.mark.slow
def test_gradients_are_scattered_and_weights_gathered_beside_other_work(tmp_path):
  """Fully sharded. What is reduced whole: vectors, sums for the logs and T5's table of biases."""
  found = test_planning.planned(tmp_path, 'tiny_t5', 'h100:8', *WIDE)
  config = config_lib.load(ROOT / 'configs/tiny_t5.py', WIDE)
  small = test_planning.small_parameters(config)
  collectives = found['program']['collectives']
  matrices = 2 * (found['num_params'] - small)  # bytes of every matrix, in bfloat16 at the least
  sent = collections.Counter()
  for c in collectives:
    sent[c['kind'], c['asynchronous']] += c['count'] * c['num_bytes']
  assert sent['reduce-scatter', True] >= matrices and sent['all-gather', True] >= matrices
  assert sent['reduce-scatter', False] + sent['all-gather', False] < 0.02 * matrices
  assert {c['network'] for c in collectives} == {'ici'}
  assert all(c['largest'] <= 4 * small for c in collectives if c['kind'] == 'all-reduce')
  assert found['memory']['fits'] and found['memory']['limit'] == 60e9
  assert found['memory']['arguments'] == pytest.approx(
    found['memory']['arguments_by_hand'], rel=0.02
  )
  assert found['bounds']['cycles_seconds'] is None and re.search(r'fits +yes', found['page'])
  assert '75% of 80 GB' in found['page'] and 'published maximum' in found['page']


@pytest.mark.slow
def test_what_does_not_fit_says_by_how_much_and_what_to_change():
  big = ('model.d_model=4096', 'model.d_ff=65536', 'data.batch_size=8192', 'model.num_layers=2')
  config = config_lib.load(ROOT / 'configs/tiny_gpt.py', big)
  found = planning.plan(config, topologies.named('a100:4'))
  memory = found.memory
  assert memory.fits is False and memory.peak and memory.limit and memory.peak > memory.limit
  assert '--set=train.microbatches=2' in found.advice and found.bounds
  assert re.search(r'fits +no +\d+\.\d\d GiB too much', page.text(found))


@pytest.mark.slow
def test_a_gpu_topology_is_refused_in_one_line():
  for flags in (['--topology=h100:16'], ['--topology=h100:8', '--slices=2']):
    ended = test_planning.command('--config=configs/tiny_gpt.py', *flags)
    assert ended.returncode == 64 and ended.stderr.count('\n') == 1, ended.stderr
