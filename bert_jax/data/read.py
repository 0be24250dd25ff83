"""Rows of one split: plans made ahead, tokens read when they are needed, places counted on."""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.lay import Arrays, empty_rows, lay_tokens
from bert_jax.data.plan import BlockPlan, RowSettings, num_blocks, plan_block
from data_prep.corpus_split import Split, ranges
from data_prep.tokenizer import Tokenizer

PLAN_AHEAD = 2  # blocks planned beside the one at hand, in as many threads: every host plans the rows of all hosts


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a corpus is read next: row `row` of block `block` of epoch `epoch`.

    `rows` and `tokens` (padding not counted) say how much of it has been read so far; what is read next does not depend
    on them.
    """

    epoch: int = 0
    block: int = 0
    row: int = 0
    rows: int = dataclasses.field(default=0, compare=False)
    tokens: int = dataclasses.field(default=0, compare=False)


class Stretch(NamedTuple):
    """Rows of one block of an epoch; with the plan, for a reader at a border soon forgets it."""

    epoch: int
    block: int
    plan: BlockPlan
    rows: np.ndarray


class RowReader:
    """Rows of one split for one length of rows. Keeps the tokens of the block at hand, plans the next ones ahead."""

    def __init__(self, split: Split, settings: RowSettings, seed: int, tokenizer: Tokenizer):
        self.settings = settings
        self._split, self._seed, self._tokenizer = split, seed, tokenizer
        self.num_blocks = num_blocks(split, settings)
        self._planner = ThreadPoolExecutor(PLAN_AHEAD, thread_name_prefix="plan")
        self._plans: dict[tuple[int, int], Future[BlockPlan]] = {}
        self._plan: BlockPlan | None = None
        self._tokens = np.zeros(0, np.int32)
        self._loaded = np.zeros(0, bool)

    def plan(self, epoch: int, block: int) -> BlockPlan:
        """The plan of a block; the blocks after it are planned in the background."""
        number = epoch * self.num_blocks + block
        names = [divmod(number + ahead, self.num_blocks) for ahead in range(PLAN_AHEAD + 1)]
        for name in names:
            if name not in self._plans:
                self._plans[name] = self._planner.submit(plan_block, self._split, self.settings, self._seed, *name)
        self._plans = {name: self._plans[name] for name in names}
        return self._plans[epoch, block].result()

    def advance(self, place: Place, count: int) -> tuple[list[Stretch], Place]:
        """The next `count` rows from a place, and the place after them."""
        stretches = []
        epoch, block, row = place.epoch, place.block, place.row
        total, tokens = place.rows + count, place.tokens
        while count:
            plan = self.plan(epoch, block)
            taken = min(count, plan.num_rows - row)
            if taken > 0:
                stretches.append(Stretch(epoch, block, plan, np.arange(row, row + taken)))
                tokens += int(plan.row_tokens[row : row + taken].sum())
                count, row = count - taken, row + taken
            if row >= plan.num_rows:
                row, block = 0, block + 1
                if block == self.num_blocks:
                    epoch, block = epoch + 1, 0
        return stretches, Place(epoch, block, row, total, tokens)

    def assemble(self, plan: BlockPlan, rows: np.ndarray) -> Arrays:
        """The arrays of some rows of a block: int32 [R, S] and, for examples, [R, K]."""
        if self._plan is not plan:
            self._plan = plan
            self._tokens = np.zeros(plan.token_offsets[-1], np.int32)
            self._loaded = np.zeros(len(plan.records), bool)
        chosen = ranges(plan.row_offsets[rows], np.diff(plan.row_offsets)[rows])
        needed = np.zeros(len(plan.records), bool)
        for start, length in ((plan.a_start, plan.a_length), (plan.b_start, plan.b_length)):
            begin, size = start[chosen], length[chosen]
            begin, size = begin[size > 0], size[size > 0]
            first = np.searchsorted(plan.token_offsets, begin, side="right") - 1
            needed[ranges(first, np.searchsorted(plan.token_offsets, begin + size, side="left") - first)] = True
        self._load(plan, np.flatnonzero(needed))
        renumbered = np.repeat(np.arange(len(rows)), np.diff(plan.row_offsets)[rows])
        return lay_tokens(plan, chosen, renumbered, len(rows), self._tokens, self.settings, self._tokenizer)

    def _load(self, plan: BlockPlan, places: np.ndarray) -> None:
        places = places[~self._loaded[places]]
        if len(places):
            tokens, offsets = self._split.read(plan.records[places])
            self._tokens[ranges(plan.token_offsets[places], np.diff(offsets))] = tokens
            self._loaded[places] = True


def validation_batches(
    split: Split, settings: RowSettings, seed: int, tokenizer: Tokenizer, size: int, rows_of: Any
) -> Iterator[Arrays]:
    """Every row of a split once, in batches of `size`; the last one is filled up with rows of padding.

    Pairs and packing are those of epoch 0, so they are the same at every visit; `rows` numbers the rows of the split.
    """
    reader = RowReader(split, settings, seed, tokenizer)
    total = sum(reader.plan(0, block).num_rows for block in range(reader.num_blocks))
    place = Place()
    for first in range(0, total, size):
        present = min(size, total - first)
        stretches, place = reader.advance(place, present)
        local = rows_of(size)
        numbers = np.concatenate([np.full(len(part.rows), i) for i, part in enumerate(stretches)])
        rows = np.concatenate([part.rows for part in stretches])
        parts = []
        for i, stretch in enumerate(stretches):
            here = local[local < present]
            wanted = rows[here][numbers[here] == i]
            parts.append(reader.assemble(stretch.plan, wanted))
        parts.append(empty_rows(int((local >= present).sum()), settings, tokenizer))
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        yield arrays | {"rows": (first + local).astype(np.int32)}
