"""The sampler: which sentences make the rows of a block, as a pure function of (seed, epoch, block).

An epoch is a sequence of blocks. A block is a number of records, drawn from the whole split by a keyed permutation of
its kept records. Inside a block every sentence stands once in an A or in a true B; random Bs come on top. Memory and
time depend on the block, never on the corpus. Positions of tokens are counted over the block's records laid end to end.
"""

import dataclasses
from typing import Protocol

import numpy as np

from bert_jax.data import keyed
from bert_jax.data.examples import Examples, Pieces, distinct_borders, draw_negatives, gather, gather_across, swap
from bert_jax.data.settings import IGNORED, Draw, RowSettings
from data_prep.corpus_split import RecordIndex
from data_prep.errors import InputError

__all__ = ["IGNORED", "BlockPlan", "RowSettings", "SplitIndex", "inner_borders", "num_blocks", "pack", "plan_block"]


class SplitIndex(Protocol):
    """What the sampler needs of a corpus's split (`data_prep.corpus_split.Split` has it)."""

    num_kept: int
    kept_tokens: int
    kept_documents: int

    def kept_records(self, positions: np.ndarray) -> np.ndarray:
        """Record numbers at these places of the kept records."""
        ...

    def index(self, records: np.ndarray) -> RecordIndex:
        """The index of records, in the order asked for."""
        ...


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """The rows of a block. Examples are sorted by row, then by place in the row; E examples, R rows.

    `records` are the block's records in order, `token_offsets` [records + 1] where each begins in the block. An example
    is `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`, with A at `a_start` (block tokens) of `a_length` tokens, and likewise
    B (length 0: none); it lies in row `row` from `offset` on. `label` is 0, 1 or -100. Row r's examples are
    `row_offsets[r]:row_offsets[r + 1]`, and `row_tokens[r]` its positions that are not padding. `counts` says what was
    cut or could not be had.

    An A that goes on over the end of a record has a [SEP] between the two that is not in its length (`inner_borders`).
    """

    records: np.ndarray
    token_offsets: np.ndarray
    row: np.ndarray
    offset: np.ndarray
    a_start: np.ndarray
    a_length: np.ndarray
    b_start: np.ndarray
    b_length: np.ndarray
    label: np.ndarray
    row_offsets: np.ndarray
    row_tokens: np.ndarray
    counts: dict[str, int]

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.row_offsets) - 1


