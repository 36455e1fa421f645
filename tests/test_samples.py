"""A sample begins with what its objective gives, and is of one example."""

import numpy as np

from t5lite import samples


def batch(**more):
  tokens = np.array([[5, 6, 7, 8, 9, 3]])
  weights = np.ones(tokens.shape, np.float32)
  made = {'decoder_input_tokens': tokens, 'decoder_target_tokens': tokens + 10}
  return made | {'decoder_loss_weights': weights} | more


def test_prompt_is_what_the_objective_gives():
  given = np.array([[1, 1, 0, 0, 0, 0]])
  prompt, target = samples._divided(batch(decoder_causal_attention=given), 0)
  assert (prompt.tolist(), target.tolist()) == ([5, 6], [16, 17, 18, 19])


def test_sample_ends_where_its_example_does():
  segments = np.array([[1, 1, 1, 1, 2, 2]])
  given = np.array([[1, 0, 0, 0, 1, 0]])
  packed = batch(decoder_causal_attention=given, decoder_segment_ids=segments)
  prompt, target = samples._divided(packed, 0)
  assert (prompt.tolist(), target.tolist()) == ([5], [15, 16, 17])


def test_prompt_of_a_task_is_what_it_gives():
  weights = np.array([[0, 0, 1, 1, 1, 0]], np.float32)
  prompt, target = samples._divided(batch(decoder_loss_weights=weights), 0)
  assert (prompt.tolist(), target.tolist()) == ([5, 6, 7], [17, 18, 19])
