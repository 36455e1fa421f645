"""Runs Hugging Face's torch models (eager) for run.py: transformers_step.py WORKLOAD

The same work as t5lite_step.py, for a Python that has torch and transformers.
"""

import sys

import workloads

THREADS = workloads.pin()

import numpy as np
import torch
import transformers


def make_model(name: str) -> torch.nn.Module:
  vocab = workloads.WORKLOADS[name]['vocab']
  if name == 'gpt':
    config = transformers.GPT2Config(
      vocab_size=vocab, use_cache=False, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    return transformers.GPT2LMHeadModel(config)
  if name == 'bert':
    config = transformers.BertConfig(
      vocab_size=vocab, hidden_dropout_prob=0, attention_probs_dropout_prob=0
    )
    return transformers.BertForMaskedLM(config)
  config = transformers.T5Config(
    vocab_size=vocab,
    d_model=512,
    d_kv=64,
    d_ff=1024,
    num_layers=8,
    num_decoder_layers=8,
    num_heads=6,
    feed_forward_proj='gated-gelu',
    tie_word_embeddings=False,
    dropout_rate=0.0,
    decoder_start_token_id=0,
    use_cache=False,
  )
  model = transformers.T5ForConditionalGeneration(config)
  if model.lm_head.weight is model.shared.weight:  # transformers 5 ties T5's whatever is asked for
    weight = model.lm_head.weight.detach().clone() * config.d_model**-0.5
    model.lm_head.weight = torch.nn.Parameter(weight)
  return model


def arguments(name: str, step: int) -> dict[str, torch.Tensor]:
  inputs, targets, positions = workloads.ids(name, step)
  tensor = lambda x: torch.from_numpy(x).long()
  if name == 't5':
    return {'input_ids': tensor(inputs), 'labels': tensor(targets)}
  if name == 'gpt':
    return {'input_ids': tensor(inputs), 'labels': tensor(inputs)}
  labels, masked = np.full(inputs.shape, -100), inputs.copy()
  np.put_along_axis(labels, positions, np.take_along_axis(inputs, positions, axis=1), axis=1)
  np.put_along_axis(masked, positions, 4, axis=1)
  return {'input_ids': tensor(masked), 'labels': tensor(labels)}


def main(name: str) -> None:
  torch.set_num_threads(THREADS)
  torch.manual_seed(0)
  model = make_model(name).train()
  optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)

  def step(number: int) -> float:
    loss = model(**arguments(name, number)).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()

  versions = f'torch {torch.__version__}, transformers {transformers.__version__}'
  workloads.serve(step, tokens=workloads.tokens(name), compile_seconds=0.0, version=versions)


if __name__ == '__main__':
  main(sys.argv[1])
