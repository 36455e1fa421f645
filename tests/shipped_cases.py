"""Rows as tensorflow-datasets has them, and the text that the tasks that ship make of them.

The texts are those of Raffel et al. (2020), appendix D, and of its authors' code where the paper
shows none. Every label is here, by the name that the dataset gives it.
"""

from collections import defaultdict
from typing import Any, NamedTuple

from t5lite import tasks


class Case(NamedTuple):
  """A row of a split, and what becomes of it: for a model that writes, and for an encoder."""

  split: str
  row: dict[str, Any]
  inputs: str
  targets: str
  texts: tuple[str, ...] = ()
  references: tuple[str, ...] = ()  # (): the target
  group: str = ''


def _case(split: str, inputs: str, targets: str, *texts: str, label: Any = None, **row) -> Case:
  return Case(split, {**row, 'label': targets if label is None else label}, inputs, targets, texts)


def _pairs(
  start: str, names: tuple[str, str], labels: tuple[str, ...], *, swapped: bool = False
) -> list[Case]:
  """Returns a row of each label; with `swapped`, T5 writes the second text first."""
  cases = []
  for number, label in enumerate(labels):
    texts = f'Rain fell {number} times.', f'It was wet, "{number}" times {{so}}.'
    shown = [f'{name}: {text}' for name, text in zip(names, texts, strict=True)]
    inputs = ' '.join([start, *(shown[::-1] if swapped else shown)])
    split = 'validation' if number else 'train'
    row = dict(zip(names, texts, strict=True))
    cases.append(_case(split, inputs, label, *texts, **row))
  return cases


