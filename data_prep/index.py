"""The index of one shard: columns in one safetensors file, memory-mapped.

Columns, for n records with S sentences and T tokens:
    document          int64 [n]     number of the document in the corpus: unit * 2**32 + place in the unit
    text_hash         uint64 [n]    of the whole document's text
    sentence_offsets  int64 [n+1]   into sentence_lengths
    token_offsets     int64 [n+1]   into the tokens of the shard
    record_ends       int64 [n]     where the record ends in the shard's file (data_prep.record_layout); older corpora
                      are without
    sentence_lengths  uint16 [S]    tokens
    first             uint8 [n]     1 where the record begins its document
    word_starts       uint8 [ceil(T / 8)]   a bit a token, the highest bit first
    signature         uint32 [128, documents that begin here]   only where near duplicates were looked for
                      (data_prep.minhash)
"""

import json
import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.errors import InputError
from data_prep.minhash import PERMUTATIONS

_TYPES = {"I64": "<i8", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1"}
_COLUMNS = {
    "document": "I64",
    "text_hash": "U64",
    "sentence_offsets": "I64",
    "token_offsets": "I64",
    "record_ends": "I64",
    "signature": "U32",
    "sentence_lengths": "U16",
    "first": "U8",
    "word_starts": "U8",
}
_SIZES = {kind: np.dtype(name).itemsize for kind, name in _TYPES.items()}
_LONG, _TWO_LONGS = struct.Struct("<q"), struct.Struct("<qq")
_USUAL_HEADER = 1024
_OPTIONAL = {"record_ends", "signature"}


def pack(columns: dict[str, np.ndarray]) -> bytes:
    """The columns as a safetensors file: widest types first, so that each lies aligned in a memory map, without
    gaps."""
    header, parts, at = {}, [], 0
    for name, kind in _COLUMNS.items():
        if name in _OPTIONAL and name not in columns:
            continue
        raw = np.ascontiguousarray(columns[name], _TYPES[kind]).tobytes()
        header[name] = {"dtype": kind, "shape": list(columns[name].shape), "data_offsets": [at, at + len(raw)]}
        parts.append(raw)
        at += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def open_columns(path: Path) -> dict[str, np.ndarray]:
    """Read-only columns of an index file, memory-mapped. Raises InputError when it is missing or damaged."""
    try:
        with open(path, "rb") as stream:
            raw = np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
        header = json.loads(raw[8:start].tobytes())
        columns = {}
        for name, kind in _COLUMNS.items():
            if name in _OPTIONAL and name not in header:
                continue
            begin, end = header[name]["data_offsets"]
            if header[name]["dtype"] != kind or start + end > len(raw):
                raise ValueError(name)
            columns[name] = raw[start + begin : start + end].view(_TYPES[kind]).reshape(header[name]["shape"])
        if not _consistent(columns):
            raise ValueError("lengths")
    except FileNotFoundError:
        raise InputError(f"{path}: the file is missing from its corpus; build the corpus again") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: the file is damaged; build the corpus again") from None
    return columns


class Entry(NamedTuple):
    """What the index says of one record."""

    document: int
    first: bool
    tokens: int
    sentence_lengths: bytes  # uint16
    word_starts: bytes  # bits, the first `before` of which are of the record before
    before: int


def read_entries(path: Path, local: Sequence[int]) -> list[Entry]:
    """The entries of some records of a shard. Raises InputError when the file is missing or damaged.

    Reads the few bytes that it needs and keeps nothing open: a block of a large corpus takes two or three records of
    each of thousands of shards, and mapping a whole file for them takes ten times as long.
    """
    with _Reader(path) as reader:
        found = []
        for record in local:
            (document,) = _LONG.unpack(reader.bytes("document", record))
            sentence, sentence_end = _TWO_LONGS.unpack(reader.bytes("sentence_offsets", record, 2))
            token, token_end = _TWO_LONGS.unpack(reader.bytes("token_offsets", record, 2))
            lengths = reader.bytes("sentence_lengths", sentence, sentence_end - sentence)
            bits = reader.bytes("word_starts", token >> 3, (token_end + 7 >> 3) - (token >> 3))
            first = reader.bytes("first", record) != b"\0"
            found.append(Entry(document, first, token_end - token, lengths, bits, token & 7))
        return found


def read_places(path: Path, local: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
    """int64 [n] each: tokens of some records of a shard, and where they end in it, None for older corpora."""
    with _Reader(path) as reader:
        spans = [_TWO_LONGS.unpack(reader.bytes("token_offsets", record, 2)) for record in local]
        tokens = np.array([end - begin for begin, end in spans], np.int64)
        if "record_ends" not in reader.columns:
            return tokens, None
        ends = b"".join(reader.bytes("record_ends", record) for record in local)
        return tokens, np.frombuffer(ends, "<i8")


class _Reader:
    """An open index file; `columns` are offset, end and item size by name."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> "_Reader":
        try:
            self._file = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            raise InputError(f"{self._path}: the file is missing from its corpus; build the corpus again") from None
        try:
            head = os.pread(self._file, _USUAL_HEADER, 0)
            start = 8 + int.from_bytes(head[:8], "little")
            if start > len(head):
                head = os.pread(self._file, start, 0)
            self.columns = {
                name: (start + entry["data_offsets"][0], start + entry["data_offsets"][1], _SIZES[entry["dtype"]])
                for name, entry in json.loads(head[8:start]).items()
            }
        except (ValueError, KeyError, TypeError, OverflowError, MemoryError):
            self.__exit__()
            raise self._damaged() from None
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def bytes(self, column: str, item: int, count: int = 1) -> bytes:
        """Some items of a column."""
        try:
            start, end, size = self.columns[column]
        except KeyError:
            raise self._damaged() from None
        begin = start + item * size
        if not (start <= begin <= begin + count * size <= end):
            raise self._damaged()
        content = os.pread(self._file, count * size, begin)
        if len(content) < count * size:
            raise self._damaged()
        return content

    def _damaged(self) -> InputError:
        return InputError(f"{self._path}: the file is damaged; build the corpus again")


def _consistent(columns: dict[str, np.ndarray]) -> bool:
    records = len(columns["document"])
    per_record = all(len(columns[name]) == records for name in ("text_hash", "first", "record_ends") if name in columns)
    offsets = all(len(columns[name]) == records + 1 for name in ("sentence_offsets", "token_offsets"))
    signed = "signature" not in columns or columns["signature"].shape == (
        PERMUTATIONS,
        np.count_nonzero(columns["first"]),
    )
    return (
        per_record
        and offsets
        and signed
        and len(columns["sentence_lengths"]) == columns["sentence_offsets"][-1]
        and len(columns["word_starts"]) == -(-int(columns["token_offsets"][-1]) // 8)
    )
