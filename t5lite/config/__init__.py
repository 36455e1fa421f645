"""What a run is: frozen dataclasses, a strict loader and `--set` overrides.

`load('configs/tiny_t5.py', ['train.steps=10'])` returns a checked `Config`. A workdir's
`config.json` loads the same way. Nothing here imports jax: a wrong value shows in milliseconds.
"""

from t5lite.config.files import load as load
from t5lite.config.files import save as save
from t5lite.config.files import to_dict as to_dict
from t5lite.config.model import Architecture as Architecture
from t5lite.config.model import Model as Model
from t5lite.config.model import resolve as resolve
from t5lite.config.run import Config as Config
from t5lite.config.run import OBJECTIVES_OF as OBJECTIVES_OF
from t5lite.config.sections import Checkpoint as Checkpoint
from t5lite.config.sections import Data as Data
from t5lite.config.sections import Eval as Eval
from t5lite.config.sections import Objective as Objective
from t5lite.config.sections import ObjectiveName as ObjectiveName
from t5lite.config.sections import Optim as Optim
from t5lite.config.sections import Parallel as Parallel
from t5lite.config.sections import Train as Train
from t5lite.config.task import MetricName as MetricName
from t5lite.config.task import TASK as TASK
from t5lite.config.task import Task as Task
