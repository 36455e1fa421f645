"""Twenty steps of AdamW are the same run in t5lite and, from an export, in torch.

What makes both equal: float32; no dropout; a constant learning rate and no clipping; no z-loss and
no label smoothing; the mean loss over target tokens; decay on kernels and embeddings, T5's position
biases excepted; epsilon added to the root of the corrected second moment, as both do.
"""

import functools

import jax
import numpy as np
import pytest
import torch

import interop_cases
import peers
from t5lite import config as config_lib
from t5lite import interop
from t5lite import train
from t5lite.interop import families
from t5lite.interop import folders
from t5lite.interop import tables

pytestmark = pytest.mark.parity
STEPS, RATE, DECAY = 20, 3e-3, 0.1
OVERRIDES = [
  *('optim.name=adamw', f'optim.learning_rate={RATE}', 'optim.schedule=constant'),
  *(f'optim.weight_decay={DECAY}', 'optim.warmup_steps=0', 'optim.clip=0.0', 'model.dropout=0.0'),
]


def with_targets(model, batch, seed):
  """Returns the batch with other tokens in it, and targets and weights where there is text."""
  rng, text = np.random.default_rng(seed), peers.text_of(batch)
  side = 'encoder' if model.architecture == 'encoder' else 'decoder'
  batch = {
    k: np.where(x > 0, rng.integers(2, 29, x.shape), 0) if 'input' in k else x
    for k, x in batch.items()
  }
  predicted = text & ((rng.random(text.shape) < 0.5) | (side == 'decoder'))
  batch[f'{side}_target_tokens'] = rng.integers(2, 29, text.shape)
  batch[f'{side}_loss_weights'] = predicted.astype(np.float32)
  if side == 'encoder':  # the predicted places first
    batch['encoder_prediction_positions'] = np.argsort(~predicted, axis=1, kind='stable')
  return jax.tree.map(lambda x: x.astype(np.int32) if x.dtype == np.int64 else x, batch)


def torch_step(theirs, optimizer, batch) -> float:
  """Returns the loss of one step of a torch model."""
  (targets,) = (x for name, x in batch.items() if name.endswith('_target_tokens'))
  (weights,) = (x for name, x in batch.items() if name.endswith('_loss_weights'))
  labels = torch.tensor(np.where(weights > 0, targets, -100), dtype=torch.long)
  logits = theirs(**peers.inputs_of(theirs, batch)).logits
  loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
  optimizer.zero_grad()
  loss.backward()
  optimizer.step()
  return float(loss.detach())


def adamw(theirs, model):
  """Returns torch's AdamW with the decay that t5lite has."""
  shapes = {path: x.shape for path, x in folders.abstract_params(model).items()}
  slots = tables.slots(families.of_model(model).entries(model), shapes)
  weights = {
    slot.name
    for slot in slots
    if slot.entry.paths[0].endswith(('kernel', 'embedding'))
    and 'relative_bias' not in slot.entry.paths[0]
  }
  named = dict(theirs.named_parameters())
  assert weights < named.keys()
  groups = [
    {'params': [x for name, x in named.items() if name in weights], 'weight_decay': DECAY},
    {'params': [x for name, x in named.items() if name not in weights], 'weight_decay': 0.0},
  ]
  return torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.999), eps=1e-8)


@pytest.mark.parametrize(
  'name', ['t5_1_0', 't5_1_1', 'umt5', 'bert', 'modernbert', 'gpt2', 'llama']
)
def test_twenty_steps_are_the_same(name, tmp_path):
  model = interop_cases.MODELS[name]
  params = interop_cases.float32(model)
  interop_cases.write_workdir(tmp_path / 'run', model, params)
  interop.export(tmp_path / 'run', tmp_path / 'out')
  theirs = peers.load(tmp_path / 'out').train()
  optimizer = adamw(theirs, model)
  config = config_lib.load(tmp_path / 'run/config.json', OVERRIDES)
  step = jax.jit(functools.partial(train.train_step, config))
  state, losses = train.first_state(config, jax.tree.map(jax.numpy.asarray, params)), []
  for seed in range(STEPS):
    batch = with_targets(model, peers.batch_of(model), seed)
    state, measured = step(state, batch)
    losses.append((float(measured['train/loss']), torch_step(theirs, optimizer, batch)))
  ours, other = np.array(losses).T
  np.testing.assert_allclose(ours, other, rtol=0, atol=1e-3)
  assert np.abs(np.diff(ours)).max() > 1e-2  # the loss moved
