"""From a step's work to its time: bounds, which no run of it can beat, and estimates.

The roofline (Williams et al. 2009) has three roofs here: matrix units, HBM and the interconnect.
"""

import dataclasses
import itertools

from t5lite.planning import chips
from t5lite.planning import program as program_lib

# For energy and CO2; state them beside the numbers.
POWER_USAGE = 1.1  # a data centre's energy over its computers' (Google's fleet, 2024: 1.09)
KG_CO2_PER_KWH = 0.4  # of a grid; from 0.03 (hydro, nuclear) to 0.8 (coal)


@dataclasses.dataclass(frozen=True)
class Bounds:
  """Times of one step in seconds, and what follows from them."""

  matrix_seconds: float  # bound: the program's FLOPs at peak
  interconnect_seconds: float  # bound: bytes that must be sent, at the rate of all links
  hbm_seconds: float  # estimate: every instruction's operands and results at HBM's rate
  kernel_seconds: float  # estimate: each instruction at the larger of both, without collectives
  cycles_seconds: float | None  # estimate: the compiler's cycles, the same; None: it makes none
  step_seconds_bound: float  # the larger of the two bounds
  step_seconds_estimate: float  # of cycles and HBM the larger, or kernels; then what is exposed
  mfu_bound: float  # at most, as a share of 1
  mfu_estimate: float

  @property
  def largest(self) -> str:
    """The roof that is hit first."""
    roofs = {
      'matrix': self.matrix_seconds,
      'HBM': self.hbm_seconds,
      'interconnect': self.interconnect_seconds,
    }
    return max(roofs, key=lambda name: roofs[name])


def network_seconds(c: program_lib.Collective, chip: chips.Chip) -> tuple[float, float]:
  """Returns the least times of a step's runs of a collective, over ICI and over DCN."""
  # A switch that adds up takes each byte once, instead of a sum on its way and back.
  ways = 2 if chip.switch_reduces and c.kind == 'all-reduce' else 1
  inside = (c.wire_bytes - c.dcn_bytes) / chip.ici_bandwidth
  return inside / ways, c.dcn_bytes / chip.dcn_bandwidth / ways


def bounds(
  program: program_lib.Program, chip: chips.Chip, devices: int, model_flops: float
) -> Bounds:
  """Returns the times of a step whose matmuls need `model_flops` on all devices together."""
  matrix = program.flops / chip.peak_flops
  times = [network_seconds(c, chip) for c in program.collectives]
  # The two networks work side by side.
  interconnect = max(sum(inside for inside, _ in times), sum(outside for _, outside in times))
  synchronous = (not c.asynchronous for c in program.collectives)
  exposed = sum(max(both) for both in itertools.compress(times, synchronous))
  hbm = program.hbm_bytes / chip.hbm_bandwidth
  cycles = program.cycles / chip.clock if chip.clock else None
  work = program.kernel_seconds if cycles is None else max(cycles, hbm)
  bound = max(matrix, interconnect)
  estimate = max(bound, work + exposed)
  ideal = model_flops / devices / chip.peak_flops
  return Bounds(
    matrix_seconds=matrix,
    interconnect_seconds=interconnect,
    hbm_seconds=hbm,
    kernel_seconds=program.kernel_seconds,
    cycles_seconds=cycles,
    step_seconds_bound=bound,
    step_seconds_estimate=estimate,
    mfu_bound=ideal / bound,
    mfu_estimate=ideal / estimate,
  )


@dataclasses.dataclass(frozen=True)
class Run:
  """What a whole run takes, at a given time a step."""

  tokens_per_second: float
  days: float
  chip_hours: float  # of JAX devices
  kwh: float
  kg_co2: float


def run(
  step_seconds: float, tokens_per_step: int, steps: int, devices: int, chip: chips.Chip
) -> Run:
  """Returns what `steps` steps of that length take, nothing else counted."""
  hours = step_seconds * steps / 3600
  kwh = hours * devices * chip.watts / 1000 * POWER_USAGE
  return Run(
    tokens_per_second=tokens_per_step / step_seconds,
    days=hours / 24,
    chip_hours=hours * devices,
    kwh=kwh,
    kg_co2=kwh * KG_CO2_PER_KWH,
  )
