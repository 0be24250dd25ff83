"""Where a build works and where its corpus appears: a folder of this machine, or an object store.

Both offer the same to data_prep.build. A folder is made in OUT.partial and renamed. A store has no rename: units are
put under OUT.partial, the merge copies shards to their final names on the store's side, and the manifest, written last,
makes the corpus.
"""

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from data_prep import corpus_files, unit_folder
from data_prep import merge as merging
from data_prep import moves as moving
from data_prep.corpus import Corpus
from data_prep.errors import InputError
from data_prep.files import create_file, is_scratch, whole_file
from data_prep.lease import Lease
from data_prep.lock import BuildLock
from data_prep.shard_reading import ShardReader
from data_prep.staging import is_shard
from data_prep.storage import Folder, is_url, split_url
from data_prep.tokenizer import Tokenizer

_STATE = "work/build.json"
# Units lie under a digest of what determines them: where nothing keeps parts of other settings out, none is mixed in.
_UNITS = "work/units"


class Place(Protocol):
    """What a build asks of the place that it writes to."""

    @property
    def output(self) -> Path | Folder:
        """Where the corpus appears."""
        ...

    @property
    def partial(self) -> Path | Folder:
        """Where it is made."""
        ...

    @property
    def units_dir(self) -> Path | Folder:
        """Where its units are put."""
        ...

    def alone(self) -> AbstractContextManager[Any]:
        """One whole build, or one merge, at a time. Raises Busy."""
        ...

    def together(self) -> AbstractContextManager[Any]:
        """Parts, as many as like, where a whole build can be kept out meanwhile."""
        ...

    def manifest(self) -> dict[str, Any] | None:
        """That of the corpus, None when there is none yet. Raises InputError when something else is there."""
        ...

    def merged(self) -> dict[str, Any] | None:
        """The manifest of a corpus that is whole but not visible yet."""
        ...

    def state(self, identity: dict[str, Any]) -> dict[str, Any]:
        """The identity of the build that is under way; `identity` when none was, which from now on is this one."""
        ...

    def done(self) -> set[int]:
        """Numbers of the finished units."""
        ...

    def tidy(self) -> None:
        """For one build that starts: forgets which build is under way when no unit of any is finished, and removes what
        broken-off units left. Nothing that a part may be about to finish: not everywhere can one be kept out.
        """
        ...

    def discard(self) -> None:
        """Removes all that is not visible."""
        ...

    def merge(self, units: int, identity: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
        """Makes the corpus of all units visible and returns its manifest."""
        ...

    def has_report(self) -> bool:
        """Whether OUT.report.json is there."""
        ...

    def write_report(self, content: str) -> None:
        """Writes OUT.report.json."""
        ...


def place(output: str | Path, identity: dict[str, Any]) -> Place:
    """The place of an output, a store for a URL, else a folder, for the build of this identity."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return StorePlace(Folder(str(output)), digest) if is_url(output) else FolderPlace(Path(output), digest)


class FolderPlace:
    """A folder of this machine, or one that several machines mount."""

    def __init__(self, output: Path, digest: str):
        self.output = corpus_files.named(output)
        self.partial = corpus_files.partial_path(self.output)
        self.units_dir = self.partial / f"{_UNITS}-{digest}"
        self._report = self.output.with_name(f"{self.output.name}.report.json")

    def alone(self) -> AbstractContextManager[Any]:
        """See Place."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        return BuildLock(self.output)

    def together(self) -> AbstractContextManager[Any]:
        """See Place."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        return BuildLock(self.output, shared=True, wait=True)

    def manifest(self) -> dict[str, Any] | None:
        """See Place."""
        if not self.output.exists() or (self.output.is_dir() and not any(self.output.iterdir())):
            return None
        if not (self.output / corpus_files.MANIFEST).is_file():
            raise InputError(f"{self.output} exists and is no corpus; choose another output or remove it")
        return Corpus.open(self.output).manifest

    def merged(self) -> dict[str, Any] | None:
        """See Place."""
        file = self.partial / corpus_files.MANIFEST
        return _parse(file.read_bytes(), str(file), str(self.partial)) if file.exists() else None

    def state(self, identity: dict[str, Any]) -> dict[str, Any]:
        """See Place."""
        file = self.partial / _STATE
        self.units_dir.mkdir(parents=True, exist_ok=True)
        if create_file(file, json.dumps(identity).encode()):
            return identity
        return _parse(file.read_bytes(), str(file), str(self.partial))

    def done(self) -> set[int]:
        """See Place."""
        # A unit whose shards have been moved by a merge that was broken off is finished too.
        names = (file.parent.name for file in self.units_dir.glob("*/" + unit_folder.UNIT_JSON))
        return {int(name) for name in names if name.isdecimal()}

    def tidy(self) -> None:
        """See Place."""
        if not any(self.partial.glob(f"{_UNITS}-*/[0-9]*/{unit_folder.UNIT_JSON}")):
            (self.partial / _STATE).unlink(missing_ok=True)
        # Where there are no locks, parts may be at work.
        unit_folder.remove_abandoned(self.units_dir)

    def discard(self) -> None:
        """See Place."""
        if self.partial.exists():
            shutil.rmtree(self.partial)

    def merge(self, units: int, identity: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
        """See Place."""
        manifest = self.merged() or merging.merge(self.partial, self.units_dir, units, identity, tokenizer)
        moving.finish(self.partial, self.output)
        return manifest

    def has_report(self) -> bool:
        """See Place."""
        return self._report.exists()

    def write_report(self, content: str) -> None:
        """See Place."""
        with whole_file(self._report) as file:
            file.write_text(content)


class StorePlace:
    """An object store."""

    def __init__(self, output: Folder, digest: str):
        self.output, self.partial = output, output.partial
        self.units_dir = self.partial / f"{_UNITS}-{digest}"
        self._parent, self._name = split_url(output.url)
        self._report = f"{self._name}.report.json"

    def alone(self) -> AbstractContextManager[Any]:
        """See Place."""
        return Lease(self._parent, self._name)

    def together(self) -> AbstractContextManager[Any]:
        """See Place. Parts write different objects, or the same bytes: they need no lock."""
        return contextlib.nullcontext()

    def manifest(self) -> dict[str, Any] | None:
        """See Place. Shards without a manifest are what a merge left that was broken off."""
        content = self.output.read(corpus_files.MANIFEST)
        if content is None:
            foreign = sorted(name for name in self.output.sizes() if not _is_corpus_file(name))
            if foreign:
                raise InputError(
                    f"{self.output} is no corpus and holds other objects ({foreign[0]}); choose another output"
                )
            return None
        return _parse(content, f"{self.output}/{corpus_files.MANIFEST}", str(self.output))

    def merged(self) -> dict[str, Any] | None:
        """See Place: on a store a whole corpus is visible."""
        return None

    def state(self, identity: dict[str, Any]) -> dict[str, Any]:
        """See Place."""
        if self.partial.create(_STATE, json.dumps(identity).encode()):
            return identity
        content = self.partial.read(_STATE)
        return identity if content is None else _parse(content, f"{self.partial}/{_STATE}", str(self.partial))

    def done(self) -> set[int]:
        """See Place."""
        pairs = (name.split("/") for name in self.units_dir.sizes())
        return {int(pair[0]) for pair in pairs if len(pair) == 2 and pair[1] == unit_folder.UNIT_JSON}

    def tidy(self) -> None:
        """See Place."""
        if not any(name.endswith("/" + unit_folder.UNIT_JSON) for name in self.partial.sizes()):
            self.partial.remove([_STATE])

    def discard(self) -> None:
        """See Place."""
        self.partial.remove()

    def merge(self, units: int, identity: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
        """See Place. Indices and counts pass through this machine, shards only where records of them are left out."""
        with tempfile.TemporaryDirectory(prefix="bert-jax-merge-") as folder:
            made, units_dir = Path(folder) / "corpus", Path(folder) / "units"
            sizes = self.units_dir.sizes()
            wanted = [name for name in sizes if not name.endswith(".array_record") and "/" in name]
            self.units_dir.download([(name, units_dir / name) for name in wanted])
            made.mkdir()

            def move(planned_moves: Iterable[moving.Move]) -> None:
                moves = list(planned_moves)
                self._copy(moves, sizes)
                small = [planned for planned in moves if not planned.origin.endswith(".array_record")]
                moving.Renamer(made, units_dir)(small)

            with _ShardsAtHand(self.output, Path(folder)) as shard_file:
                manifest = merging.merge(made, units_dir, units, identity, tokenizer, move, shard_file)
            rest = [name for name in manifest["files"] if not _is_from_a_unit(name)]
            self.output.upload([(made / name, name) for name in rest])
            present = self.output.sizes()
            for name, entry in manifest["files"].items():
                if present.get(name) != entry["bytes"]:
                    raise InputError(f"{self.output}/{name} has not arrived whole; run the same command again")
            stray = [name for name in present if name not in manifest["files"] and name != corpus_files.MANIFEST]
            self.output.remove(stray)
            self.output.write(corpus_files.MANIFEST, (made / corpus_files.MANIFEST).read_bytes())
        self.discard()
        return manifest

    def _copy(self, moves: list[moving.Move], sizes: dict[str, int]) -> None:
        for planned in moves:
            if sizes.get(planned.origin) != planned.size:
                raise InputError(
                    f"{self.units_dir}/{planned.origin} is missing or damaged; remove {self.partial} and run the same "
                    "command again"
                )
        self.units_dir.copy([(planned.origin, self.output, planned.name) for planned in moves])

    def has_report(self) -> bool:
        """See Place."""
        return self._parent.read(self._report) is not None

    def write_report(self, content: str) -> None:
        """See Place."""
        self._parent.write(self._report, content.encode())


class _ShardsAtHand:
    """Gets one shard after the other, keeping the last."""

    def __init__(self, corpus_folder: Folder, scratch: Path):
        self._corpus, self._file = corpus_folder, scratch / "shard"

    def __enter__(self) -> ShardReader:
        return self._get

    def __exit__(self, *_: object) -> None:
        self._file.unlink(missing_ok=True)

    def _get(self, name: str) -> Path:
        self._corpus.download([(name, self._file)])
        return self._file


def _is_from_a_unit(name: str) -> bool:
    return is_shard(name) or name.endswith(".safetensors")


def _is_corpus_file(name: str) -> bool:
    known = name in ("features.json", "dataset_info.json") or name.startswith(("index/", "tokenizer/"))
    return known or name.startswith(f"{corpus_files.DATASET_NAME}-") or is_scratch(name)


def _parse(content: bytes, where: str, folder: str) -> dict[str, Any]:
    try:
        return json.loads(content)
    except ValueError:
        raise InputError(f"{where} is damaged; remove {folder} and run the same command again") from None
