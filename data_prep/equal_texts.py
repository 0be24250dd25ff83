"""Which records stay where equal texts are dropped: the first of all documents with the same text, whole."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_prep.files import mapped_flags
from data_prep.hash_groups import first_entries
from data_prep.index import open_columns

_ENTRY = np.dtype([("hash", "<u8"), ("place", "<i8")])


def kept_records(
    indices: Sequence[Path], records: int, documents: int, keep_duplicates: bool, scratch: Path
) -> np.ndarray:
    """bool [records], on disk and mapped: those that are kept of a split; all of them with `keep_duplicates`.

    Args:
        indices: the index files of the split, which hold `records` records of `documents` documents.
        scratch: a folder that is there, to work in.
    """
    kept = mapped_flags(scratch, records)
    if keep_duplicates:
        kept[:] = True
        return kept
    first = mapped_flags(scratch, documents)
    for entries in first_entries(_hashes(indices), documents, scratch / "hashes"):
        first[entries["place"]] = True
    record = document = 0
    for index in indices:
        begins = open_columns(index)["first"] != 0
        number = document + np.cumsum(begins)
        # A document goes on in the next shard where one does not begin with a document of its own.
        kept[record : record + len(begins)] = first[number - 1]
        record, document = record + len(begins), int(number[-1])
    return kept


def _hashes(indices: Sequence[Path]) -> Iterator[np.ndarray]:
    done = 0
    for index in indices:
        columns = open_columns(index)
        hashes = columns["text_hash"][columns["first"] != 0]
        entries = np.empty(len(hashes), _ENTRY)
        entries["hash"] = hashes
        entries["place"] = np.arange(done, done + len(hashes))
        done += len(hashes)
        yield entries