ENTAILED = ('entailment', 'not_entailment')
SENTENCES = ('sentence1', 'sentence2')
ENTITIES = (
  'Ann Lee of Acme Corp met the EU in New York Grand Prix',
  'B-PER I-PER O B-ORG I-ORG O O B-ORG O B-LOC I-LOC B-MISC I-MISC',
)
ARTICLE = 'Storms hit the coast. They left 3 dead.'
MNLI = [
  _case(
    split,
    f'mnli hypothesis: It barked. premise: {premise}',
    label,
    premise,
    'It barked.',
    premise=premise,
    hypothesis='It barked.',
  )
  for split, premise, label in (
    ('train', 'A dog barked.', 'entailment'),
    ('validation_matched', 'A dog slept.', 'contradiction'),
    ('validation_matched', 'A dog ran.', 'neutral'),
    ('validation_mismatched', 'A dog sat.', 'neutral'),
  )
]
CASES: dict[str, list[Case]] = {
  'glue_cola': [
    _case(split, f'cola sentence: {text}', label, text, sentence=text)
    for split, text, label in (
      ('train', 'The cats sleeps.', 'unacceptable'),
      ('validation', 'The cat sleeps.', 'acceptable'),
      ('validation', 'Cat the sleeps.', 'unacceptable'),
    )
  ],
  'glue_sst2': [
    _case(split, f'sst2 sentence: {text}', label, text, sentence=text)
    for split, text, label in (
      ('train', 'a joy to watch ', 'positive'),
      ('validation', 'dull and long ', 'negative'),
    )
  ],
  'glue_mrpc': _pairs('mrpc', SENTENCES, ('not_equivalent', 'equivalent')),
  'glue_qqp': _pairs('qqp', ('question1', 'question2'), ('not_duplicate', 'duplicate')),
  'glue_stsb': [
    _case(
      split,
      f'stsb sentence1: A man eats {score}. sentence2: He eats.',
      text,
      f'A man eats {score}.',
      'He eats.',
      label=score,
      sentence1=f'A man eats {score}.',
      sentence2='He eats.',
    )
    # The nearest of 26 numbers; in between, the even one, as float32 has them.
    for split, score, text in (
      ('train', 0.0, '0.0'),
      ('train', 1.66, '1.6'),
      ('train', 2.6, '2.6'),
      ('validation', 5.0, '5.0'),
      ('validation', 0.5, '0.4'),
      ('validation', 1.5, '1.6'),
      ('validation', 1.7, '1.6'),
      ('validation', 4.75, '4.8'),
    )
  ],
  'glue_mnli': MNLI,
  'glue_mnli_mismatched': MNLI,
  'glue_qnli': _pairs('qnli', ('question', 'sentence'), ENTAILED),
  'glue_rte': _pairs('rte', SENTENCES, ENTAILED),
  'glue_wnli': _pairs('wnli', SENTENCES, ENTAILED[::-1]),
  'superglue_boolq': [
    _case(
      split,
      f'boolq passage: Ice ({n}) floats. question: does ice float',
      label,
      'does ice float',
      f'Ice ({n}) floats.',
      passage=f'Ice ({n}) floats.',
      question='does ice float',
    )
    for split, n, label in (('train', 1, 'True'), ('validation', 2, 'False'))
  ],
  'superglue_cb': _pairs(
    'cb', ('premise', 'hypothesis'), ('entailment', 'contradiction', 'neutral'), swapped=True
  ),
  'superglue_copa': [
    _case(
      split,
      f'copa choice1: I slept. choice2: I ran. premise: I was late. question: {question}',
      label,
      f'I was late. What is the {question}?',
      'choice1: I slept. choice2: I ran.',
      premise='I was late.',
      choice1='I slept.',
      choice2='I ran.',
      question=question,
    )
    for split, question, label in (
      ('train', 'cause', 'choice1'),
      ('validation', 'effect', 'choice2'),
    )
  ],
  'superglue_multirc': [
    _case(
      split,
      f'multirc question: Who? answer: {answer} paragraph: Sent 1: Joe left. Sent 2: <He> ran.',
      label,
      f'Who? {answer}',
      'Sent 1: Joe left. Sent 2: <He> ran.',
      question='Who?',
      answer=answer,
      paragraph='<b>Sent 1: </b>Joe left.<br><b>Sent 2: </b><He> ran.',
      idx={'paragraph': 1, 'question': 2, 'answer': 3},
    )._replace(group='Sent 1: Joe left. Sent 2: <He> ran. Who?')
    for split, answer, label in (('train', 'Joe', 'True'), ('validation', 'Jim', 'False'))
  ],
  'superglue_record': [
    Case(
      split,
      {
        'passage': 'Ann met "Bob"\n@highlight\nBob left!\n@highlight\nAnn stayed\n@highlight\nEnd',
        'query': f'@placeholder stayed {split}',
        'entities': ['Ann', 'Ann Lee', 'Bob'],
        'answers': ['Ann', 'Ann Lee'],
        'idx': {'passage': 1, 'query': 2},
      },
      f'record query: @placeholder stayed {split} entities: Ann, Ann Lee, Bob '
      'passage: Ann met "Bob" Bob left! Ann stayed. End',
      'Ann',
      references=('Ann', 'Ann Lee'),
    )
    for split in ('train', 'validation')
  ],
  'superglue_rte': _pairs('rte', ('premise', 'hypothesis'), ENTAILED, swapped=True),
  'superglue_wic': [
    _case(
      split,
      f'wic sentence1: {one} sentence2: A river bank. word: bank',
      label,
      f'bank: {one}',
      'A river bank.',
      sentence1=one,
      sentence2='A river bank.',
      word='bank',
      **dict.fromkeys(('start1', 'start2', 'end1', 'end2'), 1),
    )
    for split, one, label in (
      ('train', 'A bank of clay.', 'True'),
      ('validation', 'Money in a bank.', 'False'),
    )
  ],
  'superglue_wsc': [
    _case(
      split,
      f'wsc text: {marked}',
      label,
      marked,
      text=text,
      span1_text=noun[0],
      span1_index=noun[1],
      span2_text=pronoun[0],
      span2_index=pronoun[1],
    )
    for split, text, noun, pronoun, marked, label in (
      (
        'train',
        'Mr. Ray told Tom that he won.',
        ('Mr. Ray', 0),
        ('he', 5),
        '* Mr. Ray * told Tom that # he # won.',
        'True',
      ),
      (
        'validation',
        'When he won, Ray told Tom.',
        ('Tom', 5),
        ('he', 1),
        'When # he # won, Ray told * Tom *.',
        'False',
      ),
      (  # A span that is not where it should be is left.
        'validation',
        'Ray and old Tom won because he ran.',
        ('Ray and Tom', 0),
        ('he', 6),
        'Ray and old Tom won because he ran.',
        'False',
      ),
    )
  ],
  'squad': [
    Case(
      split,
      {
        'id': split,
        'title': 'Ice',
        'context': 'Ice melts (at 0 C).',
        'question': f'When does ice melt, {split}?',
        'answers': {
          'text': list(answers),
          'answer_start': [11 + 'at 0 C'.index(answer) for answer in answers],
        },
      },
      f'question: When does ice melt, {split}? context: Ice melts (at 0 C).',
      answers[0],
      (f'When does ice melt, {split}?', 'Ice melts (at 0 C).'),
      answers,
    )
    for split, answers in (('train', ('0 C',)), ('validation', ('at 0 C', '0', '0 C')))
  ],
  'conll2003': [
    Case(
      split,
      {'tokens': ENTITIES[0].split(), 'ner': ENTITIES[1].split()}
      | {name: ['NN'] * 13 if name == 'pos' else ['B-NP'] * 13 for name in ('pos', 'chunks')},
      f'tag entities: {ENTITIES[0]}',
      ENTITIES[1],
      (ENTITIES[0],),
    )
    for split in ('train', 'dev', 'test')
  ],
  'cnn_dailymail': [
    Case(
      split,
      {
        'article': ARTICLE,
        'highlights': f'Storms in {split}.\n3 dead .',
        'id': '1',
        'publisher': 'x',
      },
      f'summarize: {ARTICLE}',
      f'Storms in {split}.\n3 dead .',
    )
    for split in ('train', 'validation', 'test')
  ],
  'xsum': [
    Case(
      split,
      {'document': ARTICLE, 'summary': f'Storms killed 3 in {split}.'},
      f'summarize: {ARTICLE}',
      f'Storms killed 3 in {split}.',
    )
    for split in ('train', 'validation', 'test')
  ],
  **{
    name: [
      Case(
        split,
        {'en': f'That is good, {split}.', code: f'{other} {split}.'},
        f'translate English to {language}: That is good, {split}.',
        f'{other} {split}.',
      )
      for split in ('train', 'validation', 'test')
    ]
    for name, code, language, other in (
      ('wmt14_en_de', 'de', 'German', 'Das ist gut für'),
      ('wmt14_en_fr', 'fr', 'French', "C'est très bien pour"),
      ('wmt16_en_ro', 'ro', 'Romanian', 'Acest lucru e bun în'),
    )
  },
  'imdb': [
    _case(split, f'imdb review: {text}', label, text, label=name, text=text)
    for split, text, label, name in (
      ('train', 'A fine film.<br />Watch it.', 'positive', 'pos'),
      ('train', 'A poor film.', 'negative', 'neg'),
      ('test', 'Bad.', 'negative', 'neg'),
      ('test', 'Good.', 'positive', 'pos'),
    )
  ],
}
# Where the datasets have rows without an answer, and how they say so.
WITHOUT_ANSWERS = {'superglue_record': {'answers': []}, 'glue_stsb': {'label': -1.0}}


def unanswered(name: str) -> str:
  """Returns the split whose rows have no answer; '' if every split has them."""
  if name.startswith('glue_mnli'):
    return 'test_matched'
  return {'imdb': 'unsupervised'}.get(name, 'test' if name.startswith(('glue', 'super')) else '')


def rows() -> dict[str, dict[str, list[dict[str, Any]]]]:
  """Returns the rows of each split of each dataset, with all their features."""
  made = {}
  for name, cases in CASES.items():
    splits = defaultdict(list)
    for case in cases:
      splits[case.split].append({'idx': 0, **case.row})
    if split := unanswered(name):
      splits[split].append({'idx': 0, **cases[0].row, **WITHOUT_ANSWERS.get(name, {'label': -1})})
    source = tasks.SHIPPED[name].source.removeprefix('tfds:')
    if 'glue' not in source:  # whose rows alone are counted
      splits = {key: [_without_number(row) for row in some] for key, some in splits.items()}
    made[source] = splits
  return made


def _without_number(row: dict[str, Any]) -> dict[str, Any]:
  return {key: value for key, value in row.items() if key != 'idx'}
