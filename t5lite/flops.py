"""Model FLOPs of a training step, peak FLOPs of devices (the two halves of MFU) and their watts.

Counted as in Chowdhery et al. 2022, appendix B: a multiplication and an addition are two, the
backward pass is two forward passes, attention counts in full (causal or local, too), and look-ups,
recomputation (remat) and the optimizer do not count. BERT's output layer counts where it predicts.
A token counts at each of its experts and at the router; an expert's empty places do not.
"""

import math

import jax

from t5lite import config as config_lib
from t5lite import models

# Dense bfloat16 operations a second of one JAX device, by its device_kind.
# TPU: Google Cloud's TPU documentation, "peak compute per chip (bf16)" on the page of each version;
# a chip is one device, but a TPU7x chip (2,307 TFLOPs) is two.
# GPU: NVIDIA's data sheets of A100, H100, H200 and DGX B200, half of the figures with sparsity.
PEAK_FLOPS = {
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5': 459e12,
  'TPU v5p': 459e12,
  'TPU v6 lite': 918e12,
  'TPU v6e': 918e12,
  'TPU7x': 2307e12 / 2,
  'NVIDIA A100-SXM4-40GB': 312e12,
  'NVIDIA A100-SXM4-80GB': 312e12,
  'NVIDIA A100-PCIE-40GB': 312e12,
  'NVIDIA A100 80GB PCIe': 312e12,
  'NVIDIA H100 80GB HBM3': 989.4e12,
  'NVIDIA H100 NVL': 835.5e12,
  'NVIDIA H100 PCIe': 756e12,
  'NVIDIA H200': 989.4e12,
  'NVIDIA H200 NVL': 835.5e12,
  'NVIDIA B200': 2250e12,
}
# Watts of one JAX device. GPU: the published maximum (TDP), in the same data sheets. TPU v4: the
# mean that Google Cloud's documentation gives. Of other TPUs nothing is published: assumed.
WATTS = {
  'TPU v4': 170.0,
  'TPU v5 lite': 200.0,
  'TPU v5e': 200.0,
  'TPU v5': 400.0,
  'TPU v5p': 400.0,
  'TPU v6 lite': 300.0,
  'TPU v6e': 300.0,
  'TPU7x': 450.0,
  'NVIDIA A100-SXM4-40GB': 400.0,
  'NVIDIA A100-SXM4-80GB': 400.0,
  'NVIDIA A100-PCIE-40GB': 250.0,
  'NVIDIA A100 80GB PCIe': 300.0,
  'NVIDIA H100 80GB HBM3': 700.0,
  'NVIDIA H100 NVL': 400.0,
  'NVIDIA H100 PCIe': 350.0,
  'NVIDIA H200': 700.0,
  'NVIDIA H200 NVL': 600.0,
  'NVIDIA B200': 1000.0,
}


def model_flops(config: config_lib.Config) -> float:
  """Returns the floating-point operations of a training step's matmuls, on the global batch."""
  return 3.0 * config.data.batch_size * forward_flops(config)


def forward_flops(config: config_lib.Config) -> int:
  """Returns the floating-point operations of one example's forward pass."""
  model, inputs, targets = config.model, config.data.input_length, config.data.target_length
  first = stack_flops(model, model.num_layers, inputs)
  match model.architecture:
    case 'encoder_decoder':
      decoder = stack_flops(model, model.num_decoder_layers, targets, inputs)
      return first + decoder + head_flops(model, targets)
    case 'decoder':
      return first + head_flops(model, inputs)
    case 'encoder':
      predictions = round(config.objective.noise_density * (inputs - 2))  # less [CLS] and [SEP]
      if model.num_labels:  # of the text, or of its tokens
        predictions = 1 if model.pooler else inputs
      return first + head_flops(model, predictions)


def stack_flops(
  model: config_lib.Model, num_layers: int, length: int, memory_length: int = 0
) -> int:
  """Returns those of a stack; with `memory_length`, with cross-attention to so many tokens."""
  attention = attention_flops(model, length, length)
  cross = attention_flops(model, length, memory_length) if memory_length else 0
  mlp = (3 if model.gated else 2) * 2 * length * model.d_model * model.d_ff
  router = 2 * length * model.d_model * model.num_experts
  num_sparse = num_layers // model.moe_every if model.num_experts else 0
  sparse = num_sparse * (model.experts_per_token * mlp + router)
  return num_layers * (attention + cross) + (num_layers - num_sparse) * mlp + sparse


def attention_flops(model: config_lib.Model, queries: int, keys: int) -> int:
  """Returns those of the four projections, the scores and the weighted sum of values."""
  width, kv_width = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
  projections = 2 * 2 * model.d_model * (queries * width + keys * kv_width)
  return projections + 2 * 2 * queries * keys * width


def head_flops(model: config_lib.Model, length: int) -> int:
  """Returns those of the output layer at `length` positions."""
  pooler = model.num_labels and model.pooler
  dense = model.d_model if model.has_mlm_layers or pooler else 0
  return 2 * length * model.d_model * (model.num_outputs + dense)


def num_params(model: config_lib.Model) -> int:
  """Returns the number of parameters, without making them."""
  params = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
  return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def peak_flops(device_kind: str) -> float | None:
  """Returns the published bfloat16 operations a second of one device; None where we know none.

  Args:
    device_kind: as `jax.Device.device_kind` has it, e.g. 'TPU v5 lite', 'NVIDIA H200' or 'cpu'.
  """
  return PEAK_FLOPS.get(device_kind)
