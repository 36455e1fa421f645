"""The model equations in plain float64 numpy, written from the papers; `t5lite.models` must agree.

Each function takes parameters, a nested dict of float64 arrays laid out as `models.init` lays them
out, but with attention's kernels cut into heads (`families.by_head`), and one example: no batch, no
padding, no packing, no masks but causality. Sizes and numbers of heads are read off the parameters,
constants come from the papers. Loops over layers and heads are spelled out; nothing is imported
from t5lite.

Letters: T query length, S key length, D model, N heads, H head size, V vocabulary, P buckets.
"""

import functools
import math

import numpy as np


def t5(params, inputs_S, targets_T, *, gated, tied, max_distance=128):
  """Logits [T, V] of T5 (Raffel et al. 2020, section 2.1).

  1.0 is ungated and tied, 1.1 gated and free. RMSNorm before each part, no biases, unscaled dot
  products plus a bias by bucket of the distance, learned once per stack; tied logits are divided
  by sqrt(D).
  """
  table_VD = params['token_embed']['embedding']
  norm = functools.partial(rms_norm, epsilon=1e-6)

  def mlp(x, p):
    hidden = x @ p['input']['kernel']
    if gated:  # Shazeer 2020: (GELU(x W) * x V) W2
      return (gelu_tanh(x @ p['gate']['kernel']) * hidden) @ p['output']['kernel']
    return np.maximum(hidden, 0) @ p['output']['kernel']

  def stack(p, x, memory, causal):
    length = len(x)
    table_PN = p['relative_bias']['embedding']
    bias = relative_bias(table_PN, length, not causal, max_distance)
    visible = causal_mask(length) if causal else np.full((length, length), True)
    for layer in layers_of(p):
      h = norm(x, layer['attention_norm'])
      x = x + attention(layer['attention'], h, h, visible, bias=bias)
      if memory is not None:
        h = norm(x, layer['cross_norm'])
        everything = np.full((length, len(memory)), True)
        x = x + attention(layer['cross_attention'], h, memory, everything)
      x = x + mlp(norm(x, layer['mlp_norm']), layer['mlp'])
    return norm(x, p['final_norm'])

  memory_SD = stack(params['encoder'], table_VD[inputs_S], None, causal=False)
  x_TD = stack(params['decoder'], table_VD[targets_T], memory_SD, causal=True)
  if tied:
    return x_TD @ table_VD.T / math.sqrt(x_TD.shape[1])
  return x_TD @ params['lm_head']['kernel']


def bert(params, tokens_S, types_S):
  """Logits [S, V] of BERT's masked language model (Devlin et al. 2019; their code for the head).

  The sum of token, segment and position embeddings is normalised; LayerNorm after each residual
  (Vaswani et al. 2017); the head is dense, GELU, LayerNorm, then the token table and a bias.
  """
  table_VD, encoder = params['token_embed']['embedding'], params['encoder']
  norm = functools.partial(layer_norm, epsilon=1e-12)
  x = table_VD[tokens_S] + encoder['type_embed']['embedding'][types_S]
  x = norm(x + encoder['position_embed']['embedding'][: len(x)], encoder['embed_norm'])
  visible = np.full((len(x), len(x)), True)
  for layer in layers_of(encoder):
    x = norm(x + attention(layer['attention'], x, x, visible, scaled=True), layer['attention_norm'])
    mlp = layer['mlp']
    x = norm(x + affine(gelu(affine(x, mlp['input'])), mlp['output']), layer['mlp_norm'])
  head = params['mlm_head']
  return norm(gelu(affine(x, head['dense'])), head['norm']) @ table_VD.T + head['bias']


def gpt2(params, tokens_T, prefix=0):
  """Logits [T, V] of GPT-2 (Radford et al. 2019, section 2.3; their code for the tanh GELU).

  LayerNorm before each part and at the end; the first `prefix` tokens are seen from everywhere.
  """
  table_VD, decoder = params['token_embed']['embedding'], params['decoder']
  norm = functools.partial(layer_norm, epsilon=1e-5)
  x = table_VD[tokens_T] + decoder['position_embed']['embedding'][: len(tokens_T)]
  visible = causal_mask(len(x), prefix)
  for layer in layers_of(decoder):
    h = norm(x, layer['attention_norm'])
    x = x + attention(layer['attention'], h, h, visible, scaled=True)
    h = norm(x, layer['mlp_norm'])
    x = x + affine(gelu_tanh(affine(h, layer['mlp']['input'])), layer['mlp']['output'])
  return norm(x, decoder['final_norm']) @ table_VD.T