def inner_borders(token_offsets: np.ndarray, start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of records strictly inside stretches of a block's tokens: where separators stand in an A.

    Args:
      token_offsets: [records + 1] where each record begins in the block.
      start, length: [E] the stretches.

    Returns:
      The distinct places in `token_offsets`, and [E, 2] which of them, from and to, lie inside each stretch.
    """
    borders = distinct_borders(token_offsets)
    return borders, np.stack(
        [np.searchsorted(borders, start, side="right"), np.searchsorted(borders, start + length, side="left")], axis=1
    )


def num_blocks(split: SplitIndex, settings: RowSettings) -> int:
    """Blocks an epoch: about `block_tokens` tokens each, and at least two records in each."""
    return max(1, min(round(split.kept_tokens / settings.block_tokens), split.num_kept // 2))


def plan_block(split: SplitIndex, settings: RowSettings, seed: int, epoch: int, block: int) -> BlockPlan:
    """Plans one block of one epoch.

    Raises:
      InputError: the split is empty, or has a single document and the objective needs pairs of documents.
    """
    if split.num_kept == 0:
        raise InputError("the corpus's split has no documents; build it from more text")
    if settings.objective == "nsp" and split.kept_documents < 2:
        raise InputError(
            "objective nsp needs at least two documents to draw random next sentences from, and the corpus's split has "
            "one; separate documents by blank lines, or set config.data.objective to sop or mlm"
        )
    key = int(keyed.draw(seed, epoch, block))
    records, index, planned = _block_records(split, settings, seed, epoch, block)
    pieces = Pieces.of(index, settings.seq_len - 3)
    counts = {"long_sentences_cut": pieces.num_cut}
    if settings.mlm_documents == "across":
        examples = gather_across(pieces, index.token_offsets, settings, key)
    else:
        examples = gather(pieces, records, planned, settings, key)
    if settings.objective == "nsp":
        examples = draw_negatives(examples, pieces, index, key, counts)
    elif settings.objective == "sop":
        examples = swap(examples)
    return _lay_out(examples, records, index.token_offsets, settings, key, counts)


def _block_records(
    split: SplitIndex, settings: RowSettings, seed: int, epoch: int, block: int
) -> tuple[np.ndarray, RecordIndex, int]:
    """Records of the block, their index, and how many of them are its own: those after only lend random Bs.

    A block all of whose records are pieces of one document borrows the next record of another one.
    """
    blocks, size = num_blocks(split, settings), split.num_kept
    order = keyed.draw(seed, epoch, Draw.ORDER)
    first, last = block * size // blocks, (block + 1) * size // blocks
    records = split.kept_records(keyed.permute(np.arange(first, last), size, order))
    index = split.index(records)
    if settings.objective != "nsp" or (index.document != index.document[0]).any():
        return records, index, len(records)
    for begin in range(last, last + size, 64):
        others = split.kept_records(keyed.permute(np.arange(begin, begin + 64) % size, size, order))
        (other,) = np.nonzero(split.index(others).document != index.document[0])
        if len(other):
            more = np.append(records, others[other[0]])
            return more, split.index(more), len(records)
    return records, index, len(records)


def _lay_out(
    examples: Examples, records: np.ndarray, token_offsets: np.ndarray, settings: RowSettings, key: int, counts: dict
) -> BlockPlan:
    """Packs examples into rows and shuffles the rows."""
    _, inside = inner_borders(token_offsets, examples.a_start, examples.a_length)
    lengths = examples.a_length + np.diff(inside)[:, 0] + examples.b_length + 2 + (examples.b_length > 0)
    ties = keyed.draw(Draw.TIES, key, examples.record, examples.turn)
    if settings.packing:
        order = np.lexsort((ties, -lengths))
        row = np.empty(len(order), np.int64)
        row[order] = pack(lengths[order], settings.seq_len, settings.max_examples)
    else:
        row = np.arange(len(lengths))
    rows = int(row.max()) + 1
    shuffled = np.empty(rows, np.int64)
    shuffled[np.argsort(keyed.draw(Draw.ROWS, key, np.arange(rows)), kind="stable")] = np.arange(rows)
    row = shuffled[row]
    order = np.lexsort((ties, row))
    row, lengths = row[order], lengths[order]
    row_offsets = np.searchsorted(row, np.arange(rows + 1))
    ends = np.cumsum(lengths)
    begins = ends - lengths
    counts.update(examples=len(order), rows=rows, tokens=int(lengths.sum()))
    return BlockPlan(
        records=records,
        token_offsets=token_offsets,
        row=row,
        offset=begins - begins[row_offsets[:-1]][row],
        a_start=examples.a_start[order],
        a_length=examples.a_length[order],
        b_start=examples.b_start[order],
        b_length=examples.b_length[order],
        label=examples.label[order],
        row_offsets=row_offsets,
        row_tokens=np.add.reduceat(lengths, row_offsets[:-1]),
        counts=counts,
    )


def pack(lengths: np.ndarray, capacity: int, max_items: int) -> np.ndarray:
    """Best fit: each item, in the order given, goes to the fullest open row that has room for it.

    Args:
      lengths: [E] tokens of each item, none above `capacity`; the longest first packs best.
      capacity: tokens a row.
      max_items: items a row at most.

    Returns:
      [E] the row of each item, rows numbered in the order of their opening.
    """
    open_rows: list[list[int]] = [[] for _ in range(capacity + 1)]  # by room left
    rooms = 0  # bit r: some open row has room r
    items: list[int] = []
    rows = []
    for length in lengths.tolist():
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                rooms ^= 1 << room
        else:
            room, row = capacity, len(items)
            items.append(0)
        items[row] += 1
        room -= length
        if room and items[row] < max_items:
            open_rows[room].append(row)
            rooms |= 1 << room
        rows.append(row)
    return np.asarray(rows, np.int64)
