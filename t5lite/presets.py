"""The published families as functions that fill in `config.Model`, each with its paper's choices.

A variant is `dataclasses.replace(presets.bert(...), positions='rotary', max_length=0)`.
"""

import dataclasses

from t5lite.config import Architecture, Model


def t5_1_0(
  *, vocab_size: int, num_layers: int, d_model: int, d_ff: int, num_heads: int, head_dim: int
) -> Model:
  """T5 1.0 (Raffel et al. 2020, section 2.1): ReLU, tied and scaled output embedding."""
  return Model(
    architecture='encoder_decoder',
    vocab_size=vocab_size,
    num_layers=num_layers,
    num_decoder_layers=num_layers,
    d_model=d_model,
    d_ff=d_ff,
    num_heads=num_heads,
    num_kv_heads=num_heads,
    head_dim=head_dim,
    activation='relu',
    gated=False,
    norm='rms',
    norm_order='pre',
    norm_epsilon=1e-6,
    use_bias=False,
    positions='relative',
    max_length=0,
    scale_attention=False,
    tie_embeddings=True,
    scale_tied_logits=True,
    initializer='t5',
    dropout=0.1,
  )


def t5_1_1(
  *, vocab_size: int, num_layers: int, d_model: int, d_ff: int, num_heads: int, head_dim: int
) -> Model:
  """T5 1.1 (T5's release notes; Shazeer 2020): gated GELU, free output matrix, no dropout."""
  return dataclasses.replace(
    t5_1_0(
      vocab_size=vocab_size,
      num_layers=num_layers,
      d_model=d_model,
      d_ff=d_ff,
      num_heads=num_heads,
      head_dim=head_dim,
    ),
    activation='gelu_tanh',
    gated=True,
    tie_embeddings=False,
    scale_tied_logits=False,
    dropout=0.0,
  )


def bert(*, vocab_size: int, num_layers: int, d_model: int, max_length: int = 512) -> Model:
  """BERT (Devlin et al. 2019): learned positions, segment embeddings, post-LayerNorm, MLM head."""
  return Model(
    architecture='encoder',
    vocab_size=vocab_size,
    num_layers=num_layers,
    d_model=d_model,
    d_ff=4 * d_model,
    num_heads=d_model // 64,
    num_kv_heads=d_model // 64,
    head_dim=64,
    activation='gelu',
    gated=False,
    norm='layer',
    norm_order='post',
    norm_epsilon=1e-12,
    use_bias=True,
    positions='learned',
    max_length=max_length,
    num_token_types=2,
    scale_attention=True,
    tie_embeddings=True,
    mlm_head=True,
    embedding_norm=True,
    initializer='bert',
    dropout=0.1,
  )


def modernbert(
  *,
  vocab_size: int,
  num_layers: int,
  d_model: int,
  d_ff: int,
  local_window: int = 65,
  global_every: int = 3,
) -> Model:
  """ModernBERT (Warner et al. 2024): GeGLU, rotary positions, pre-LayerNorm, local layers.

  A token of a local layer sees those fewer than `local_window` away: 65 is the window of 128.
  """
  return dataclasses.replace(
    modern(
      architecture='encoder',
      vocab_size=vocab_size,
      num_layers=num_layers,
      d_model=d_model,
      d_ff=d_ff,
      num_heads=d_model // 64,
      num_kv_heads=d_model // 64,
      head_dim=64,
      local_window=local_window,
      global_every=global_every,
    ),
    norm='layer',
    embedding_norm=True,
    rotary_base=160_000.0,
    local_rotary_base=10_000.0,
  )


def gpt2(
  *, vocab_size: int, num_layers: int, d_model: int, num_heads: int, max_length: int = 1024
) -> Model:
  """GPT-2 (Radford et al. 2019, section 2.3): learned positions, pre-LayerNorm, tied output."""
  return Model(
    architecture='decoder',
    vocab_size=vocab_size,
    num_layers=num_layers,
    d_model=d_model,
    d_ff=4 * d_model,
    num_heads=num_heads,
    num_kv_heads=num_heads,
    head_dim=d_model // num_heads,
    activation='gelu_tanh',
    gated=False,
    norm='layer',
    norm_order='pre',
    norm_epsilon=1e-5,
    use_bias=True,
    positions='learned',
    max_length=max_length,
    scale_attention=True,
    tie_embeddings=True,
    initializer='gpt2',
    dropout=0.1,
  )


def modern(
  *,
  architecture: Architecture,
  vocab_size: int,
  num_layers: int,
  d_model: int,
  d_ff: int,
  num_heads: int,
  num_kv_heads: int,
  head_dim: int,
  local_window: int = 0,
  global_every: int = 1,
) -> Model:
  """A current decoder (SwiGLU; Touvron et al. 2023) or encoder (GeGLU; Warner et al. 2024).

  Rotary positions, pre-RMSNorm, grouped-query attention, optional local layers, no biases.
  """
  return Model(
    architecture=architecture,
    vocab_size=vocab_size,
    num_layers=num_layers,
    d_model=d_model,
    d_ff=d_ff,
    num_decoder_layers=num_layers if architecture == 'encoder_decoder' else 0,
    num_heads=num_heads,
    num_kv_heads=num_kv_heads,
    head_dim=head_dim,
    activation='silu' if architecture == 'decoder' else 'gelu',
    gated=True,
    norm='rms',
    norm_order='pre',
    norm_epsilon=1e-5,
    use_bias=False,
    positions='rotary',
    max_length=0,
    scale_attention=True,
    local_window=local_window,
    global_every=global_every,
    tie_embeddings=architecture != 'decoder',
    mlm_head=architecture == 'encoder',
    initializer='scaled',
    dropout=0.0,
  )
