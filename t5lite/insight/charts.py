"""Charts as SVG to stand inside a page: over the steps of a run, and of reliability.

Colours and fonts are left to the page: `var(--train)` and so on, so that a chart follows light and
dark. Nothing in the result points outside of it.
"""

from collections.abc import Callable, Sequence
import dataclasses
import html
import io
import re
from typing import Any, Literal

from matplotlib import axes
from matplotlib import figure
from matplotlib import rc_context
from matplotlib import ticker
import numpy as np

from t5lite.tasks import calibration

Color = Literal['ink', 'faint', 'train', 'held-out', 'baseline']
# Stand-ins that matplotlib accepts; no chart uses these colours for themselves.
STAND_INS: dict[Color, str] = {
  'ink': '#010203',
  'faint': '#010204',
  'train': '#010205',
  'held-out': '#010206',
  'baseline': '#010207',
}
MAX_POINTS = 800  # of a line: about what a screen resolves
ROOM_FOR_TEXT = 0.09  # part of an axis that the name of a level takes
SMOOTHING = 30  # a smoothed line averages over a 30th of the run on both sides


@dataclasses.dataclass(frozen=True)
class Series:
  """Values [N] of one metric at steps [N]; a value may be NaN, which leaves a gap."""

  label: str
  steps: np.ndarray
  values: np.ndarray
  color: Color
  style: Literal['line', 'smoothed', 'points'] = 'line'  # smoothed: the values pale behind it


@dataclasses.dataclass(frozen=True)
class Level:
  """A horizontal line with its name on it."""

  label: str
  value: float


@dataclasses.dataclass(frozen=True)
class Chart:
  """What one pair of axes shows."""

  title: str
  unit: str
  series: Sequence[Series]
  levels: Sequence[Level] = ()
  from_zero: bool = False
  percent: bool = False


def svg(chart: Chart, width: float, height: float) -> str:
  """Returns the chart as an <svg> element; sizes in inches, of 72 units each."""

  def paint(plot: axes.Axes) -> None:
    _style(plot, chart)
    for series in chart.series:
      _draw(plot, series, ceiling(chart))
    _limit(plot, chart)
    _draw_levels(plot, chart.levels)

  return _painted(chart.title, width, height, paint)


def reliability(title: str, bins: Sequence[calibration.Bin], width: float, height: float) -> str:
  """Returns accuracy over confidence as an <svg> element; a point's area is its share of rows."""

  def paint(plot: axes.Axes) -> None:
    _style(plot, Chart(title, 'share that is right', (), percent=True))
    plot.set_xlabel('confidence', color=STAND_INS['faint'])
    plot.xaxis.set_major_formatter(lambda x, _: f'{100 * x:g}%')
    plot.plot([0, 1], [0, 1], color=STAND_INS['baseline'], linewidth=1.2, linestyle=(0, (5, 3)))
    x, y = [one.confidence for one in bins], [one.accuracy for one in bins]
    plot.vlines(x, x, y, color=STAND_INS['train'], linewidth=1.2, alpha=0.6)
    num_rows = sum(one.num_rows for one in bins)
    sizes = [12 + 240 * one.num_rows / num_rows for one in bins]
    plot.scatter(x, y, sizes, color=STAND_INS['train'], linewidths=0)
    plot.set(xlim=(0, 1.03), ylim=(-0.03, 1.05))

  return _painted(title, width, height, paint)


def _painted(title: str, width: float, height: float, paint: Callable[[axes.Axes], None]) -> str:
  """Returns what `paint` draws on a pair of axes, as an <svg> element."""
  settings: dict[str, Any] = {
    'svg.fonttype': 'none',
    'svg.hashsalt': f'{title} {width} x {height}',  # ids that no other chart has
    'font.size': 9,
  }
  with rc_context(settings):  # pyright: ignore[reportArgumentType]
    canvas = figure.Figure(figsize=(width, height), layout='constrained')
    canvas.patch.set_visible(False)
    paint(canvas.add_subplot())
    content = io.StringIO()
    canvas.savefig(content, format='svg')
  box = f'viewBox="0 0 {72 * width:g} {72 * height:g}"'
  opening = f'<svg role="img" aria-label="{html.escape(title)}" {box}>'
  return _inline(content.getvalue(), opening)


