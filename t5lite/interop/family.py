"""What is said of a family of models that both sides have, and what several families share."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from t5lite import config as config_lib
from t5lite.interop import tables

Tree = dict[str, Any]
Choices = Mapping[Any, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """A model of both worlds."""

  model_type: str
  architectures: Mapping[str, Mapping[str, Any]]  # class of transformers: its fields; usual first
  heads: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)  # with labels
  fields: Mapping[str, str]  # key of config.json: field of config.Model
  choices: Mapping[str, Choices]  # key: {its value: fields}; of equal fields the first is written
  fixed: Mapping[str, Any]  # field: the value that the family has
  constants: Mapping[str, Any]  # key: the value that it must have; also that of an absent key
  defaults: Mapping[str, Any]  # key: what transformers takes for an absent one
  implied: Callable[[Tree], Tree]  # from fields: others that follow from them
  entries: Callable[[config_lib.Model], list[tables.Entry]]
  read: Callable[[Tree], Tree] = lambda hf: hf  # puts keys with several spellings into one
  write: Callable[[Tree], Tree] = lambda hf: hf  # and back
  copies: Mapping[str, str]  # tensor: the one that it is tied to, if the model ties
  spellings: Sequence[tuple[str, str]] = ()  # of tensors' names: (pattern, what makes them one)
  buffers: Sequence[str] = ()  # patterns of tensors that are no parameters
  other_heads: Sequence[str] = ()  # patterns of parameters that the model does not have
  generates: bool = True


ACTIVATIONS: Choices = {
  'relu': {'activation': 'relu'},
  'gelu': {'activation': 'gelu'},
  'gelu_new': {'activation': 'gelu_tanh'},
  'gelu_pytorch_tanh': {'activation': 'gelu_tanh'},
  'silu': {'activation': 'silu'},
  'swish': {'activation': 'silu'},
}
PLAIN = {'num_experts': 0, 'local_window': 0, 'relative_per_layer': False}
NO_EMBEDDING_PARTS = {'num_token_types': 0, 'mlm_head': False, 'embedding_norm': False}


def square_heads(fields: Tree) -> Tree:
  """Returns what follows where the heads share the model's width among them."""
  size = fields['d_model'] // fields['num_heads']
  width = size * fields['num_heads']
  return {'num_kv_heads': fields['num_heads'], 'head_dim': size, 'd_model': width}
