"""Trains the sentencepiece model of a corpus, in the layout that `tokenizer` describes.

Ids: pad 0, eos 1, unk 2, [CLS] [SEP] [MASK], [R] [S] [X], 256 bytes (text outside the vocabulary is
spelled in UTF-8), the pieces of the text, then 100 sentinels that are not in the file.

Text is kept as it is: no Unicode folding, no whitespace dropped. The first word of every line, not
only of the text, gets the space that makes it the same piece as elsewhere: a rule in the model, so
that any sentencepiece reader does the same.
"""

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import io
import pathlib
import random
import re
import string
import tempfile
from typing import Any, BinaryIO, Literal

import sentencepiece

from t5lite import errors
from t5lite import tasks
from t5lite.data import sources
from t5lite.data import task_rows
from t5lite.data import tokenizer
from t5lite.data import tokenizer_model

MOST = 40_000_000  # characters to learn from: sentencepiece takes 20 bytes of memory for each
SENTENCE = 1_000  # characters of one; longer lines are cut
# Characters as rare as the last 0.01 % of the text are left to the bytes, but for these.
REQUIRED = '\n' + string.digits + string.ascii_letters + string.punctuation
TOKENS = [*tokenizer_model.BERT_TOKENS, *tokenizer_model.MODES]


def train(
  inputs: Sequence[str],
  vocab_size: int,
  output: str | pathlib.Path,
  model_type: Literal['unigram', 'bpe'] = 'unigram',
) -> tokenizer.Tokenizer:
  """Trains a model on text files, writes it to `output` and returns it loaded.

  The same text gives the same file. On 2 shared CPU cores the text that ships (16 MB) and
  8,192 ids take 11-19 s and 0.4 GB of memory, 63 MB and 32,100 ids 37 s and 0.7 GB; BPE 2-5 s.

  Args:
    inputs: globs of text files (UTF-8, also .gz and .xz), or sources as the config writes them:
      'corpus' for the text that ships, 'jsonl:GLOB', ..., or 'task:NAME' for the training rows of a
      task that ships, inputs and targets.
    vocab_size: ids in all, special tokens, bytes and sentinels included.
    output: the .model file.
    model_type: 'unigram' as T5, or 'bpe'.

  Raises:
    ConfigError: the text does not support so many ids, or needs more; `output` is a folder; no such
      task.
    DataError: no file, no text, not UTF-8, a damaged file.
    DiskError: `output` cannot be written.
  """
  if model_type not in ('unigram', 'bpe'):
    raise errors.ConfigError('not a model type', f'{model_type=}', "use 'unigram' or 'bpe'")
  sentences = sample(_sentences(inputs), MOST)
  if not sentences:
    raise errors.DataError('no text', ' '.join(inputs), 'give files with text in them')
  output = pathlib.Path(output)
  with _writing(output) as file:  # opened before the training: a wrong path shows now
    file.write(_fit(sentences, vocab_size, model_type))
  return tokenizer.load(str(output))


@contextlib.contextmanager
def _writing(output: pathlib.Path) -> Iterator[BinaryIO]:
  """Gives a file that takes the place of `output` in the end, and only if all went well."""
  if output.is_dir():
    raise errors.ConfigError('not a file name', f'output={output}', 'add the name of the model')
  partial = output.with_name(output.name + '.part')
  try:
    output.parent.mkdir(parents=True, exist_ok=True)
    with partial.open('wb') as file:
      yield file
    partial.replace(output)
  except OSError as error:
    raise errors.DiskError(
      'cannot write', output, f'{error.strerror}: give another path'
    ) from error
  finally:
    if partial.exists():
      partial.unlink()


def _sentences(inputs: Sequence[str]) -> Iterator[str]:
  """Yields the lines of the documents without blank ones, long ones in parts."""
  for name in inputs:
    for document in _documents(name):
      for line in document.split('\n'):
        for part in tokenizer.cut(line, SENTENCE):
          if not part.isspace():
            yield part


def _documents(name: str) -> Iterator[str]:
  if tasks.is_task(name):
    task = tasks.find(name)
    for example in task_rows.open(task, task.train, 'decoder').documents():
      yield '\n'.join([*example.inputs, example.targets])
    return
  named = name == 'corpus' or name.partition(':')[0] in sources.KINDS
  yield from sources.open(name if named else f'text:{name}').documents()


def sample(sentences: Iterable[str], most: int) -> list[str]:
  """Returns the sentences, or of more than `most` characters a random share: 1/2, 1/4, ..."""
  draw = random.Random(0)
  kept, size, share = [], 0, 1.0
  for sentence in sentences:
    if draw.random() < share:
      kept.append(sentence)
      size += len(sentence)
    if size > most:
      kept = [sentence for sentence in kept if draw.random() < 0.5]
      size, share = sum(map(len, kept)), share / 2
  return kept


def _fit(sentences: list[str], vocab_size: int, model_type: str) -> bytes:
  """Returns the trained model, which says nothing of this machine or run."""
  model = io.BytesIO()
  with tempfile.TemporaryDirectory() as folder:
    try:
      sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type=model_type,
        # Below the special tokens and bytes it does not say how many it needs.
        vocab_size=max(3 + len(TOKENS) + 256, vocab_size - tokenizer_model.NUM_SENTINELS),
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        control_symbols=TOKENS,
        byte_fallback=True,
        character_coverage=0.9999,
        required_chars=REQUIRED,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        num_threads=16,  # sums are in the order of the threads: the same on every machine
        minloglevel=2,
        **_newline_rules(pathlib.Path(folder)),
      )
    except RuntimeError as error:
      raise _explain(error, vocab_size) from error
  proto = tokenizer_model.parse(model.getvalue(), pathlib.Path('the trained model'))
  proto.normalizer_spec.normalization_rule_tsv = ''  # paths of temporary files
  proto.denormalizer_spec.normalization_rule_tsv = ''
  return proto.SerializeToString(deterministic=True)


def _newline_rules(folder: pathlib.Path) -> dict[str, Any]:
  """Writes the rules "\\n" -> "\\n " for encoding and back for decoding; returns their flags."""
  newline, space = '0A', '20'
  runs = [' '.join([newline] * length) for length in range(1, tokenizer_model.MOST_NEWLINES + 1)]
  (folder / 'encode.tsv').write_text(''.join(f'{run}\t{run} {space}\n' for run in runs))
  (folder / 'decode.tsv').write_text(f'{newline} {space}\t{newline}\n')
  return {
    'normalization_rule_tsv': str(folder / 'encode.tsv'),
    'denormalization_rule_tsv': str(folder / 'decode.tsv'),
  }


def _explain(error: RuntimeError, vocab_size: int) -> Exception:
  """Returns sentencepiece's error in the user's terms, or itself when it is not about the size."""
  where = f'vocab_size={vocab_size}'
  if most := re.search(r'set it to a value <= (\d+)', str(error)):
    remedy = f'use {int(most[1]) + tokenizer_model.NUM_SENTINELS} or less, or more text'
    return errors.ConfigError('vocabulary larger than the text supports', where, remedy)
  if least := re.search(r'required_chars\. -?\d+ vs (\d+)', str(error)):
    remedy = f'use {int(least[1]) + tokenizer_model.NUM_SENTINELS} or more'
    return errors.ConfigError('vocabulary too small for the characters of the text', where, remedy)
  return error
