"""A small T5 1.1 for the tasks of t5lite/tasks/starter.py: the first step of docs/tasks.md.

Source: the family of Raffel et al. 2020, small. Windows of 141 tokens, 64 a step.
Hardware, wall time: two cores of an Intel Xeon, hours; see docs/tasks.md.
Loss to expect: see docs/tasks.md.
"""

from t5lite import config as c
from t5lite import presets


def get_config() -> c.Config:
  return c.Config(
    model=presets.t5_1_1(
      vocab_size=8192, num_layers=4, d_model=192, d_ff=512, num_heads=3, head_dim=64
    ),
    objective=c.Objective(name='span_corruption'),
    data=c.Data(batch_size=64, input_length=128, target_length=32),
    optim=c.Optim(
      name='adamw_rms',
      learning_rate=0.02,
      schedule='cosine',
      warmup_steps=100,
      final_ratio=0.1,
      weight_decay=0.01,
      clip=1.0,
    ),
    train=c.Train(steps=1600, log_every=20, sample_every=400, z_loss=1e-4),
    eval=c.Eval(every=400, batches=16),
    checkpoint=c.Checkpoint(every=200),
  )
