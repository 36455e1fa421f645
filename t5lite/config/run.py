"""The whole config of a run, with the checks that need several sections."""

from collections.abc import Mapping
import dataclasses
import types

from t5lite import errors
from t5lite.config.model import Model
from t5lite.config.sections import Checkpoint
from t5lite.config.sections import Data
from t5lite.config.sections import Eval
from t5lite.config.sections import Objective
from t5lite.config.sections import Optim
from t5lite.config.sections import Parallel
from t5lite.config.sections import Train
from t5lite.config.task import TASK
from t5lite.config.task import Task

OBJECTIVES_OF: Mapping[str, tuple[str, ...]] = types.MappingProxyType(
  {
    'encoder_decoder': ('span_corruption', 'text_infilling', 'prefix_lm', 'ul2'),
    'decoder': ('causal_lm', 'prefix_lm', 'span_corruption', 'text_infilling', 'ul2'),
    'encoder': ('mlm',),
  }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """One run."""

  model: Model
  objective: Objective
  data: Data
  optim: Optim
  train: Train
  parallel: Parallel = Parallel()
  eval: Eval = Eval()
  checkpoint: Checkpoint = Checkpoint()
  tasks: tuple[Task, ...] = ()  # the run's own, beside those that ship: see t5lite/tasks
  init_from: str = ''  # a workdir, or a folder of Hugging Face's or T5X's: the first parameters

  @property
  def context_length(self) -> int:
    """Tokens of the longest text that the model is for: the run's, or more, of model.max_length."""
    return max(self.model.max_length, self.data.input_length)

  def __post_init__(self):
    names = OBJECTIVES_OF[self.model.architecture]
    errors.check(
      self.objective.name in names,
      'objective does not fit the architecture',
      f'objective.name={self.objective.name!r} with {self.model.architecture}',
      f'use one of {", ".join(names)}',
    )
    data = self.data
    errors.check(
      (data.target_length > 0) == (self.model.architecture == 'encoder_decoder'),
      'wrong target length',
      f'data.target_length={data.target_length} for {self.model.architecture}',
      'set it for an encoder_decoder, leave it 0 for one stack',
    )
    longest = max(data.input_length, data.target_length)
    errors.check(
      self.model.positions != 'learned' or longest <= self.model.max_length,
      'sequence longer than the position table',
      f'{longest} tokens with model.max_length={self.model.max_length}',
      'shorten the data or enlarge the table',
    )
    names = [name for name, _, _ in data.mixture]
    errors.check(
      not self.model.num_labels or (len(names) == 1 and names[0].startswith(TASK)),
      'a head for labels learns one task',
      f'model.num_labels={self.model.num_labels} with data.source={data.source!r}',
      "use data.source='task:NAME', or model.num_labels=0",
    )
    errors.check(
      not (self.model.spans and self.train.label_smoothing),
      'no label smoothing for spans',
      f'model.spans=True with train.label_smoothing={self.train.label_smoothing}',
      'use train.label_smoothing=0',
    )
    best = self.checkpoint.best.split('/', 2)
    errors.check(
      len(best) != 3 or best[1] in self.eval.tasks,
      'the best of a task that is not evaluated',
      f'checkpoint.best={self.checkpoint.best!r} with eval.tasks={self.eval.tasks}',
      'add it to eval.tasks',
    )
    optim, steps = self.optim, self.train.steps
    errors.check(
      optim.schedule != 'wsd' or not steps or optim.warmup_steps + optim.decay_steps <= steps,
      'wsd does not fit into the run',
      f'optim.warmup_steps={optim.warmup_steps} optim.decay_steps={optim.decay_steps} of {steps}',
      'shorten them or set a larger train.steps',
    )
    errors.check(
      data.batch_size % self.train.microbatches == 0,
      'batch does not divide into microbatches',
      f'data.batch_size={data.batch_size} train.microbatches={self.train.microbatches}',
      f'use a multiple of {self.train.microbatches}',
    )
