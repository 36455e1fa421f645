"""Metrics of tasks: each against its formula written out, and what is wrong or odd about texts."""

from collections import Counter
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from t5lite import errors
from t5lite.tasks import calibration
from t5lite.tasks import metrics

ANIMALS = ['cat', 'dog', 'cat', 'cow', 'dog', 'cat']
GUESSES = ['cat', 'cat', 'cat', 'dog', 'dog', 'a fish']


def test_f1_is_that_of_the_counts_and_a_stray_prediction_is_a_miss():
  """Cat: 2 right of 3 said and 3 there; dog: 1 of 2 and 2; cow: never said; fish: no label."""
  values = metrics.compute('f1', GUESSES, ANIMALS)
  expected = {'f1/cat': 2 / 3, 'f1/cow': 0.0, 'f1/dog': 1 / 2}
  expected['f1_macro'] = sum(expected.values()) / 3
  assert values == pytest.approx(expected)
  assert metrics.compute('accuracy', GUESSES, ANIMALS) == {'accuracy': 3 / 6}


def test_matthews_is_the_correlation_of_two_labels():
  rng = np.random.default_rng(0)
  right, given = rng.integers(0, 2, 40), rng.integers(0, 2, 40) | rng.integers(0, 2, 40)
  texts = [['no' if x == 0 else 'yes' for x in side] for side in (given, right)]
  expected = np.corrcoef(given, right)[0, 1]
  assert metrics.compute('matthews', *texts)['matthews'] == pytest.approx(expected)
  stray = metrics.compute('matthews', ['?', *texts[0][1:]], texts[1])['matthews']
  assert np.isfinite(stray) and stray != pytest.approx(expected)


@pytest.mark.parametrize('side', [0, 1])
@pytest.mark.parametrize('name', ['matthews', 'pearson', 'spearman'])
def test_a_constant_has_no_correlation(name, side):
  texts = [['1', '2', '3'], ['1', '2', '3']]
  assert metrics.compute(name, *texts)[name] == pytest.approx(1)
  texts[side] = ['2', '2', '2']
  assert metrics.compute(name, *texts)[name] == 0
  assert metrics.compute(name, ['1'], ['2'])[name] == 0


def test_correlations_are_of_the_numbers_and_of_their_ranks():
  rng = np.random.default_rng(0)
  right, given = rng.normal(size=30), rng.exponential(size=30)
  texts = [[repr(float(x)) for x in side] for side in (given, right)]
  ranks = [np.argsort(np.argsort(side)) for side in (given, right)]
  pearson, spearman = (metrics.compute(name, *texts) for name in ('pearson', 'spearman'))
  assert pearson['pearson'] == pytest.approx(np.corrcoef(given, right)[0, 1])
  assert spearman['spearman'] == pytest.approx(np.corrcoef(*ranks)[0, 1])


@pytest.mark.parametrize('text', ['', 'nan', '-inf', 'about four'])
def test_a_prediction_that_is_no_number_is_as_wrong_as_can_be(text):
  right = ['0', '1', '4', '5']
  values = metrics.compute('pearson', ['0', '1', '4', text], right)
  assert values['pearson'] == pytest.approx(np.corrcoef([0, 1, 4, 0], [0, 1, 4, 5])[0, 1])
  assert values['pearson_no_numbers'] == 1 / 4
  with pytest.raises(errors.DataError, match='reference is no number'):
    metrics.compute('pearson', right, ['0', '1', '4', text])


# What the rules of SQuAD's own script come to, worked out by hand.
SQUAD = [
  ('The Eiffel Tower.', ['Eiffel tower'], 1, 1),
  ('an  Apple\na day', ['apple day'], 1, 1),
  ('theatre', ['atre'], 0, 0),  # an article is a word of its own
  ("rock'n'roll", ['rocknroll'], 1, 1),
  ('in 1887', ['1889', '1887'], 0, 2 * (1 / 2) * 1 / (1 / 2 + 1)),
  ('to be or not to be', ['to be, to be'], 0, 2 * (4 / 6) * 1 / (4 / 6 + 1)),
  ('“Yes”', ['Yes'], 0, 0),  # only ASCII punctuation goes
  ('the', ['a'], 1, 0),  # both empty: the same, and no word shared
]


@pytest.mark.parametrize('prediction, references, exact, f1', SQUAD)
def test_answers_are_compared_as_squad_does(prediction, references, exact, f1):
  assert metrics.compute('exact_match', [prediction], [references]) == {'exact_match': exact}
  assert metrics.compute('token_f1', [prediction], [references])['token_f1'] == pytest.approx(f1)


SAID = ['the cat sat on the mat today', 'it rains in the city now', 'we went home']
MEANT = [
  ['the cat sat on the mat', 'a cat sat today on the mat'],
  ['it rains in the city very much'],
  ['we all went back home', 'we went home at night', 'then we went home'],
]


