"""A dialogue: the turns so far, as the text that a model reads."""

from t5lite import config as config_lib
from t5lite import errors
from t5lite.decoding import generation
from t5lite.decoding import prompts


class Dialogue:
  """The turns of a dialogue, of which the oldest go when the model has no room for them.

  An encoder_decoder reads 'prefix turn separator turn suffix' and writes the next turn; a decoder
  goes on behind the suffix or, if there is none, behind a separator.

  Attributes:
    turns: that are in the context.
    stops: strings that end an answer.
  """

  def __init__(
    self,
    config: config_lib.Config,
    tokenizer: prompts.Tokenizer,
    separator: str,
    prefix: str,
    max_tokens: int,
    *,
    suffix: str = '',
  ):
    """Raises ConfigError if the model does not generate, or `max_tokens` leave no room."""
    generation.check(config.model, [], max_tokens)
    self._config, self._tokenizer = config, tokenizer
    self._separator, self._prefix, self._suffix = separator, prefix, suffix
    self._continues = config.model.architecture == 'decoder'
    self._room = config.context_length
    if self._continues:
      self._room -= max_tokens
    where = f'--max_tokens={max_tokens} of {self._room + max_tokens} tokens'
    errors.check(self._room > 0, 'no room for a dialogue', where, 'ask for fewer new tokens')
    self.turns: list[str] = []
    marks = [separator.strip(), '\n' if self._continues else '']
    self.stops = [mark for mark in marks if mark]

  def ask(self, turn: str) -> str:
    """Returns the text to write behind, with this turn as the last.

    Raises:
      DataError: the turn alone is too long; it is not kept.
    """
    turns, length = [*self.turns, turn], 0
    for first in range(len(turns)):
      text = self._text(turns[first:])
      length = len(prompts.of_texts(self._config, self._tokenizer, [text])[0])
      if length <= self._room:
        self.turns = turns[first:]
        return text
    where = f'{length} tokens, of which {self._room} fit'
    raise errors.DataError('turn too long', where, 'say it in fewer words')

  def answer(self, turn: str) -> None:
    """Keeps what the model wrote as a turn, if it wrote anything."""
    self.turns += [turn.strip()] if turn.strip() else []

  def _text(self, turns: list[str]) -> str:
    text = self._prefix + self._separator.join(turns) + self._suffix
    if not self._continues or self._suffix:
      return text
    # No space at the end: it belongs to the word that comes.
    return (text + self._separator).rstrip()
