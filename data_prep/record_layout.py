"""Where the records of a shard lie in its file, so that any of them is one read, of a disk or of an object store.

ArrayRecord's own reader loads the places of all records of a file before it reads the first, which costs more than the
few records that a block takes from each of many shards. With `group_size:1,uncompressed` the layout is simple (Riegeli:
"Riegeli/records file format"): the file is cut into blocks of 64 KiB, each with a header of 24 bytes in its beginning;
what is left of the blocks, laid end to end, is a sequence of chunks with a header of 40 bytes, first an empty one, then
one a record, which ends with the record. Places here are counted in that sequence.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.errors import InputError

_BLOCK, _BLOCK_HEADER = 1 << 16, 24
_INSIDE = _BLOCK - _BLOCK_HEADER
_CHUNK_HEADER = 40
_READ_AT_ONCE = 1 << 22


def record_ends(file: Path, sizes: Sequence[int]) -> np.ndarray:
    """int64 [n]: where each record of a finished shard ends, given the bytes of each.

    Computed from the sizes and then compared with every chunk's header in the file. Raises InputError when they differ:
    then this version of array_record writes another layout.
    """
    size = np.array(sizes, np.int64)
    # A chunk's data: the kind of compression, the length of the lengths, the record's length, the record.
    ends = _CHUNK_HEADER + np.cumsum(_CHUNK_HEADER + 2 + _varint_bytes(size) + size)
    starts = np.concatenate([[_CHUNK_HEADER], ends[:-1]])
    with open(file, "rb") as stream:
        begin = 0
        while begin < len(size):
            # Some records' headers at once, whatever lies between them.
            end = max(begin + 1, int(np.searchsorted(starts, starts[begin] + _READ_AT_ONCE)))
            places = _in_file(starts[begin:end, None] + np.arange(8, _CHUNK_HEADER))
            first, last = int(places[0, 0]), int(places[-1, -1])
            stream.seek(first)
            content = np.frombuffer(stream.read(last + 1 - first).ljust(last + 1 - first), np.uint8)
            data_size, _, kind_and_count, record_size = content[places - first].view("<u8").T
            right = (data_size == (ends - starts)[begin:end] - _CHUNK_HEADER) & (record_size == size[begin:end])
            if not (right & (kind_and_count == (1 << 8) + ord("r"))).all():
                raise InputError(
                    f"{file}: this version of array_record writes another layout than 0.8; install the version that "
                    "the constraints name"
                )
            begin = end
    return ends


def spans(ends: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of a file, from and up to, in which the last `sizes` bytes before `ends` lie; block headers between
    them."""
    return _in_file(ends - sizes), _in_file(ends - 1) + 1


def without_headers(content: bytes, start: int) -> bytes:
    """The content of a file from byte `start` on, which is inside a block, less the block headers in it."""
    border = _BLOCK - start % _BLOCK
    if border >= len(content):
        return content
    parts = [content[:border]]
    for begin in range(border, len(content), _BLOCK):
        parts.append(content[begin + _BLOCK_HEADER : begin + _BLOCK])
    return b"".join(parts)


def read_ends(file: Path, ends: np.ndarray, sizes: np.ndarray) -> list[bytes]:
    """The last `sizes` bytes, int64 [n], of the records that end at `ends`. Raises InputError."""
    found = []
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError as error:
        detail = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise InputError(f"{file} {detail}; build the corpus again") from None
    try:
        for start, stop in zip(*(span.tolist() for span in spans(ends, sizes)), strict=True):
            content = os.pread(descriptor, stop - start, start)
            if len(content) < stop - start:
                raise InputError(f"{file} is shorter than its index says; check it with: bert-jax check {file.parent}")
            found.append(without_headers(content, start))
    finally:
        os.close(descriptor)
    return found


def _in_file(places: np.ndarray) -> np.ndarray:
    return places + _BLOCK_HEADER * (places // _INSIDE + 1)


def _varint_bytes(values: np.ndarray) -> np.ndarray:
    """Bytes of the integers, below 2**35, as varints."""
    return 1 + np.searchsorted([1 << 7, 1 << 14, 1 << 21, 1 << 28], values, side="right")
