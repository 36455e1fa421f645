"""The import rules of the house, read from the source: nothing is imported to check them."""

import ast
from collections.abc import Iterator
import pathlib

ROOT = pathlib.Path(__file__).parents[1]

# Each part imports only parts that come after it.
PARTS = (
  *('__main__', 'harness', 'main', 'commands', 'text_commands', 'sampler_flags', 'backend'),
  *(
    'planning',
    'insight',
    'train',
    'evaluate',
    'samples',
    'judging',
    'decoding',
    # A run may begin with a folder of Hugging Face's.
    'initial',
    'interop',
    'adaptation',
    'checkpoint',
    'stored',
  ),
  *(
    'optim',
    'metrics',
    'progress',
    'tensorboard',
    'flops',
    'losses',
    'preemption',
    'jsonl',
    'prompt_files',
    'processes',
  ),
  *('integrity', 'lock', 'versions', 'host_memory', 'compiler'),
  *(
    'models',
    'ops',
    'meshes',
    'sharding',
    'hashing',
    'data',
    'objectives',
    'tasks',
    'presets',
    'config',
    'strict',
    'extras',
    'errors',
    '__init__',
  ),
)
# No part of one side imports a part of the other: what a batch holds is all that they share.
SIDES = (('models', 'ops', 'meshes', 'sharding'), ('data', 'objectives'))
# The parts that know each library; none for those that nobody may need.
LIBRARIES = {
  'absl': ('main', 'commands', 'text_commands', 'sampler_flags', 'data'),  # data: grain's flags
  'flax': ('models',),
  'grain': ('data',),
  'lm_eval': ('harness',),
  'msgpack': ('interop',),
  'orbax': ('checkpoint',),
  'safetensors': ('interop',),
  'tensorstore': ('stored', 'interop'),  # interop: T5X's arrays
  **dict.fromkeys(('rouge_score', 'sacrebleu', 'scipy', 'seqeval', 'sklearn'), ('tasks',)),
  'tokenizers': ('data', 'interop'),
  **dict.fromkeys(('clu', 'seqio', 't5x', 'tensorflow', 'torch'), ()),
}


def test_every_part_has_a_place():
  parts = {part for part, _ in imports()}
  assert parts <= set(PARTS), f'give a place in PARTS to {parts - set(PARTS)}'


def test_imports_point_down():
  rank = {part: i for i, part in enumerate(PARTS)}
  upward = [
    f'{part} imports {module}'
    for part, module in imports()
    if (below := part_of(module)) and rank.get(below, len(PARTS)) < rank.get(part, 0)
  ]
  assert not upward


def test_models_and_data_do_not_know_each_other():
  side = {part: i for i, parts in enumerate(SIDES) for part in parts}
  across = [
    f'{part} imports {module}'
    for part, module in imports()
    if {side.get(part), side.get(part_of(module))} == {0, 1}
  ]
  assert not across


def test_each_library_is_known_to_few_parts():
  strays = [
    f'{part} imports {module}'
    for part, module in imports()
    if part not in LIBRARIES.get(module.partition('.')[0], (part,))
  ]
  assert not strays


def imports() -> Iterator[tuple[str, str]]:
  """Yields (part of t5lite, full name of a module that it imports), in functions too."""
  for path in sorted(ROOT.glob('t5lite/**/*.py')):
    part = path.relative_to(ROOT / 't5lite').parts[0].removesuffix('.py')
    for node in ast.walk(ast.parse(path.read_text(), path.name)):
      if isinstance(node, ast.Import):
        yield from ((part, alias.name) for alias in node.names)
      elif isinstance(node, ast.ImportFrom):
        assert not node.level, f'{path}:{node.lineno}: import by the full name'
        yield from ((part, f'{node.module}.{alias.name}') for alias in node.names)


def part_of(module: str) -> str | None:
  """Returns the part of t5lite that a module belongs to; None for another library's."""
  package, *rest = module.split('.')
  return rest[0] if package == 't5lite' and rest else None
