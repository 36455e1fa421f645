"""Five small tasks of free text, in JSON-lines files with `input`, `target` and `split`.

Debian's package descriptions to translate, to sum up and to classify (DFSG-free, package by
package), the BSD quiz without a book, and chit-chat. $T5LITE_TASKS is the directory of the files.
"""

from typing import Literal

from t5lite.config import MetricName
from t5lite.config import Task

SECTIONS = (
  *('admin', 'database', 'devel', 'doc', 'editors', 'electronics', 'fonts', 'games', 'gnu-r'),
  *('golang', 'graphics', 'hamradio', 'haskell', 'java', 'javascript', 'libdevel', 'libs', 'mail'),
  *('math', 'net', 'perl', 'php', 'python', 'ruby', 'rust', 'science', 'sound', 'text', 'utils'),
  *('video', 'web'),
)
Name = Literal[
  'classify_debian_section',
  'dialogue_chitchat',
  'qa_quiz_closed_book',
  'summarize_debian',
  'translate_en_de_debian',
]


def _task(
  name: Name,
  before: str,
  after: str,
  *metrics: MetricName,
  labels: tuple[str, ...] = (),
  truncation_side: Literal['right', 'left'] = 'right',
) -> Task:
  return Task(
    name=name,
    source=f'jsonl:$T5LITE_TASKS/{name}.jsonl.xz',
    inputs=f'{before}: {{input}}\n{after}:',
    targets='{target}',
    labels=labels,
    texts=('{input}',),
    truncation_side=truncation_side,
    metrics=metrics,
    split_field='split',
  )


TASKS = (
  _task('classify_debian_section', 'classify', 'section', 'accuracy', 'f1', labels=SECTIONS),
  _task('dialogue_chitchat', 'dialogue', 'answer', 'bleu', 'rouge', truncation_side='left'),
  _task('qa_quiz_closed_book', 'question', 'answer', 'exact_match', 'token_f1'),
  _task('summarize_debian', 'summarize', 'summary', 'rouge'),
  _task('translate_en_de_debian', 'translate English to German', 'German', 'bleu', 'chrf'),
)
