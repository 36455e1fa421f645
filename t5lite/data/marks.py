"""What a head for tasks is asked for: a mark for each token of an example, from [CLS] on.

A mark is 0 where nothing is asked for. Of labels, of a text or of its words, it is the label's
number and 1 more; of a span it is 1 where it begins, 2 where it ends and 3 where it does both.
"""

import numpy as np

from t5lite.data import tokenizer as tokenizer_lib
from t5lite.objectives import supervised
from t5lite.tasks import rendering


def of_example(
  tokenizer: tokenizer_lib.Tokenizer, example: rendering.Example, num_inputs: int
) -> np.ndarray:
  """Returns the int32 marks of an example whose texts are `num_inputs` tokens.

  A word has its mark at its first token (Devlin et al. 2019, section 5.3). A span has both of its
  marks or, where a tokenizer leaves out one of its ends, none.
  """
  if example.label >= 0:
    return np.array([1 + example.label], np.int32)
  marks_T = np.zeros(1 + num_inputs, np.int32)
  last = tokenizer.align(example.inputs[-1])
  first = len(marks_T) - len(last.ids)
  if example.span:
    start, end = last.at(example.span[0]), last.at(example.span[1] - 1)
    if start >= 0 and end >= 0:
      marks_T[first + start] |= supervised.BEGIN
      marks_T[first + end] |= supervised.END
  for place, label in example.tags:
    if (token := last.at(place)) >= 0:
      marks_T[first + token] = 1 + label
  return marks_T
