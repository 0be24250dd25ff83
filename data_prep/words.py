"""Texts to hashes of their words and of their word n-grams, whole batches at once.

Words are what two copies of a passage have in common: runs of letters, marks and digits, case folded, without the
punctuation between them; in scripts without spaces every letter is a word. A hash has 64 bits and depends on the words
alone: not on the batch, the process or the version of any library.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep import unicode_14
from data_prep.word_starts import is_unspaced

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Odd, so that powers do not run out of bits.
_LETTER_BASE, _WORD_BASE = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F)
_LETTER, _OWN_WORD, _MARK = 1, 2, 3
# Beyond it there are only private characters, tags and variation selectors.
_LAST_LETTER = 0x323AF


@dataclass(frozen=True)
class Words:
    """Words of n texts, one text after the other."""

    hashes: np.ndarray  # uint64 [words]
    offsets: np.ndarray  # int64 [n + 1]: text i has words offsets[i] to offsets[i + 1] - 1
    letters: np.ndarray  # bool [words]: a letter of a script without spaces


@dataclass(frozen=True)
class Grams:
    """n-grams of a batch of texts, in order."""

    hashes: np.ndarray  # uint64 [grams]
    text: np.ndarray  # int64 [grams], ascending: which text a gram stands in
    first_word: np.ndarray  # int64 [grams]: the number, in the batch, of its first word


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): uint64 to uint64, one to one, every bit scrambled."""
    with np.errstate(over="ignore"):
        values = values + _GOLDEN
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def spans(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text with its case folded, and where each of its words begins and ends in it."""
    folded = unicode_14.casefold(text)
    codes, starts = _words(folded)
    inside = _kinds()[codes] > 0
    ends = np.append(starts[1:], len(codes))
    # What follows a word up to the next one is no part of it.
    sizes = np.add.reduceat(inside, starts, dtype=np.int64) if len(starts) else starts
    assert ((ends - starts) >= sizes).all()
    return folded, list(zip(starts.tolist(), (starts + sizes).tolist(), strict=True))


def word_hashes(texts: Sequence[str]) -> Words:
    """The words of every text, in order."""
    folded = [unicode_14.casefold(text) for text in texts]
    codes, starts = _words("\n".join(folded))
    # Where each text begins among the characters of all, a line feed between two.
    begins = np.cumsum([0, *(len(text) + 1 for text in folded)], dtype=np.int64)
    offsets = np.searchsorted(starts, begins).astype(np.int64)
    if not len(starts):
        return Words(np.empty(0, np.uint64), offsets, np.empty(0, bool))
    sizes = np.diff(np.append(starts, len(codes)))
    place = np.arange(starts[0], len(codes)) - np.repeat(starts, sizes)
    letters = _letter_values()[codes[starts[0] :]]
    with np.errstate(over="ignore"):
        letters *= _powers(_LETTER_BASE, int(sizes.max()))[place]
        hashes = mix(np.add.reduceat(letters, starts - starts[0]))
    return Words(hashes, offsets, _kinds()[codes[starts]] == _OWN_WORD)


def grams(words: Words, size: int) -> Grams:
    """All n-grams of `size` words that lie within a text."""
    count = max(0, len(words.hashes) - size + 1)
    text = np.repeat(np.arange(len(words.offsets) - 1), np.diff(words.offsets))
    whole = np.flatnonzero(text[:count] == text[len(text) - count :])
    total = np.zeros(len(whole), np.uint64)
    with np.errstate(over="ignore"):
        for place, power in enumerate(_powers(_WORD_BASE, size)):
            total += words.hashes[whole + place] * power
    return Grams(mix(total), text[whole], whole)


def shingles(words: Words, size: int) -> Grams:
    """What stands for a text when texts are compared: its n-grams, and of a text of fewer words all of them as one."""
    found = grams(words, size)
    counts = np.diff(words.offsets)
    (short,) = np.nonzero((counts > 0) & (counts < size))
    if not len(short):
        return found
    text = np.repeat(np.arange(len(counts)), counts)
    mine = (counts < size)[text]
    place = np.arange(len(text)) - words.offsets[text]
    with np.errstate(over="ignore"):
        parts = words.hashes[mine] * _powers(_WORD_BASE, size)[place[mine]]
        total = np.add.reduceat(parts, np.flatnonzero(place[mine] == 0))
    every = np.concatenate([found.text, short])
    order = np.argsort(every, kind="stable")
    first_word = np.concatenate([found.first_word, words.offsets[short]])
    return Grams(np.concatenate([found.hashes, mix(total)])[order], every[order], first_word[order])


def _words(folded: str) -> tuple[np.ndarray, np.ndarray]:
    """Code points, uint32 [characters], and where words start, int64 [words]."""
    codes = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), "<u4")
    kinds = _kinds()[codes]
    before = kinds
    if (kinds == _MARK).any():
        # To what follows it, a mark is of its letter's kind.
        letters = kinds[np.maximum.accumulate(np.where(kinds != _MARK, np.arange(len(kinds)), 0))]
        before = np.where(letters > 0, letters, kinds)
    before = np.concatenate([[0], before[:-1]]) if len(kinds) else kinds
    starts = (kinds > 0) & (before == 0) | (kinds == _OWN_WORD) | (kinds == _LETTER) & (before == _OWN_WORD)
    return codes, np.flatnonzero(starts)


@functools.cache
def _kinds() -> np.ndarray:
    """uint8 [code points]: letter or digit, letter that is a word of its own, mark, or 0 for what is between words."""
    kinds = np.zeros(0x110000, np.uint8)
    for code in range(_LAST_LETTER + 1):
        category = unicode_14.category(chr(code))[0]
        if category == "M":
            kinds[code] = _MARK
        elif category in "LN":
            kinds[code] = _OWN_WORD if is_unspaced(chr(code)) else _LETTER
    return kinds


@functools.cache
def _letter_values() -> np.ndarray:
    """uint64 [code points]: what a character adds to its word's hash, nothing where it is none of a word's."""
    kinds = _kinds()
    return np.where(kinds > 0, mix(np.arange(len(kinds), dtype=np.uint64)), np.uint64(0))


def _powers(base: np.uint64, count: int) -> np.ndarray:
    """uint64 [count]: 1, base, base ** 2, ... modulo 2 ** 64."""
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    with np.errstate(over="ignore"):
        return np.cumprod(powers, dtype=np.uint64)
