"""The model card of an export: what is known of the run, and nothing else."""

import json
import pathlib
import shlex
from typing import NamedTuple

from t5lite import config as config_lib
from t5lite import jsonl


class Exported(NamedTuple):
  """What was written."""

  architecture: str  # the class of transformers
  step: int
  num_params: int
  tokenizer: str  # what is there of it, in words


def text(config: config_lib.Config, made: Exported, loss: str, command: list[str]) -> str:
  """Returns README.md: the model, its step and held-out loss, the command, the config."""
  return '\n'.join(
    [
      '---',
      'library_name: transformers',
      'tags: [t5lite]',
      '---',
      '',
      f'# {made.architecture} of t5lite',
      '',
      f'{made.num_params:,} parameters, float32, written by t5lite.',
      '',
      f'- Objective: {config.objective.name}',
      f'- Step: {made.step:,}',
      f'- Held-out loss: {loss}',
      f'- Tokenizer: {made.tokenizer}',
      '',
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


def held_out(log: pathlib.Path, step: int) -> str:
  """Returns in words the last held-out loss that was logged up to a step."""
  records = jsonl.records(log) if log.is_file() else []
  found = [r for r in records if r.get('eval/loss') is not None and r['step'] <= step]
  if not found:
    return 'not measured'
  return f'{found[-1]["eval/loss"]:.4f} nats per token, at step {found[-1]["step"]:,}'
