"""Rows of a plan to arrays: what the training loop pulls batches from.

The loader's whole state is a `Position`, a few integers, the same on every host. From a position, the rows, pairs and
packing of everything after it follow; a host assembles only the rows that its devices hold.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from bert_jax.config import Config
from bert_jax.data import keyed
from bert_jax.data.plan import IGNORED, BlockPlan, RowSettings, inner_borders, num_blocks, plan_block
from data_prep.corpus import Corpus
from data_prep.corpus_split import Split, ranges
from data_prep.errors import InputError
from data_prep.tokenizer import Tokenizer

Arrays = dict[str, np.ndarray]
ROW_ARRAYS = ("input_ids", "token_type_ids", "position_ids", "segment_ids", "word_starts")
PREFETCH = 2  # batches ready while a step runs
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


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run reads next: the phase, and a place in each corpus.

    `skip` are rows that are not to be read, as (step, count): where step `step` begins, the rows that `count` steps
    from there would read are passed over first. Entries of one step add up.
    """

    phase: int = 0
    corpora: tuple[Place, ...] = (Place(),)
    skip: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it is stored beside a checkpoint."""
        fields = {"phase": self.phase, "corpora": [dataclasses.asdict(place) for place in self.corpora]}
        return fields | ({"skip": [list(part) for part in self.skip]} if self.skip else {})

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Position":
        """The inverse of `to_json`."""
        skip = tuple((step, count) for step, count in fields.get("skip", ()))
        return cls(fields["phase"], tuple(Place(**place) for place in fields["corpora"]), skip)


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


def lay_tokens(
    plan: BlockPlan,
    examples: np.ndarray,
    row: np.ndarray,
    num_rows: int,
    tokens: np.ndarray,
    settings: RowSettings,
    tokenizer: Tokenizer,
) -> Arrays:
    """Lays examples of a plan into rows.

    Args:
      plan: gives each example's parts, offset and label.
      examples: [E] which examples, sorted by row and place.
      row: [E] the row, from 0, of each.
      num_rows: R.
      tokens: [block tokens] ids of the block's records, where loaded.
      settings: give S and K.
      tokenizer: gives the special ids and the table of word starts.

    Returns:
      int32 arrays: `ROW_ARRAYS` [R, S]; `cls_positions`, `next_sentence_labels` [R, K].
    """
    seq_len, slots = settings.seq_len, settings.max_examples
    a_start, a_length = plan.a_start[examples], plan.a_length[examples]
    b_start, b_length = plan.b_start[examples], plan.b_length[examples]
    borders, inside_a = inner_borders(plan.token_offsets, a_start, a_length)
    separators = inside_a[:, 1] - inside_a[:, 0]
    begin = row * seq_len + plan.offset[examples]
    first_sep = begin + 1 + a_length + separators
    paired = b_length > 0
    last = first_sep + np.where(paired, b_length + 1, 0)
    length = last + 1 - begin
    first_of_row = np.searchsorted(row, np.arange(num_rows))
    slot = np.arange(len(row)) - first_of_row[row]

    flat = {name: np.zeros(num_rows * seq_len, np.int32) for name in ROW_ARRAYS}
    inside = ranges(begin, length)
    flat["position_ids"][inside] = inside - np.repeat(begin, length)
    flat["segment_ids"][inside] = np.repeat(slot + 1, length)
    flat["token_type_ids"][inside] = inside > np.repeat(first_sep, length)

    # The stretches of text: an A is one for each record that it takes part of, a B is one.
    owner = np.repeat(np.arange(len(row)), separators + 1)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(separators + 1) - separators - 1, separators + 1)
    border = inside_a[owner, 0] + nth
    start = np.where(nth == 0, a_start[owner], borders[border - 1])
    stop = np.where(
        nth == separators[owner], (a_start + a_length)[owner], borders[np.minimum(border, len(borders) - 1)]
    )
    to = begin[owner] + 1 + start - a_start[owner] + nth
    sizes = np.concatenate([stop - start, b_length[paired]])
    targets = np.concatenate([to, first_sep[paired] + 1])
    text = tokens[ranges(np.concatenate([start, b_start[paired]]), sizes)]
    where = ranges(targets, sizes)
    ids = flat["input_ids"]
    ids[:] = tokenizer.pad_id
    ids[where] = text
    flat["word_starts"][where] = tokenizer.word_start_table[text]
    for separator in (to[nth > 0] - 1, first_sep, last[paired]):
        ids[separator] = tokenizer.sep_id
        flat["word_starts"][separator] = 1
    ids[begin] = tokenizer.cls_id
    flat["word_starts"][begin] = 1
    flat["word_starts"][targets] = 1

    cls_positions = np.zeros((num_rows, slots), np.int32)
    labels = np.full((num_rows, slots), IGNORED, np.int32)
    cls_positions[row, slot] = plan.offset[examples]
    labels[row, slot] = plan.label[examples]
    arrays = {name: values.reshape(num_rows, seq_len) for name, values in flat.items()}
    return arrays | {"cls_positions": cls_positions, "next_sentence_labels": labels}


def empty_rows(count: int, settings: RowSettings, tokenizer: Tokenizer) -> Arrays:
    """Rows of padding, which count for nothing; shapes as `lay_tokens` gives."""
    arrays = {name: np.zeros((count, settings.seq_len), np.int32) for name in ROW_ARRAYS}
    arrays["input_ids"][:] = tokenizer.pad_id
    arrays["cls_positions"] = np.zeros((count, settings.max_examples), np.int32)
    arrays["next_sentence_labels"] = np.full((count, settings.max_examples), IGNORED, np.int32)
    return arrays


def corpus_weights(corpus: Any) -> list[tuple[str, float]]:
    """`config.data.corpus` as (path, weight) pairs.

    Raises:
      InputError: neither a path nor a list of {path, weight} with positive weights.
    """
    if isinstance(corpus, str) and corpus:
        return [(corpus, 1.0)]
    if not isinstance(corpus, list) or not corpus:
        raise InputError(f"config.data.corpus is {corpus!r}; give the path of a corpus, or a list of {{path, weight}}")
    pairs = []
    for i, item in enumerate(corpus):
        if not isinstance(item, dict) or set(item) != {"path", "weight"} or not _is_weight(item["weight"]):
            raise InputError(f"config.data.corpus[{i}] is {item!r}; give {{'path': ..., 'weight': a positive number}}")
        pairs.append((str(item["path"]), float(item["weight"])))
    return pairs


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


class Loader:
    """Batches of a run, from any position.

    Args:
      config: the run's.
      corpora: opened, in the order of `config.data.corpus`.
      tokenizer: theirs.
    """

    def __init__(self, config: Config, corpora: Sequence[Corpus], tokenizer: Tokenizer):
        self._config, self._tokenizer = config, tokenizer
        weights = np.array([weight for _, weight in corpus_weights(config.data.corpus)])
        self._shares = np.cumsum(weights / weights.sum())[:-1]
        self._splits = [corpus.split("train") for corpus in corpora]
        self._readers: dict[int, list[RowReader]] = {}

    def start(self) -> Position:
        """The position of step 0."""
        return Position(0, (Place(),) * len(self._splits))

    def readers(self, phase: int) -> list[RowReader]:
        """A reader a corpus, with the rows of a phase."""
        if phase not in self._readers:
            settings = RowSettings.of(self._config.data, self._config.phases()[phase].seq_len)
            # Corpora of one seed must not draw alike: their numbers enter the seed.
            seeds = [int(keyed.draw(self._config.seed, i)) for i in range(len(self._splits))]
            self._readers = {
                phase: [
                    RowReader(split, settings, seed, self._tokenizer)
                    for split, seed in zip(self._splits, seeds, strict=True)
                ]
            }
        return self._readers[phase]

    def enter(self, position: Position, step: int) -> Position:
        """The position from which step `step` reads, given where the step before it ended: another one at a phase's
        border.

        Rows of another length make another plan, so each corpus goes on at the head of its next block. Rows that are to
        be skipped lie before the step's own.
        """
        position = self._enter_phase(position, step)
        for first, count in position.skip:
            if first == step:
                for passed in range(first, first + count):
                    position = self._advance(position, passed)[1]
        return position

    def _enter_phase(self, position: Position, step: int) -> Position:
        phases = self._config.phases()
        last_step = sum(phase.num_steps for phase in phases[: position.phase + 1])
        if step < last_step or position.phase + 1 == len(phases):
            return position
        readers = self.readers(position.phase)
        places = (_next_block(place, reader) for place, reader in zip(position.corpora, readers, strict=True))
        return dataclasses.replace(position, phase=position.phase + 1, corpora=tuple(places))

    def skip(self, position: Position, step: int) -> Position:
        """The position after step `step`, nothing read but plans."""
        return self._advance(self.enter(position, step), step)[1]

    def rows_of_step(self, position: Position, step: int) -> list[tuple[int, int, int, int, int]]:
        """The rows of blocks that step `step` reads from a position: (corpus, epoch, block, first row, last row)."""
        stretches, _ = self._advance(self.enter(position, step), step)
        return [
            (corpus, epoch, block, int(rows[0]), int(rows[-1]))
            for corpus, parts in enumerate(stretches)
            for epoch, block, _, rows in parts
        ]

    def _advance(self, position: Position, step: int) -> tuple[list[list[Stretch]], Position]:
        """Of each corpus, the stretches of rows that step `step` reads, and the position after them."""
        size = self._config.phases()[position.phase].global_batch_size
        counts = np.bincount(self.owners(step, size), minlength=len(position.corpora))
        found = [
            reader.advance(place, int(count))
            for reader, place, count in zip(self.readers(position.phase), position.corpora, counts, strict=True)
        ]
        places = tuple(place for _, place in found)
        return [stretches for stretches, _ in found], dataclasses.replace(position, corpora=places)

    def batch(self, position: Position, step: int, rows: np.ndarray) -> tuple[Arrays, Position]:
        """One batch, or the rows of it that this process needs.

        Args:
          position: where step `step` begins to read.
          step: the step, from 0.
          rows: sorted numbers, in the batch, of the rows to be assembled.

        Returns:
          int32 arrays of those rows, with their numbers as `rows`, and the position of the next step.
        """
        position = self.enter(position, step)
        phases = self._config.phases()
        readers = self.readers(position.phase)
        size = phases[position.phase].global_batch_size
        owner = self.owners(step, size)
        parts: list[Arrays] = []
        numbers: list[np.ndarray] = []
        stretches, after = self._advance(position, step)
        for i, reader in enumerate(readers):
            mine = np.flatnonzero(owner == i)
            done = 0
            for _, _, plan, block_rows in stretches[i]:
                number = mine[done : done + len(block_rows)]
                done += len(block_rows)
                wanted = np.isin(number, rows)
                if wanted.any():
                    parts.append(reader.assemble(plan, block_rows[wanted]))
                    numbers.append(number[wanted])
        order = np.argsort(np.concatenate(numbers), kind="stable")
        arrays = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
        return arrays | {"rows": rows.astype(np.int32)}, after

    def owners(self, step: int, size: int) -> np.ndarray:
        """[B] which corpus each row of the batch comes from: shares of the weights, spread evenly, a function of the
        step."""
        if not len(self._shares):
            return np.zeros(size, np.int64)
        count = np.uint64(step) * np.uint64(size) + np.arange(size, dtype=np.uint64)
        with np.errstate(over="ignore"):
            spread = (
                count * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(11)
            ) / 2.0**53  # Weyl: multiples of the golden ratio
        return np.searchsorted(self._shares, spread, side="right")

    def batches(self, position: Position, step: int, rows_of: Any) -> Generator[tuple[Arrays, Position]]:
        """Batches from a position on, assembled ahead in a thread; `rows_of(size)` gives the rows this process
        needs."""
        phases = self._config.phases()
        ends = list(itertools.accumulate(phase.num_steps for phase in phases))

        def produce(before: Future[tuple[Arrays, Position]] | None, step: int) -> tuple[Arrays, Position]:
            phase = next(i for i, end in enumerate(ends) if step < end)
            at = before.result()[1] if before else position
            return self.batch(at, step, rows_of(phases[phase].global_batch_size))

        with ThreadPoolExecutor(1, thread_name_prefix="load") as worker:
            ready: collections.deque[Future[tuple[Arrays, Position]]] = collections.deque()
            last: Future[tuple[Arrays, Position]] | None = None
            for ahead in itertools.chain(range(step, ends[-1]), itertools.repeat(None, PREFETCH)):
                if ahead is not None:
                    last = worker.submit(produce, last, ahead)
                    ready.append(last)
                if (ahead is None or len(ready) > PREFETCH) and ready:
                    yield ready.popleft().result()


def _next_block(place: Place, reader: RowReader) -> Place:
    if place.row == 0:
        return place
    if place.block + 1 < reader.num_blocks:
        return dataclasses.replace(place, block=place.block + 1, row=0)
    return dataclasses.replace(place, epoch=place.epoch + 1, block=0, row=0)


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
