"""The Pallas kernel against plain jax: values, gradients and dropped elements, interpreted as plain jax itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import LONG, examples

from bert_jax import random_bits
from bert_jax.config import ModelConfig
from bert_jax.model.attention_kernel import attend, heads_together, unsupported
from bert_jax.model.choices import check_attention, chosen, explained
from data_prep.errors import InputError


def side_by_side(query, key, value, head_size):
    """Of every heads that share a register the queries, keys and values."""
    lanes = heads_together(head_size) * head_size
    parts = [x.reshape(*x.shape[:-1], -1, 1, lanes) for x in (query, key, value)]
    return jnp.concatenate(parts, axis=-2).reshape(*query.shape[:-1], -1)


def reference(query, key, value, segment_ids, keep, head_size, rate):
    batch, length, features = query.shape
    heads = (batch, length, features // head_size, head_size)
    query, key, value = (x.reshape(heads) for x in (query, key, value))
    scores = jnp.einsum("BSNH,BTNH->BNST", query, key) * head_size**-0.5
    together = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    weights = jax.nn.softmax(jnp.where(together, scores, -jnp.inf), axis=-1)
    weights = jnp.where(keep, weights / (1 - rate), 0.0)
    return jnp.einsum("BNST,BTNH->BSNH", weights, value).reshape(batch, length, features)


@settings(max_examples=examples(4))
@given(
    batch=st.integers(1, 5 if LONG else 2),
    length=st.sampled_from([128, 256]),
    groups=st.integers(1, 2),
    head_size=st.sampled_from([32, 64, 128]),
    rate=st.sampled_from([0.0, 0.1]),
    first_head=st.sampled_from([0, 3]),
    seed=st.integers(0, 10**6),
)
def test_kernel_equals_plain_jax(batch, length, groups, head_size, rate, first_head, seed):
    compare(batch, length, groups * 128, head_size, rate, first_head, seed)


@pytest.mark.parametrize(
    ("batch", "length", "features", "head_size"),
    [
        (10, 128, 128, 64),
        (6, 384, 128, 128),
        (3, 512, 256, 256),
        (4, 512, 128, 64),
        (8, 128, 128, 16),
        pytest.param(16, 128, 128, 16, marks=pytest.mark.long),
    ],
)
def test_several_blocks_of_several_rows_and_other_heads(batch, length, features, head_size):
    """Blocks of 5, 2, 1, 2, 8 and 8 rows: what a row drops is its own in every block."""
    compare(batch, length, features, head_size, rate=0.2, first_head=1, seed=batch)


def compare(batch, length, features, head_size, rate, first_head, seed):
    draw = np.random.default_rng(seed)
    heads = features // head_size
    arrays = [jnp.asarray(draw.normal(size=(batch, length, features)), jnp.bfloat16) for _ in range(4)]
    segment_ids = jnp.asarray(np.sort(draw.integers(0, 4, (batch, length)), axis=1)[:, ::-1].copy(), jnp.int32)
    rows, keys = jnp.asarray(draw.integers(0, 2**31 - 1, batch)), random_bits.stream(seed, 7, 16, 2)
    row_keys = jnp.stack(random_bits.row_keys(keys, rows))
    shape = (first_head + heads, length, length)
    keep = (
        random_bits.score_keep_mask(rate, row_keys, shape)[:, first_head:] if rate else jnp.ones((batch, heads, 1, 1))
    )
    first = jnp.full(1, first_head, jnp.int32)
    exact = [x.astype(jnp.float32) for x in arrays]
    biases = [jnp.asarray(draw.normal(size=features), jnp.float32) for _ in range(3)]

    def by_kernel(query, key, value, *biases):
        projected, bias = side_by_side(query, key, value, head_size), side_by_side(*biases, head_size)
        return attend(head_size, rate, True, projected, bias, segment_ids, row_keys, first)

    def plain(query, key, value, *biases):
        arrays = (x + bias for x, bias in zip((query, key, value), biases, strict=True))
        return reference(*arrays, segment_ids, keep, head_size, rate)

    got, back = jax.vjp(by_kernel, *exact[:3], *biases)
    want, exact_back = jax.vjp(plain, *exact[:3], *biases)
    assert got.dtype == jnp.bfloat16
    names = ("context", "query", "key", "value", "query bias", "key bias", "value bias")
    expected = {name: np.asarray(b, np.float64) for name, b in zip(names, (want, *exact_back(exact[3])), strict=True)}
    scales = {name: np.linalg.norm(b) for name, b in expected.items()}
    # The gradient of the queries' bias sums theirs over the positions: mostly it is as long as they are together, now
    # and then shorter, and then its roundings, which vary by some per cent themselves, are as long as ever.
    scales["query bias"] = max(scales["query bias"], 1.3 * scales["query"])
    scales["key bias"] = scales["value bias"]  # its own is zero but for rounding
    for name, a in zip(names, (got, *back(arrays[3])), strict=True):
        # One rounding of bfloat16 is 0.002 of the norm; one wrongly dropped weight of a row is far more.
        difference = np.linalg.norm(np.asarray(a, np.float64) - expected[name])
        assert difference < 0.006 * scales[name], name


@pytest.mark.parametrize(
    ("platform", "dtype", "remat", "length", "heads", "expected", "why"),
    [
        ("tpu", "bfloat16", "none", 128, 12, ("pallas", "unroll"), "fit the kernel"),
        ("tpu", "bfloat16", "full", 512, 12, ("pallas", "scan"), "remat full"),
        ("tpu", "float32", "none", 128, 12, ("einsum", "unroll"), "config.model.dtype is float32"),
        ("tpu", "bfloat16", "none", 120, 12, ("einsum", "unroll"), "a multiple of 128 up to 512"),
        ("tpu", "bfloat16", "none", 1024, 12, ("einsum", "unroll"), "a multiple of 128 up to 512"),
        ("tpu", "bfloat16", "none", 128, 3, ("einsum", "unroll"), "heads that fill registers"),
        ("cpu", "bfloat16", "none", 128, 12, ("einsum", "unroll"), "no kernel for cpu"),
        ("cpu", "bfloat16", "full", 128, 12, ("einsum", "scan"), "remat full"),
        ("cpu", "float32", "none", 128, 12, ("einsum", "scan"), "compiles fast"),
        ("gpu", "bfloat16", "none", 128, 12, ("einsum", "scan"), "attention_dropout_rate is above 0"),
    ],
)
def test_what_auto_takes_and_says(platform, dtype, remat, length, heads, expected, why):
    config = ModelConfig(hidden_size=64 * heads, num_heads=heads, dtype=dtype, remat=remat)
    taken = chosen(config, length, platform)
    assert (taken.attention, taken.layers) == expected
    said = explained(config, length, platform)
    assert f"attention {expected[0]} (" in said and f"layers {expected[1]} (" in said and why in said


@pytest.mark.parametrize(("heads", "tensor", "expected"), [(12, 2, "pallas"), (12, 4, "einsum"), (16, 16, "einsum")])
def test_heads_that_a_device_does_not_get_in_twos_are_no_heads_for_the_kernel(heads, tensor, expected):
    config = ModelConfig(hidden_size=64 * heads, num_heads=heads)
    assert chosen(config, 128, "tpu", tensor).attention == expected
    said = explained(config, 128, "tpu", tensor)
    assert (f"not {heads // tensor} of 64 features, as config.mesh.tensor={tensor} leaves" in said) == (
        expected == "einsum"
    )


def test_the_kernel_leaves_no_head_out():
    projected, keys, first = jnp.zeros((1, 128, 3 * 192)), jnp.zeros((2, 1), jnp.uint32), jnp.zeros(1, jnp.int32)
    with pytest.raises(ValueError, match="not 3 of 64 features"):
        attend(64, 0.0, True, projected, projected[0, 0], jnp.ones((1, 128), jnp.int32), keys, first)


@pytest.mark.parametrize(
    ("kernel", "changes", "length", "platform", "tensor", "said"),
    [
        ("pallas", {}, 128, "cpu", 1, "it is for tpu devices, and these are cpu"),
        ("cudnn", {"attention_dropout_rate": 0.0}, 128, "cpu", 1, "it is for gpu devices, and these are cpu"),
        ("pallas", {}, 16, "tpu", 1, "rows of a multiple of 128 up to 512, not 16"),
        ("pallas", {"num_heads": 1}, 128, "tpu", 1, "heads that fill registers of 128, not 1 of 64 features"),
        ("pallas", {"num_heads": 12}, 128, "tpu", 4, "not 3 of 64 features, as config.mesh.tensor=4 leaves a device"),
        ("pallas", {"dtype": "float32"}, 128, "tpu", 1, "kernels take bfloat16, and config.model.dtype is float32"),
        ("cudnn", {}, 128, "gpu", 1, "drops no probabilities"),
        ("cudnn", {"attention_dropout_rate": 0.0, "hidden_size": 24}, 128, "gpu", 1, "a multiple of 8 up to 128"),
    ],
)
def test_a_named_kernel_that_cannot_be_had_is_refused_in_one_line(kernel, changes, length, platform, tensor, said):
    heads = changes.get("num_heads", 2)
    config = ModelConfig(attention=kernel, **{"hidden_size": 64 * heads, "num_heads": heads} | changes)
    for refused in (chosen, explained, check_attention):
        with pytest.raises(InputError, match=said) as caught:
            refused(config, length, platform, tensor)
        assert "\n" not in str(caught.value) and f"config.model.attention='{kernel}'" in str(caught.value)
    check_attention(dataclasses.replace(config, attention="auto"), length, platform, tensor)


@pytest.mark.parametrize(
    ("dtype", "heads", "expected"),
    [("bfloat16", 12, "cudnn"), ("float32", 12, "einsum"), ("bfloat16", 1, "einsum"), ("bfloat16", 256, "einsum")],
)
def test_cudnn_is_for_gpus_without_dropout_of_probabilities(dtype, heads, expected):
    config = ModelConfig(hidden_size=768, num_heads=heads, dtype=dtype, attention_dropout_rate=0.0)
    assert chosen(config, 512, "gpu").attention == expected


def test_what_is_named_is_taken():
    taken = chosen(ModelConfig(attention="einsum", layers="scan"), 128, "tpu")
    assert (taken.attention, taken.layers) == ("einsum", "scan")
    assert not unsupported(128, 12, 64) and not unsupported(512, 16, 64) and "12 of 48" in unsupported(128, 12, 48)
    assert "as the config says" in explained(ModelConfig(attention="einsum"), 128, "tpu")
