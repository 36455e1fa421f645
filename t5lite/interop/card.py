"""The model card of an export: what is known of the run, and nothing else."""

import json
import pathlib
import shlex
from typing import Any, NamedTuple

from t5lite import config as config_lib
from t5lite import jsonl
from t5lite import metrics
from t5lite import tasks
from t5lite.interop import tokenizer_files


TEXT, WORDS, PAIR = "'A text.'", "'A few words.'", "{'text': 'A text.', 'text_pair': 'Another.'}"
PIPELINE = """from transformers import pipeline

print(pipeline('{task}', model='.')({text}))
"""
# transformers 5 has no pipeline for it.
SPAN = """import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained('.')
model = AutoModelForQuestionAnswering.from_pretrained('.')
inputs = tokenizer('Who sails?', 'The old man sails the sea.', return_tensors='pt')
with torch.no_grad():
  output = model(**inputs)
first = int(output.start_logits.argmax())
last = first + int(output.end_logits[0, first:].argmax())
print(tokenizer.decode(inputs['input_ids'][0, first : last + 1]))
"""
# Of a task whose texts have labels, where the model has no pooler.
FIRST = """import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained('.')
model = AutoModelForTokenClassification.from_pretrained('.')
with torch.no_grad():
  logits = model(**tokenizer({texts}, return_tensors='pt')).logits
print(model.config.id2label[int(logits[0, 0].argmax())])  # at [CLS]: the label of the text
"""


NOT_MEASURED = 'not measured'


class Exported(NamedTuple):
  """What was written."""

  architecture: str  # the class of transformers
  step: int
  num_params: int
  tokenizer: str  # what is there of it, in words


def text(
  config: config_lib.Config, made: Exported, history: dict[str, str], command: list[str]
) -> str:
  """Returns README.md: the model, its history, its use, the command, the config."""
  kind, code = usage(config)
  # Without its own tokenizer's file the code would not do.
  code = code if made.tokenizer.startswith(tokenizer_files.JSON) else ''
  return '\n'.join(
    [
      '---',
      'library_name: transformers',
      'tags: [t5lite]',
      *([f'pipeline_tag: {kind}'] if kind else []),
      '---',
      '',
      f'# {made.architecture} of t5lite',
      '',
      f'{made.num_params:,} parameters, float32, written by t5lite.',
      '',
      f'- Objective: {config.objective.name}',
      f'- Step: {made.step:,}',
      f'- Data: {config.data.source}',
      *[f'- {name}: {value}' for name, value in history.items()],
      f'- Tokenizer: {made.tokenizer}',
      '',
      *(['In this folder:', '', '```python', code + '```', ''] if code else []),
      'Made by:',
      '',
      '```sh',
      shlex.join(command),
      '```',
      '',
      'The config of the run:',
      '',
      '```json',
      json.dumps(config_lib.to_dict(config), indent=2),
      '```',
      '',
    ]
  )


def usage(config: config_lib.Config) -> tuple[str, str]:
  """Returns what an encoder with a head is for, as transformers calls it, and code that does it."""
  model, task = config.model, tasks.only(config)
  if not model.num_labels:
    return '', ''
  if model.spans:
    return 'question-answering', SPAN
  pair = task is not None and len(task.texts) == 2
  if model.pooler:
    kind = 'text-classification'
    return kind, PIPELINE.format(task=kind, text=PAIR if pair else TEXT)
  if task is not None and not task.words:
    return 'text-classification', FIRST.format(texts="'A text.', 'Another.'" if pair else TEXT)
  kind = 'token-classification'
  return kind, PIPELINE.format(task=kind, text=WORDS)


def history(log: pathlib.Path, manifest: dict[str, Any]) -> dict[str, str]:
  """Returns in words what a run's log says up to the checkpoint of a manifest, by name."""
  records = (
    [r for r in jsonl.records(log) if r['step'] <= manifest['step']] if log.is_file() else []
  )

  def last(name: str) -> dict[str, Any] | None:
    return next((r for r in reversed(records) if r.get(name) is not None), None)

  def loss(name: str) -> str:
    found = last(name)
    return f'{found[name]:.4f} nats per token, at step {found["step"]:,}' if found else NOT_MEASURED

  spent = energy(last(metrics.WALL))
  return {'Training loss': loss('train/loss'), 'Held-out loss': loss('eval/loss'), 'Energy': spent}


def energy(record: dict[str, Any] | None) -> str:
  """Returns in words what the devices of a run have taken, from its last record."""
  if record is None or metrics.ENERGY not in record:
    return NOT_MEASURED
  hours = record[metrics.WALL] / 3600
  kwh = f'about {record[metrics.ENERGY]:.3g} kWh in {hours:.3g} h'
  return f'{kwh}, an estimate from the watts in t5lite/flops.py'
