"""Signatures of texts by which near duplicates are found without comparing everything with everything.

MinHash over word n-grams (Broder, "On the resemblance and containment of documents", 1997): two signatures agree in
about as many places as the sets of n-grams have in common (their Jaccard similarity). It is here and not in a library
because signatures stand in a corpus, whose bytes no upgrade of a library may change.
"""

from collections.abc import Sequence

import numpy as np

from data_prep.words import mix, shingles, word_hashes

PERMUTATIONS = 128
NGRAM = 5
# In every place of the signature of a text without words.
NO_WORDS = 0xFFFFFFFF


def signatures(texts: Sequence[str]) -> np.ndarray:
    """uint32 [n, PERMUTATIONS]: the smallest value of each of `PERMUTATIONS` hash functions over a text's n-grams."""
    found = shingles(word_hashes(texts), NGRAM)
    result = np.full((len(texts), PERMUTATIONS), NO_WORDS, np.uint32)
    present, starts = np.unique(found.text, return_index=True)
    if len(present):
        # The n-grams' hashes are random already: an odd multiplier makes another function of them.
        multipliers = mix(np.arange(PERMUTATIONS, dtype=np.uint64)) | np.uint64(1)
        values = np.empty_like(found.hashes)
        with np.errstate(over="ignore"):
            for place, multiplier in enumerate(multipliers):
                np.multiply(found.hashes, multiplier, out=values)
                result[present, place] = np.minimum.reduceat(values, starts) >> np.uint64(32)
    return result
