"""The code in a model's card does with transformers what t5lite does with the head."""

import ast
import contextlib
import dataclasses
import io

import jax
import numpy as np
import pytest
import transformers

import interop_cases
from t5lite import evaluate
from t5lite import interop
from t5lite import models
from t5lite import tasks
from t5lite.data import tokenizer as tokenizer_lib
from t5lite.decoding import heads
from t5lite.tasks import rendering

pytestmark = pytest.mark.parity
SIZES = dict(vocab_size=8192, max_length=64)
POOLED = dataclasses.replace(interop_cases.HEADS['bert_pooled'], **SIZES, num_labels=2)
TAGS = dataclasses.replace(interop_cases.HEADS['bert_tokens'], **SIZES)
SPANS = dataclasses.replace(interop_cases.HEADS['bert_spans'], **SIZES)
BARE = dataclasses.replace(POOLED, pooler=False)  # a task of texts, without BERT's dense and tanh
MODERN = {
  name: dataclasses.replace(interop_cases.HEADS[f'modernbert_{name}'], vocab_size=8192)
  for name in ('pooled', 'tokens', 'spans')
}
MODERN['pooled'] = dataclasses.replace(MODERN['pooled'], num_labels=2)
CASES = {
  'pooled': (POOLED, 'glue_rte', ('A text.', 'Another.'), 'text-classification'),
  'bare': (BARE, 'glue_rte', ('A text.', 'Another.'), 'text-classification'),
  'tokens': (TAGS, 'conll2003', ('A few words.',), 'token-classification'),
  'spans': (SPANS, 'squad', ('Who sails?', 'The old man sails the sea.'), 'question-answering'),
}
CASES |= {f'modernbert_{name}': (model, *CASES[name][1:]) for name, model in MODERN.items()}


@pytest.mark.parametrize('case', CASES)
def test_the_code_of_a_card_gives_our_answer(case, tmp_path, monkeypatch):
  model, task, texts, kind = CASES[case]
  sets = [f'data.source=task:{task}', 'data.input_length=32']
  interop_cases.write_workdir(
    tmp_path / 'run', model, interop_cases.float32(model), with_tokenizer=True, overrides=sets
  )
  interop.export(tmp_path / 'run', tmp_path / 'out')
  card = (tmp_path / 'out/README.md').read_text()
  assert f'pipeline_tag: {kind}\n' in card
  code = card.partition('```python\n')[2].partition('```')[0]
  monkeypatch.chdir(tmp_path / 'out')
  with contextlib.redirect_stdout(io.StringIO()) as printed:
    exec(code, {})
  said = printed.getvalue().strip()

  config, mesh, params, _ = evaluate.load(tmp_path / 'run')
  tokenizer = tokenizer_lib.load('corpus')
  with jax.set_mesh(mesh):
    example = rendering.Example(texts, '', ())  # in all rows, which the mesh divides
    inputs = heads._whole(tokenizer, [example] * config.data.batch_size)
    batch, kept_N = heads._batch(config, tokenizer, inputs)
    logits_BTV = np.asarray(models.apply(config.model, params, batch))
  names = tasks.find(task).labels
  logits_TV = logits_BTV[0, : kept_N[0] + 2]
  best_T = logits_TV.argmax(axis=-1)
  match case.removeprefix('modernbert_'):
    case 'pooled':
      answer = ast.literal_eval(said)
      answer = answer[0] if isinstance(answer, list) else answer
      shares = np.exp(logits_TV[0] - logits_TV[0].max())
      assert answer['label'] == names[best_T[0]]
      assert answer['score'] == pytest.approx((shares / shares.sum()).max(), abs=1e-4)
    case 'bare':
      assert said == names[best_T[0]]
    case 'tokens':
      found = eval(said, {'np': np})  # its scores are numpy's
      assert [each['entity'] for each in found] == [names[i] for i in best_T[1:-1] if i]
      assert found
    case 'spans':
      ids = transformers.AutoTokenizer.from_pretrained('.')(*texts).input_ids
      first = logits_TV[:, 0].argmax()
      last = first + logits_TV[first:, 1].argmax()
      assert said
      assert said == transformers.AutoTokenizer.from_pretrained('.').decode(ids[first : last + 1])
