"""The loader: what the training loop pulls batches from.

The loader's whole state is a `Position`, a few integers, the same on every host. From a position, the rows, pairs and
packing of everything after it follow; a host assembles only the rows that its devices hold.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from bert_jax.config import Config, corpus_weights
from bert_jax.data import keyed
from bert_jax.data.lay import Arrays
from bert_jax.data.plan import RowSettings
from bert_jax.data.read import Place, RowReader, Stretch
from data_prep.corpus import Corpus
from data_prep.tokenizer import Tokenizer

PREFETCH = 2  # batches ready while a step runs


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

    def batches(
        self,
        position: Position,
        step: int,
        rows_of: Callable[[int], np.ndarray],
        to_devices: Callable[[Arrays, int], Any] | None = None,
    ) -> Generator[tuple[Any, Position]]:
        """Batches from a position on, made ready ahead in a thread.

        Args:
          position, step: where the first one begins.
          rows_of: of a batch of so many rows, those that this process needs.
          to_devices: moves the arrays of a batch of so many rows, also in the thread.

        Yields:
          the arrays of a batch, and the position after it.
        """
        phases = self._config.phases()
        ends = list(itertools.accumulate(phase.num_steps for phase in phases))

        def produce(before: Future[tuple[Any, Position]] | None, step: int) -> tuple[Any, Position]:
            size = next(phase.global_batch_size for phase, end in zip(phases, ends, strict=True) if step < end)
            arrays, after = self.batch(before.result()[1] if before else position, step, rows_of(size))
            return (to_devices(arrays, size) if to_devices else arrays), after

        with ThreadPoolExecutor(1, thread_name_prefix="load") as worker:
            ready: collections.deque[Future[tuple[Any, Position]]] = collections.deque()
            last: Future[tuple[Any, Position]] | None = None
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
