"""Signatures against MinHash written out with Python's integers and sets, and their estimates against true Jaccard."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples
from similar_texts import changed, jaccard

from data_prep.minhash import NGRAM, NO_WORDS, PERMUTATIONS, signatures
from data_prep.words import mix, shingles, word_hashes


def slow_signature(text):
    values = set(shingles(word_hashes([text]), NGRAM).hashes.tolist())
    if not values:
        return [NO_WORDS] * PERMUTATIONS
    factors = [int(mix(np.array([k], np.uint64))[0]) | 1 for k in range(PERMUTATIONS)]
    return [min(value * factor % 2**64 for value in values) >> 32 for factor in factors]


@settings(max_examples=examples(40))
@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=12).map(" ".join), max_size=5))
def test_signatures_are_minima_over_sets(texts):
    assert signatures(texts).tolist() == [slow_signature(text) for text in texts]


@pytest.mark.parametrize("length", [40, 400])
def test_agreement_estimates_jaccard(length):
    """Without bias, and with the spread of as many independent hash functions."""
    draw = np.random.default_rng(length)
    scores = []
    while len(scores) < 300:
        words = [f"w{i}" for i in draw.integers(10**9, size=length)]
        other = changed(words, draw.integers(1, 1 + length // 12), draw)
        true = jaccard(words, other)
        one, two = signatures([" ".join(words), " ".join(other)])
        scores.append(((one == two).mean() - true) / np.sqrt(true * (1 - true) / PERMUTATIONS))
    assert abs(np.mean(scores)) < 4 / np.sqrt(300)
    assert 0.85 < np.std(scores) < 1.15
