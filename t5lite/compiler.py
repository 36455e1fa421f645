"""What the compiler gets beside the program: the same options in training and in `plan`."""

import os

# A matmul whose operand is gathered (FSDP) becomes a loop of small matmuls with a permute between
# them, above this many MiB. On TPU v5e that nearly doubles T5-base's step by the compiler's own
# estimate; docs/plan.md has the numbers. A plain, asynchronous all-gather is what we want.
NO_WINDOWED_EINSUM = {'xla_jf_spmd_threshold_for_windowed_einsum_mib': '1000000'}


def options(platform: str) -> dict[str, str]:
  """Returns the compiler options of a train step for 'tpu', 'gpu', 'cuda' or 'cpu'."""
  return dict(NO_WINDOWED_EINSUM) if platform == 'tpu' else {}


# What libtpu asks the machine for where there is a TPU. No topology depends on the values.
NO_TPU = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_WORKER_ID': '0',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


def without_tpu() -> None:
  """Lets libtpu compile where there is no TPU; best before jax is imported, which asks, too."""
  for name, value in NO_TPU.items():
    os.environ.setdefault(name, value)
