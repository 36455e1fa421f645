"""A small BERT for the tasks of t5lite/tasks/starter.py: the first step of docs/tasks.md.

Source: ModernBERT (Warner et al. 2024), small. Windows of 128 tokens, 64 a step.
Hardware, wall time: two cores of an AMD EPYC, 75 min beside other jobs.
Loss to expect: held out 3.032, where the unigram entropy is 6.278, on the 53 MB text of
launch/starter_tasks.sh (2026-11-26).
"""

from t5lite import config as c
from t5lite import presets


def get_config() -> c.Config:
  return c.Config(
    model=presets.modernbert(vocab_size=8192, num_layers=4, d_model=192, d_ff=512),
    objective=c.Objective(name='mlm'),
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
    train=c.Train(steps=3200, log_every=20, sample_every=800),
    eval=c.Eval(every=800, batches=16),
    checkpoint=c.Checkpoint(every=200),
  )
