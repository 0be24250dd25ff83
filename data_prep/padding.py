"""How much of the rows of a training run would be padding, told from the lengths of sentences alone.

An estimate of what the sampler would make of a corpus with objective nsp, from a sample of its records: sentences are
gathered into chunks, chunks split into pairs, examples packed by best fit, as DESIGN's sampler does it, with other
random numbers and without word borders. The test compares it with the real plans: they agree within 0.01.
"""

import bisect
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.index import open_columns
from data_prep.words import mix

# [CLS] and two [SEP].
_SPECIALS = 3
_SHORT_SEQ_PROB = 0.1
_SAMPLE_TOKENS = 1 << 20
SEQ_LENS = (128, 512)


class _Records(NamedTuple):
    """Records [n]: their ranks, which follow from the text, places in the split, and sentences; and the tokens of all
    these sentences, one record's after another's."""

    ranks: np.ndarray
    places: np.ndarray
    sentences: np.ndarray
    lengths: np.ndarray


def sample_of_sentences(indices: Sequence[Path], kept: np.ndarray) -> list[list[int]]:
    """The sentences, in tokens, of the kept records, bool [records], whose texts have the smallest hashes; about
    `_SAMPLE_TOKENS` in all. No order of shards changes which."""
    chosen: list[_Records] = []
    # Ranks up to this may still be among the smallest; sorting anew with every small shard would take ages.
    highest, held = np.uint64((1 << 64) - 1), 0
    begin = 0
    for index in indices:
        columns = open_columns(index)
        (mine,) = np.nonzero(kept[begin : begin + len(columns["first"])])
        ranks = mix(columns["text_hash"][mine])
        (low,) = np.nonzero(ranks <= highest)
        if len(low):
            mine = mine[low]
            starts = columns["sentence_offsets"][mine]
            sentences = columns["sentence_offsets"][mine + 1] - starts
            lengths = _rows(columns["sentence_lengths"], starts, sentences)
            chosen.append(_smallest([_Records(ranks[low], begin + mine, sentences, lengths)]))
            held += int(chosen[-1].lengths.sum())
        if held >= 2 * _SAMPLE_TOKENS:
            chosen = [_smallest(chosen)]
            highest, held = chosen[0].ranks[-1], int(chosen[0].lengths.sum())
        begin += len(columns["first"])
    if not chosen:
        return []
    sample = _smallest(chosen)
    ends = np.cumsum(sample.sentences)[:-1]
    return [lengths.tolist() for lengths in np.split(sample.lengths, ends)]


def _smallest(chosen: list[_Records]) -> _Records:
    """Those with the smallest ranks that make up `_SAMPLE_TOKENS`, in order."""
    ranks, places, sentences, lengths = (np.concatenate(columns) for columns in zip(*chosen, strict=True))
    starts = np.cumsum(sentences) - sentences
    order = np.lexsort((places, ranks))
    sums = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    tokens = np.cumsum((sums[starts + sentences] - sums[starts])[order])
    order = order[: 1 + int(np.searchsorted(tokens, _SAMPLE_TOKENS))]
    rows = _rows(lengths, starts[order], sentences[order])
    return _Records(ranks[order], places[order], sentences[order], rows)


def _rows(values: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`counts` values from each of `starts` on, one after another."""
    ends = np.cumsum(counts)
    return values[np.repeat(starts - ends + counts, counts) + np.arange(ends[-1])]


def padding(documents: Sequence[Sequence[int]]) -> dict[str, dict[str, float]]:
    """The share of padding, by length of rows and "packed" or "unpacked", where records have sentences of these
    tokens."""
    found = {}
    for seq_len in SEQ_LENS:
        draw = random.Random(0).random
        lengths = [length for sentences in documents for length in _examples(sentences, seq_len, draw)]
        tokens = sum(lengths)
        rows = _packed_rows(lengths, seq_len)
        found[str(seq_len)] = {
            "packed": round(1 - tokens / (rows * seq_len), 4) if rows else 0.0,
            "unpacked": round(1 - tokens / (len(lengths) * seq_len), 4) if lengths else 0.0,
        }
    return found


def _examples(sentences: Sequence[int], seq_len: int, draw: Callable[[], float]) -> Iterator[int]:
    """Tokens of every example of a record, special ones included."""
    longest = seq_len - _SPECIALS
    pieces: list[int] = []
    for length in sentences:
        pieces.extend([longest] * ((length - 1) // longest))
        pieces.append((length - 1) % longest + 1)
    ends = list(itertools.accumulate(pieces, initial=0))
    at = 0
    while at < len(pieces):
        target = 2 + int(draw() * (longest - 1)) if draw() < _SHORT_SEQ_PROB else longest
        end = max(at + 1, bisect.bisect_right(ends, ends[at] + target) - 1)
        yield ends[end] - ends[at] + (2 if end - at == 1 else 3)
        border = at + 1 + int(draw() * (end - at - 1))
        # A random B takes the place of the true one, whose sentences begin the next chunk.
        at = border if end - at > 1 and draw() < 0.5 else end


def _packed_rows(lengths: Sequence[int], seq_len: int) -> int:
    """Rows that the examples fill, the longest first, each in the fullest row that has room for it."""
    most = max(1, seq_len // 16)
    # Rows that are open, by the room left: the numbers of examples in them; and a bit for each room that some have.
    rooms: list[list[int]] = [[] for _ in range(seq_len + 1)]
    some = 0
    rows = 0
    for length in sorted(lengths, reverse=True):
        enough = some >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            items = rooms[room].pop()
            if not rooms[room]:
                some ^= 1 << room
        else:
            room, items, rows = seq_len, 0, rows + 1
        if items + 1 < most:
            rooms[room - length].append(items + 1)
            some |= 1 << (room - length)
    return rows
