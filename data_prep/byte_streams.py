"""Files as streams of bytes, plain or compressed: the one place where raw input is opened.

All of a stream that comes before damage is delivered; then `Damaged` says what is wrong.
"""

import bz2
import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_prep.errors import InputError

BLOCK = 1 << 20
COMPRESSIONS = {"gz": "gzip", "bz2": "bzip2", "zst": "zstandard"}
# How a bz2 stream that holds anything begins: signature, level, and the mark of its first block. Ten bytes do not
# occur by chance, not in all the dumps there are.
BZ2_MAGIC = rb"BZh[1-9]1AY&SY"
_SMALL_BLOCK = 1 << 16


class Damaged(Exception):
    """The stream ended where it should not, or is not what its name says: the message says how."""


def compression(name: str) -> str:
    """The key of COMPRESSIONS that the suffix of a file names, "" for a plain file."""
    suffix = name.lower().rpartition(".")[2]
    return suffix if suffix in COMPRESSIONS else ""


def open_bytes(path: Path) -> BinaryIO:
    """A file's bytes as they are stored, on this machine or in an object store (data_prep.storage.input_path)."""
    return path.open("rb")


@contextlib.contextmanager
def open_unpacked(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes, unpacked where its suffix says that it is compressed; read them with `read_block`."""
    with open_bytes(path) as stream:
        kind = compression(path.name)
        if kind == "gz":
            yield gzip.GzipFile(fileobj=stream)  # type: ignore[misc]
        elif kind == "bz2":
            yield io.BufferedReader(_Blocks(block for _, block in bz2_streams(stream, 0)))
        elif kind == "zst":
            yield io.BufferedReader(_Blocks(_zstandard(stream, path)))
        else:
            yield stream


def read_block(stream: BinaryIO, size: int | None = None) -> bytes:
    """The next bytes, at least one and at most `size` (BLOCK unless given); b"" at the end. Raises Damaged."""
    try:
        return stream.read1(size or BLOCK)  # type: ignore[attr-defined]  # what precedes a break still comes
    except EOFError:
        raise Damaged("the gzip file is truncated") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise Damaged(f"the gzip file is damaged ({error})") from None


def bz2_streams(stream: BinaryIO, start: int) -> Iterator[tuple[int, bytes]]:
    """Unpacked blocks of the bz2 streams of a file from byte `start`, a stream's beginning, on, each with the offset
    in the file where its stream begins. Raises Damaged.

    Python's own reader passes over what follows a stream and is none, which hides damage.
    """
    stream.seek(start)
    begin, position = start, start  # of this stream; of what has been read
    unpacker, packed = bz2.BZ2Decompressor(), b""
    while True:
        if unpacker.eof:
            packed = unpacker.unused_data
            begin, unpacker = position - len(packed), bz2.BZ2Decompressor()
        if unpacker.needs_input and not packed:
            packed = stream.read(_SMALL_BLOCK)
            position += len(packed)
            if not packed:
                if begin < position:
                    raise Damaged("the bzip2 file is truncated")
                return
        try:
            block = unpacker.decompress(packed, BLOCK)
        except OSError:
            raise Damaged(f"the bzip2 file is damaged (in the stream at byte {begin})") from None
        packed = b""
        if block:
            yield begin, block


class _Blocks(io.RawIOBase):
    """Blocks of bytes as a stream."""

    def __init__(self, blocks: Iterator[bytes]):
        self._blocks = blocks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = memoryview(next(self._blocks, b""))
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def _zstandard(stream: BinaryIO, path: Path) -> Iterator[bytes]:
    import pyarrow

    with pyarrow.CompressedInputStream(stream, "zstd") as unpacked:
        while True:
            try:
                block = unpacked.read1(_SMALL_BLOCK)
            except OSError as error:
                if "Truncated" in str(error):
                    raise Damaged("the zstandard file is truncated") from None
                if "too much memory" in str(error):
                    # Nothing is wrong with it, so it is not dropped as damaged.
                    raise InputError(
                        f"{path}: packed with a window of more than 128 MB (zstd --long), which cannot be read; pack "
                        "it anew without, or unpack it"
                    ) from None
                raise Damaged(f"the zstandard file is damaged ({str(error).splitlines()[0]})") from None
            if not block:
                return
            yield block
