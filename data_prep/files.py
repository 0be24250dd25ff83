"""Files written whole or not at all, or with their checksum, and the one line for those that cannot be written."""

import contextlib
import errno
import hashlib
import mmap
import os
import re
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import InputError

_HEADER_BYTES = 128
_ZEROS = 1 << 20
_SCRATCH = re.compile(r"\.[0-9a-f]{32}\..+")
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


def write_error(path: Path, error: OSError) -> InputError:
    """The one line for an output that cannot be written."""
    return InputError(
        f"{path}: cannot be written ({error.strerror or error}); make room or change the output, "
        "then run the same command again: finished units are kept"
    )


def scratch_beside(path: Path) -> Path:
    """A name beside `path` that nobody else takes, here or on another machine (numbers of processes are taken by one in
    each container). It ends as the file does: some writers go by the suffix.
    """
    return path.with_name(f".{uuid.uuid4().hex}.{path.name}")


def is_scratch(name: str) -> bool:
    """Whether a file, perhaps in folders, has a name as `scratch_beside` gives it."""
    return bool(_SCRATCH.fullmatch(name.rpartition("/")[2]))


def create_file(path: Path, content: bytes) -> bool:
    """Makes a file, whole, unless it is there; whether this call made it. The file system decides between two at once;
    where it has no hard links, both may be told that they did.
    """
    scratch = scratch_beside(path)
    try:
        scratch.write_bytes(content)
        os.link(scratch, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            return False
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file beside `path`, to be written, that becomes it when the block ends well and vanishes when it does not."""
    partial = scratch_beside(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def checksum(path: Path) -> dict[str, Any]:
    """SHA-256 and size of a file, as the manifest has them."""
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"sha256": digest, "bytes": stream.tell()}


def write_file(path: Path, content: bytes) -> dict[str, Any]:
    """Writes a file and returns its checksum entry without reading it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def write_integers(path: Path, count: int, chunks: Iterable[np.ndarray]) -> dict[str, Any]:
    """Writes `count` integers that come in chunks as one int64 .npy file; returns its checksum entry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = _npy_header(np.dtype("<i8"), count)
    digest = hashlib.sha256(header)
    with open(path, "wb") as stream:
        stream.write(header)
        for chunk in chunks:
            raw = chunk.astype("<i8").tobytes()
            digest.update(raw)
            stream.write(raw)
    return {"sha256": digest.hexdigest(), "bytes": len(header) + 8 * count}


class ArrayFile:
    """A .npy file as of `array_bytes` that grows by pieces, and is whole when it is finished."""

    def __init__(self, path: Path, dtype: str):
        self._path, self._dtype, self._count = path, np.dtype(dtype), 0
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(_HEADER_BYTES))

    def append(self, values: np.ndarray) -> None:
        """Adds values [n]."""
        self._count += len(values)
        with open(self._path, "ab") as stream:
            stream.write(values.astype(self._dtype).tobytes())

    def finish(self) -> None:
        """Makes it a .npy file."""
        with open(self._path, "r+b") as stream:
            stream.write(_npy_header(self._dtype, self._count))


def array_pieces(path: Path, dtype: str, size: int) -> Iterator[np.ndarray]:
    """The values of a file that `array_bytes` or `ArrayFile` made, at most `size` at once.

    Raises OSError, and ValueError for any other file.
    """
    kind = np.dtype(dtype)
    with open(path, "rb") as stream:
        count = (os.fstat(stream.fileno()).st_size - _HEADER_BYTES) // kind.itemsize
        if stream.read(_HEADER_BYTES) != _npy_header(kind, count):
            raise ValueError(f"{path} is no array of {dtype}")
        while raw := stream.read(size * kind.itemsize):
            yield np.frombuffer(raw, kind)


def mapped_array(path: Path, dtype: str) -> np.ndarray:
    """The values of such a file, mapped. Raises the same."""
    with open(path, "rb") as stream:
        raw = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    values = np.frombuffer(raw, dtype, offset=_HEADER_BYTES)
    if raw[:_HEADER_BYTES] != _npy_header(values.dtype, len(values)):
        raise ValueError(f"{path} is no array of {dtype}")
    return values


def mapped_flags(folder: Path, count: int) -> np.ndarray:
    """bool [count], all False, in a nameless file of `folder` that is mapped and goes with the array: pages of the disk
    and not of memory. Raises OSError where there is no room.
    """
    if not count:
        return np.zeros(0, bool)
    with tempfile.TemporaryFile(dir=folder) as stream:
        # A page without room on the disk would be found out by a signal.
        for begin in range(0, count, _ZEROS):
            stream.write(bytes(min(_ZEROS, count - begin)))
        stream.flush()
        return np.frombuffer(mmap.mmap(stream.fileno(), count), bool)


def array_bytes(array: np.ndarray) -> bytes:
    """The array as the content of a .npy file: a header of 128 bytes (version 1.0), then the values, little-endian."""
    order = array.astype(array.dtype.newbyteorder("<"))
    return _npy_header(order.dtype, len(order)) + order.tobytes()


def _npy_header(dtype: np.dtype, count: int) -> bytes:
    content = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({count},), }}"
    header = content.ljust(_HEADER_BYTES - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
