"""Options that the compiler gets beside the program: the same in training and in `plan`."""

# A matmul whose operand is gathered (FSDP) becomes a loop of small matmuls with a permute between
# them, above this many MiB. On TPU v5e that nearly doubles T5-base's step by the compiler's own
# estimate; docs/plan.md has the numbers. A plain, asynchronous all-gather is what we want.
NO_WINDOWED_EINSUM = {'xla_jf_spmd_threshold_for_windowed_einsum_mib': '1000000'}


def options(platform: str) -> dict[str, str]:
  """Returns the compiler options of a train step for 'tpu', 'gpu', 'cuda' or 'cpu'."""
  return dict(NO_WINDOWED_EINSUM) if platform == 'tpu' else {}
