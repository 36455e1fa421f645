"""In and out of Hugging Face's layout, without torch: weights, config and model card.

One table a family, read in both directions, says which tensor holds which array (tables.py), and
one says which key of `config.json` is which field (families.py). Both ways work a tensor at a time.
"""

from t5lite import extras

with extras.needed('hf'):
  import msgpack  # noqa: F401
  import safetensors  # noqa: F401
  import tokenizers  # noqa: F401

from t5lite.interop.exporting import export as export
from t5lite.interop.importing import import_model as import_model
