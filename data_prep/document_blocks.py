"""The documents of a split as the audit goes through them: columns from the index, block after block."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.index import open_columns

# Documents a block, at least: a step of NumPy on the few of one small shard would cost more than what it does.
_BLOCK = 1 << 14


class Documents(NamedTuple):
    """Columns [n] of documents: number (ascending), tokens, sentences, records, and whether it is kept, or else dropped
    as a near duplicate."""

    number: np.ndarray
    tokens: np.ndarray
    sentences: np.ndarray
    records: np.ndarray
    kept: np.ndarray
    near: np.ndarray

    @property
    def duplicates(self) -> np.ndarray:
        """bool [n]: dropped because an earlier one has the same text."""
        return ~self.kept & ~self.near


def document_blocks(indices: Sequence[Path], kept: np.ndarray, near: np.ndarray | None) -> Iterator[Documents]:
    """The documents of a split, each whole though its records may lie in two shards.

    Args:
        indices: the index files of the split.
        kept, near: bool [records], `near` those that were dropped as near duplicates, where these were looked for.
    """
    waiting: list[Documents] = []
    held = 0
    for documents in _documents(indices, kept, near):
        waiting.append(documents)
        held += len(documents.number)
        if held >= _BLOCK:
            yield _joined(waiting)
            waiting, held = [], 0
    if held:
        yield _joined(waiting)


def _joined(blocks: list[Documents]) -> Documents:
    return Documents(*(np.concatenate(columns) for columns in zip(*blocks, strict=True)))


def _documents(indices: Sequence[Path], kept: np.ndarray, near: np.ndarray | None) -> Iterator[Documents]:
    waiting: Documents | None = None  # a document that may go on in the next shard
    done = 0
    for index in indices:
        columns = open_columns(index)
        count = len(columns["first"])
        starts = np.flatnonzero(columns["first"])
        # What comes before the first beginning is of the document before.
        borders = starts if len(starts) and starts[0] == 0 else np.concatenate([[0], starts])
        found = Documents(
            columns["document"][borders],
            np.add.reduceat(np.diff(columns["token_offsets"]), borders),
            np.add.reduceat(np.diff(columns["sentence_offsets"]), borders),
            np.diff(borders, append=count),
            kept[done + borders],
            near[done + borders] if near is not None else np.zeros(len(borders), bool),
        )
        done += count
        if waiting is not None and waiting.number[0] == found.number[0]:
            for column, more in zip(waiting[1:4], found[1:4], strict=True):
                more[0] += column[0]
        elif waiting is not None:
            yield waiting
        waiting = Documents(*(column[-1:] for column in found))
        yield Documents(*(column[:-1] for column in found))
    if waiting is not None:
        yield waiting
