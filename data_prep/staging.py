"""A corpus in an object store, on this machine: index and tokenizer at once, shards when they are first read, or where
there is no room for them their records one by one from the store.

The copy lies in $BERT_JAX_CACHE (~/.cache/bert-jax unless given) under the corpus's fingerprint, so all runs and all
processes of a machine share it, and another corpus never takes its place. Every file is held against its checksum as it
arrives.
"""

import fcntl
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import record_layout
from data_prep.errors import InputError
from data_prep.files import checksum
from data_prep.storage import Folder

# What a machine needs for other things: a disk that is full to the last byte stops more than this program.
_LEFT_FREE = 1 << 30


def cache_root() -> Path:
    """Where copies are kept."""
    given = os.environ.get("BERT_JAX_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bert-jax"


class Stage:
    """The copy of one corpus. May be pickled; safe for threads and for several processes.

    `files` is the manifest's: names to {"sha256", "bytes"}.
    """

    def __init__(self, origin: Folder, path: Path, files: dict[str, dict[str, Any]], has_room: bool = True):
        self._origin, self._path, self._files = origin, path, files
        self.has_room = has_room  # for the shards, which else stay in the store

    @classmethod
    def open(cls, origin: Folder, manifest: dict[str, Any]) -> "Stage":
        """Copies all but the shards. Raises InputError for a file that does not arrive as the manifest has it."""
        path = cache_root() / manifest["fingerprint"][:32] / (origin.name or "corpus")
        stage = cls(origin, path, manifest["files"])
        path.mkdir(parents=True, exist_ok=True)
        stage.fetch(name for name in manifest["files"] if not is_shard(name))
        stage.has_room = stage._missing_bytes() <= shutil.disk_usage(path).free - _LEFT_FREE
        if not stage.has_room:
            print(f"warning: {stage.no_room()}; records are read from the store, which is slower", file=sys.stderr)
        return stage

    def no_room(self) -> str:
        """What is wrong and what to do, as the beginning of a line."""
        free = max(0, shutil.disk_usage(self._path).free - _LEFT_FREE)
        return (
            f"{self._origin}: the shards take {self._missing_bytes() / 1e9:.1f} GB more and {cache_root()} has room "
            f"for {free / 1e9:.1f}; set BERT_JAX_CACHE to a folder on a larger disk"
        )

    @property
    def path(self) -> Path:
        """The folder of the copy."""
        return self._path

    def fetch(self, names: Iterable[str]) -> None:
        """Makes sure that these files are here, whole."""
        if not (missing := self._missing(names)):
            return
        with open(self._path.with_name(self._path.name + ".lock"), "w") as lock:
            # Of several processes one copies, and the others find it done.
            fcntl.flock(lock, fcntl.LOCK_EX)
            missing = self._missing(missing)
            self._origin.download([(name, self._path / name) for name in missing], self._verify)

    def read_ends(self, names: list[str], wanted: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[list[bytes]]:
        """From the store, all at once: for each shard the last bytes of some records, as `record_layout.read_ends`."""
        found = [record_layout.spans(ends, sizes) for ends, sizes in wanted]
        requests = [
            (name, start, stop)
            for name, (starts, stops) in zip(names, found, strict=True)
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]
        contents = iter(self._origin.read_ranges(requests))
        for starts, _ in found:
            yield [record_layout.without_headers(next(contents), start) for start in starts.tolist()]

    def _missing_bytes(self) -> int:
        return sum(self._files[name]["bytes"] for name in self._missing(filter(is_shard, self._files)))

    def _missing(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if not self._is_here(name)]

    def _is_here(self, name: str) -> bool:
        try:
            return (self._path / name).stat().st_size == self._files[name]["bytes"]
        except FileNotFoundError:
            return False

    def _verify(self, name: str, file: Path) -> None:
        if checksum(file) != self._files[name]:
            raise InputError(f"{self._origin}/{name}: the file is damaged (its checksum is not the manifest's)")


def is_shard(name: str) -> bool:
    """Whether a file of a corpus holds records."""
    return ".array_record-" in name
