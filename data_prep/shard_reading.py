"""What the merge reads of the records themselves: the tokens of those that are left out, and how documents begin."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_prep import corpus_files, records
from data_prep.corpus_split import open_shard, read_shard
from data_prep.index import open_columns
from data_prep.tokenizer import Tokenizer
from data_prep.unit_summaries import ShardTable

_READ_RECORDS = 4096
_BEGINNING_TOKENS = 48

# A local file with the content of a shard of the corpus, for as long as it is read.
ShardReader = Callable[[str], Path]


class Indices(Sequence[Path]):
    """The index files of a split, whose paths are made as they are asked for."""

    def __init__(self, folder: Path, split: str, count: int):
        self._folder, self._split, self._count = folder, split, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, shard):  # type: ignore[no-untyped-def]
        if not 0 <= shard < self._count:
            raise IndexError(shard)
        return self._folder / corpus_files.index_name(self._split, shard, self._count)


def token_counts(
    units_dir: Path,
    vocab_size: int,
    split: str,
    table: ShardTable,
    indices: Sequence[Path],
    kept: np.ndarray,
    shard_file: ShardReader,
) -> np.ndarray:
    """int64 [vocab_size]: the units' counts, less those of the records that are not kept, which alone are read."""
    counts = np.zeros(vocab_size, np.int64)
    for name in table.token_counts():
        counts += np.load(units_dir / name)
    end = 0
    for shard, size in enumerate(table.column("records").tolist()):
        begin, end = end, end + size
        left_out = np.flatnonzero(~kept[begin:end])
        if len(left_out):
            file = shard_file(corpus_files.shard_name(split, shard, len(table)))
            counts -= _counted(file, open_columns(indices[shard])["token_offsets"], left_out, vocab_size)
    return counts


def _counted(file: Path, token_offsets: np.ndarray, local: np.ndarray, vocab_size: int) -> np.ndarray:
    """int64 [vocab_size]: how often each token stands in some records of a shard."""
    reader, dtype = open_shard(file), records.token_dtype(vocab_size)
    counts = np.zeros(vocab_size, np.int64)
    for begin in range(0, len(local), _READ_RECORDS):
        chosen = local[begin : begin + _READ_RECORDS]
        sizes = (token_offsets[chosen + 1] - token_offsets[chosen]).tolist()
        raw = read_shard(reader, file, chosen)
        tokens = [records.last_tokens(content, size, dtype) for content, size in zip(raw, sizes, strict=True)]
        counts += np.bincount(np.concatenate(tokens), minlength=vocab_size)
    return counts


class Beginnings:
    """How documents begin, from their tokens."""

    def __init__(
        self,
        by_split: Mapping[str, ShardTable],
        indices: Mapping[str, Sequence[Path]],
        shard_file: ShardReader,
        tokenizer: Tokenizer,
    ):
        self._indices, self._shard_file, self._tokenizer = indices, shard_file, tokenizer
        self._borders = {
            split: np.concatenate([[0], np.cumsum(table.column("records"))]) for split, table in by_split.items()
        }

    def __call__(self, split: str, record: int) -> str:
        """The text of the first tokens of a record."""
        borders = self._borders[split]
        shard = int(np.searchsorted(borders, record, side="right")) - 1
        local = record - int(borders[shard])
        file = self._shard_file(corpus_files.shard_name(split, shard, len(self._indices[split])))
        offsets = open_columns(self._indices[split][shard])["token_offsets"]
        (raw,) = read_shard(open_shard(file), file, np.array([local]))
        size = int(offsets[local + 1] - offsets[local])
        tokens = records.last_tokens(raw, size, records.token_dtype(self._tokenizer.vocab_size))
        return self._tokenizer.decode(tokens[:_BEGINNING_TOKENS])
