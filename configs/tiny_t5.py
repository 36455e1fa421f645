"""A tiny T5 1.1 on the text that ships with t5lite: minutes on two CPU cores.

Source: the family of Raffel et al. 2020, small. Windows of 141 tokens.
Hardware, wall time: two cores of an Intel Xeon, 4 min 36 s for `bash launch/quickstart.sh`, install
included.
Loss to expect: held out 4.482, where the unigram entropy is 5.735 (2026-11-25).
"""

from t5lite import config as c
from t5lite import presets


def get_config() -> c.Config:
  return c.Config(
    model=presets.t5_1_1(
      vocab_size=8192, num_layers=4, d_model=128, d_ff=384, num_heads=4, head_dim=32
    ),
    objective=c.Objective(name='span_corruption'),
    data=c.Data(batch_size=16, input_length=128, target_length=32, held_out=0.03),
    optim=c.Optim(
      name='adamw_rms',  # T5's embeddings begin at 1, its queries at 0.02
      learning_rate=0.03,
      schedule='cosine',
      warmup_steps=50,
      final_ratio=0.1,
      weight_decay=0.01,
      clip=1.0,
    ),
    train=c.Train(steps=1200, log_every=20, sample_every=300, z_loss=1e-4),
    eval=c.Eval(every=300, batches=32),
    checkpoint=c.Checkpoint(every=300),
  )
