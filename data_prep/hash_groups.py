"""Entries with the same 64-bit hash brought together, or the first of them, of any number of entries, in memory that
does not grow with them.

Entries are spread over files by the highest bits of their hashes, which are even: what is equal falls into one file.
A file that is still too large is spread again by the next bits.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

# Entries that are sorted at once, and files that are open at once.
AT_ONCE = 1 << 18
_FAN_OUT_BITS = 8
_HASH_BITS = 64


def first_entries(
    chunks: Iterable[np.ndarray], count: int, scratch: Path, at_once: int = AT_ONCE
) -> Iterator[np.ndarray]:
    """Of all entries with the same hash the first, in pieces, which are ordered by hash within themselves.

    Args:
        chunks: arrays of one structured type with a field "hash", uint64; `count` entries in all, or a little more.
        scratch: a folder that is made, filled with all entries, and emptied as the pieces are taken.
        at_once: entries that memory holds.
    """
    return _spread(chunks, count, scratch, at_once, _HASH_BITS, _first)


def entries_by_hash(
    chunks: Iterable[np.ndarray], count: int, scratch: Path, at_once: int = AT_ONCE
) -> Iterator[np.ndarray]:
    """All entries, in pieces ordered by hash, each with all entries of its hashes, which are in the order of the input.

    Arguments as of `first_entries`; but memory also holds all entries of one hash, however many.
    """
    return _spread(chunks, count, scratch, at_once, _HASH_BITS, _by_hash)


def _spread(
    chunks: Iterable[np.ndarray],
    count: int,
    scratch: Path,
    at_once: int,
    bits_left: int,
    ordered: Callable[[np.ndarray], np.ndarray],
) -> Iterator[np.ndarray]:
    if count <= at_once or not bits_left:
        gathered = list(chunks)
        if gathered:
            yield ordered(np.concatenate(gathered))
        return
    bits = min((count // at_once).bit_length(), _FAN_OUT_BITS, bits_left)
    shift = np.uint64(bits_left - bits)
    scratch.mkdir(parents=True, exist_ok=True)
    files = [scratch / f"{bucket}" for bucket in range(1 << bits)]
    sizes = [0] * len(files)
    dtype = None
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(open(file, "wb")) for file in files]
        for chunk in _pieces(chunks, at_once):
            # Of the first of each, what is equal within a piece is gone here: many equal entries make no large file.
            found, dtype = ordered(chunk), chunk.dtype
            bucket = (found["hash"] >> shift) & np.uint64((1 << bits) - 1)
            borders = np.searchsorted(bucket, np.arange(len(files) + 1, dtype=np.uint64)).tolist()
            for i, stream in enumerate(streams):
                if borders[i] < borders[i + 1]:
                    stream.write(found[borders[i] : borders[i + 1]].tobytes())
                    sizes[i] += borders[i + 1] - borders[i]
    for file, size in zip(files, sizes, strict=True):
        if size:
            assert dtype is not None
            # Sizes scatter a little around at_once.
            left = bits_left - bits if size > 2 * at_once else 0
            yield from _spread(read_entries(file, dtype, at_once), size, file.with_suffix(".d"), at_once, left, ordered)
        file.unlink()
    scratch.rmdir()


def _by_hash(entries: np.ndarray) -> np.ndarray:
    return entries[np.argsort(entries["hash"], kind="stable")]


def _first(entries: np.ndarray) -> np.ndarray:
    """The first of equal entries, by ascending hash."""
    entries = _by_hash(entries)
    hashes = entries["hash"]
    new = np.ones(len(hashes), bool)
    np.not_equal(hashes[1:], hashes[:-1], out=new[1:])
    return entries[new]


def _pieces(chunks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same entries in pieces of about `size`: small chunks do not make small writes."""
    waiting: list[np.ndarray] = []
    held = 0
    for chunk in chunks:
        for begin in range(0, len(chunk), size):
            waiting.append(chunk[begin : begin + size])
            held += len(waiting[-1])
            if held >= size:
                yield np.concatenate(waiting)
                waiting, held = [], 0
    if waiting:
        yield np.concatenate(waiting)


def read_entries(file: Path, dtype: np.dtype, size: int) -> Iterator[np.ndarray]:
    """The entries of a file, at most `size` at once."""
    with open(file, "rb") as stream:
        while raw := stream.read(size * dtype.itemsize):
            yield np.frombuffer(raw, dtype)
