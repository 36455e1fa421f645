"""A page on which people rate the answers of two runs, side by side and blinded.

The page does not say which run wrote which text: that is in its key, a file in the first workdir.
The order of the rows and the sides are drawn by a seed.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import html
import json
import pathlib
import random
from typing import Any, NamedTuple

from t5lite import config as config_lib
from t5lite import errors
from t5lite import jsonl
from t5lite.insight import page
from t5lite.insight import task_results

FOLDER = 'human_evaluation'  # of the first workdir: keys, and pages without another place
SCRIPT = pathlib.Path(__file__).with_name('rating.js')
# Nothing from elsewhere is loaded, whatever the texts say.
HEAD = (
  '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
  "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
)
STYLE = """
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.text { background: var(--card); border-radius: .5rem; padding: .8rem 1rem; margin: 0;
  white-space: pre-wrap; overflow-wrap: anywhere; min-height: 3rem; max-height: 24rem;
  overflow: auto; font: inherit; font-size: .95rem; }
.row { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1.25rem 0; align-items: center; }
button { font: inherit; padding: .5rem 1rem; border-radius: .5rem; cursor: pointer;
  border: 1px solid var(--rule); background: var(--ground); color: var(--ink); }
button[aria-pressed=true] { border-color: var(--train); box-shadow: inset 0 0 0 1px var(--train); }
details { border: 0; } .row.main button { flex: 1; }
progress { flex: 1; min-width: 8rem; accent-color: var(--train); }
kbd { color: var(--faint); font: inherit; font-size: .85rem; }
"""
BODY = """<p class="above">{task}, {side}</p>
<h1>Which text is better?</h1>
<noscript><p class="warning">This page needs its script to run.</p></noscript>
<p id="notice" class="warning" hidden></p>
<div class="row"><progress id="progress" max="{count}" value="0"></progress>
<span id="place" class="note"></span></div>
<h3>Input</h3>
<div id="text-inputs" class="text" dir="auto"></div>
<details><summary>Reference</summary>
<div id="text-references" class="text" dir="auto"></div></details>
<div class="pair">
<section><h3>Left</h3><div id="text-left" class="text" dir="auto"></div></section>
<section><h3>Right</h3><div id="text-right" class="text" dir="auto"></div></section>
</div>
<div class="row main">
<button id="left">Left is better <kbd>&larr;</kbd></button>
<button id="tie">Tie <kbd>T</kbd></button>
<button id="right">Right is better <kbd>&rarr;</kbd></button>
</div>
<div class="row">
<button id="back">Back <kbd>B</kbd></button>
<button id="next">Next <kbd>N</kbd></button>
<button id="save">Save the ratings <kbd>S</kbd></button>
<button id="anew">Another rater</button>
</div>
<p class="note">The browser keeps what you chose: close the page and go on later. Pairs are in a
random order, so it is fine to stop before the last. Send back the file that is saved.</p>
<script type="application/json" id="page">{data}</script>
<script>
{script}</script>"""


@dataclasses.dataclass(frozen=True)
class Key:
  """What a page leaves out: whose texts are where.

  Attributes:
    workdirs: of the two runs.
    steps: of their checkpoints.
    first_is: of each pair on the page, the side of the first run's text: 'left' or 'right'.
    rows: of each pair, the number of its row in the results.
    same: rows that are not on the page, as both runs gave the same answer.
    texts: SHA-256 of the pairs as they are on the page.
  """

  task: str
  side: str
  workdirs: Sequence[str]
  steps: Sequence[int]
  seed: int
  first_is: Sequence[str]
  rows: Sequence[int]
  same: int
  texts: str

  @property
  def page_id(self) -> str:
    """What the page and its ratings are known by; no other key has it."""
    return _digest(dataclasses.asdict(self))[:16]


class Written(NamedTuple):
  """A page, its key, and how many pairs there are to rate."""

  page: pathlib.Path
  key: pathlib.Path
  num_pairs: int


def write(
  workdir: str, versus: str, task: str, side: str, *, seed: int = 0, output: str = ''
) -> Written:
  """Writes the page and its key.

  Args:
    workdir: of the first run, which keeps the key.
    versus: workdir of the second run.
    task: both have answered.
    side: 'validation' or 'test': which rows.
    seed: of the order and of the sides.
    output: file for the page; '': WORKDIR/human_evaluation/TASK-SIDE.html.

  Raises:
    ConfigError: there is no such directory for the page.
    DataError: a run has not answered the task, or not the same rows, or both gave the same answers.
    DiskError: a file cannot be written.
  """
  if output:
    parent = pathlib.Path(output).absolute().parent
    errors.check(parent.is_dir(), 'no such directory', f'--output={output}', 'make it first')
  first, second = (_result(each, task, side) for each in (workdir, versus))
  key, items = pair(first, second, (workdir, versus), seed)
  folder = pathlib.Path(workdir) / FOLDER
  page_path = pathlib.Path(output) if output else folder / f'{first.name}-{side}.html'
  key_path = path_of_key(workdir, key.page_id)
  with jsonl.disk_errors(folder):
    folder.mkdir(exist_ok=True)
  jsonl.replace(key_path, json.dumps(dataclasses.asdict(key)) + '\n')
  jsonl.replace(page_path, document(key, items))
  return Written(page_path, key_path, len(items))


def path_of_key(workdir: str | pathlib.Path, page_id: str) -> pathlib.Path:
  return pathlib.Path(workdir) / FOLDER / f'{page_id}.key.json'


def _result(workdir: str, task: str, side: str) -> task_results.Result:
  task = task.removeprefix(config_lib.TASK)
  path = task_results.path_of(workdir, task, side)
  if not path.is_file():
    remedy = f't5lite evaluate --workdir={workdir} --tasks={task} --split={side}'
    raise errors.DataError('no answers to rate', f'{path} is missing', f'run {remedy}')
  return task_results.read(path)


def pair(
  first: task_results.Result, second: task_results.Result, workdirs: tuple[str, str], seed: int
) -> tuple[Key, list[dict[str, str]]]:
  """Returns the key, and the pairs of texts as the page shows them.

  Raises:
    DataError: the rows are not the same, or all answers are.
  """
  where = f'{first.name}-{first.side} of {workdirs[0]} and {workdirs[1]}'
  if [(r.inputs, r.target) for r in first.rows] != [(r.inputs, r.target) for r in second.rows]:
    counts = f'{len(first.rows)} and {len(second.rows)} rows'
    remedy = 'run t5lite evaluate on both with the same --examples, of the same kind of model'
    raise errors.DataError('not the same rows', f'{where}, {counts}', remedy)
  rows = list(zip(first.rows, second.rows, strict=True))
  differ = [i for i, (one, two) in enumerate(rows) if one.answer.strip() != two.answer.strip()]
  if not differ:
    raise errors.DataError('both gave the same answers', where, 'compare other checkpoints')
  draw = random.Random(seed)
  draw.shuffle(differ)
  first_is = [draw.choice(('left', 'right')) for _ in differ]
  items = [_item(*rows[row], side) for row, side in zip(differ, first_is, strict=True)]
  key = Key(
    task=first.name,
    side=first.side,
    workdirs=list(workdirs),
    steps=[first.step, second.step],
    seed=seed,
    first_is=first_is,
    rows=differ,
    same=len(rows) - len(differ),
    texts=_digest(items),
  )
  return key, items


def _item(first: task_results.Row, second: task_results.Row, first_is: str) -> dict[str, str]:
  answers = (first.answer, second.answer)
  left, right = answers if first_is == 'left' else answers[::-1]
  references = '\n'.join(dict.fromkeys((first.target, *first.references)))
  return {'inputs': first.inputs, 'references': references, 'left': left, 'right': right}


def document(key: Key, items: Sequence[dict[str, str]]) -> str:
  """Returns the page."""
  data = json.dumps({'id': key.page_id, 'task': key.task, 'items': list(items)})
  body = BODY.format(
    task=html.escape(key.task),
    side=key.side,
    count=len(items),
    data=data.replace('<', '\\u003c'),  # no text of a row ends the script
    script=SCRIPT.read_text(encoding='utf-8'),
  )
  return page.document(f'Rate {key.task}', body, f'{HEAD}\n<style>{STYLE}</style>')


def _digest(value: Any) -> str:
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
