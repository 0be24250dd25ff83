"""Raw inputs to documents: which files an input names, how they are cut into work units, and what a unit holds."""

import glob
import gzip
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_prep import python_docs, text_files
from data_prep.documents import Document, Dropped
from data_prep.errors import InputError

__all__ = ["KNOWN_INPUTS", "Document", "Dropped", "Source", "Unit", "expand", "read", "units"]

PYTHON_DOCS = "python-docs"
SUFFIXES = {".txt": "txt", ".jsonl": "jsonl", ".txt.gz": "txt.gz", ".jsonl.gz": "jsonl.gz"}
KNOWN_INPUTS = f"{', '.join(SUFFIXES)} or {PYTHON_DOCS}"


@dataclass(frozen=True)
class Source:
    """One input file, or one installed distribution of `python-docs`.

    `name` is the same on every machine: the file's name, with as many of its folders as tell it from the others.
    """

    kind: str  # a value of SUFFIXES, or PYTHON_DOCS
    name: str
    size: int  # bytes
    path: str = field(compare=False)
    files: tuple[tuple[str, int], ...] = ()  # python-docs: the modules, relative to path, and their bytes


@dataclass(frozen=True)
class Unit:
    """A piece of work: documents that start in bytes [start, end) of a file, or modules [start, end) of a distribution.

    Equality and `describe` leave out `path`, the only field that depends on the machine.
    """

    kind: str
    name: str
    start: int
    end: int
    size: int  # bytes of raw input, for progress and balance
    path: str = field(compare=False)

    def describe(self) -> dict[str, str | int]:
        """The unit's identity as JSON: equal on every machine that has the same input."""
        return {"kind": self.kind, "name": self.name, "start": self.start, "end": self.end, "size": self.size}


def expand(inputs: Sequence[str]) -> list[Source]:
    """The sources that the inputs name: inputs in the order given, a glob's files in sorted order, every file once.

    Raises InputError for no input, a missing file, a glob without match, a folder, an unknown suffix or an empty file.
    """
    if not inputs:
        raise InputError(f"no input given; name files ({KNOWN_INPUTS})")
    paths: list[Path] = []
    for text in inputs:
        if text != PYTHON_DOCS:
            paths.extend(_match(str(text)))
    unique = list(dict.fromkeys(paths))
    names = dict(zip(unique, short_names(unique), strict=True))
    sources: dict[Path | str, Source] = {}
    for text in inputs:
        if text == PYTHON_DOCS:
            for dist in python_docs.distributions():
                files = tuple(dist.files)
                size = sum(bytes_ for _, bytes_ in files)
                sources[dist.name] = Source(PYTHON_DOCS, f"{PYTHON_DOCS}/{dist.name}", size, str(dist.root), files)
        else:
            for path in _match(str(text)):
                sources[path] = Source(_kind(path), names[path], _checked_size(path), str(path))
    return list(sources.values())


def units(source: Source, unit_bytes: int) -> list[Unit]:
    """Cuts a source into units of about `unit_bytes`; a .gz file cannot be entered in the middle and is one unit."""
    if unit_bytes < 1:
        raise ValueError(f"unit_bytes={unit_bytes}")
    if source.kind == PYTHON_DOCS:
        return list(_module_units(source, unit_bytes))
    count = 1 if source.kind.endswith(".gz") else -(-source.size // unit_bytes)
    # Even pieces: a last unit of a few bytes would cost a shard of its own.
    borders = [source.size * i // count for i in range(count + 1)]
    return [
        Unit(source.kind, source.name, start, end, end - start, source.path)
        for start, end in itertools.pairwise(borders)
    ]


def read(unit: Unit, on_error: str = "fail") -> Iterator[Document | Dropped]:
    """The documents of a unit, in the order of the input, cleaned (`documents.clean`).

    What cannot be read raises InputError with file and line when `on_error` is "fail", and is a `Dropped` when it is
    "drop"; empty documents and Python files that do not parse are `Dropped` either way.
    """
    if on_error not in ("fail", "drop"):
        raise InputError(f"--on-error is {on_error!r}; it must be fail or drop")
    if unit.kind == PYTHON_DOCS:
        return python_docs.read(unit.name, Path(unit.path), unit.start, unit.end)
    reader = text_files.read_jsonl if unit.kind.startswith("jsonl") else text_files.read_txt
    return reader(text_files.Range(Path(unit.path), unit.name, unit.start, unit.end), on_error == "fail")


def _match(pattern: str) -> list[Path]:
    if os.path.isdir(pattern):
        raise InputError(f"{pattern} is a folder; name its files, e.g. '{pattern.rstrip('/')}/*.txt'")
    if os.path.exists(pattern):
        return [Path(pattern)]
    if not glob.has_magic(pattern):
        raise InputError(f"{pattern}: no such file; inputs are {KNOWN_INPUTS}")
    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True)) if os.path.isfile(match)]
    if not matches:
        raise InputError(f"{pattern}: no file matches; check the pattern and the working directory")
    return matches


def _kind(path: Path) -> str:
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return SUFFIXES[suffix]
    raise InputError(f"{path}: unknown kind of input; known are {KNOWN_INPUTS}")


def _checked_size(path: Path) -> int:
    try:
        size = path.stat().st_size
        with open(path, "rb"):
            pass
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if size and path.name.lower().endswith(".gz"):
        try:
            with gzip.open(path) as stream:
                size = size if stream.read(1) else 0
        except (OSError, EOFError):  # damaged: reading it says where, or counts it as dropped
            return size
    if not size:
        raise InputError(f"{path}: the file is empty; remove it from the inputs")
    return size


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the absolute paths that tell them apart."""
    parts = [path.absolute().parts for path in paths]
    depth = [1] * len(paths)
    while True:
        names = ["/".join(p[-d:]) for p, d in zip(parts, depth, strict=True)]
        seen = Counter(names)
        clashes = [i for i, name in enumerate(names) if seen[name] > 1 and depth[i] < len(parts[i])]
        if not clashes:
            return names
        for i in clashes:
            depth[i] += 1


def _module_units(source: Source, unit_bytes: int) -> Iterator[Unit]:
    start, size = 0, 0
    for i, (_, bytes_) in enumerate(source.files):
        size += bytes_
        if size >= unit_bytes or i + 1 == len(source.files):
            yield Unit(source.kind, source.name, start, i + 1, size, source.path)
            start, size = i + 1, 0