def grams(text, size):
  words = text.split()
  return Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))


def test_bleu_is_papinenis():
  """Clipped n-gram precisions of the corpus, and the brevity penalty to the closest length."""
  logs = 0.0
  for size in (1, 2, 3, 4):
    right = total = 0
    for said, meant in zip(SAID, MEANT, strict=True):
      most = Counter()
      for reference in meant:
        most |= grams(reference, size)
      right += (grams(said, size) & most).total()
      total += grams(said, size).total()
    logs += math.log(right / total) / 4
  length = sum(len(said.split()) for said in SAID)
  closest = 7 + 7 + 4
  expected = 100 * math.exp(logs + min(0, 1 - closest / length))
  assert metrics.compute('bleu', SAID, MEANT) == {'bleu': pytest.approx(expected)}


def test_chrf_is_popovics():
  """F2 of the mean precision and recall of characters' 1- to 6-grams, without spaces."""
  said, meant = 'the cat sat on it', 'the cats sat on mats'
  sides = [' '.join(text.replace(' ', '')) for text in (said, meant)]
  rates = []
  for size in range(1, 7):
    one, other = (grams(side, size) for side in sides)
    rates.append([(one & other).total() / side.total() for side in (one, other)])
  precision, recall = np.mean(rates, axis=0)
  expected = 100 * 5 * precision * recall / (4 * precision + recall)
  assert metrics.compute('chrf', [said], [meant])['chrf'] == pytest.approx(expected, abs=1e-6)


def test_the_signature_says_how_bleu_was_made():
  assert 'nrefs:var' in metrics.signature('bleu', MEANT)
  assert 'nrefs:1|' in metrics.signature('chrf', ['one', 'two'])
  assert 'tok:13a' in metrics.signature('bleu', ['one'])
  assert 'stemmer' in metrics.signature('rouge', ['one'])
  assert metrics.signature('accuracy', ['one']) == ''


def test_rouge_is_lins():
  """Shared words, pairs and longest subsequence, by hand; cats and cat have one stem."""
  values = metrics.compute('rouge', ['cats sat there'], [['no word', 'The cat, there it sat']])
  precision, recall = 3 / 3, 3 / 5
  f = lambda p, r: 2 * p * r / (p + r)
  assert values['rouge1'] == pytest.approx(f(precision, recall))
  assert values['rouge2'] == 0
  assert values['rougeL'] == pytest.approx(f(2 / 3, 2 / 5))


def test_rouge_lsum_does_not_ask_for_the_order_of_sentences():
  values = metrics.compute('rouge', ['It rained. We left early.'], ['We left early. It rained.'])
  assert values['rougeLsum'] == pytest.approx(1)
  assert values['rougeL'] == pytest.approx(3 / 5)


@pytest.mark.parametrize('name', metrics.METRICS)
def test_empty_predictions_are_worse_than_right_ones(name):
  """And neither is NaN; the texts are numbers, so that every metric takes them."""
  right = ['1 000 000 000', '2 000 000 000'] if name in metrics.MANY else ['1', '2']
  right = ['B-1 O', 'O B-2'] if name == 'entity_f1' else right
  empty, perfect = (metrics.compute(name, given, right) for given in (['', ''], right))
  assert all(map(math.isfinite, [*empty.values(), *perfect.values()]))
  assert tuple(key for key in perfect if '/' not in key) == metrics.names(name)
  first = next(iter(perfect))
  assert empty[first] <= 0
  assert perfect[first] == pytest.approx(100 if name in ('bleu', 'chrf') else 1)


@pytest.mark.parametrize(
  'arguments, message',
  [
    (('acuracy', ['a'], ['a']), "unknown metric: 'acuracy': use one of accuracy, f1"),
    (('accuracy', [], []), '0 predictions, 0 references'),
    (('accuracy', ['a'], ['a', 'b']), '1 predictions, 2 references'),
    (('bleu', ['a', 'b'], [['a'], []]), 'row without a reference: row 1'),
    (('accuracy', ['a', 'b'], [['a'], ['a', 'b']]), 'several references: row 1 has 2 for accuracy'),
  ],
)
def test_what_cannot_be_compared_is_one_line(arguments, message):
  with pytest.raises(errors.UserError, match=message) as error:
    metrics.compute(*arguments)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'name, library',
  [
    ('accuracy', 'sklearn'),
    ('f1', 'sklearn'),
    ('matthews', 'sklearn'),
    ('pearson', 'scipy'),
    ('bleu', 'sacrebleu'),
    ('rouge', 'rouge_score'),
  ],
)
def test_a_missing_library_is_told(monkeypatch, name, library):
  for module in [m for m in sys.modules if m.partition('.')[0] == library]:
    monkeypatch.delitem(sys.modules, module)
  monkeypatch.setitem(sys.modules, library, None)
  with pytest.raises(errors.ConfigError, match=rf"{library}: pip install 't5lite\[tasks\]'"):
    metrics.compute(name, ['1', '2'], ['2', '1'])


