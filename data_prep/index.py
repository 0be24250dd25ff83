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
from pathlib import Path

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
        # Not numpy.memmap, which takes several times as long: a block opens an index for almost every record.
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
