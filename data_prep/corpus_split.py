"""The records of a split and what the index knows of them, read from the shards of a corpus."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from data_prep import corpus_files, record_layout
from data_prep.errors import InputError
from data_prep.index import open_columns, read_entries, read_places
from data_prep.records import last_tokens, token_dtype
from data_prep.staging import Stage

# Readers of older corpora, whose index does not say where records lie, cost a file descriptor each.
_OPEN_SHARDS = 256
# NumPy reads a file's header with Python's parser, which in Python 3.11 fails now and then when two threads are in it
# (SystemError: AST constructor recursion depth mismatch).
_PARSING = threading.Lock()
# One call for many records is faster a record, but costs time in proportion to the file.
_BATCHED_READ = 64

T = TypeVar("T")


@dataclass(frozen=True)
class RecordIndex:
    """What planning knows of n records, in the order asked for."""

    document: np.ndarray  # int64 [n]: number of the document; pieces of one long document share it
    first: np.ndarray  # bool [n]: the record begins its document
    sentence_lengths: np.ndarray  # int32 [sentences of all records], tokens
    sentence_offsets: np.ndarray  # int64 [n+1] into sentence_lengths
    word_starts: np.ndarray  # bool [tokens of all records]; the first token of every sentence is True
    token_offsets: np.ndarray  # int64 [n+1] into word_starts


class Split:
    """The records of one split; files are opened when they are first asked for. Safe for threads, and to pickle."""

    num_kept: int  # records
    kept_tokens: int
    kept_documents: int

    def __init__(self, path: Path, manifest: dict[str, Any], name: str, stage: Stage | None = None):
        self._args = (path, manifest, name, stage)
        self._path, self._name, self._stage = path, name, stage
        entry = manifest["splits"][name]
        self.num_kept, self.kept_tokens = entry["kept_records"], entry["kept_tokens"]
        self.kept_documents = entry["kept_documents"]
        self._vocab_size = manifest["tokenizer"]["vocab_size"]
        self._token_dtype = token_dtype(self._vocab_size)
        sizes = [shard["records"] for shard in entry["shards"]]
        self._borders = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        self.num_records = int(self._borders[-1])
        self._kept: np.ndarray | None = None
        self._readers = _Cache(self._open_shard, _OPEN_SHARDS)

    def __reduce__(self) -> tuple[type["Split"], tuple[Path, dict[str, Any], str, Stage | None]]:
        return Split, self._args

    @property
    def num_shards(self) -> int:
        """Shards of the split, 0 where it is empty."""
        return len(self._borders) - 1

    def columns(self, shard: int) -> dict[str, np.ndarray]:
        """The memory-mapped index columns of one shard (data_prep.index)."""
        return open_columns(self._index_path(shard))

    def kept_records(self, positions: np.ndarray) -> np.ndarray:
        """Record numbers, int64 [n], at `positions`, int64 [n] in [0, num_kept), of the array of kept records."""
        if self._kept is None:
            file = self._path / corpus_files.kept_name(self._name)
            self._kept = _load_array(file, self.num_kept)
        return np.asarray(self._kept[np.asarray(positions, np.int64)])

    def index(self, records: np.ndarray) -> RecordIndex:
        """What the index knows of `records`, int64 [n], in that order; the shards are not touched."""
        records = np.asarray(records, np.int64)
        entries: list[Any] = [None] * len(records)
        for shard, places, local in self._by_shard(records):
            for place, entry in zip(
                places.tolist(), read_entries(self._index_path(shard), local.tolist()), strict=True
            ):
                entries[place] = entry
        lengths = np.frombuffer(b"".join([entry.sentence_lengths for entry in entries]), "<u2").astype(np.int32)
        sentences = np.array([len(entry.sentence_lengths) // 2 for entry in entries], np.int64)
        tokens = np.array([entry.tokens for entry in entries], np.int64)
        # Of each record's bits, laid one after the other in whole bytes, those that are its own.
        bits = np.unpackbits(np.frombuffer(b"".join([entry.word_starts for entry in entries]), np.uint8))
        begins = 8 * _offsets(np.array([len(entry.word_starts) for entry in entries], np.int64))[:-1]
        own = ranges(begins + np.array([entry.before for entry in entries], np.int64), tokens)
        return RecordIndex(
            np.array([entry.document for entry in entries], np.int64),
            np.array([entry.first for entry in entries], bool),
            lengths,
            _offsets(sentences),
            bits[own].view(bool),
            _offsets(tokens),
        )

    def read(self, records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of `records`, int64 [n], laid one after the other: ids int32 [total] and offsets int64 [n+1]."""
        records = np.asarray(records, np.int64)
        sizes = np.zeros(len(records), np.int64)
        parts: list[np.ndarray] = [np.empty(0, self._token_dtype)] * len(records)
        groups = self._by_shard(records)
        wanted = []
        for shard, places, local in groups:
            sizes[places], ends = read_places(self._index_path(shard), local.tolist())
            wanted.append((shard, local, ends, sizes[places] * self._token_dtype.itemsize))
        for (_, places, _), found in zip(groups, self._ends(wanted), strict=True):
            for place, raw in zip(places.tolist(), found, strict=True):
                parts[place] = last_tokens(raw, int(sizes[place]), self._token_dtype)
        flat = np.concatenate(parts) if parts else np.empty(0, self._token_dtype)
        return flat.astype(np.int32), _offsets(sizes)

    def raw_records(self, shard: int) -> list[bytes]:
        """All records of one shard as they are stored (data_prep.records.decode)."""
        return self._raw(shard, np.arange(self._borders[shard + 1] - self._borders[shard]))

    def token_counts(self) -> np.ndarray:
        """How often each token stands in the kept records, int64 [vocab_size]."""
        return np.array(_load_array(self._path / corpus_files.token_counts_name(self._name), self._vocab_size))

    def _raw(self, shard: int, local: np.ndarray) -> list[bytes]:
        reader = self._readers(shard)
        return read_shard(reader, self._path / corpus_files.shard_name(self._name, shard, self.num_shards), local)

    def _ends(self, wanted: list[tuple[int, np.ndarray, np.ndarray | None, np.ndarray]]) -> Iterator[list[bytes]]:
        """The last bytes of records, or all: for (shard, records in it, where they end, bytes) the contents."""
        names = [corpus_files.shard_name(self._name, shard, self.num_shards) for shard, _, _, _ in wanted]
        if self._stage is not None and not self._stage.has_room:
            spans = [(ends, sizes) for _, _, ends, sizes in wanted if ends is not None]
            if len(spans) < len(wanted):
                raise InputError(f"{self._stage.no_room()}, or build the corpus again with this version")
            yield from self._stage.read_ends(names, spans)
            return
        if self._stage is not None:
            # All that are missing at once, not one after the other.
            self._stage.fetch(names)
        for name, (shard, local, ends, sizes) in zip(names, wanted, strict=True):
            if ends is None:
                yield read_shard(self._readers(shard), self._path / name, local)
            else:
                yield record_layout.read_ends(self._path / name, ends, sizes)

    def _by_shard(self, records: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """(shard, places in `records`, record numbers within the shard) for every shard that is asked for."""
        if len(records) == 0:
            return []
        if records.min() < 0 or records.max() >= self.num_records:
            raise IndexError(f"record numbers must be in [0, {self.num_records})")
        shards = np.searchsorted(self._borders, records, side="right") - 1
        order = np.argsort(shards, kind="stable")
        found, starts = np.unique(shards[order], return_index=True)
        return [
            (shard, places, records[places] - self._borders[shard])
            for shard, places in zip(found.tolist(), np.split(order, starts[1:]), strict=True)
        ]

    def _index_path(self, shard: int) -> Path:
        return self._path / corpus_files.index_name(self._name, shard, self.num_shards)

    def _open_shard(self, shard: int) -> Any:
        name = corpus_files.shard_name(self._name, shard, self.num_shards)
        if self._stage is not None:
            self._stage.fetch([name])
        return open_shard(self._path / name)


def open_shard(file: Path) -> Any:
    """A reader of an ArrayRecord file. Raises InputError when it is missing or damaged."""
    from array_record.python import array_record_module

    try:
        # No readahead and no threads: reads are random, and a corpus has many shards.
        return array_record_module.ArrayRecordReader(
            str(file), options="readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=32768
        )
    except (RuntimeError, ValueError, OSError) as error:
        detail = "is missing" if not file.exists() else f"cannot be read ({str(error).splitlines()[0]})"
        raise InputError(f"{file} {detail}; build the corpus again") from None


def read_shard(reader: Any, file: Path, local: np.ndarray) -> list[bytes]:
    """Records, by their numbers in the shard, int64 [n], as they are stored in `file`, on which `reader` is open."""
    try:
        if len(local) >= _BATCHED_READ:
            return list(reader.read(local.tolist()))
        return [reader.read(i, i + 1)[0] for i in local.tolist()]
    except (RuntimeError, IndexError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); check it with: bert-jax check {file.parent}") from None


class _Cache(Generic[T]):
    """The `limit` last used results of a function of one integer, safe for threads."""

    def __init__(self, make: Callable[[int], T], limit: int):
        self._make, self._limit = make, limit
        self._items: OrderedDict[int, T] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, key: int) -> T:
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key]
            item = self._items[key] = self._make(key)
            if len(self._items) > self._limit:
                self._items.popitem(last=False)
            return item


def _load_array(file: Path, size: int) -> np.ndarray:
    try:
        with _PARSING:
            # An empty file section cannot be mapped.
            array = np.load(file, mmap_mode="r" if size else None)
    except (OSError, ValueError, EOFError):
        raise InputError(f"{file} is missing or damaged; build the corpus again") from None
    if array.shape != (size,) or array.dtype != np.int64:
        raise InputError(f"{file} holds {array.dtype} {array.shape}, not int64 ({size},); build the corpus again")
    return array


def _offsets(sizes: np.ndarray) -> np.ndarray:
    """int64 [n+1]: where each of n pieces starts, and the last ends, when they are laid one after the other."""
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets


def ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The integers of [start, start + size) for every pair, one range after the other."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - sizes), sizes) + np.arange(total)