def modern_decoder(params, tokens_T, *, window, global_every, rotated=True, prefix=0):
  """Logits [T, V] of a current decoder (Touvron et al. 2023): RMSNorm, SwiGLU, RoPE, free output.

  Grouped-query attention (Ainslie et al. 2023); layers that are no multiple of `global_every` see
  only keys nearer than `window`. `rotated` False: no positions at all.
  """
  x = params['token_embed']['embedding'][tokens_T]
  x = modern_stack(
    params['decoder'], x, silu, causal_mask(len(x), prefix), window, global_every, rotated
  )
  return x @ params['lm_head']['kernel']


def modern_encoder(params, tokens_S, *, window, global_every):
  """Logits [S, V] of a current encoder (Warner et al. 2024).

  As the decoder, but GeGLU, two-way and tied; its head is dense, GELU, norm, then the token
  table and a bias.
  """
  table_VD, head = params['token_embed']['embedding'], params['mlm_head']
  x, visible = table_VD[tokens_S], np.full((len(tokens_S), len(tokens_S)), True)
  x = modern_stack(params['encoder'], x, gelu, visible, window, global_every, True)
  x = rms_norm(gelu(x @ head['dense']['kernel']), head['norm'], 1e-5)
  return x @ table_VD.T + head['bias']


def vaswani(params, inputs_S, targets_T):
  """Logits [T, V] of the first Transformer (Vaswani et al. 2017).

  ReLU, LayerNorm after each residual, biases, tied. Without its factor sqrt(D) on embeddings.
  """
  table_VD = params['token_embed']['embedding']
  norm = functools.partial(layer_norm, epsilon=1e-6)

  def stack(p, tokens, memory, causal):
    x, length = table_VD[tokens] + sinusoid(len(tokens), table_VD.shape[1]), len(tokens)
    visible = causal_mask(length) if causal else np.full((length, length), True)
    for layer in layers_of(p):
      y = attention(layer['attention'], x, x, visible, scaled=True)
      x = norm(x + y, layer['attention_norm'])
      if memory is not None:
        everything = np.full((length, len(memory)), True)
        y = attention(layer['cross_attention'], x, memory, everything, scaled=True)
        x = norm(x + y, layer['cross_norm'])
      y = affine(np.maximum(affine(x, layer['mlp']['input']), 0), layer['mlp']['output'])
      x = norm(x + y, layer['mlp_norm'])
    return x

  memory_SD = stack(params['encoder'], inputs_S, None, causal=False)
  return stack(params['decoder'], targets_T, memory_SD, causal=True) @ table_VD.T


def modern_stack(p, x, activation, visible_TS, window, global_every, rotated):
  near = [[abs(t - s) < window for s in range(len(x))] for t in range(len(x))]
  for number, layer in enumerate(layers_of(p)):
    sees = visible_TS if number % global_every == 0 else visible_TS & np.array(near)
    h = rms_norm(x, layer['attention_norm'], 1e-5)
    x = x + attention(layer['attention'], h, h, sees, scaled=True, rotated=rotated)
    h, mlp = rms_norm(x, layer['mlp_norm'], 1e-5), layer['mlp']
    gated = activation(h @ mlp['gate']['kernel']) * (h @ mlp['input']['kernel'])
    x = x + gated @ mlp['output']['kernel']
  return rms_norm(x, p['final_norm'], 1e-5)


