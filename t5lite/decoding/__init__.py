"""Text out of trained models, over a key-value cache.

`generate` gives tokens for tokens, in batches; `write` texts for texts, `stream` one text as it
grows; `fill` fills gaps. The mesh of the parameters must be set.
"""

from t5lite.decoding.beam import Beam as Beam
from t5lite.decoding.chat import Dialogue as Dialogue
from t5lite.decoding.filling import Candidate as Candidate
from t5lite.decoding.filling import Gap as Gap
from t5lite.decoding.filling import fill as fill
from t5lite.decoding.filling import marked as marked
from t5lite.decoding.generation import Method as Method
from t5lite.decoding.generation import Output as Output
from t5lite.decoding.generation import check_sampler as check_sampler
from t5lite.decoding.generation import check_texts as check_texts
from t5lite.decoding.generation import generate as generate
from t5lite.decoding.generation import scored as scored
from t5lite.decoding.generation import stream as stream
from t5lite.decoding.generation import write as write
from t5lite.decoding.prompts import Tokenizer as Tokenizer
from t5lite.decoding.sampling import Sampler as Sampler
from t5lite.models.decode import apart as apart
