"""Hashes of bits, element by element, on the devices."""

import jax
import jax.numpy as jnp


def mix(bits: jax.Array) -> jax.Array:
  """Returns MurmurHash3's finaliser (Appleby 2011) of uint32 bits.

  One to one, and each input bit changes every output bit half of the time.
  """
  bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
  bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
  return bits ^ (bits >> 16)