def attention(p, x_TD, source_SD, visible_TS, *, bias=None, scaled=False, rotated=False):
  """Multi-head attention, head by head (Vaswani et al. 2017, section 3.2.2)."""
  num_heads, size = p['query']['kernel'].shape[1:]
  group = num_heads // p['key']['kernel'].shape[1]  # query heads that share a key head
  total = 0
  for n in range(num_heads):
    query_TH = affine(x_TD, head_of(p['query'], n))
    key_SH = affine(source_SD, head_of(p['key'], n // group))
    value_SH = affine(source_SD, head_of(p['value'], n // group))
    if rotated:
      query_TH, key_SH = rotate(query_TH), rotate(key_SH)
    score_TS = query_TH @ key_SH.T
    if scaled:
      score_TS = score_TS / math.sqrt(size)
    if bias is not None:
      score_TS = score_TS + bias[n]
    share_TS = np.where(visible_TS, np.exp(score_TS - score_TS.max(axis=1, keepdims=True)), 0)
    share_TS = share_TS / share_TS.sum(axis=1, keepdims=True)
    total = total + share_TS @ value_SH @ p['output']['kernel'][n]
  return total + p['output'].get('bias', 0)


def head_of(p, n):
  return {name: value[:, n] if name == 'kernel' else value[n] for name, value in p.items()}


def affine(x, p):
  return x @ p['kernel'] + p.get('bias', 0)


def causal_mask(length, prefix=0):
  return np.array([[s <= t or s < prefix for s in range(length)] for t in range(length)])


def relative_bias(table_PN, length, bidirectional, max_distance):
  """The bias [N, T, S] of T5's self-attention: each head's number for the distance's bucket."""
  bias_NTS = np.zeros((table_PN.shape[1], length, length))
  for t in range(length):
    for s in range(length):
      bucket = relative_bucket(s - t, bidirectional, len(table_PN), max_distance)
      bias_NTS[:, t, s] = table_PN[bucket]
  return bias_NTS


def relative_bucket(relative, bidirectional, num_buckets, max_distance):
  """T5's bucket of one relative position, key minus query (Raffel et al. 2020, section 2.1).

  Two-way, the second half of the buckets is for keys ahead; one-way, keys ahead are all in bucket
  0. Of the rest, half hold one distance each; the others grow by equal ratios up to
  `max_distance`, beyond which all share the last. Edges are compared exactly, in integers:
  floor(log(distance / e) / log(m / e) * w) is the largest k with (distance / e)^w >= (m / e)^k.
  """
  start = 0
  if bidirectional:
    num_buckets //= 2
    start = num_buckets if relative > 0 else 0
    distance = abs(relative)
  else:
    distance = max(-relative, 0)
  exact = num_buckets // 2
  if distance < exact:
    return start + distance
  wide, k = num_buckets - exact, 0
  while k < wide - 1 and distance**wide * exact ** (k + 1) >= max_distance ** (k + 1) * exact**wide:
    k += 1
  return start + exact + k


def rotate(x_TH):
  """RoPE (Su et al. 2021, equation 13): pair j of row t times exp(i t 10000^(-2j/H)).

  A pair is (j, j + H/2), as GPT-NeoX and LLaMA lay the paper's neighbours out.
  """
  half = x_TH.shape[1] // 2
  pairs = x_TH[:, :half] + 1j * x_TH[:, half:]
  for t in range(len(pairs)):
    for i in range(half):
      pairs[t, i] *= np.exp(1j * t * 10_000.0 ** (-2 * i / (2 * half)))
  return np.concatenate([pairs.real, pairs.imag], axis=1)


def sinusoid(length, d_model):
  """Vaswani et al. 2017, section 3.5: sines in the even dimensions, which stand first here."""
  paper = np.zeros((length, d_model))
  for t in range(length):
    for i in range(0, d_model, 2):
      paper[t, i] = math.sin(t / 10_000 ** (i / d_model))
      paper[t, i + 1] = math.cos(t / 10_000 ** (i / d_model))
  return np.concatenate([paper[:, ::2], paper[:, 1::2]], axis=1)


def rms_norm(x, p, epsilon):
  return p['scale'] * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + epsilon)


def layer_norm(x, p, epsilon):
  mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
  return p['scale'] * (x - mean) / np.sqrt(variance + epsilon) + p['bias']


def gelu(x):
  """x times the normal distribution function (Hendrycks & Gimpel 2016)."""
  return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_tanh(x):
  return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x):
  return x / (1 + np.exp(-x))


def layers_of(p):
  """The layers of a stack, each a dict; they are stacked along the first dimension."""
  count = len(p['layers']['attention_norm']['scale'])
  return [layer_of(p['layers'], number) for number in range(count)]


def layer_of(tree, number):
  return {
    name: layer_of(one, number) if isinstance(one, dict) else one[number]
    for name, one in tree.items()
  }
