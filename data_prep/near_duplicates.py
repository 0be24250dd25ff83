"""Near duplicates: of documents that are nearly the same, the first is kept.

They are found from the signatures in the index (data_prep.minhash): documents whose signatures agree in a whole band of
places are compared, and those that agree in at least a share `threshold` of all places are of one cluster, of which the
first document in the order of the input is kept, whatever its split. What there is a document or a pair lies on the
disk; memory holds the documents that are dropped, at up to 150 bytes while they are joined.

A document's id is twice its number, and one more in the second split: in the order of the input, and easily found.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.files import mapped_flags
from data_prep.hash_groups import AT_ONCE, entries_by_hash, first_entries, read_entries
from data_prep.index import open_columns
from data_prep.minhash import NGRAM, NO_WORDS, PERMUTATIONS
from data_prep.words import mix

# Of pairs that are just as similar as the threshold, at least so many are compared.
_RECALL = 0.999
_SAMPLES = 20
# Pairs whose signatures, of 1 kB, are in memory at once.
_COMPARED_AT_ONCE = 1 << 15
_KEY = np.dtype([("hash", "<u8"), ("id", "<i8")])
_PAIR = np.dtype([("hash", "<u8"), ("earlier", "<i8"), ("later", "<i8")])
# How a document begins, for people to read: its split and its first record.
Beginning = Callable[[str, int], str]


def find_near_duplicates(
    indices: Mapping[str, Sequence[Path]],
    kept: Mapping[str, np.ndarray],
    threshold: float,
    beginning: Beginning,
    scratch: Path,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Which records are to be dropped as near duplicates, and the account of them.

    Args:
        indices: the index files of each split.
        kept: bool [records] for each split: those that are left to be compared, whole documents.
        threshold: the share of places from which on two documents are near duplicates.
        scratch: a folder that is there, to work in.

    Returns bool [records] for each split, on disk and mapped, and what the audit says.
    """
    documents = _Documents(indices, kept)
    count, rows = bands(threshold)
    compared, alike, clusters = 0, 0, _Clusters()
    for earlier, later in _candidates(documents, count, rows, scratch):
        similar = _agreement(documents, earlier, later) >= threshold * PERMUTATIONS
        clusters.join(earlier[similar], later[similar])
        compared, alike = compared + len(earlier), alike + int(np.count_nonzero(similar))
    firsts, dropped = clusters.found()
    sizes = np.unique(firsts, return_counts=True)[1]
    account = {
        "threshold": threshold,
        "method": f"MinHash, {PERMUTATIONS} places, n-grams of {NGRAM} words, {count} bands of {rows}",
        "pairs_compared": compared,
        "pairs_alike": alike,
        "clusters": len(sizes),
        "largest_cluster": int(sizes.max()) + 1 if len(sizes) else 0,
        "documents_dropped": len(dropped),
        "sample": _sample(documents, firsts, dropped, beginning),
    }
    return documents.records(dropped, scratch), account


def bands(threshold: float) -> tuple[int, int]:
    """(bands, rows a band): the longest bands with which a pair at the threshold is still compared almost surely."""
    for rows in range(PERMUTATIONS, 1, -1):
        count = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** count >= _RECALL:
            return count, rows
    return PERMUTATIONS, 1


