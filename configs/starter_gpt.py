"""A small GPT for the tasks of t5lite/tasks/starter.py: the first step of docs/tasks.md.

Source: a current decoder (SwiGLU, rotary positions), small. Windows of 128 tokens, 64 a step.
Hardware, wall time: two cores of an Intel Xeon, hours; see docs/tasks.md.
Loss to expect: see docs/tasks.md.
"""

import dataclasses

from t5lite import config as c
from t5lite import presets


def get_config() -> c.Config:
  gpt = presets.modern(
    architecture='decoder',
    vocab_size=8192,
    num_layers=4,
    d_model=192,
    d_ff=512,
    num_heads=3,
    num_kv_heads=3,
    head_dim=64,
  )
  return c.Config(
    model=dataclasses.replace(gpt, tie_embeddings=True),
    objective=c.Objective(name='causal_lm'),
    data=c.Data(batch_size=64, input_length=128),
    optim=c.Optim(
      name='adamw',
      learning_rate=3e-3,
      schedule='cosine',
      warmup_steps=100,
      final_ratio=0.1,
      weight_decay=0.01,
      clip=1.0,
    ),
    train=c.Train(steps=1600, log_every=20, sample_every=400),
    eval=c.Eval(every=400, batches=16),
    checkpoint=c.Checkpoint(every=200),
  )
