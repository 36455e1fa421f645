"""Parameters of one model as the first of another: deeper, or of another architecture.

- A deeper stack begins with the layers of a shallower one, again and again (Gong et al. 2019).
- An encoder begins with a decoder's layers, which now see both ways.
- An encoder-decoder begins with a decoder on both sides, and with its self-attention as
  cross-attention (T5Gemma: Zhang et al. 2025, section 2).

What has no origin is new: a masked-LM head, token types, the output of a head for other labels.
"""

from collections.abc import Collection, Mapping
import dataclasses

import numpy as np

from t5lite import config as config_lib
from t5lite import errors

WAYS = {('decoder', 'encoder'), ('decoder', 'encoder_decoder')}
ADAPTER = ('.lora_a', '.lora_b')
OF_A_HEAD = {'num_labels', 'pooler', 'spans'}  # another one has another output
# Fields that are no part of the function.
OF_THE_RUN = {
  *('dropout', 'dtype', 'layers', 'remat', 'initializer', 'init_scale', 'max_length'),
  *('expert_capacity', 'eval_expert_capacity', 'router_jitter'),
}


def changes(old: config_lib.Model, new: config_lib.Model) -> dict[str, tuple[object, object]]:
  """Returns {field: (of old, of new)} of what differs in the function.

  Raises:
    CheckpointError: an architecture that does not begin with the other.
  """
  ways = (old.architecture, new.architecture)
  if old.architecture != new.architecture and ways not in WAYS:
    raise errors.CheckpointError(
      'init_from of another architecture',
      f'model.architecture={new.architecture!r} from {old.architecture!r}',
      'begin with the same, or with a decoder',
    )
  before, after = dataclasses.asdict(old), dataclasses.asdict(new)
  fields = [name for name in before if name not in OF_THE_RUN and before[name] != after[name]]
  return {name: (before[name], after[name]) for name in fields}


def origins(wanted: Collection[str], given: Collection[str]) -> dict[str, str | None]:
  """Returns {path of an array: path of the one that it begins with}; None: it is new."""
  return {path: next((p for p in candidates(path) if p in given), None) for path in wanted}


def candidates(path: str) -> list[str]:
  """Returns where an array may come from, the best first."""
  stack, _, rest = path.partition('.')
  if stack not in ('encoder', 'decoder'):
    return [path]
  rest = rest.replace('.cross_attention.', '.attention.').replace(
    '.cross_norm.', '.attention_norm.'
  )
  return [path, f'decoder.{rest}'] if 'cross_' in path or stack == 'encoder' else [path]


def stretched(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Returns an array, or one of layers [L, ...] with these repeated to fill `shape`."""
  return x if x.shape == shape else x[np.arange(shape[0]) % len(x)]


def check_shape(given: tuple[int, ...], wanted: tuple[int, ...], path: str) -> None:
  """Raises CheckpointError unless an array of a shape can be stretched to another."""
  deeper = '.layers.' in path and given[0] < wanted[0] and given[1:] == wanted[1:]
  if given != wanted and not deeper:
    raise errors.CheckpointError(
      'init_from of another shape',
      f'{path} is {list(given)} there, {list(wanted)} in the config',
      'use the same model fields; only a stack may be deeper',
    )


def told(
  fields: Mapping[str, tuple[object, object]],
  found: Mapping[str, str | None],
  given: Collection[str],
) -> str:
  """Returns in one line what was done."""
  new = [path for path, origin in found.items() if origin is None]
  adapters = [path for path in new if path.endswith(ADAPTER)]
  new = [path for path in new if path not in adapters]
  new += [f'{len(adapters)} arrays of adapters'] if adapters else []
  unused = sorted(set(given) - set(found.values()))
  parts = [f'{name} {before!r} -> {after!r}' for name, (before, after) in fields.items()]
  parts += [f'new: {", ".join(new)}'] if new else []
  parts += [f'left out: {", ".join(unused)}'] if unused else []
  return '; '.join(parts)
