"""Shards and indices of units get their final names in the corpus."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from data_prep import corpus_files
from data_prep.errors import InputError
from data_prep.unit_summaries import ShardTable


class Move(NamedTuple):
    """A file of a unit, relative to the folder of all units, that gets its final name in the corpus."""

    origin: str
    name: str
    size: int


# Gives files their final names; raises InputError for one that is not there whole, neither here nor there.
Mover = Callable[[Iterable[Move]], None]


def planned_moves(by_split: Mapping[str, ShardTable]) -> Iterator[Move]:
    """The moves of all shards and indices."""
    for split, table in by_split.items():
        for shard in range(len(table)):
            origin, count = table.origin(shard), len(table)
            size = table.checksum(shard, "shard")["bytes"]
            yield Move(f"{origin}.array_record", corpus_files.shard_name(split, shard, count), size)
            size = table.checksum(shard, "index")["bytes"]
            yield Move(f"{origin}.safetensors", corpus_files.index_name(split, shard, count), size)


class Renamer:
    """Moves on one file system: renames."""

    def __init__(self, partial: Path, units_dir: Path):
        self._partial, self._units_dir = partial, units_dir

    def __call__(self, moves: Iterable[Move]) -> None:
        """Gives files their final names, those that have them already passed over. Raises InputError."""
        (self._partial / "index").mkdir(exist_ok=True)
        for origin, name, size in moves:
            target = self._partial / name
            if (self._units_dir / origin).exists():
                os.replace(self._units_dir / origin, target)
            if not target.exists() or target.stat().st_size != size:
                raise InputError(
                    f"{self._units_dir / origin} is missing or damaged; remove {self._partial} and run the same "
                    "command again"
                )


def finish(partial: Path, output: Path) -> None:
    """Removes what the units left and gives the corpus its name: from here on it is visible."""
    if (partial / "work").exists():
        shutil.rmtree(partial / "work")
    if output.is_dir():
        output.rmdir()
    os.rename(partial, output)
