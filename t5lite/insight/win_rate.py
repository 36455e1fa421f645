"""Which of two runs people prefer, from the ratings that a page for rating saved."""

from collections.abc import Sequence
import dataclasses
import itertools
import pathlib
import re
from typing import Any

from t5lite import errors
from t5lite.insight import rating
from t5lite.insight import task_results
from t5lite.tasks import agreement
from t5lite.tasks import calibration

CHOICES = ('left', 'right', 'tie')
SCORES = {'first': 1.0, 'tie': 0.5, 'second': 0.0}


@dataclasses.dataclass(frozen=True)
class Ratings:
  """What one rater chose: of pairs by their number on the page."""

  path: pathlib.Path
  page_id: str
  rater: str
  choices: dict[int, str]


@dataclasses.dataclass(frozen=True)
class WinRate:
  """How often people prefer the first run's answers.

  Attributes:
    key: of the page.
    preferred: of each rater, 'first', 'second' or 'tie' by the number of the pair.
    left: choices of the left text.
  """

  key: rating.Key
  preferred: Sequence[dict[int, str]]
  left: int

  def counts(self) -> dict[str, int]:
    """Returns how many ratings there are of each kind."""
    every = [choice for one in self.preferred for choice in one.values()]
    return {kind: every.count(kind) for kind in SCORES}

  def pairs(self) -> list[float]:
    """Returns the mean score of each pair that was rated: 1 for the first run, 1/2 for a tie."""
    scores: dict[int, list[float]] = {}
    for one in self.preferred:
      for item, choice in one.items():
        scores.setdefault(item, []).append(SCORES[choice])
    return [sum(found) / len(found) for found in scores.values()]

  def rate(self) -> float:
    pairs = self.pairs()
    return sum(pairs) / len(pairs)

  def interval(self) -> tuple[float, float]:
    """Returns the 95 % interval; a pair is one trial, however many have rated it."""
    pairs = self.pairs()
    return calibration.interval(sum(pairs), len(pairs))

  def __str__(self) -> str:
    (first, second), counts = self.key.workdirs, self.counts()
    low, high = self.interval()
    decided = counts['first'] + counts['second']
    lines = [
      f'{self.key.task} ({self.key.side}): {first}, step {self.key.steps[0]}, '
      f'against {second}, step {self.key.steps[1]}',
      f'win rate of {first}: {self.rate():.1%}, 95 % interval {low:.1%} to {high:.1%} '
      f'(Wilson, a tie counts half)',
      f'{sum(counts.values())} ratings of {len(self.pairs())} pairs, raters: '
      f'{len(self.preferred)}; better: {first} {counts["first"]}, {second} {counts["second"]}, '
      f'ties {counts["tie"]}',
      f'the left text was preferred in {self.left} of {decided}',
    ]
    if self.key.same:
      lines.append(f'not rated, as both gave the same answer: {self.key.same} rows')
    return '\n'.join([*lines, *self.agreements()])

  def agreements(self) -> list[str]:
    """Returns a line for each two raters with pairs in common."""
    lines = []
    for (i, one), (j, two) in itertools.combinations(enumerate(self.preferred, 1), 2):
      if common := sorted(one.keys() & two.keys()):
        answers = [one[item] for item in common], [two[item] for item in common]
        share, kappa = agreement.of_two(*answers)
        said = 'not defined' if kappa is None else f'{kappa:.3f}'
        lines.append(
          f"raters {i} and {j} agree on {share:.1%} of {len(common)}, Cohen's kappa {said}"
        )
    return lines


def compute(workdir: str, files: Sequence[str]) -> WinRate:
  """Returns the win rate from the files that raters saved, by the key in the workdir.

  Raises:
    DataError: a file is damaged, of another page, or of a rater who is there already.
  """
  every = [read(pathlib.Path(file)) for file in files]
  key = read_key(workdir, every[0])
  preferred = []
  for number, one in enumerate(every):
    if one.page_id != key.page_id:
      where = f'{one.path} ({one.page_id}) and {every[0].path} ({key.page_id})'
      raise errors.DataError(
        'ratings of different pages', where, 'give those of one page at a time'
      )
    if twice := [other for other in every[:number] if other.rater == one.rater]:
      where = f'{twice[0].path} and {one.path} are both of {one.rater}'
      raise errors.DataError('a rater twice', where, 'give the newest file of each rater')
    preferred.append(unblinded(key, one))
  left = sum(choice == 'left' for one in every for choice in one.choices.values())
  return WinRate(key, preferred, left)


def unblinded(key: rating.Key, ratings: Ratings) -> dict[int, str]:
  if beyond := [item for item in ratings.choices if item >= len(key.rows)]:
    where = f'{ratings.path}: pair {beyond[0]} of {len(key.rows)}'
    raise errors.DataError('damaged ratings', where, 'save them again from the page')
  return {
    item: 'tie' if choice == 'tie' else 'first' if choice == key.first_is[item] else 'second'
    for item, choice in ratings.choices.items()
  }


def read(path: pathlib.Path) -> Ratings:
  """Returns the ratings in a file.

  Raises:
    DataError: it is damaged, or holds none.
  """
  remedy = 'save them again from the page'
  found = task_results.read_json(path, 'damaged ratings', remedy)
  if not _is_sound(found):
    raise errors.DataError('not the ratings of a page', path, remedy)
  if not found['ratings']:
    raise errors.DataError('nothing rated', path, 'rate a pair or more before you save')
  choices = {one['item']: one['choice'] for one in found['ratings']}
  return Ratings(path, found['page'], found['rater'], choices)


def _is_sound(found: Any) -> bool:
  if not isinstance(found, dict) or set(found) != {'page', 'rater', 'ratings'}:
    return False
  page_id, rater, ratings = found['page'], found['rater'], found['ratings']
  if not isinstance(page_id, str) or not re.fullmatch('[0-9a-f]{16}', page_id):
    return False
  if not isinstance(rater, str) or not isinstance(ratings, list):
    return False
  if not all(isinstance(one, dict) and set(one) == {'item', 'choice'} for one in ratings):
    return False
  items = [one['item'] for one in ratings]
  fair = all(type(item) is int and item >= 0 for item in items)
  return fair and len(set(items)) == len(items) and all(one['choice'] in CHOICES for one in ratings)


def read_key(workdir: str, ratings: Ratings) -> rating.Key:
  """Returns the key of the page that was rated.

  Raises:
    DataError: it is not in the workdir, or damaged.
  """
  path = rating.path_of_key(workdir, ratings.page_id)
  if not path.is_file():
    where = f'{ratings.path}: {path} is missing'
    remedy = 'give the --workdir with which the page was made'
    raise errors.DataError('ratings of another page', where, remedy)
  remedy = 'make the page again, with the same results and --seed'
  found = task_results.read_json(path, 'damaged key of a page', remedy)
  try:
    key = rating.Key(**found)
  except TypeError as error:
    raise errors.DataError('damaged key of a page', path, remedy) from error
  if key.page_id != ratings.page_id:
    raise errors.DataError('damaged key of a page', path, remedy)
  return key
