"""Texts that end at strings, and what of a growing text may be shown already."""

from collections.abc import Iterable, Iterator, Sequence


def cut(text: str, stops: Sequence[str]) -> str:
  """Returns the text before the first of the stop strings; all of it if there is none."""
  places = [text.find(stop) for stop in stops]
  return text[: min([place for place in places if place >= 0], default=len(text))]


def settled(text: str, stops: Sequence[str]) -> str:
  """Returns what of a text stays as it is, whatever comes behind it.

  Its end may be the beginning of a stop string, or of a character whose other bytes are to come,
  which sentencepiece decodes to U+FFFD.
  """
  text = cut(text, stops).rstrip('\N{REPLACEMENT CHARACTER}')
  starts = [
    len(text) - length
    for stop in stops
    for length in range(1, len(stop))
    if text.endswith(stop[:length])
  ]
  return text[: min(starts, default=len(text))]


def pieces(growing: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
  """Yields what is new in each of ever longer texts once it is settled, and in the end the rest."""
  shown, text = '', ''
  for text in growing:
    now = settled(text, stops)
    if len(now) > len(shown):
      yield now[len(shown) :]
      shown = now
  if rest := cut(text, stops)[len(shown) :]:
    yield rest
