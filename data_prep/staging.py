"""A corpus in an object store, on this machine: index and tokenizer at once, shards when they are first read.

The copy lies in $BERT_JAX_CACHE (~/.cache/bert-jax unless given) under the corpus's fingerprint, so all runs and all
processes of a machine share it, and another corpus never takes its place. Every file is held against its checksum as it
arrives.
"""

import fcntl
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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

    def __init__(self, origin: Folder, path: Path, files: dict[str, dict[str, Any]]):
        self._origin, self._path, self._files = origin, path, files

    @classmethod
    def open(cls, origin: Folder, manifest: dict[str, Any]) -> "Stage":
        """Copies all but the shards, of which there may be more than this machine has room for.

        Raises InputError for a file that does not arrive as the manifest has it, and when there is no room for the
        shards.
        """
        path = cache_root() / manifest["fingerprint"][:32] / (origin.name or "corpus")
        stage = cls(origin, path, manifest["files"])
        path.mkdir(parents=True, exist_ok=True)
        stage.fetch(name for name in manifest["files"] if not is_shard(name))
        missing = sum(manifest["files"][name]["bytes"] for name in stage._missing(filter(is_shard, manifest["files"])))
        room = shutil.disk_usage(path).free - _LEFT_FREE
        if missing > room:
            raise InputError(
                f"{origin}: its shards take {missing / 1e9:.1f} GB more and {cache_root()} has room for "
                f"{max(room, 0) / 1e9:.1f}; set BERT_JAX_CACHE to a folder on a larger disk"
            )
        return stage

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
