"""Text out of trained models: `generate` continues, `fill` fills gaps, over a key-value cache."""

from t5lite.decoding.beam import Beam as Beam
from t5lite.decoding.filling import Candidate as Candidate
from t5lite.decoding.filling import Gap as Gap
from t5lite.decoding.filling import fill as fill
from t5lite.decoding.generation import Output as Output
from t5lite.decoding.generation import generate as generate
from t5lite.decoding.generation import scored as scored
from t5lite.decoding.generation import stream as stream
from t5lite.decoding.generation import write as write
from t5lite.decoding.prompts import Tokenizer as Tokenizer
from t5lite.decoding.sampling import Sampler as Sampler
