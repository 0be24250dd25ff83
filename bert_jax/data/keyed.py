"""Keyed integers for the sampler: hashes and permutations that are computed, not stored.

The sampler must give the same rows on every host, in every version, from any position, so it draws from an integer hash
of where a draw stands (the finaliser of SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number
generators", 2014).
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draw(*words: int | np.ndarray, after: np.ndarray | None = None) -> np.ndarray:
    """64 random bits for every element of the broadcast words (non-negative integers); uint64.

    `draw(a, b, c)` is `draw(c, after=draw(a, b))`: who draws often with the same first words computes them once.
    """
    state = np.zeros((), np.uint64) if after is None else after
    with np.errstate(over="ignore"):
        for word in words:
            state = _mix((state ^ np.asarray(word).astype(np.uint64)) + _GOLDEN)
    return state


def below(bits: np.ndarray, bound: int | np.ndarray) -> np.ndarray:
    """Bits as an integer from 0 to bound - 1 (bound below 2**32; bias below 2**-32); int64."""
    return ((bits >> np.uint64(32)) * np.asarray(bound).astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def chance(bits: np.ndarray, probability: float) -> np.ndarray:
    """True with the given probability; bool."""
    return (bits >> np.uint64(11)) < np.uint64(round(probability * 2**53))


def permute(positions: np.ndarray, size: int, key: int | np.ndarray) -> np.ndarray:
    """Where a keyed permutation of 0..size-1 sends the positions; int64, memory as large as `positions`.

    A Feistel network over the next even power of two, walked until the value falls inside (Black and Rogaway, "Ciphers
    with arbitrary finite domains", 2002).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    shift, low = np.uint64(half), np.uint64((1 << half) - 1)

    def encrypt(x: np.ndarray) -> np.ndarray:
        left, right = x >> shift, x & low
        for round_ in range(4):
            left, right = right, left ^ (draw(key, round_, right) & low)
        return (left << shift) | right

    values = encrypt(np.asarray(positions).astype(np.uint64))
    outside = values >= np.uint64(size)
    while outside.any():
        values[outside] = encrypt(values[outside])
        outside = values >= np.uint64(size)
    return values.astype(np.int64)
