"""How far two raters agree."""

from collections.abc import Sequence

from t5lite import extras


def of_two(first: Sequence[str], second: Sequence[str]) -> tuple[float, float | None]:
  """Returns the share of equal ratings, and how far it is above chance: Cohen's kappa (1960).

  Kappa is not defined, and None, where both gave one and the same rating throughout.

  Raises:
    ConfigError: scikit-learn is not installed.
  """
  share = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
  if len({*first, *second}) == 1:
    return share, None
  with extras.needed('tasks'):
    from sklearn import metrics
  return share, float(metrics.cohen_kappa_score(list(first), list(second)))
