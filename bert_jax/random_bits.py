"""Random bits as a pure function of (seed, step, purpose, row, position).

Masks and dropout must not depend on the mesh, the number of hosts or accumulation, so every draw is a hash of where it
stands: nothing is carried along and nothing depends on how an array is cut. The hash is an integer mixer of the
lowbias32 family (C. Wellons, "Prospecting for Hash Functions", 2018), keyed twice, so that rows whose first keys lie
close do not become shifted copies of each other. It fuses into its consumer: no random array is ever stored.
"""

import enum
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32


class Purpose(enum.IntEnum):
    """What a draw is for. Every purpose has a stream of its own; numbers are part of a run's identity, never reuse
    one."""

    MASK_ORDER = 1
    MASK_KIND = 2
    MASK_TOKEN = 3
    SPAN_LENGTH = 4
    DROPOUT_EMBEDDINGS = 5
    DROPOUT_HEAD = 6
    DROPOUT_BEFORE_POOLER = 7
    DROPOUT_ATTENTION = 16
    DROPOUT_ATTENTION_OUTPUT = 17
    DROPOUT_MLP_OUTPUT = 18


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def stream(seed, step, purpose, layer=0) -> UInt32[Array, "2"]:
    """The two key words of one purpose at one step.

    Args:
      seed, step, layer: non-negative integers or integer scalars (may be traced).
      purpose: a `Purpose`.
    """
    words = [jnp.asarray(word).astype(jnp.uint32) for word in (seed, step, int(purpose), layer)]
    first, second = jnp.uint32(0x243F6A88), jnp.uint32(0x85A308D3)  # digits of pi, as good as any
    for word in words:
        first = _mix(first ^ word) + jnp.uint32(0x9E3779B9)
        second = _mix(second + word) ^ first
    return jnp.stack([first, second])


def row_bits(keys: UInt32[Array, "2"], rows: Int[Array, "B"], shape: tuple[int, ...]) -> UInt32[Array, "B ..."]:
    """32 random bits for every element of rows of the given shape.

    Args:
      keys: from `stream`.
      rows: global row numbers of the rows at hand.
      shape: the shape of one row; element i (in C order) of row r has the same bits whatever other rows are present.

    Returns:
      [B, *shape].
    """
    first, second = row_keys(keys, rows)
    expand = (slice(None),) + (None,) * len(shape)
    counter = jnp.zeros((1, *shape), jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :]) & 0xFFFFFFFF
        counter = counter + jax.lax.broadcasted_iota(jnp.uint32, (1, *shape), axis + 1) * jnp.uint32(stride)
    return mixed(counter, first[expand], second[expand])


def row_keys(keys: UInt32[Array, "2"], rows: Int[Array, "B"]) -> tuple[UInt32[Array, " B"], UInt32[Array, " B"]]:
    """The two key words of every row; arguments as in `row_bits`."""
    first = _mix(rows.astype(jnp.uint32) ^ keys[0])
    return first, _mix(first + keys[1])


def mixed(counter, first, second):
    """The bits of element `counter` of a row with these key words (integers of 32 bits, signed or not)."""
    shift = jax.lax.shift_right_logical
    x = counter ^ first
    x = (x ^ shift(x, _number(16, x))) * _number(0x7FEB352D, x)
    x = x + second
    x = (x ^ shift(x, _number(15, x))) * _number(0x846CA68B, x)
    return x ^ shift(x, _number(16, x))


def keep_mask(
    rate: float, keys: UInt32[Array, "2"], rows: Int[Array, "B"], shape: tuple[int, ...]
) -> Bool[Array, "B ..."]:
    """True with probability 1 - rate, independently for every element."""
    return row_bits(keys, rows, shape) >= np.uint32(min(round(rate * 2**32), 2**32 - 1))


def halves_kept(bits, rate: float):
    """Whether the lower and the higher half of bits, as fractions of all that 16 can say, are at least `rate`, which is
    rounded to such a one: 0.1 to 0.100006 (integers of 32 bits, signed or not).
    """
    border = _number(round(rate * 2**16), bits)
    lower, higher = bits & _number(0xFFFF, bits), jax.lax.shift_right_logical(bits, _number(16, bits))
    return lower >= border, higher >= border


def score_keep_mask(rate: float, row_keys: UInt32[Array, "2 B"], shape: tuple[int, ...]) -> Bool[Array, "B N S T"]:
    """True with probability 1 - rate, independently for the probability of every head, query and key.

    There are more of these than of anything else, and where scores stay on the chip the hash costs more than the
    products. So two keys share one: t and t + T / 2 (rounded up) of the same query take its halves.

    Args:
      rate: of dropout.
      row_keys: from `row_keys`, of every row.
      shape: heads, queries, keys.
    """
    _, queries, keys = shape
    half = (keys + 1) // 2
    head, query, key = (jax.lax.broadcasted_iota(jnp.uint32, (1, *shape), axis) for axis in (1, 2, 3))
    behind = key >= half
    counter = (head * queries + query) * half + jnp.where(behind, key - half, key)
    lower, higher = halves_kept(mixed(counter, *row_keys[:, :, None, None, None]), rate)
    return jnp.where(behind, higher, lower)


def _number(value: int, like) -> np.integer:
    """A word as a constant of like's type."""
    return np.uint32(value).astype(like.dtype)


def dropout(
    x: Float[Array, "B ..."], rate: float, keys: UInt32[Array, "2"], rows: Int[Array, "B"]
) -> Float[Array, "B ..."]:
    """Inverted dropout: zero with probability `rate`, else x / (1 - rate). `rate` 0 returns x itself."""
    if rate == 0.0:
        return x
    return jnp.where(keep_mask(rate, keys, rows, x.shape[1:]), x / (1.0 - rate), 0.0).astype(x.dtype)
