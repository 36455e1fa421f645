"""Counts the matrix products of a compiled program's instructions."""

import functools
import math
import re

import numpy as np

from t5lite.planning import hlo


def flops(module: hlo.Module, i: hlo.Instruction, computation: hlo.Computation) -> int:
  """Returns those of the matrix products of an instruction, in fusions too."""
  total = 0
  for inner, around in module.within(i, computation):
    if inner.opcode == 'dot':
      total += dot_flops(inner, around)
    elif inner.opcode == 'convolution':
      total += convolution_flops(inner, around)
    elif '"__cublas$' in inner.attributes:
      total += cublas_flops(inner, around)
  return total


def dot_flops(i: hlo.Instruction, computation: hlo.Computation) -> int:
  """Returns 2 for each product of two numbers."""
  left = computation[i.operands[0]].shapes[0]
  depth = math.prod(left.dims[d] for d in i.dims_of('lhs_contracting_dims'))
  return 2 * math.prod(i.shapes[0].dims) * depth


def cublas_flops(i: hlo.Instruction, computation: hlo.Computation) -> int:
  """Returns 2 for each product of two numbers of a call to NVIDIA's library."""
  depth = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', i.attributes)
  assert depth, i.attributes
  left = computation[i.operands[0]].shapes[0]
  dims = [int(d) for d in re.findall(r'\d+', depth[1])]
  return 2 * math.prod(i.shapes[0].dims) * math.prod(left.dims[d] for d in dims)


def convolution_flops(i: hlo.Instruction, computation: hlo.Computation) -> int:
  """Returns 2 for each product of two numbers that are there: TPU's matmuls are convolutions.

  A batch dimension becomes a spatial one there, with so much padding or dilation that each output
  sees one input; what falls on padding is no work.
  """
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', i.attributes)
  assert labels, i.attributes
  left, right = (computation[name].shapes[0].dims for name in i.operands[:2])
  out = i.shapes[0].dims
  size = lambda which, label: (left, right, out)[which][labels[which + 1].index(label)]
  window = re.search(r'window=\{([^}]*)\}', i.attributes)
  fields = dict(part.split('=') for part in window[1].split()) if window else {}
  num_spatial = sum(label.isdigit() for label in labels[1])
  get = lambda key, default: fields.get(key, 'x'.join([default] * num_spatial)).split('x')
  pads, strides = get('pad', '0_0'), get('stride', '1')
  left_dilation, right_dilation = get('lhs_dilate', '1'), get('rhs_dilate', '1')
  products = 1
  for d in range(num_spatial):
    low = int(pads[d].partition('_')[0])
    products *= _meetings(
      *(size(0, str(d)), size(1, str(d)), size(2, str(d))),
      *(low, int(strides[d]), int(left_dilation[d]), int(right_dilation[d])),
    )
  return 2 * products * size(1, 'i') * size(2, 'b') * size(2, 'f')


@functools.cache
def _meetings(inputs: int, kernel: int, outputs: int, low: int, stride: int, dl: int, dr: int):
  """Returns how many pairs of (output, kernel element) fall on an input, not on padding."""
  at = np.arange(outputs)[:, None] * stride - low + np.arange(kernel)[None] * dr
  return int(np.sum((at >= 0) & (at % dl == 0) & (at // dl < inputs)))
