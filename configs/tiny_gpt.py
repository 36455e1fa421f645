"""A tiny GPT on the text that ships with t5lite: minutes on two CPU cores.

Source: Radford et al. 2019, small; no dropout, as the run is short.
Hardware, wall time: two cores of an Intel Xeon, 3 min 34 s for `bash launch/quickstart.sh gpt` in
an environment that is there.
Loss to expect: held out 4.950, where the unigram entropy is 6.502 (2026-11-25).
"""

import dataclasses

from t5lite import config as c
from t5lite import presets


def get_config() -> c.Config:
  return c.Config(
    model=dataclasses.replace(
      presets.gpt2(vocab_size=8192, num_layers=4, d_model=128, num_heads=4, max_length=128),
      dropout=0.0,
    ),
    objective=c.Objective(name='causal_lm'),
    data=c.Data(batch_size=32, input_length=128, held_out=0.03),
    optim=c.Optim(
      name='adamw',
      learning_rate=2e-3,
      schedule='cosine',
      warmup_steps=50,
      final_ratio=0.1,
      weight_decay=0.01,
      clip=1.0,
    ),
    train=c.Train(steps=600, log_every=10, sample_every=150),
    eval=c.Eval(every=150),
    checkpoint=c.Checkpoint(every=150),
  )
