"""The Pallas kernel against plain jax: values, gradients and dropped elements, interpreted as plain jax itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_jax import random_bits
from bert_jax.config import ModelConfig
from bert_jax.model.attention_kernel import attend, supports
from bert_jax.model.choices import chosen


def reference(query, key, value, segment_ids, keep, head_size, rate):
    batch, length, features = query.shape
    heads = (batch, length, features // head_size, head_size)
    query, key, value = (x.reshape(heads) for x in (query, key, value))
    scores = jnp.einsum("BSNH,BTNH->BNST", query, key) * head_size**-0.5
    together = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    weights = jax.nn.softmax(jnp.where(together, scores, -jnp.inf), axis=-1)
    weights = jnp.where(keep, weights / (1 - rate), 0.0)
    return jnp.einsum("BNST,BTNH->BSNH", weights, value).reshape(batch, length, features)


@settings(max_examples=4)
@given(
    batch=st.integers(1, 5),
    length=st.sampled_from([128, 256]),
    groups=st.integers(1, 2),
    head_size=st.sampled_from([32, 64, 128]),
    rate=st.sampled_from([0.0, 0.1]),
    first_head=st.sampled_from([0, 3]),
    seed=st.integers(0, 10**6),
)
def test_kernel_equals_plain_jax(batch, length, groups, head_size, rate, first_head, seed):
    draw = np.random.default_rng(seed)
    features = groups * 128
    heads = features // head_size
    arrays = [jnp.asarray(draw.normal(size=(batch, length, features)), jnp.bfloat16) for _ in range(4)]
    segment_ids = jnp.asarray(np.sort(draw.integers(0, 4, (batch, length)), axis=1)[:, ::-1].copy(), jnp.int32)
    rows, keys = jnp.asarray(draw.integers(0, 2**31 - 1, batch)), random_bits.stream(seed, 7, 16, 2)
    row_keys = jnp.stack(random_bits.row_keys(keys, rows))
    shape = (first_head + heads, length, length)
    keep = random_bits.keep_mask(rate, keys, rows, shape)[:, first_head:] if rate else jnp.ones((batch, heads, 1, 1))
    first = jnp.full(1, first_head, jnp.int32)
    got, back = jax.vjp(
        lambda q, k, v: attend(head_size, rate, True, q, k, v, segment_ids, row_keys, first), *arrays[:3]
    )
    exact = [x.astype(jnp.float32) for x in arrays]
    want, exact_back = jax.vjp(lambda q, k, v: reference(q, k, v, segment_ids, keep, head_size, rate), *exact[:3])
    pairs = [(got, want), *zip(back(arrays[3]), exact_back(exact[3]), strict=True)]
    for name, (a, b) in zip(("context", "query", "key", "value"), pairs, strict=True):
        assert a.dtype == jnp.bfloat16
        # One rounding of bfloat16 is 0.002 of the norm; one wrongly dropped weight of a row is far more.
        difference = np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64))
        assert difference < 0.006 * np.linalg.norm(np.asarray(b, np.float64)), name


@pytest.mark.parametrize(
    ("platform", "dtype", "remat", "length", "heads", "expected"),
    [
        ("tpu", "bfloat16", "none", 128, 12, ("pallas", "unroll")),
        ("tpu", "bfloat16", "full", 512, 12, ("pallas", "scan")),
        ("tpu", "float32", "none", 128, 12, ("einsum", "unroll")),
        ("tpu", "bfloat16", "none", 120, 12, ("einsum", "unroll")),  # no whole registers
        ("tpu", "bfloat16", "none", 1024, 12, ("einsum", "unroll")),  # scores too large for the fast memory
        ("tpu", "bfloat16", "none", 128, 3, ("einsum", "unroll")),  # heads in twos
        ("cpu", "bfloat16", "none", 128, 12, ("einsum", "scan")),
        ("gpu", "bfloat16", "none", 128, 12, ("einsum", "scan")),
    ],
)
def test_what_auto_takes(platform, dtype, remat, length, heads, expected):
    config = ModelConfig(hidden_size=64 * heads, num_heads=heads, dtype=dtype, remat=remat)
    taken = chosen(config, length, platform)
    assert (taken.attention, taken.layers) == expected


def test_what_is_named_is_taken():
    taken = chosen(ModelConfig(attention="einsum", layers="scan"), 128, "tpu")
    assert (taken.attention, taken.layers) == ("einsum", "scan")
    assert supports(128, 12, 64) and supports(512, 16, 64) and not supports(128, 12, 48)
