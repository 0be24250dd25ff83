"""Hashes of words and n-grams against plain Python strings: equal exactly where the words are, whatever the batch."""

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep import minhash
from data_prep.words import grams, shingles, spans, word_hashes

TEXT = st.text(st.sampled_from("abAB é'-., \n1中文\u0e01\u0e31ß"), max_size=30)
BATCH = st.lists(TEXT, max_size=6)


def slow_words(text):
    """Runs of what is no separator, Han and Thai letter by letter (a mark stays with its letter)."""
    return re.findall(r"[中文\u0e01]\u0e31*|[ab\u0e31é1s]+", text.casefold())


@given(BATCH)
def test_words_and_their_places(batch):
    found = word_hashes(batch)
    for i, text in enumerate(batch):
        words = slow_words(text)
        hashes = found.hashes[found.offsets[i] : found.offsets[i + 1]]
        assert len(hashes) == len(words)
        np.testing.assert_array_equal(hashes, word_hashes([text]).hashes)
        folded, where = spans(text)
        assert [folded[a:b] for a, b in where] == words
    names = [word for text in batch for word in slow_words(text)]
    assert len(set(zip(names, found.hashes.tolist(), strict=True))) == len(set(names))
    assert len(set(found.hashes.tolist())) == len(set(names))


@given(BATCH, st.integers(1, 4))
def test_grams_lie_within_a_text(batch, size):
    texts = [slow_words(text) for text in batch]
    slow = [(i, j, tuple(w[j : j + size])) for i, w in enumerate(texts) for j in range(len(w) - size + 1)]
    words = word_hashes(batch)
    found = grams(words, size)
    assert found.text.tolist() == [i for i, _, _ in slow]
    assert (found.first_word - words.offsets[found.text]).tolist() == [j for _, j, _ in slow]
    by_hash = dict(zip(found.hashes.tolist(), (g for _, _, g in slow), strict=True))
    assert all(by_hash[h] == g for h, (_, _, g) in zip(found.hashes.tolist(), slow, strict=True))
    assert len(by_hash) == len({g for _, _, g in slow})


@given(BATCH, st.integers(1, 4))
def test_shingles_of_short_texts_are_the_whole_text(batch, size):
    found = shingles(word_hashes(batch), size)
    for i, text in enumerate(batch):
        count = len(slow_words(text))
        mine = found.hashes[found.text == i].tolist()
        assert len(mine) == (min(count, 1) if count < size else count - size + 1)
        assert mine == shingles(word_hashes([text]), size).hashes.tolist()
        if 0 < count < size:
            assert mine == grams(word_hashes([text]), count).hashes.tolist()
    assert (np.diff(found.text) >= 0).all()


def test_hashes_never_change():
    """They stand in corpora and decide what is dropped."""
    assert word_hashes(["The House, 中"]).hashes.tolist() == WORDS
    signature = minhash.signatures(["one two three four five six seven", "", "Häuser!"])
    assert signature[:, [0, 1, 127]].tolist() == SIGNATURES


WORDS = [12052559192887287707, 370985986134839685, 15070953886060369601]
SIGNATURES = [
    [1048238225, 1920770978, 469841086],
    [4294967295, 4294967295, 4294967295],
    [38070269, 2941703742, 1655764207],
]
