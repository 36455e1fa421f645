"""What stands in the gaps of a text: BERT's [MASK] tokens, T5's sentinels.

Letters: B rows, S tokens of the text, V vocabulary, K candidates, M marks.
"""

import functools
import itertools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from t5lite import config as config_lib
from t5lite import errors
from t5lite import models
from t5lite import sharding
from t5lite.decoding import batches
from t5lite.decoding import generation
from t5lite.decoding import loop
from t5lite.decoding import prompts
from t5lite.decoding import sampling
from t5lite.models import decode

MARK = re.compile(r'\[MASK\]|<extra_id_\d+>')


class Candidate(NamedTuple):
  """A text that may stand in a gap."""

  text: str
  probability: float


class Gap(NamedTuple):
  """A mark of the text with what may stand there, the likeliest first."""

  mark: str  # as in the text
  candidates: list[Candidate]


def fill(
  config: config_lib.Config,
  params: models.Params,
  tokenizer: prompts.Tokenizer,
  text: str,
  top_k: int,
  *,
  max_tokens: int = 32,
) -> list[Gap]:
  """Returns the gaps of the text in order, with `top_k` candidates each.

  An encoder fills each [MASK] with one piece; the probability is the piece's, given the text with
  all its marks. An encoder_decoder fills spans, [MASK] being one more sentinel. Its candidates
  begin with each of the `top_k` likeliest pieces (or with the end: an empty span) and go on with
  the likeliest each time, so a likelier span may be missing. The probability is that of all pieces
  and of the span's end, given the text and the likeliest candidates of the gaps before.

  Args:
    config: of the run that made `params`.
    params: parameters, on a bare device or sharded over the mesh that is set.
    tokenizer: of the run.
    text: with `[MASK]`, or for an encoder_decoder also `<extra_id_0>`, where something is missing.
    top_k: number of candidates of a gap; at most those that there are.
    max_tokens: most pieces of a span; a longer one is cut there, its probability the beginning's.

  Raises:
    ConfigError: the model does not fill, or its table of positions is too short.
    DataError: nothing to fill.
  """
  errors.check_at_least('fill', {'top_k': top_k}, 1)
  inputs, marks = marked(config, tokenizer, text)
  top_k = min(top_k, config.model.vocab_size)
  with sharding.whole_rows(params) as params:
    if config.model.architecture == 'encoder':
      return _fill_masks(config, params, tokenizer, inputs, top_k)
    return _fill_spans(config, params, tokenizer, inputs, marks, top_k, max_tokens)


def marked(
  config: config_lib.Config, tokenizer: prompts.Tokenizer, text: str
) -> tuple[np.ndarray, list[str]]:
  """Returns what the encoder reads for a text, and the marks in it; needs no parameters.

  Raises:
    ConfigError, DataError: as `fill`.
  """
  objective = config.objective.name
  if config.model.num_labels:
    where, remedy = f'model.num_labels={config.model.num_labels}', 'use evaluate --tasks'
    raise errors.ConfigError('a head for labels fills no gaps', where, remedy)
  if objective == 'text_infilling':
    where, remedy = f'objective.name={objective!r}', 'use generate, with <extra_id_0> for the gap'
    raise errors.ConfigError('this model writes the whole text', where, remedy)
  if config.model.architecture == 'decoder' or objective == 'prefix_lm':
    where = f'model.architecture={config.model.architecture!r} objective.name={objective!r}'
    raise errors.ConfigError('this model continues text and fills no gaps', where, 'use generate')
  mark = '[MASK]' if config.model.architecture == 'encoder' else '<extra_id_0>'
  vocabulary, marks = tokenizer.vocabulary, MARK.findall(text)
  if config.model.architecture == 'encoder':
    marks = [found for found in marks if found == mark]
  else:
    names = map('<extra_id_{}>'.format, itertools.count())
    text = MARK.sub(lambda _: next(names), text)
    if len(marks) > len(vocabulary.sentinels):
      where = f'{len(marks)} gaps, {len(vocabulary.sentinels)} sentinels'
      raise errors.DataError('more gaps than sentinels', where, 'fill a shorter text')
  if not marks:
    remedy = f'write {mark} where something is missing'
    raise errors.DataError('nothing to fill', repr(text), remedy)
  ids = prompts.of_text(config, vocabulary, tokenizer.encode_marked(text), mode='[R]')
  batches.check_length(config.model, len(ids))
  return ids, marks


def _fill_masks(config, params, tokenizer, ids, top_k) -> list[Gap]:
  (places_M,) = np.nonzero(ids == tokenizer.vocabulary.mask)
  rows_BxS = batches.aligned([ids] * sharding.batch_ways(), left=False)
  shares_MxK, pieces_MxK = map(
    np.asarray, _likeliest(config.model, params, rows_BxS, len(ids), places_M, top_k=top_k)
  )
  return [
    Gap('[MASK]', [Candidate(tokenizer.decode([id]), float(p)) for p, id in zip(*row, strict=True)])
    for row in zip(shares_MxK, pieces_MxK, strict=True)
  ]


@functools.partial(jax.jit, static_argnames=('model', 'top_k'))
def _likeliest(model, params, rows_BxS, length, places_M, *, top_k) -> tuple[jax.Array, jax.Array]:
  """Returns probabilities and ids [M, K] of the likeliest pieces at places of the first row."""
  is_text_BxS = jnp.broadcast_to(jnp.arange(rows_BxS.shape[1]) < length, rows_BxS.shape)
  segments_BxS = is_text_BxS.astype(jnp.int32)  # there are vocabularies in which 0 is text
  batch = {'encoder_input_tokens': rows_BxS, 'encoder_segment_ids': segments_BxS}
  hidden_BMD = models.hidden(models.roomy(model), params, batch)[:, places_M]
  logits_MV = decode.whole(models.logits(model, params, hidden_BMD))[0]
  return jax.lax.top_k(jax.nn.softmax(logits_MV), top_k)


def _fill_spans(config, params, tokenizer, inputs, marks, top_k, max_tokens) -> list[Gap]:
  vocabulary = tokenizer.vocabulary
  target, gaps = [generation.START], []
  for mark, sentinel in zip(marks, vocabulary.sentinels, strict=False):
    target.append(sentinel)
    spans = loop.run(
      config.model,
      params,
      [np.array(target)] * top_k,
      inputs=[inputs] * top_k,
      max_tokens=max_tokens,
      choice=sampling.Branch(),
      stops=[vocabulary.eos, *vocabulary.sentinels.tolist()],
      key=jax.random.key(0),
    )
    spans = sorted(spans, key=lambda span: -span.log_probabilities.sum())
    gaps.append(Gap(mark, [_candidate(tokenizer, span) for span in spans]))
    target.extend(_inside(vocabulary, spans[0].tokens))
  return gaps


def _inside(vocabulary, tokens: np.ndarray) -> np.ndarray:
  """Returns a span's tokens without the one that ended it."""
  ended = tokens[-1] == vocabulary.eos or tokens[-1] in vocabulary.sentinels
  return tokens[:-1] if ended else tokens


def _candidate(tokenizer, span: loop.Continuation) -> Candidate:
  text = tokenizer.decode(_inside(tokenizer.vocabulary, span.tokens))
  return Candidate(text, float(np.exp(span.log_probabilities.sum())))
