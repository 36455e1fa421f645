"""A sample begins with what its objective gives, and is of one example."""

import numpy as np

from t5lite import samples


def batch(**more):
  tokens = np.array([[5, 6, 7, 8, 9, 3]])
  return {'decoder_input_tokens': tokens, 'decoder_target_tokens': tokens + 10, **more}


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
