"""A workdir as a model of lm-eval: log-likelihoods of all families, texts of T5 and GPT."""

from collections.abc import Iterator, Sequence
import itertools
import logging
import pathlib
from typing import Any

import jax
import numpy as np

from t5lite import decoding
from t5lite import errors
from t5lite import evaluate
from t5lite import extras
from t5lite.data import tokenizer as tokenizer_lib
from t5lite.decoding import likelihood
from t5lite.decoding import prompts
from t5lite.decoding import ranking

with extras.needed('lm-eval'):
  from lm_eval import utils
  from lm_eval.api import model as model_lib
  from lm_eval.api import registry
  from lm_eval.models import utils as model_utils

Requests = list[Any]  # of lm_eval's Instance, whose `args` its own types say too little of
NEW_TOKENS = 256  # where a task does not say how many; lm-eval's number
# Of a task's generation_kwargs; another is refused, for it would change the result.
KNOWN = {'do_sample', 'max_gen_toks', 'temperature', 'top_k', 'top_p', 'until'}


class Workdir(model_lib.LM):
  """The checkpoint of a workdir that `stored.chosen` gives.

  Contexts longer than the model has room for lose their first tokens; how many do is logged.
  Marks such as <extra_id_0> in a task's texts are read as the tokens.
  """

  def __init__(
    self,
    workdir: str | pathlib.Path = '',
    batch_size: int | str | None = None,
    max_batch_size: int | None = None,
    device: str | None = None,
    **others: Any,
  ):
    """Loads it.

    lm-eval's flags of batch size and device always come and are not used: rows of like length go
    together, and JAX_PLATFORMS says where to compute.
    """
    super().__init__()
    del batch_size, max_batch_size, device
    if not workdir or others:
      where = ','.join(f'{name}={value}' for name, value in others.items()) or 'no workdir'
      raise errors.ConfigError('wrong model_args', where, 'use workdir=DIR and nothing else')
    if num_labels := evaluate.load_config(workdir).model.num_labels:
      where, remedy = f'model.num_labels={num_labels}', 'use t5lite evaluate --tasks'
      raise errors.ConfigError('a head for labels knows no texts', where, remedy)
    self._trained = evaluate.load(workdir)
    self._config = config = self._trained.config
    self._tokenizer = tokenizer_lib.load(config.data.tokenizer)
    self._longest = config.context_length

  def get_model_info(self) -> dict[str, Any]:
    """Returns what lm-eval notes beside the results."""
    sizes = [x.size for x in jax.tree.leaves(self._trained.params)]
    return {'model_num_parameters': sum(sizes), 'step': self._trained.step}

  def loglikelihood(self, requests: Requests) -> list[tuple[float, bool]]:
    """Returns (nats, greedy decoding would say so) of each (context, continuation)."""
    of_texts = lambda *texts, **options: ranking.of_texts(
      self._config, self._tokenizer, *texts, **options
    )
    pairs = [of_texts(*request.args) for request in requests]
    architecture = self._config.model.architecture
    long = [likelihood.lengths_of(architecture, pair)[0] > self._longest for pair in pairs]
    _tell_cut(sum(long), self._longest)
    pairs = [
      of_texts(*request.args, longest=self._longest) if is_long else pair
      for request, pair, is_long in zip(requests, pairs, long, strict=True)
    ]
    return [(score.log_likelihood, score.is_greedy) for score in self._score(pairs)]

  def loglikelihood_rolling(self, requests: Requests) -> list[float]:
    """Returns the nats of each text as a whole; a long one is scored in windows."""
    texts = self._tokenizer.encode([request.args[0] for request in requests])
    windows = [list(self._windows(tokens)) for tokens in texts]
    scores = iter(self._score([*itertools.chain.from_iterable(windows)]))
    return [sum(next(scores).log_likelihood for _ in pairs) for pairs in windows]

  def _windows(self, tokens: np.ndarray) -> Iterator[likelihood.Pair]:
    """Yields a text in pairs that ask for each of its tokens once.

    Of a decoder they are lm-eval's: one token of context, but for the last window, which is full.
    The others' have no part of the text for context but an encoder_decoder's, which reads what
    comes before.
    """
    config, longest = self._config, self._longest
    if config.model.architecture == 'decoder':
      begin = self._tokenizer.vocabulary.begin
      for window in utils.get_rolling_token_windows(tokens.tolist(), begin, longest, 1):
        yield likelihood.Pair(*map(np.array, utils.make_disjoint_window(window)))
      return
    is_encoder = config.model.architecture == 'encoder'
    size = longest - 2 if is_encoder else config.data.target_length
    for start in range(0, len(tokens), size):
      given = ranking.inputs_of(config, self._tokenizer, tokens[:0])
      if not is_encoder:
        room = longest - len(given)
        before = tokens[max(start - room, 0) : start]
        given = ranking.inputs_of(config, self._tokenizer, before)
      yield likelihood.Pair(given, tokens[start : start + size])

  def _score(self, pairs: Sequence[likelihood.Pair]) -> list[likelihood.Score]:
    config, mesh, params, _ = self._trained
    with jax.set_mesh(mesh):
      return likelihood.score(config, params, self._tokenizer.vocabulary, pairs)

  def generate_until(self, requests: Requests) -> list[str]:
    """Returns what the model writes behind each context, up to the first of its stop strings."""
    texts, groups = [''] * len(requests), {}
    for number, request in enumerate(requests):
      groups.setdefault(str(request.args[1]), []).append(number)
    for numbers in groups.values():
      options = dict(model_utils.normalize_gen_kwargs(requests[numbers[0]].args[1], NEW_TOKENS))
      stops: Any = options['until']
      contexts = [requests[number].args[0] for number in numbers]
      for number, text in zip(numbers, self._write(contexts, options), strict=True):
        texts[number] = model_utils.postprocess_generated_text(text, stops, None)
    return texts

  def _write(self, contexts: Sequence[str], options: dict[str, Any]) -> list[str]:
    """Returns what the model writes behind each context, to a stop string or a little further."""
    config, mesh, params, _ = self._trained
    if unknown := options.keys() - KNOWN:
      remedy = f'use {", ".join(sorted(KNOWN))}'
      raise errors.ConfigError('unknown generation_kwargs', ', '.join(sorted(unknown)), remedy)
    sampler = _sampler(options)
    max_tokens = options['max_gen_toks']
    inputs = self._prompts(contexts, max_tokens)
    decode, stops = self._tokenizer.decode, options['until']
    with jax.set_mesh(mesh):
      made = decoding.generate(
        config.model,
        params,
        inputs,
        max_tokens=max_tokens,
        sampler=sampler,
        key=jax.random.key(0),
        eos=self._tokenizer.vocabulary.eos,
        prefix=config.objective.sees_both_ways,
        ended=lambda tokens: any(stop and stop in decode(tokens) for stop in stops),
      )
    return list(map(decode, made))

  def _prompts(self, contexts: Sequence[str], max_tokens: int) -> list[np.ndarray]:
    """Returns the inputs of contexts, without the first tokens that there is no room for."""
    config, vocabulary = self._config, self._tokenizer.vocabulary
    layout = lambda ids: prompts.of_text(config, vocabulary, ids, mode='[S]')
    room = self._longest - max_tokens * (config.model.architecture == 'decoder')
    room -= len(layout(np.zeros(0, np.int32)))
    errors.check(
      room > 0,
      'no room for a context',
      f'max_gen_toks={max_tokens} of a model of {self._longest} tokens',
      'set a smaller max_gen_toks in the generation_kwargs of the task, or --gen_kwargs',
    )
    texts = [self._tokenizer.encode_marked(context) for context in contexts]
    _tell_cut(sum(len(ids) > room for ids in texts), self._longest)
    return [layout(ids[-room:]) for ids in texts]


def _tell_cut(num: int, longest: int) -> None:
  if num:
    what = f'{num} contexts were too long: their first tokens are left out, to fit {longest}'
    logging.getLogger(__name__).warning(what)


def _sampler(options: dict[str, Any]) -> decoding.Sampler:
  """Returns the sampler of normalised generation_kwargs: greedy, if they do not say otherwise."""
  if not options['do_sample']:
    return decoding.Sampler()
  restrictions = {name: options[name] for name in ('top_k', 'top_p') if name in options}
  return decoding.Sampler(temperature=options.get('temperature', 1.0), **restrictions)


def register() -> None:
  """Makes `t5lite` a name that lm-eval's `--model` knows, in this process."""
  registry.register_model('t5lite')(Workdir)
