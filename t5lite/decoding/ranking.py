"""Rank classification: which of its candidates a model finds likeliest behind a text."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from t5lite import config as config_lib
from t5lite import errors
from t5lite import models
from t5lite.decoding import likelihood
from t5lite.decoding import prompts


class Ranking(NamedTuple):
  """Which candidate a model prefers; the first of equals."""

  best: int  # by log-likelihood, as lm-eval's acc
  best_by_length: int  # by log-likelihood per character, as lm-eval's acc_norm
  scores: list[likelihood.Score]


def of_texts(
  config: config_lib.Config,
  tokenizer: prompts.Tokenizer,
  text: str,
  target: str,
  *,
  longest: int | None = None,
) -> likelihood.Pair:
  """Returns the tokens of a text, and of a target that goes on from it without ending the text.

  A model of one stack reads both as one text, cut before the first token that is not of `text`
  alone: spaces between them count where they stand. An encoder_decoder reads them apart, and a
  space at the target's start is left out. Marks such as <extra_id_0> are read as the tokens: T5's
  span corruption teaches `text <extra_id_0>` and `<extra_id_0> target`.

  With `longest`, the text loses the first of its tokens that make the model's row (the encoder's,
  if there are two) longer than that.
  """
  given = tokenizer.encode_marked(text)
  if config.model.architecture == 'encoder_decoder':
    targets = tokenizer.encode_marked(target.removeprefix(' '))
  else:
    both = tokenizer.encode_marked(text + target if text else target.removeprefix(' '))
    size = min(len(given), len(both))
    shared = int(np.cumprod(given[:size] == both[:size]).sum())
    given, targets = both[:shared], both[shared:]
  pair = likelihood.Pair(inputs_of(config, tokenizer, given), targets)
  length = likelihood.lengths_of(config.model.architecture, pair)[0]
  if longest is None or length <= longest:
    return pair
  return pair._replace(inputs=inputs_of(config, tokenizer, given[length - longest :]))


def inputs_of(
  config: config_lib.Config, tokenizer: prompts.Tokenizer, given: np.ndarray
) -> np.ndarray:
  """Returns the inputs of a pair, of the tokens of its text; never none."""
  inputs = prompts.of_text(config, tokenizer.vocabulary, given, mode='[S]')
  if config.model.architecture == 'encoder':
    return inputs[:-1]  # its [SEP] stands behind the targets
  if not len(inputs):
    return np.array([tokenizer.vocabulary.begin], np.int32)
  return inputs


def rank(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: prompts.Tokenizer,
  texts: Sequence[str],
  candidates: Sequence[Sequence[str]],
  *,
  longest: int | None = None,
) -> list[Ranking]:
  """Returns which of its candidates goes on best from each text, a space between them.

  Arguments as `likelihood.score` and `of_texts`.

  Raises:
    ConfigError: a text too long for the model's table of positions.
    DataError: a text without candidates, or an empty candidate.
  """
  for text, names in zip(texts, candidates, strict=True):
    if not names or not all(names):
      raise errors.DataError('no candidate', f'{list(names)} for {text[:40]!r}', 'give it a text')
  pairs = [
    of_texts(config, tokenizer, text, f' {name}', longest=longest)
    for text, names in zip(texts, candidates, strict=True)
    for name in names
  ]
  scores = iter(likelihood.score(config, params, tokenizer.vocabulary, pairs))
  return [ranking([next(scores) for _ in names], list(map(len, names))) for names in candidates]


def ranking(scores: list[likelihood.Score], lengths: Sequence[int]) -> Ranking:
  """Returns the ranking of an example's candidates, of so many characters."""
  sums = np.array([one.log_likelihood for one in scores])
  return Ranking(int(sums.argmax()), int((sums / np.array(lengths)).argmax()), scores)
