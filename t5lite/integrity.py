"""Digests of arrays and of what is said about them, which any flipped bit changes.

X: any dimensions.
"""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5lite import hashing

UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


@jax.jit  # one array at a time: parameters and their moments share what is compiled
def digest(x: jax.Array, first: jax.Array | int = 0) -> jax.Array:
  """Returns the sum, modulo 2**32, of a hash of each element's bits and place, on the devices.

  Elements have 1, 2 or 4 bytes.

  At a given place the hash is one to one, so a change of one element always changes the sum; more
  changes cancel once in 2**32. A sum of integers is the same in any order, hence on any mesh.

  Args:
    x: the array, or a part of it along its first dimension; the digests of the parts add up.
    first: elements before the part, modulo 2**32.
  """
  x = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
  bits_X = jax.lax.bitcast_convert_type(x, UNSIGNED[x.dtype.itemsize]).astype(jnp.uint32)
  sharding = jax.typeof(bits_X).sharding
  place_X = jnp.zeros_like(bits_X)
  for dim, size in enumerate(x.shape):
    index_X = jax.lax.broadcasted_iota(jnp.uint32, x.shape, dim, out_sharding=sharding)
    place_X = place_X * jnp.uint32(size) + index_X
  return jnp.sum(
    hashing.mix(bits_X ^ hashing.mix(place_X + jnp.uint32(first) + jnp.uint32(1))), dtype=jnp.uint32
  )


def describe(arrays: dict[str, jax.Array]) -> dict[str, Any]:
  """Returns dtype, shape and digest of each array."""
  digests = jax.device_get({name: digest(x) for name, x in arrays.items()})
  return {
    name: {'dtype': str(x.dtype), 'shape': list(x.shape), 'digest': int(digests[name])}
    for name, x in arrays.items()
  }


def digest_of_part(x: np.ndarray, index: int) -> int:
  """Returns the digest of part `index` of an array that is cut into such parts."""
  return int(digest(jax.device_put(x), np.uint32(index * x.size % 2**32)))


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
  """Returns the manifest as JSON gives it back, with the digest of what it says."""
  said = json.loads(json.dumps({k: v for k, v in manifest.items() if k != 'sha256'}))
  text = json.dumps(said, sort_keys=True).encode()
  return {**said, 'sha256': hashlib.sha256(text).hexdigest()}
