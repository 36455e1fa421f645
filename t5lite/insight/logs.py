"""What a run has logged so far, read back from its workdir."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib
from typing import Any

import numpy as np

from t5lite import config as config_lib
from t5lite import errors
from t5lite import jsonl
from t5lite import metrics


@dataclasses.dataclass(frozen=True)
class Logs:
  """The config, the metrics and the samples of text of one workdir."""

  workdir: pathlib.Path
  config: config_lib.Config
  records: Sequence[Mapping[str, Any]]
  samples: Sequence[Mapping[str, Any]]

  def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps [N] at which a metric was logged and its values [N]; NaN for null."""
    found = {record['step']: record[name] for record in self.records if name in record}
    values = [math.nan if value is None else value for value in found.values()]
    return np.array(list(found), float), np.array(values, float)

  def last(self, name: str) -> float | None:
    """Returns the last value of a metric, None if it never was logged or is not finite."""
    _, values = self.series(name)
    return float(values[-1]) if values.size and math.isfinite(values[-1]) else None

  def median(self, name: str) -> float | None:
    """Returns the median of a metric's finite values, None if there are none."""
    _, values = self.series(name)
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else None

  @property
  def last_step(self) -> int:
    return max((record['step'] for record in self.records), default=0)


def read(workdir: str | pathlib.Path) -> Logs:
  """Returns the logs of a workdir, of a run that still goes on too.

  An imported model has none.

  Raises:
    CheckpointError: not a workdir.
    DataError: a damaged log.
  """
  workdir = pathlib.Path(workdir).resolve()
  path = workdir / metrics.METRICS
  config = workdir / 'config.json'
  if not config.is_file():
    remedy = 'give the --workdir of a t5lite train run'
    raise errors.CheckpointError('not a workdir', f'{config} is missing', remedy)
  samples = workdir / metrics.SAMPLES
  return Logs(
    workdir,
    config_lib.load(config),
    jsonl.records(path) if path.exists() else [],
    jsonl.records(samples) if samples.exists() else [],
  )
