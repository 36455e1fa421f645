"""A small GPT for the tasks of t5lite/tasks/starter.py: the first step of docs/tasks.md.

What the GPT of the table there then goes on with, says launch/starter_tasks.sh.
Source: a current decoder (SwiGLU, rotary positions), small. Windows of 256 tokens, 16 a step.
Hardware, wall time: one core of an AMD EPYC without AVX-512, about an hour.
Loss to expect: held out 4.156, where the unigram entropy is 6.488, on the 53 MB text and with the
vocabulary of launch/starter_tasks.sh (2026-11-26).
"""

import dataclasses

from t5lite import config as c
from t5lite import presets


def get_config() -> c.Config:
  gpt = presets.modern(
    architecture='decoder',
    vocab_size=8192,
    num_layers=4,
    d_model=128,
    d_ff=384,
    num_heads=4,
    num_kv_heads=4,
    head_dim=32,
  )
  return c.Config(
    model=dataclasses.replace(gpt, tie_embeddings=True),
    objective=c.Objective(name='causal_lm'),
    data=c.Data(batch_size=16, input_length=256),
    optim=c.Optim(
      name='adamw',
      learning_rate=3e-3,
      schedule='cosine',
      warmup_steps=100,
      final_ratio=0.1,
      weight_decay=0.1,
      clip=1.0,
    ),
    train=c.Train(steps=2600, log_every=20, sample_every=650),
    eval=c.Eval(every=650, batches=64),
    checkpoint=c.Checkpoint(every=325),
  )
