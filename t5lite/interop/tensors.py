"""safetensors files, written and read a tensor at a time.

The library writes a file from tensors that are all in memory. Ours come one after another, so the
header is written here: its length in 8 bytes, JSON with padding to a multiple of 8, then the data.
"""

from collections.abc import Iterable, Mapping
import json
import math
import pathlib
from typing import Any

import numpy as np
import safetensors

from t5lite import errors
from t5lite.interop import tables

ONE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
LIMIT = 5 * 10**9  # bytes of a file, as transformers 4 cuts them
FLOATS = ('F32', 'F16', 'BF16')
# Pickles run code when they are read; the others are not Hugging Face's format of today.
OTHERS = ('*.bin', '*.pt', '*.pth', '*.pkl', '*.ckpt', '*.h5', '*.msgpack')


def write(
  folder: pathlib.Path,
  shapes: Mapping[str, tables.Shape],
  tensors: Iterable[np.ndarray],
  limit: int = LIMIT,
) -> None:
  """Writes float32 tensors: one file, or more with an index if they take more than `limit` bytes.

  Args:
    folder: where.
    shapes: of the tensors by their names.
    tensors: in the order of `shapes`; one at a time is held.
    limit: bytes of a file; a tensor that is larger has one of its own.
  """
  parts, source = cut(shapes, limit), iter(tensors)
  names = [f'model-{i:05}-of-{len(parts):05}.safetensors' for i in range(1, len(parts) + 1)]
  names = [ONE] if len(parts) == 1 else names
  for name, part in zip(names, parts, strict=True):
    with open(folder / name, 'wb') as file:
      file.write(header(part))
      for shape in part.values():
        x = np.ascontiguousarray(next(source), '<f4')
        assert x.shape == shape
        file.write(x.data)
  if len(parts) > 1:
    sizes = {'total_parameters': sum(map(math.prod, shapes.values()))}
    sizes['total_size'] = 4 * sizes['total_parameters']
    places = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    index = {'metadata': sizes, 'weight_map': dict(sorted(places.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + '\n')


def cut(shapes: Mapping[str, tables.Shape], limit: int) -> list[dict[str, tables.Shape]]:
  """Returns the tensors of each file, in order, with at most `limit` bytes or one tensor."""
  parts, size = [{}], 0
  for name, shape in shapes.items():
    bytes = 4 * math.prod(shape)
    if parts[-1] and size + bytes > limit:
      parts.append({})
      size = 0
    parts[-1][name] = shape
    size += bytes
  return parts


def header(shapes: Mapping[str, tables.Shape]) -> bytes:
  """Returns what stands before the data of a file of these float32 tensors."""
  said: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
  at = 0
  for name, shape in shapes.items():
    end = at + 4 * math.prod(shape)
    said[name] = {'dtype': 'F32', 'shape': list(shape), 'data_offsets': [at, end]}
    at = end
  text = json.dumps(said, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  return len(text).to_bytes(8, 'little') + text


class Reader:
  """The tensors of a folder: known by their headers first, then read one at a time.

  Attributes:
    shapes: of each tensor.

  Raises:
    CheckpointError: there are none, only pickles, a file lies outside of the folder, is missing or
      no safetensors file.
  """

  def __init__(self, folder: pathlib.Path):
    self._files, self._kinds, self.shapes = {}, {}, {}
    for name in file_names(folder):
      path = folder / name
      try:
        # By mmap, what was read would count as this process's memory.
        file = safetensors.safe_open(path, 'np', backend='pread')
        kinds = {tensor: file.get_slice(tensor) for tensor in file.keys()}
      except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise refused('damaged weights', f'{path} ({_first_line(error)})') from error
      for tensor, kind in kinds.items():
        if tensor in self._files:
          raise refused('a tensor twice', f'{tensor} in {path}')
        self._files[tensor], self.shapes[tensor] = file, tuple(kind.get_shape())
        self._kinds[tensor] = kind.get_dtype(), path

  def check_float(self, name: str) -> None:
    """Raises CheckpointError unless the tensor is a float of 32 or 16 bits; buffers need not be."""
    kind, path = self._kinds[name]
    if kind not in FLOATS:
      remedy = f'give weights of {", ".join(FLOATS)}'
      where = f'{name} in {path} is {kind}'
      raise errors.CheckpointError('not a float of 32 or 16 bits', where, remedy)

  def read(self, name: str) -> np.ndarray:
    """Returns a tensor in float32, which holds what float16 and bfloat16 can say exactly."""
    return self._files[name].get_tensor(name).astype(np.float32, copy=False)


def file_names(folder: pathlib.Path) -> list[str]:
  """Returns the names of the folder's files of weights, none of them outside of it."""
  if not (folder / INDEX).is_file():
    if (folder / ONE).is_file():
      return [ONE]
    others = sorted(path.name for other in OTHERS for path in folder.glob(other))
    if others:
      raise errors.CheckpointError(
        'no safetensors files, and pickles are not read',
        f'{folder}/{others[0]}',
        'convert it: transformers writes safetensors with save_pretrained',
      )
    raise refused('no weights', f'{folder} has no {ONE}')
  try:
    places = json.loads((folder / INDEX).read_text())['weight_map']
    names = sorted({pathlib.PurePath(name).as_posix() for name in places.values()})
  except (ValueError, LookupError, AttributeError, TypeError) as error:
    raise refused('damaged index', f'{folder / INDEX} ({_first_line(error)})') from error
  for name in names:
    if pathlib.PurePath(name).name != name or not name.endswith('.safetensors'):
      raise refused('a file outside of the folder', f'{name!r} in {folder / INDEX}')
  return names


def refused(what: str, where: str) -> errors.CheckpointError:
  return errors.CheckpointError(what, where, 'give a folder that transformers wrote, whole')


def _first_line(error: Exception) -> str:
  return ' '.join([f'{type(error).__name__}:', *str(error).splitlines()[:1]])[:200]
