"""Hashed bits look random: within a stream, between streams, rows, neighbours; and depend only on where they stand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples

from bert_jax.random_bits import Purpose, dropout, keep_mask, row_bits, row_keys, score_keep_mask, stream


def bits(seed=0, step=0, purpose=Purpose.DROPOUT_ATTENTION, layer=0, rows=range(64), shape=(64, 64)):
    return np.asarray(row_bits(stream(seed, step, purpose, layer), jnp.asarray(list(rows)), shape))


def test_every_bit_is_fair_and_independent_of_every_other():
    words = bits().reshape(-1)
    columns = ((words[:, None] >> np.arange(32, dtype=np.uint32)) & 1).astype(np.float64)
    n = len(words)
    assert np.abs(columns.mean(0) - 0.5).max() < 5 * 0.5 / np.sqrt(n)
    assert np.abs(np.corrcoef(columns.T) - np.eye(32)).max() < 5.5 / np.sqrt(n)


@pytest.mark.parametrize("shift", [0, 8, 16, 24])
def test_bytes_are_uniform(shift):
    counts = np.bincount((bits().reshape(-1) >> shift) & 255, minlength=256)
    expected = counts.sum() / 256
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert 150 < chi2 < 380  # 255 degrees of freedom, far out on both sides


def uniform(**where):
    return bits(**where).astype(np.float64) / 2**32 - 0.5


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"step": 1},
        {"step": 2**20},
        {"layer": 1},
        {"purpose": Purpose.DROPOUT_MLP_OUTPUT},
        {"rows": range(1, 65)},
        {"rows": range(2**20, 2**20 + 64)},
        {"seed": np.uint32(2**31)},
        {"seed": 1, "step": 1},
    ],
)
def test_streams_and_rows_are_uncorrelated(other):
    a, b = uniform(), uniform(**other)
    if "rows" in other and other["rows"][0] == 1:
        np.testing.assert_array_equal(a[1:], b[:-1])  # the same global rows
        a, b = a[:-1], a[1:]
    limit = 5 / np.sqrt(a.size)
    assert abs(12 * (a * b).mean()) < limit
    for lag in (1, 2, 64):  # nor are they shifted copies
        flat, moved = a.reshape(-1), np.roll(b.reshape(-1), lag)
        assert abs(12 * (flat * moved).mean()) < limit


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 7, 8, 64, 65, 128, 4096, 4097])
def test_neighbours_are_uncorrelated(lag):
    flat = uniform().reshape(-1)
    assert abs(12 * (flat[lag:] * flat[:-lag]).mean()) < 5 / np.sqrt(flat.size)


@settings(max_examples=examples(20))
@given(rows=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5), step=st.integers(0, 2**31 - 1))
def test_a_row_is_the_same_in_any_company_and_under_jit(rows, step):
    keys = stream(3, step, Purpose.MASK_ORDER)
    whole = np.asarray(row_bits(keys, jnp.asarray(rows, jnp.int32), (7, 3)))
    for place, row in enumerate(rows):
        np.testing.assert_array_equal(row_bits(keys, jnp.asarray([row], jnp.int32), (7, 3))[0], whole[place])
    jitted = jax.jit(lambda step, rows: row_bits(stream(3, step, Purpose.MASK_ORDER), rows, (7, 3)))
    np.testing.assert_array_equal(jitted(step, jnp.asarray(rows, jnp.int32)), whole)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
def test_dropout_rate_and_mean(rate):
    rows = jnp.arange(64)
    keys = stream(5, 6, Purpose.DROPOUT_HEAD)
    keep = np.asarray(keep_mask(rate, keys, rows, (64, 64)))
    assert abs(keep.mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / keep.size)
    dropped = np.asarray(dropout(jnp.ones((64, 64, 64)), rate, keys, rows))
    np.testing.assert_array_equal(dropped > 0, keep)
    np.testing.assert_allclose(dropped[keep], 1 / (1 - rate), rtol=1e-6)
    per_row = keep.reshape(64, -1).mean(1)
    per_column = keep.mean((0, 1))
    assert np.abs(per_row - (1 - rate)).max() < 5 * np.sqrt(rate * (1 - rate) / 4096)
    assert np.abs(per_column - (1 - rate)).max() < 5 * np.sqrt(rate * (1 - rate) / 4096)


def score_mask(rate, seed, rows, shape):
    keys = stream(seed, 6, Purpose.DROPOUT_ATTENTION, 1)
    return np.asarray(score_keep_mask(rate, jnp.stack(row_keys(keys, jnp.asarray(rows))), shape))


@pytest.mark.parametrize("shape", [(3, 4, 6), (2, 5, 5), (1, 1, 1)])
def test_the_keys_of_two_halves_of_a_row_share_a_hash(shape):
    """By the definition, a score at a time; an odd number of keys leaves half a hash unused."""
    heads, queries, keys = shape
    rows, rate, half = [7, 2**31 - 1], 0.3, math.ceil(keys / 2)
    mask = score_mask(rate, 5, rows, shape)
    hashes = bits(5, 6, Purpose.DROPOUT_ATTENTION, 1, rows=rows, shape=(heads, queries, half))
    for row, head, query, key in np.ndindex(mask.shape):
        word = int(hashes[row, head, query, key % half])
        drawn = word >> 16 if key >= half else word & 0xFFFF
        assert mask[row, head, query, key] == (drawn / 2**16 >= rate)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_rates_of_scores_and_independence_of_the_halves(rate):
    keep = score_mask(rate, 9, range(8), (4, 64, 128))
    dropped = ~keep
    spread = np.sqrt(rate * (1 - rate) / keep.size)
    assert abs(dropped.mean() - rate) < 5 * spread + 2**-17
    first, second = dropped[..., :64] - rate, dropped[..., 64:] - rate
    limit = 5 * rate * (1 - rate) / np.sqrt(first.size)
    for lag in (0, 1, 63, 64, 4096):  # the same hash, neighbours, the next queries, the next head
        assert abs((first.reshape(-1) * np.roll(second.reshape(-1), lag)).mean()) < limit
    flat = (dropped - rate).reshape(-1)
    for lag in (1, 2, 64, 128, 8192):
        assert abs((flat[lag:] * flat[:-lag]).mean()) < limit
    per_key = dropped.mean((0, 1, 2))
    assert np.abs(per_key - rate).max() < 5 * np.sqrt(rate * (1 - rate) / (8 * 4 * 64))