class _Documents:
    """The documents that are left of two splits, by their ids."""

    def __init__(self, indices: Mapping[str, Sequence[Path]], kept: Mapping[str, np.ndarray]):
        self._indices, self._kept = indices, kept
        self._names = list(indices)
        # Of each split's shards in which documents begin: the file, the first one's number, the records before.
        self._files: list[list[Path]] = [[] for _ in indices]
        begins: list[list[int]] = [[] for _ in indices]
        before: list[list[int]] = [[] for _ in indices]
        self._count = 0
        for split, file, columns, done in self._shards():
            first = np.flatnonzero(columns["first"])
            if len(first):
                self._files[split].append(file)
                begins[split].append(int(columns["document"][first[0]]))
                before[split].append(done)
                self._count += int(np.count_nonzero(self._of(split)[done + first]))
        self._begins, self._before = [np.array(found, np.int64) for found in begins], before

    def __len__(self) -> int:
        return self._count

    def keys(self, places: range) -> Iterator[np.ndarray]:
        """A key from some places of each signature, equal where they are, in arrays of `_KEY`; none for a text without
        words, which is like no other.
        """
        for split, _, columns, done in self._shards():
            first, signature = np.flatnonzero(columns["first"]), columns["signature"]
            worded = (signature[0] != NO_WORDS) | (signature[1] != NO_WORDS)
            chosen = np.flatnonzero(self._of(split)[done + first] & worded)
            keys = np.zeros(len(chosen), _KEY)
            keys["id"] = 2 * columns["document"][first[chosen]] + split
            for place in places:
                keys["hash"] = mix(keys["hash"] ^ signature[place][chosen])
            yield keys

    def signatures(self, ids: np.ndarray) -> np.ndarray:
        """uint32 [PERMUTATIONS, n] of documents int64 [n]."""
        found = np.empty((PERMUTATIONS, len(ids)), np.uint32)
        for split, shard, mine in self._by_shard(ids):
            columns = open_columns(self._files[split][shard])
            found[:, mine] = columns["signature"][:, _rows(columns, ids[mine] >> 1)]
        return found

    def where(self, document: int) -> tuple[str, int]:
        """The split of a document and the record with which it begins there."""
        ((split, shard, _),) = self._by_shard(np.array([document]))
        columns = open_columns(self._files[split][shard])
        (row,) = _rows(columns, np.array([document >> 1]))
        return self._names[split], self._before[split][shard] + int(np.flatnonzero(columns["first"])[row])

    def records(self, documents: np.ndarray, scratch: Path) -> dict[str, np.ndarray]:
        """bool [records] for each split: those of some documents, int64 [n], ascending."""
        found = {name: mapped_flags(scratch, len(self._kept[name])) for name in self._names}
        mine = [documents[documents & 1 == split] >> 1 for split in range(len(self._names))]
        for split, _, columns, done in self._shards():
            numbers = columns["document"]
            if len(mine[split]):
                nearest = np.minimum(np.searchsorted(mine[split], numbers), len(mine[split]) - 1)
                found[self._names[split]][done : done + len(numbers)] = mine[split][nearest] == numbers
        return found

    def _of(self, split: int) -> np.ndarray:
        return self._kept[self._names[split]]

    def _shards(self) -> Iterator[tuple[int, Path, dict[str, np.ndarray], int]]:
        """Place of its split, file, columns and the records before it, of every shard."""
        for split, files in enumerate(self._indices.values()):
            done = 0
            for file in files:
                columns = open_columns(file)
                yield split, file, columns, done
                done += len(columns["first"])

    def _by_shard(self, ids: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
        """Place of its split, place among those in which documents begin, and which `ids` are in it, of every shard
        that holds some.
        """
        for split, begins in enumerate(self._begins):
            mine = np.flatnonzero(ids & 1 == split)
            shards = np.searchsorted(begins, ids[mine] >> 1, side="right") - 1
            order = np.argsort(shards, kind="stable")
            found, starts = np.unique(shards[order], return_index=True)
            for shard, places in zip(found.tolist(), np.split(order, starts[1:]), strict=False):
                yield split, shard, mine[places]


def _rows(columns: dict[str, np.ndarray], numbers: np.ndarray) -> np.ndarray:
    """Where documents, by number, are among those that begin in a shard."""
    return np.searchsorted(columns["document"][columns["first"] != 0], numbers)


def _candidates(documents: _Documents, count: int, rows: int, scratch: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The earlier and the later id, int64 [n] each, of pairs that agree in a band, each pair once, piece by piece.

    Of many that do, each is paired with the first and the one before it only: all would be quadratic where a text is
    repeated often, and clusters need no more.
    """
    file, total = scratch / "pairs", 0
    with open(file, "wb") as stream:
        for band in range(count):
            keys = documents.keys(range(band * rows, (band + 1) * rows))
            for entries in entries_by_hash(keys, len(documents), scratch / "keys", AT_ONCE):
                entries = entries[np.lexsort((entries["id"], entries["hash"]))]
                same = np.flatnonzero(entries["hash"][1:] == entries["hash"][:-1]) + 1
                first = np.searchsorted(entries["hash"], entries["hash"][same])
                # Of two they are the same pair.
                for earlier, later in ((first, same), (same[first < same - 1] - 1, same[first < same - 1])):
                    stream.write(_pairs(entries["id"][earlier], entries["id"][later]).tobytes())
                    total += len(later)
    for pairs in first_entries(read_entries(file, _PAIR, AT_ONCE), total, scratch / "unique", AT_ONCE):
        for begin in range(0, len(pairs), _COMPARED_AT_ONCE):
            piece = pairs[begin : begin + _COMPARED_AT_ONCE]
            yield piece["earlier"].copy(), piece["later"].copy()
    file.unlink()


def _pairs(earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    pairs = np.empty(len(earlier), _PAIR)
    pairs["earlier"], pairs["later"] = earlier, later
    pairs["hash"] = mix(earlier.astype(np.uint64) ^ mix(later.astype(np.uint64)))
    return pairs


def _agreement(documents: _Documents, earlier: np.ndarray, later: np.ndarray) -> np.ndarray:
    """int64 [pairs]: places in which the two signatures agree."""
    ids, place = np.unique(np.concatenate([earlier, later]), return_inverse=True)
    signatures = documents.signatures(ids)
    total = np.zeros(len(earlier), np.int64)
    for values in signatures:
        total += values[place[: len(earlier)]] == values[place[len(earlier) :]]
    return total


class _Clusters:
    """Connected components of ids: the first of each and every other one, however many pairs join them."""

    def __init__(self) -> None:
        self._edges = np.empty((0, 2), np.int64)  # first and other one
        self._waiting: list[np.ndarray] = []
        self._held = 0

    def join(self, one: np.ndarray, other: np.ndarray) -> None:
        """Joins pairs, int64 [n] each."""
        self._waiting.append(np.stack([one, other], 1))
        self._held += len(one)
        if self._held > max(AT_ONCE, len(self._edges)):
            self._fold()

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [n] each: the first id of its component, and the id, of all but the first ones; by ascending id."""
        self._fold()
        return self._edges[:, 0], self._edges[:, 1]

    def _fold(self) -> None:
        ids, pairs = np.unique(np.concatenate([self._edges, *self._waiting]), return_inverse=True)
        first = clusters(len(ids), pairs.reshape(-1, 2))
        others = np.flatnonzero(first != np.arange(len(ids)))
        self._edges = np.stack([ids[first[others]], ids[others]], 1)
        self._waiting, self._held = [], 0


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
    documents: _Documents, firsts: np.ndarray, dropped: np.ndarray, beginning: Beginning
) -> list[dict[str, Any]]:
    """Pairs of which the second was dropped, spread evenly over all."""
    if not len(dropped):
        return []
    chosen = np.unique(np.linspace(0, len(dropped) - 1, min(_SAMPLES, len(dropped))).round().astype(np.int64))
    kept, out = firsts[chosen], dropped[chosen]
    return [
        {
            "similarity": round(int(agreed) / PERMUTATIONS, 3),
            "kept": beginning(*documents.where(one)),
            "dropped": beginning(*documents.where(other)),
        }
        for one, other, agreed in zip(
            kept.tolist(), out.tolist(), _agreement(documents, kept, out).tolist(), strict=True
        )
    ]
