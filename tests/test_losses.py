"""Losses are sums and counts, as a loop over the labels has them."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_bert
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import LONG, examples

from bert_jax.losses import mlm_loss, nsp_loss

SHAPES = [(1, 1, 2), (3, 2, 7), (2, 4, 3)]  # each is compiled
ANY_SHAPE = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 7))


@settings(max_examples=examples(30))
@given(shape=ANY_SHAPE if LONG else st.sampled_from(SHAPES), seed=st.integers(0, 10**6))
def test_equal_a_loop(shape, seed):
    rows, slots, classes = shape
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 5, (rows, slots, classes)).round(0)  # rounded: ties happen
    labels = draw.integers(0, classes, (rows, slots)).astype(np.int32)
    labels[draw.random((rows, slots)) < 0.3] = -100
    for loss in (mlm_loss, nsp_loss):
        total, count, correct = loss(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
        expected = numpy_bert.cross_entropy(logits, labels)
        np.testing.assert_allclose(total, expected[0], rtol=1e-5, atol=1e-5)
        assert (int(count), int(correct)) == expected[1:]
        assert total.dtype == jnp.float32


def test_gradient_is_softmax_minus_one_hot():
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 3, (2, 3, 5))
    labels = np.array([[0, 4, -100], [2, -100, 1]], np.int32)
    grad = jax.grad(lambda x: mlm_loss(x, jnp.asarray(labels))[0])(jnp.asarray(logits, jnp.float32))
    softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.where((labels >= 0)[..., None], softmax - np.eye(5)[np.maximum(labels, 0)], 0.0)
    np.testing.assert_allclose(grad, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("loss", [mlm_loss, nsp_loss])
def test_no_labels_give_zeros_and_no_gradient(loss):
    labels = jnp.full((2, 3), -100)
    (total, (count, correct)), grad = jax.value_and_grad(
        lambda x: (loss(x, labels)[0], loss(x, labels)[1:]), has_aux=True
    )(jnp.ones((2, 3, 2)))
    assert (float(total), int(count), int(correct)) == (0.0, 0, 0)
    assert not np.asarray(grad).any()


def test_large_and_padded_logits_stay_finite():
    logits = jnp.asarray([[[3e4, -3e4, -1e9], [1.0, 2.0, -1e9]]])
    total, _, correct = mlm_loss(logits, jnp.asarray([[1, 1]]))
    np.testing.assert_allclose(total, 6e4 + np.log1p(np.exp(-1.0)), rtol=1e-6)
    assert int(correct) == 1
