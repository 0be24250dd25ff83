"""Long documents to several records, cut between sentences, and sentences longer than a record cut between words."""

import numpy as np


def cut_sentences(lengths: np.ndarray, word_starts: np.ndarray, limit: int) -> tuple[np.ndarray, int]:
    """Cuts sentences of more than `limit` tokens: each piece ends before the last word start that fits, or at the
    limit.

    `lengths` int [n], `word_starts` bool [total], in which the first token of every new piece is marked. Returns the
    lengths of all pieces and the number of sentences that were cut.
    """
    if len(lengths) == 0 or lengths.max() <= limit:
        return lengths, 0
    pieces, cut, begin = [], 0, 0
    for length in lengths.tolist():
        end = begin + length
        cut += length > limit
        while end - begin > limit:
            borders = np.flatnonzero(word_starts[begin + 1 : begin + limit + 1])
            size = int(borders[-1]) + 1 if len(borders) else limit
            pieces.append(size)
            begin += size
            word_starts[begin] = True
        pieces.append(end - begin)
        begin = end
    return np.array(pieces, lengths.dtype), cut


def group_sentences(lengths: np.ndarray, limit: int) -> list[np.ndarray]:
    """Consecutive sentences in groups of at most `limit` tokens, each as long as can be. No sentence is longer than
    that."""
    ends = np.cumsum(lengths)
    groups, begin = [], 0
    while begin < len(lengths):
        done = int(ends[begin - 1]) if begin else 0
        end = int(np.searchsorted(ends, done + limit, side="right"))
        groups.append(lengths[begin:end])
        begin = end
    return groups