def smooth(values_N: np.ndarray, most: float = np.inf) -> np.ndarray:
  """Returns centred means over a part of the run, shorter ones at its ends.

  NaN counts nowhere, and a value above `most` as no more than that.
  """
  size = len(values_N)
  index = np.arange(size)
  reach = size // SMOOTHING
  reach = np.clip(np.minimum(index, size - 1 - index), reach // 4, reach)
  known = np.isfinite(values_N)
  sums = np.concatenate(([0.0], np.cumsum(np.where(known, np.minimum(values_N, most), 0))))
  counts = np.concatenate(([0], np.cumsum(known)))
  first, end = np.maximum(index - reach, 0), np.minimum(index + reach + 1, size)
  count = counts[end] - counts[first]
  return np.where(count > 0, (sums[end] - sums[first]) / np.maximum(count, 1), np.nan)


def thin(steps_N: np.ndarray, values_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns at most MAX_POINTS of the points, the least and greatest of each stretch among them."""
  if len(values_N) <= MAX_POINTS:
    return steps_N, values_N
  kept = {0, len(values_N) - 1}
  for stretch in np.array_split(np.arange(len(values_N)), MAX_POINTS // 2 - 1):
    filled = values_N[stretch]
    if np.isfinite(filled).any():
      kept |= {int(stretch[np.nanargmin(filled)]), int(stretch[np.nanargmax(filled)])}
  order = sorted(kept)
  return steps_N[order], values_N[order]


def _style(plot: axes.Axes, chart: Chart) -> None:
  plot.patch.set_visible(False)
  plot.set_xlabel('step', color=STAND_INS['faint'])
  plot.set_ylabel(chart.unit, color=STAND_INS['faint'])
  plot.tick_params(color=STAND_INS['faint'], labelcolor=STAND_INS['faint'], length=0)
  plot.grid(axis='y', color=STAND_INS['faint'], alpha=0.25, linewidth=0.6)
  plot.spines[:].set_visible(False)
  plot.spines.bottom.set(visible=True, color=STAND_INS['faint'], linewidth=0.8)
  plot.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10]))
  plot.yaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
  plot.xaxis.set_major_formatter(lambda x, _: compact(x))
  plot.yaxis.set_major_formatter(lambda y, _: f'{100 * y:g}%' if chart.percent else compact(y))


def compact(value: float) -> str:
  """Returns a number short enough for an axis: 2.5e-5, 0.002, 40, 1.5k, 3M."""
  for unit, letter in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if abs(value) >= unit:
      return f'{value / unit:g}{letter}'
  if 0 < abs(value) <= 1e-4:
    return np.format_float_scientific(float(f'{value:.3g}'), trim='-', exp_digits=1)
  return f'{value:g}'


def _draw(plot: axes.Axes, series: Series, most: float) -> None:
  color = STAND_INS[series.color]
  alone = np.isfinite(series.values).sum() == 1
  if series.style == 'points':
    plot.plot(series.steps, series.values, '-', color=color, linewidth=0.8, alpha=0.6)
    plot.plot(series.steps, series.values, 'o', color=color, markersize=4.5)
  elif series.style == 'line' or alone:
    plot.plot(
      *thin(series.steps, series.values), 'o-' if alone else '-', color=color, linewidth=1.5
    )
  else:
    plot.plot(*thin(series.steps, series.values), color=color, linewidth=0.8, alpha=0.45)
    plot.plot(*thin(series.steps, smooth(series.values, most)), color=color, linewidth=1.8)


def _draw_levels(plot: axes.Axes, levels: Sequence[Level]) -> None:
  """Draws the levels with their names above them, below where another is close above."""
  bottom, top = plot.get_ylim()
  for level in levels:
    gaps = [(other.value - level.value) / (top - bottom) for other in levels]
    below = any(0 < gap < ROOM_FOR_TEXT for gap in gaps)
    plot.axhline(level.value, color=STAND_INS['baseline'], linewidth=1.2, linestyle=(0, (5, 3)))
    plot.annotate(
      level.label,
      (1, level.value),
      xycoords=('axes fraction', 'data'),
      textcoords='offset points',
      xytext=(0, -3 if below else 3),
      ha='right',
      va='top' if below else 'bottom',
      color=STAND_INS['baseline'],
    )


def ceiling(chart: Chart) -> float:
  """Returns the greatest value that a chart shows: all of its first series but for rare spikes.

  Where a run begins is shown however high it is.
  """
  values = chart.series[0].values
  values = values[np.isfinite(values)]
  usual, most = float(np.quantile(values, 0.995)), float(values.max())
  top = usual if most > 2 * abs(usual) else most
  return max(values[0], top, *(level.value for level in chart.levels))


def _limit(plot: axes.Axes, chart: Chart) -> None:
  """Keeps a spike from flattening the rest."""
  plot.set_xlim(left=0)
  values = np.concatenate([series.values for series in chart.series])
  least = min([np.nanmin(values), *(level.value for level in chart.levels)])
  margin = 0.06 * (ceiling(chart) - least) or 0.06 * abs(least)
  plot.set_ylim(0 if chart.from_zero else least - margin, ceiling(chart) + margin)


def _inline(text: str, opening: str) -> str:
  """Returns matplotlib's SVG without what only a file of its own needs, in the page's colours."""
  body = text[text.index('>', text.index('<svg')) + 1 :]
  body = re.sub(r'<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->', '', body, flags=re.DOTALL)
  body = re.sub(r' id="(?![pm][0-9a-f]{10}")[^"]*"', '', body)  # p: clip paths, m: markers
  body = re.sub(r' font-family: [^;"]*;', '', body).replace('xlink:href', 'href')
  for name, stand_in in STAND_INS.items():
    body = body.replace(stand_in, f'var(--{name})')
  return opening + re.sub(r'\s*\n\s*', '\n', body)