def test_no_library_is_imported_before_it_is_needed():
  program = """
import sys
from t5lite.tasks import calibration, metrics
metrics.compute('exact_match', ['a'], ['b'])
print({'sklearn', 'scipy', 'sacrebleu', 'rouge_score', 'jax'} & set(sys.modules))
"""
  out = subprocess.run([sys.executable, '-c', program], check=True, capture_output=True, text=True)
  assert out.stdout == 'set()\n'


def test_calibration_is_that_of_the_bins():
  """Four rows: two of confidence 0.6 (one right), one of 0.9 (wrong), one of 1 (right)."""
  probabilities = np.array([[0.6, 0.4], [0.4, 0.6], [0.1, 0.9], [1, 0]])
  bins = calibration.reliability(probabilities, [0, 0, 0, 0], num_bins=5)
  np.testing.assert_allclose(bins, [(0.6, 0.5, 2), (0.95, 0.5, 2)])
  expected = 2 / 4 * 0.1 + 2 / 4 * 0.45
  assert calibration.expected_error(bins) == pytest.approx(expected)
  edge = calibration.reliability(np.array([[0.7, 0.3], [0.68, 0.32]]), [0, 0])
  np.testing.assert_allclose(edge, [(0.69, 1, 2)])  # though 0.7 * 10 is above 7 here


def test_drawn_labels_are_calibrated():
  """Labels drawn by the probabilities themselves: the error is that of chance alone."""
  rng = np.random.default_rng(0)
  probabilities = rng.dirichlet(np.ones(3), 20_000)
  labels = (probabilities.cumsum(axis=1) < rng.uniform(size=(20_000, 1))).sum(axis=1)
  error = calibration.expected_error(calibration.reliability(probabilities, labels))
  sure = np.eye(3)[probabilities.argmax(axis=1)]
  assert error < 0.02
  assert calibration.expected_error(calibration.reliability(sure, labels)) > 0.2


@pytest.mark.parametrize(
  'probabilities, labels, message',
  [
    ([[0.5, 0.6]], [0], 'not probabilities: .* to 1.1'),
    ([[1.5, -0.5]], [0], 'not probabilities: the least is -0.5'),
    ([[0.5, np.nan]], [0], 'not probabilities'),
    ([[0.5, 0.5]], [2], 'label is no class: from 2 to 2 of 2 classes'),
    ([[0.5, 0.5]], [0, 1], r'not one label a row: probabilities \(1, 2\), labels \(2,\)'),
    ([], [], 'not one label a row'),
  ],
)
def test_what_is_no_probability_is_told(probabilities, labels, message):
  with pytest.raises(errors.DataError, match=message):
    calibration.reliability(np.array(probabilities), labels)


@pytest.mark.parametrize('wins, trials', [(0, 9), (9, 9), (37, 60), (1, 1)])
def test_interval_is_wilsons(wins, trials):
  bounds = stats.binomtest(wins, trials).proportion_ci(method='wilson')
  assert calibration.interval(wins, trials) == pytest.approx(tuple(bounds), abs=1e-12)


def test_half_a_win_is_between_none_and_one():
  half, none, one = [calibration.interval(wins, 9) for wins in (4.5, 4, 5)]
  assert none < half < one and sum(half) == pytest.approx(1)


def test_an_interval_of_nothing_is_everything():
  assert calibration.interval(0, 0) == (0, 1)
  with pytest.raises(errors.DataError, match='not a rate: 3 of 2'):
    calibration.interval(3, 2)


def test_entities_are_right_as_a_whole():
  right = ['B-PER I-PER O B-LOC', 'O B-PER O']
  found = ['B-PER I-PER O O', 'O B-PER I-PER']  # one right, one missed, one too long
  values = metrics.compute('entity_f1', found, right)
  assert values['entity_precision'] == pytest.approx(1 / 2)
  assert values['entity_recall'] == pytest.approx(1 / 3)
  assert values['entity_f1'] == pytest.approx(2 / 5)
  assert values['entity_f1/LOC'] == 0 and values['entity_f1/PER'] == pytest.approx(1 / 2)
  assert (
    metrics.compute('entity_f1', ['O O'], ['O O'])['entity_f1'] == 0
  )  # there is nothing to find
  strays = metrics.compute('entity_f1', ['B-PER I-PER dog B-LOC extra', ''], right)
  assert strays['entity_recall'] == pytest.approx(2 / 3)
  with pytest.raises(errors.DataError, match="label is no part of an entity: 'NOUN'"):
    metrics.compute('entity_f1', ['O'], ['NOUN'])


def test_words_are_compared_one_by_one():
  found, right = metrics.by_word(['a b c', 'a', ''], ['a b', 'b a', 'c'])
  assert right == ['a', 'b', 'b', 'a', 'c'] and found == ['a', 'b', 'a', '', '']
