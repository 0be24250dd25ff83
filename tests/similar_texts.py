"""Lists of words whose similarity is known."""

from data_prep.minhash import NGRAM


def sets(words):
    return {tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)}


def changed(words, changes, draw):
    words = list(words)
    for place in draw.choice(len(words), changes, replace=False):
        words[place] = f"new{draw.integers(10**9)}"
    return words


def jaccard(one, two):
    one, two = sets(one), sets(two)
    return len(one & two) / len(one | two)
