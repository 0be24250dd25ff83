"""Which of many documents are the first with their text, by a hash of it, in memory that does not grow with them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

# Documents that are sorted at once, and files that are open at once: past the product, more are sorted at once.
_SORTED_AT_ONCE = 1 << 17
_MOST_BUCKETS = 256
_ENTRY = np.dtype([("hash", "<u8"), ("place", "<i8")])


def first_of_equal(hashes: Iterable[np.ndarray], count: int, scratch: Path) -> np.ndarray:
    """bool [count]: whether a document is the first of those with its hash.

    Args:
      hashes: uint64 arrays which, one after the other, hold the `count` hashes in the order of the documents.
      count: of documents.
      scratch: a folder that is made, filled with 16 bytes a document, and emptied.
    """
    first = np.zeros(count, bool)
    bits = min(max(0, count - 1) // _SORTED_AT_ONCE, _MOST_BUCKETS - 1).bit_length()
    if not bits:
        _mark(_entries(hashes, 0), first)
        return first
    scratch.mkdir(parents=True, exist_ok=True)
    files = [scratch / f"hashes-{bucket}" for bucket in range(1 << bits)]
    shift = np.uint64(64 - bits)
    streams = [open(file, "wb") for file in files]  # noqa: SIM115  # as many as there are buckets
    try:
        done = 0
        for chunk in _chunks(hashes):
            entries = _entries([chunk], done)
            done += len(chunk)
            bucket = (chunk >> shift).astype(np.int64)
            order = np.argsort(bucket, kind="stable")
            entries, borders = entries[order], np.searchsorted(bucket[order], np.arange((1 << bits) + 1))
            for i, stream in enumerate(streams):
                if borders[i] < borders[i + 1]:
                    stream.write(entries[borders[i] : borders[i + 1]].tobytes())
    finally:
        for stream in streams:
            stream.close()
    for file in files:
        _mark(np.fromfile(file, _ENTRY), first)
        file.unlink()
    return first


def _chunks(hashes: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    """The same hashes in pieces of about as many as are sorted at once: small shards do not make small writes."""
    waiting: list[np.ndarray] = []
    size = 0
    for array in hashes:
        for begin in range(0, len(array), _SORTED_AT_ONCE):
            waiting.append(np.array(array[begin : begin + _SORTED_AT_ONCE]))
            size += len(waiting[-1])
            if size >= _SORTED_AT_ONCE:
                yield np.concatenate(waiting)
                waiting, size = [], 0
    if waiting:
        yield np.concatenate(waiting)


def _entries(hashes: Iterable[np.ndarray], start: int) -> np.ndarray:
    flat = np.concatenate([np.empty(0, np.uint64), *hashes])
    entries = np.empty(len(flat), _ENTRY)
    entries["hash"] = flat
    entries["place"] = np.arange(start, start + len(flat))
    return entries


def _mark(entries: np.ndarray, first: np.ndarray) -> None:
    # Entries stand in the order of the documents, and a stable sort keeps it among equals.
    _, places = np.unique(entries["hash"], return_index=True)
    first[entries["place"][places]] = True
