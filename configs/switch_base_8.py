"""Switch-Base with 8 experts: 619,339,008 parameters.

Source: Fedus et al. 2022 (Switch Transformers), section 2, and T5X's switch_base.gin: T5 1.0 base
with every other mlp sparse, one expert a token, capacity factor 1.25 (2 in evaluation), a jitter of
10^-2 at the router, a load-balance loss of 10^-2, no z-loss of the router; section 2.4: a tenth of
the initial variance; section 4.1: 550,000 steps of 2^20 tokens. The rest is T5's recipe.
Capacity is counted in rows of the batch. The number of parameters is computed: T5 1.0 base's,
7 more mlps and a router in each of 12 layers.
Text: C4 as tensorflow-datasets prepares it, with `file_format='array_record'`. Tokenizer: T5's own
`spiece.model` in the working directory, or `--set=data.tokenizer=PATH`.
Hardware, wall time, loss to expect: not yet run. For 8 experts on as many devices or more:
`--set=parallel.expert=8`.
"""

import dataclasses

from t5lite import config as c
from t5lite import presets


def get_config() -> c.Config:
  model = presets.t5_1_0(
    vocab_size=32_128, num_layers=12, d_model=768, d_ff=3072, num_heads=12, head_dim=64
  )
  return c.Config(
    model=dataclasses.replace(
      model,
      remat='dots',
      num_experts=8,
      eval_expert_capacity=2.0,
      router_jitter=0.01,
      init_scale=0.1,
    ),
    objective=c.Objective(name='span_corruption'),
    data=c.Data(
      source='tfds:c4/en:3.1.0',
      tokenizer='spiece.model',
      batch_size=2048,
      input_length=512,
      target_length=114,
    ),
    optim=c.Optim(name='adafactor', learning_rate=0.01, schedule='rsqrt'),
    train=c.Train(steps=550_000, log_every=100, z_loss=1e-4, router_z_loss=0.0),
    eval=c.Eval(every=5_000),
    checkpoint=c.Checkpoint(every=5_000),
  )
