"""Near duplicates: of documents that are nearly the same, the first is kept.

They are found from the signatures in the index (data_prep.minhash): documents whose signatures agree in a whole band of
places are compared, and those that agree in at least a share `threshold` of all places are of one cluster, of which the
first document in the order of the input is kept, whatever its split. Everything is sorted arrays: some 40 bytes a
document, and the pairs that were found.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.index import open_columns
from data_prep.minhash import NGRAM, NO_WORDS, PERMUTATIONS
from data_prep.words import mix

# Of pairs that are just as similar as the threshold, at least so many are compared.
_RECALL = 0.999
_SAMPLES = 20
# How a document begins, for people to read: its split and its first record.
Beginning = Callable[[str, int], str]


def find_near_duplicates(
    indices: Mapping[str, Sequence[Path]], kept: Mapping[str, np.ndarray], threshold: float, beginning: Beginning
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Which records are to be dropped as near duplicates, and the account of them.

    Args:
        indices: the index files of each split.
        kept: bool [records] for each split: those that are left to be compared, whole documents.
        threshold: the share of places from which on two documents are near duplicates.

    Returns bool [records] for each split, and what the audit says.
    """
    documents = _Documents(indices, kept)
    count, rows = bands(threshold)
    pairs = _candidates(documents, count, rows)
    alike = pairs[_agreement(documents, pairs) >= threshold * PERMUTATIONS]
    cluster = clusters(len(documents), alike)
    (dropped,) = np.nonzero(cluster != np.arange(len(documents)))
    sizes = np.bincount(cluster[dropped], minlength=len(documents))
    account = {
        "threshold": threshold,
        "method": f"MinHash, {PERMUTATIONS} places, n-grams of {NGRAM} words, {count} bands of {rows}",
        "pairs_compared": len(pairs),
        "pairs_alike": len(alike),
        "clusters": int(np.count_nonzero(sizes)),
        "largest_cluster": int(sizes.max(initial=0)) + 1 if len(dropped) else 0,
        "documents_dropped": len(dropped),
        "sample": _sample(documents, dropped, cluster, beginning),
    }
    return documents.records(dropped), account


def bands(threshold: float) -> tuple[int, int]:
    """(bands, rows a band): the longest bands with which a pair at the threshold is still compared almost surely."""
    for rows in range(PERMUTATIONS, 1, -1):
        count = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** count >= _RECALL:
            return count, rows
    return PERMUTATIONS, 1


class _Documents:
    """The documents that are left of all splits, in the order of the input."""

    def __init__(self, indices: Mapping[str, Sequence[Path]], kept: Mapping[str, np.ndarray]):
        self._indices = indices
        self._sizes = {name: len(kept[name]) for name in indices}
        numbers, splits, records, flat = [], [], [], []
        done = 0
        for split, (name, files) in enumerate(indices.items()):
            begin = 0
            for file in files:
                columns = open_columns(file)
                first = np.flatnonzero(columns["first"])
                left = np.flatnonzero(kept[name][begin + first])
                numbers.append(columns["document"][first[left]])
                splits.append(np.full(len(left), split, np.uint8))
                records.append(begin + first[left])
                flat.append(done + left)
                begin, done = begin + len(columns["first"]), done + len(first)
        order = np.argsort(np.concatenate(numbers), kind="stable")
        self._split, self._record = np.concatenate(splits)[order], np.concatenate(records)[order]
        # Places among the signatures of all indices.
        self._flat = np.concatenate(flat)[order]

    def __len__(self) -> int:
        return len(self._record)

    def column(self, place: int) -> np.ndarray:
        """uint32 [documents]: one place of every signature."""
        files = (file for files in self._indices.values() for file in files)
        return np.concatenate([open_columns(file)["signature"][place] for file in files])[self._flat]

    def where(self, document: int) -> tuple[str, int]:
        """The split of a document and the record with which it begins there."""
        return list(self._indices)[self._split[document]], int(self._record[document])

    def records(self, documents: np.ndarray) -> dict[str, np.ndarray]:
        """bool [records] for each split: those of some documents."""
        found = {}
        for split, (name, files) in enumerate(self._indices.items()):
            mine = np.zeros(self._sizes[name], bool)
            mine[self._record[documents[self._split[documents] == split]]] = True
            first = np.concatenate([np.empty(0, bool), *(open_columns(file)["first"] != 0 for file in files)])
            found[name] = mine[first][np.cumsum(first) - 1]
        return found


def _candidates(documents: _Documents, count: int, rows: int) -> np.ndarray:
    """int64 [pairs, 2], the earlier document first: those that share a band, each with the first and the last before it
    that do. All with all would be quadratic where a text is repeated often, and clusters need no more."""
    found = np.empty(0, np.uint64)
    (worded,) = np.nonzero((documents.column(0) != NO_WORDS) | (documents.column(1) != NO_WORDS))
    for band in range(count):
        keys = np.zeros(len(worded), np.uint64)
        for place in range(band * rows, (band + 1) * rows):
            keys = mix(keys ^ documents.column(place)[worded])
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        same = np.flatnonzero(keys[1:] == keys[:-1]) + 1
        first = np.searchsorted(keys, keys[same])
        later = worded[order[same]].astype(np.uint64)
        for earlier in (order[first], order[same - 1]):
            found = np.union1d(found, worded[earlier].astype(np.uint64) << np.uint64(32) | later)
    return np.stack([found >> np.uint64(32), found & np.uint64(0xFFFFFFFF)], 1).astype(np.int64)


def _agreement(documents: _Documents, pairs: np.ndarray) -> np.ndarray:
    """int64 [pairs]: places in which the two signatures agree."""
    total = np.zeros(len(pairs), np.int64)
    if len(pairs):
        for place in range(PERMUTATIONS):
            column = documents.column(place)
            total += column[pairs[:, 0]] == column[pairs[:, 1]]
    return total


def clusters(count: int, pairs: np.ndarray) -> np.ndarray:
    """int64 [count]: the smallest member of everything's connected component.

    Roots are hung under smaller neighbours and paths halved until nothing moves (the rounds of union-find, whole arrays
    at once).
    """
    parent = np.arange(count)
    while True:
        left, right = parent[pairs[:, 0]], parent[pairs[:, 1]]
        apart = left != right
        if not apart.any():
            return parent
        low, high = np.minimum(left, right)[apart], np.maximum(left, right)[apart]
        np.minimum.at(parent, high, low)
        while (parent != parent[parent]).any():
            parent = parent[parent]


def _sample(
    documents: _Documents, dropped: np.ndarray, cluster: np.ndarray, beginning: Beginning
) -> list[dict[str, Any]]:
    """Pairs of which the second was dropped, spread evenly over all."""
    chosen = dropped[np.unique(np.linspace(0, len(dropped) - 1, min(_SAMPLES, len(dropped))).round().astype(np.int64))]
    pairs = np.stack([cluster[chosen], chosen], 1)
    return [
        {
            "similarity": round(int(agreed) / PERMUTATIONS, 3),
            "kept": beginning(*documents.where(kept)),
            "dropped": beginning(*documents.where(out)),
        }
        for (kept, out), agreed in zip(pairs.tolist(), _agreement(documents, pairs), strict=True)
    ]
