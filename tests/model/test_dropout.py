"""Dropout's draws depend on where they stand, and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_bert
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples

from bert_jax.model.bert import Dropout, bind

CONFIG = small_bert.model_config(hidden_dropout_rate=0.1, attention_dropout_rate=0.1)
PARAMS = small_bert.random_params(CONFIG, "nsp")
BATCH = small_bert.packed_batch(CONFIG, 6)


@jax.jit
def encode(batch, seed, step):
    return bind(CONFIG, "nsp", PARAMS).encode(batch, Dropout(seed, step, batch["rows"]))


@settings(max_examples=examples(20))
@given(order=st.permutations(range(6)))
def test_a_row_is_drawn_alike_in_any_batch(order):
    whole = np.asarray(encode(BATCH, 1, 2))
    other = np.asarray(encode({name: values[np.array(order)] for name, values in BATCH.items()}, 1, 2))
    np.testing.assert_allclose(other, whole[np.array(order)], rtol=0, atol=1e-5)


def test_a_row_is_drawn_alike_in_a_smaller_batch():
    part = np.asarray(encode({name: values[2:4] for name, values in BATCH.items()}, 1, 2))
    np.testing.assert_allclose(part, np.asarray(encode(BATCH, 1, 2))[2:4], rtol=0, atol=1e-5)


@pytest.mark.parametrize("change", ["seed", "step", "rows"])
def test_other_seed_step_or_row_draws_otherwise(change):
    reference = np.asarray(encode(BATCH, 1, 2))
    batch = BATCH | {"rows": BATCH["rows"] + (change == "rows")}
    other = np.asarray(encode(batch, 1 + (change == "seed"), 2 + (change == "step")))
    per_row = np.abs(other - reference).max(axis=(1, 2))
    assert (per_row > 1e-2).all()


def test_rate_scale_and_independence_of_sites():
    rows = jnp.arange(64)
    ones = jnp.ones((64, 32, 32))
    from bert_jax.random_bits import Purpose

    draws = []
    for purpose in (Purpose.DROPOUT_ATTENTION_OUTPUT, Purpose.DROPOUT_MLP_OUTPUT):
        for layer in (0, 1):
            for step in (0, 1):
                dropped = np.asarray(Dropout(0, step, rows)(ones, 0.1, purpose, layer))
                np.testing.assert_allclose(np.unique(dropped), [0.0, 1 / 0.9], rtol=1e-6)
                draws.append(dropped.reshape(-1) > 0)
    draws = np.stack(draws)
    size = draws.shape[1]
    assert np.abs(draws.mean(1) - 0.9).max() < 5 * np.sqrt(0.09 / size)
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlations).max() < 5 / np.sqrt(size)
    # The mean over draws is what evaluation has.
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32))
    mean = np.mean([Dropout(0, step, rows)(x, 0.1, Purpose.DROPOUT_HEAD) for step in range(400)], axis=0)
    np.testing.assert_allclose(mean, x, rtol=0, atol=6 * np.abs(x).max() / 3 / np.sqrt(400))


def test_rate_zero_is_no_dropout():
    config = small_bert.model_config(hidden_dropout_rate=0.0, attention_dropout_rate=0.0)
    model = bind(config, "nsp", PARAMS)
    np.testing.assert_array_equal(model.encode(BATCH), model.encode(BATCH, Dropout(0, 0, jnp.asarray(BATCH["rows"]))))
