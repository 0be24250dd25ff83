"""A packed example is what it is alone, and its neighbours do not reach it."""

import jax
import jax.numpy as jnp
import numpy as np
import small_bert
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples

from bert_jax.model.bert import bind

CONFIG = small_bert.model_config()
PARAMS = small_bert.random_params(CONFIG, "nsp")


@jax.jit
def hidden_and_pooled(params, batch):
    model = bind(CONFIG, "nsp", params)
    hidden = model.encode(batch)
    return hidden, model.pool(hidden, batch["cls_positions"])


@settings(max_examples=examples(15))
@given(seed=st.integers(0, 10**6))
def test_packed_equals_alone(seed):
    batch = small_bert.packed_batch(CONFIG, 2, seed=seed)
    hidden, pooled = map(np.asarray, hidden_and_pooled(PARAMS, batch))
    segments = batch["segment_ids"]
    for row in range(2):
        for number in range(1, segments[row].max() + 1):
            at = np.flatnonzero(segments[row] == number)
            alone = {name: np.zeros_like(values) for name, values in batch.items()}
            for name in ("input_ids", "token_type_ids", "position_ids"):
                alone[name][0, : len(at)] = batch[name][row, at]
            alone["segment_ids"][0, : len(at)] = 1
            alone_hidden, alone_pooled = map(np.asarray, hidden_and_pooled(PARAMS, alone))
            np.testing.assert_allclose(alone_hidden[0, : len(at)], hidden[row, at], rtol=0, atol=2e-5)
            np.testing.assert_allclose(alone_pooled[0, 0], pooled[row, number - 1], rtol=0, atol=2e-5)


@settings(max_examples=examples(15))
@given(seed=st.integers(0, 10**6))
def test_a_perturbed_neighbour_changes_nothing(seed):
    batch = small_bert.packed_batch(CONFIG, 2, seed=seed)
    hidden, _ = map(np.asarray, hidden_and_pooled(PARAMS, batch))
    others = batch["segment_ids"] != 1  # other examples and padding
    changed = batch | {
        "input_ids": np.where(others, (batch["input_ids"] + 71) % CONFIG.vocab_size, batch["input_ids"]),
        "token_type_ids": np.where(others, 1 - batch["token_type_ids"], batch["token_type_ids"]),
    }
    again, _ = map(np.asarray, hidden_and_pooled(PARAMS, changed))
    np.testing.assert_allclose(again[~others], hidden[~others], rtol=0, atol=1e-6)
    assert not np.allclose(again[others], hidden[others], rtol=0, atol=1e-2)


def test_no_gradient_reaches_a_neighbour():
    batch = small_bert.packed_batch(CONFIG, 4)
    # Every position its own word, so that the gradient of the table tells the positions apart.
    batch["input_ids"] = np.arange(4 * 16, dtype=np.int32).reshape(4, 16)
    first = jnp.asarray(batch["segment_ids"] == 1)

    def of_first(params):
        return jnp.sum(jnp.where(first[..., None], jnp.square(bind(CONFIG, "nsp", params).encode(batch)), 0.0))

    table = np.asarray(jax.jit(jax.grad(of_first))(PARAMS)["embeddings"]["word"]["embedding"])[:64].reshape(4, 16, -1)
    inside = np.asarray(first)
    assert not table[~inside].any()  # to the last bit
    assert (np.abs(table[inside]).max(axis=-1) > 1e-6).all()
