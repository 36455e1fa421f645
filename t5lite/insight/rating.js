// The page for rating: shows one pair of texts after the other and keeps what was chosen.
// Texts reach the page as text only, never as markup.
'use strict';

const page = JSON.parse(document.getElementById('page').textContent);
const stored = 't5lite-rating-' + page.id;
const choices = ['left', 'tie', 'right'];
const keys = {
  ArrowLeft: () => choose('left'),
  ArrowRight: () => choose('right'),
  t: () => choose('tie'),
  b: () => show(current - 1),
  n: () => show(current + 1),
  s: save,
};
let state = load();
let current = 0;

function load() {
  try {
    const found = JSON.parse(localStorage.getItem(stored));
    if (typeof found?.rater === 'string' && found.chosen instanceof Object) return found;
  } catch (error) {
    tell(`This browser keeps nothing (${error.name}): save before you close the page.`);
  }
  return anew();
}

function anew() {
  const rater = Math.floor(Math.random() * 2 ** 32).toString(16).padStart(8, '0');
  return { rater, chosen: {} };
}

function keep() {
  try {
    localStorage.setItem(stored, JSON.stringify(state));
  } catch (error) {
    tell(`This browser keeps nothing (${error.name}): save before you close the page.`);
  }
}

function tell(text) {
  const notice = document.getElementById('notice');
  notice.textContent = text;
  notice.hidden = false;
}

// Returns the first pair that has no choice yet, from a place on and then from the start; -1: none.
function nextOpen(from) {
  for (let i = 0; i < page.items.length; i++) {
    const item = (from + i) % page.items.length;
    if (!(item in state.chosen)) return item;
  }
  return -1;
}

function choose(choice) {
  state.chosen[current] = choice;
  keep();
  const open = nextOpen(current);
  if (open < 0) tell('All pairs are rated: save the ratings.');
  show(open < 0 ? current : open);
}

function show(item) {
  current = Math.min(Math.max(item, 0), page.items.length - 1);
  const shown = page.items[current];
  for (const part of ['inputs', 'references', 'left', 'right']) {
    document.getElementById('text-' + part).textContent = shown[part];
  }
  for (const choice of choices) {
    const pressed = state.chosen[current] === choice;
    document.getElementById(choice).setAttribute('aria-pressed', String(pressed));
  }
  const rated = Object.keys(state.chosen).length;
  document.getElementById('progress').value = rated;
  const place = `Pair ${current + 1} of ${page.items.length}, ${rated} rated`;
  document.getElementById('place').textContent = place;
}

function save() {
  const rated = page.items.map((_, item) => ({ item, choice: state.chosen[item] }));
  const ratings = rated.filter((one) => one.choice);
  const saved = JSON.stringify({ page: page.id, rater: state.rater, ratings }, null, 1);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([saved + '\n'], { type: 'application/json' }));
  link.download = `ratings-${page.task}-${state.rater}.json`;
  link.click();
}

function startAnew() {
  if (!confirm('Start as another rater? What is not saved is lost.')) return;
  state = anew();
  keep();
  document.getElementById('notice').hidden = true;
  show(0);
}

for (const choice of choices) {
  document.getElementById(choice).addEventListener('click', () => choose(choice));
}
document.getElementById('back').addEventListener('click', keys.b);
document.getElementById('next').addEventListener('click', keys.n);
document.getElementById('save').addEventListener('click', save);
document.getElementById('anew').addEventListener('click', startAnew);
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  const action = keys[event.key] || keys[event.key.toLowerCase()];
  if (!action) return;
  event.preventDefault();
  action();
});
keep();
show(Math.max(nextOpen(0), 0));
