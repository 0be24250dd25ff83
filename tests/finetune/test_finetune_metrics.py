"""The measures against counting by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_jax.finetune.metrics import classification_metrics, regression_metrics


def labelled(most):
    return st.integers(2, most).flatmap(
        lambda count: st.tuples(
            st.just(count),
            st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), min_size=1, max_size=30),
        )
    )


def by_hand(pairs, label):
    hits = sum(t == p == label for t, p in pairs)
    claimed, there = sum(p == label for _, p in pairs), sum(t == label for t, _ in pairs)
    precision = hits / claimed if claimed else 0.0
    recall = hits / there if there else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return precision, recall, f1


def matthews(pairs, count):
    """Pearson's correlation of the indicator vectors, summed over labels."""
    n = len(pairs)
    truth = [[float(t == k) for t, _ in pairs] for k in range(count)]
    guess = [[float(p == k) for _, p in pairs] for k in range(count)]

    def cov(a, b):
        return sum(
            sum((x - sum(u) / n) * (y - sum(v) / n) for x, y in zip(u, v, strict=True))
            for u, v in zip(a, b, strict=True)
        )

    spread = cov(truth, truth) * cov(guess, guess)
    return cov(truth, guess) / math.sqrt(spread) if spread > 1e-12 else 0.0


@given(labelled(4))
def test_classification(case):
    count, pairs = case
    truth, predicted = np.array(pairs, np.int32).T
    got = classification_metrics(truth, predicted, count)
    seen = [1] if count == 2 else sorted({label for pair in pairs for label in pair})
    precision, recall, f1 = (float(np.mean(part)) for part in zip(*(by_hand(pairs, k) for k in seen), strict=True))
    assert got["accuracy"] == pytest.approx(sum(t == p for t, p in pairs) / len(pairs))
    assert got["precision"] == pytest.approx(precision)
    assert got["recall"] == pytest.approx(recall)
    assert got["f1"] == pytest.approx(f1)
    assert got["matthews_correlation"] == pytest.approx(matthews(pairs, count), abs=1e-9)


def test_the_second_label_is_the_positive_one():
    got = classification_metrics(np.array([1, 1, 1, 0], np.int32), np.array([1, 0, 0, 0], np.int32), 2)
    assert got["precision"] == 1.0
    assert got["recall"] == pytest.approx(1 / 3)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=20))
def test_regression(pairs):
    x, y = np.array(pairs, np.float32).T

    def pearson(a, b):
        a, b = [v - sum(a) / len(a) for v in a], [v - sum(b) / len(b) for v in b]
        spread = math.sqrt(sum(v * v for v in a) * sum(v * v for v in b))
        return sum(u * v for u, v in zip(a, b, strict=True)) / spread if spread > 1e-9 else 0.0

    def ranks(values):
        return [sum(w < v for w in values) + sum(w == v for w in values) / 2 for v in values]

    got = regression_metrics(x, y)
    assert got["pearson"] == pytest.approx(pearson(x.tolist(), y.tolist()), abs=1e-6)
    assert got["spearman"] == pytest.approx(pearson(ranks(x.tolist()), ranks(y.tolist())), abs=1e-9)
    assert got["mean_squared_error"] == pytest.approx(np.mean((x - y) ** 2))
