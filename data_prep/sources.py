"""Raw inputs to documents: which files an input names, how they are cut into work units, and what a unit holds."""

import glob
import itertools
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from data_prep import (
    byte_streams,
    parquet_files,
    python_docs,
    text_files,
    tfds_inputs,
    wiki_dumps,
    wiki_text,
)
from data_prep.documents import Document, Dropped, Unreadable
from data_prep.errors import InputError
from data_prep.inputs import DEFAULT_READING, UNNAMED, Input, Reading
from data_prep.storage import file_size, input_path, is_url
from data_prep.storage import matches as stored_matches

__all__ = ["KNOWN_INPUTS", "Document", "Dropped", "Source", "Unit", "expand", "read", "units"]

PYTHON_DOCS, TFDS, WIKI = "python-docs", "tfds", "wiki"
# Kinds of files, which a suffix or the prefix KIND: tells, and whether compression from outside makes sense.
FILE_KINDS = {"txt": True, "jsonl": True, "parquet": False, WIKI: True}
SUFFIXES = {".txt": "txt", ".jsonl": "jsonl", ".parquet": "parquet"}
_PACKINGS = "/".join(f".{name}" for name in byte_streams.COMPRESSIONS)
KNOWN_INPUTS = (
    f"{', '.join(SUFFIXES)} (.txt and .jsonl also with {_PACKINGS}), wiki:DUMP.xml.bz2, "
    f"tfds:NAME/SPLIT or {PYTHON_DOCS}"
)


# A dump of one stream that keeps one process busy for long.
_LARGE_DUMP = 64 << 20
# A packed file of so many bytes holds something: what is packed of nothing is a header with the file's name.
_PACKED_TEXT = 512


@dataclass(frozen=True)
class Source:
    """One input file, one split of a TFDS dataset, or one installed distribution of `python-docs`.

    `name` is the same on every machine: the file's name, with as many of its folders as tell it from the others.
    """

    kind: str  # one of FILE_KINDS, also with ".gz" and the like; TFDS or PYTHON_DOCS
    name: str
    size: int  # bytes, as they are stored
    path: str = field(compare=False)
    files: tuple[tuple[str, int], ...] = ()  # python-docs: the modules, relative to path, and their bytes
    examples: int = 0  # tfds
    input: str = UNNAMED
    reading: Reading = DEFAULT_READING
    fault: str = ""  # why a file is dropped as a whole
    row_groups: tuple[int, ...] = ()  # parquet: bytes of text in each


@dataclass(frozen=True)
class Unit:
    """A piece of work: documents that start in [start, end) of a source, counted in bytes of a .txt, .jsonl or wiki
    file, in row groups, examples or modules.

    Equality and `describe` leave out `path`, the only field that depends on the machine.
    """

    kind: str
    name: str
    start: int
    end: int
    size: int  # bytes of raw input, for progress and balance
    path: str = field(compare=False)
    input: str = UNNAMED
    reading: Reading = DEFAULT_READING
    fault: str = ""

    def describe(self) -> dict[str, str | int]:
        """The unit's identity as JSON: equal on every machine that has the same input."""
        return {"kind": self.kind, "name": self.name, "start": self.start, "end": self.end, "size": self.size}


def expand(inputs: Sequence[Input | str], on_error: str = "fail") -> list[Source]:
    """The sources that the inputs name: inputs in the order given, a glob's files in sorted order, every file once.

    Raises InputError for no input, a missing file, a glob without match, a folder, an unknown suffix, a file that two
    inputs name, and, unless `on_error` is "drop", an empty or damaged file where that shows at once.
    """
    if not inputs:
        raise InputError(f"no input given; name files ({KNOWN_INPUTS})")
    found = [Input(UNNAMED, entry) if isinstance(entry, str) else entry for entry in inputs]
    for entry in found:
        # NAME= before it was meant as part of the path.
        if not glob.glob(entry.what) and glob.glob(f"{entry.name}={entry.what}"):
            raise InputError(
                f"{entry.name}={entry.what} is read as NAME=FILES; write a path that begins so as ./{entry.name}=..."
            )
    files = [_files(entry.what) if _is_files(entry.what) else [] for entry in found]
    unique = list(dict.fromkeys(path for listed in files for _, path in listed))
    names = dict(zip(unique, short_names(unique), strict=True))
    _check_names(names)
    sources: dict[str, Source] = {}
    for entry, listed in zip(found, files, strict=True):
        for source in _expand(entry, listed, names, on_error == "drop"):
            before = sources.setdefault(source.path, source)
            if before.input != source.input:
                raise InputError(
                    f"{source.path} is in two inputs, {before.input} and {source.input}; name it in one of them"
                )
    return list(sources.values())


def units(source: Source, unit_bytes: int) -> list[Unit]:
    """Cuts a source into units of about `unit_bytes`. One unit is what cannot be entered in the middle: compressed
    files other than wiki dumps of many bz2 streams, files that are one document, and row groups.
    """
    if unit_bytes < 1:
        raise ValueError(f"unit_bytes={unit_bytes}")
    if source.fault:
        spans = [(0, 0, source.size)]
    elif source.kind == PYTHON_DOCS:
        spans = _gathered([size for _, size in source.files], unit_bytes)
    elif source.kind == "parquet":
        spans = _gathered(source.row_groups, unit_bytes)
    elif source.kind == TFDS:
        count = min(-(-source.size // unit_bytes), source.examples)
        borders = [source.examples * i // count for i in range(count + 1)]
        sizes = [source.size * i // source.examples for i in borders]
        spans = [(*span, b - a) for span, (a, b) in zip(_pairs(borders), _pairs(sizes), strict=True)]
    else:
        count = -(-source.size // unit_bytes) if _splittable(source) else 1
        # Even pieces: a last unit of a few bytes would cost a shard of its own.
        spans = [(a, b, b - a) for a, b in _pairs([source.size * i // count for i in range(count + 1)])]
    return [
        Unit(source.kind, source.name, start, end, size, source.path, source.input, source.reading, source.fault)
        for start, end, size in spans
    ]


def read(unit: Unit, on_error: str = "fail") -> Iterator[Document | Dropped]:
    """The documents of a unit, in the order of the input, with their text made ready (`documents.document`).

    What cannot be read raises InputError with file and line when `on_error` is "fail", and is a `Dropped` when it is
    "drop"; empty documents, Python files that do not parse and wiki pages that are no article are `Dropped` either way.
    """
    if on_error not in ("fail", "drop"):
        raise InputError(f"--on-error is {on_error!r}; it must be fail or drop")
    if unit.fault:
        return iter([Dropped(unit.name, unit.fault)])
    fail, path = on_error == "fail", input_path(unit.path)
    kind = unit.kind.partition(".")[0]
    if kind == PYTHON_DOCS:
        return python_docs.read(unit.name, path, unit.start, unit.end)
    if kind == "parquet":
        return parquet_files.read(path, unit.name, unit.start, unit.end, unit.reading, fail)
    if kind == TFDS:
        return tfds_inputs.read(unit.path, unit.name, unit.start, unit.end, unit.reading, fail)
    if kind == WIKI:
        return wiki_text.read(path, unit.name, unit.start, unit.end, unit.reading, fail)
    part = text_files.Range(path, unit.name, unit.start, unit.end, unit.reading)
    if kind == "jsonl":
        return text_files.read_jsonl(part, fail)
    by_line = unit.reading.documents == "blank-line"
    return (text_files.read_txt if by_line else text_files.read_txt_file)(part, fail)


def _is_files(what: str) -> bool:
    return what != PYTHON_DOCS and not what.startswith(f"{TFDS}:")


def _files(what: str) -> list[tuple[str, Path]]:
    """(kind, path) of the files that one input names."""
    prefix, colon, pattern = what.partition(":")
    if colon and prefix in FILE_KINDS:
        return [(_packed_kind(prefix, path), path) for path in _match(pattern)]
    return [(_kind(path), path) for path in _match(what)]


def _expand(entry: Input, listed: list[tuple[str, Path]], names: dict[Path, str], drop: bool) -> Iterator[Source]:
    if entry.what == PYTHON_DOCS:
        for dist in python_docs.distributions():
            files = tuple(dist.files)
            size = sum(bytes_ for _, bytes_ in files)
            name = f"{PYTHON_DOCS}/{dist.name}"
            yield Source(PYTHON_DOCS, name, size, str(dist.root), files, 0, entry.name, entry.reading)
    elif not _is_files(entry.what):
        what = entry.what.removeprefix(f"{TFDS}:")
        name, examples, size = tfds_inputs.size(what, entry.reading)
        if not examples:
            raise InputError(f"{entry.what}: the split is empty; remove it from the inputs")
        yield Source(TFDS, name, size, what, (), examples, entry.name, entry.reading)
    else:
        for kind, path in listed:
            fault, groups = "", cast(tuple[int, ...], ())
            try:
                size = _checked_size(path)
                if kind == "parquet":
                    groups = tuple(parquet_files.row_groups(path, entry.reading))
            except Unreadable as error:
                if not drop:
                    raise
                fault, size = error.reason, file_size(path)
            if kind.partition(".")[0] == WIKI:
                wiki_text.converter()
            yield Source(kind, names[path], size, str(path), (), 0, entry.name, entry.reading, fault, groups)


def _splittable(source: Source) -> bool:
    kind, _, packing = source.kind.partition(".")
    if kind == WIKI:
        whole = wiki_dumps.splittable(input_path(source.path))
        if not whole and packing == "bz2" and source.size > _LARGE_DUMP:
            print(
                f"warning: {source.path} is one bz2 stream, which one process alone must read; "
                "the dump named ...-multistream.xml.bz2 is read by all",
                file=sys.stderr,
            )
        return whole
    return not packing and not (kind == "txt" and source.reading.documents != "blank-line")


def _match(pattern: str) -> list[Path]:
    if is_url(pattern):
        stored = stored_matches(pattern)
        if not stored:
            raise InputError(f"{pattern}: no object matches; check the address")
        return cast(list[Path], stored)
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
    packing = byte_streams.compression(path.name)
    inner = path.name[: -len(packing) - 1] if packing else path.name
    kind = SUFFIXES.get(os.path.splitext(inner)[1].lower())
    if kind is None:
        raise InputError(
            f"{path}: unknown kind of input; known are {KNOWN_INPUTS}; where the suffix does not tell, say it: "
            f"txt:{path.name}, jsonl:{path.name}"
        )
    return _packed_kind(kind, path)


def _packed_kind(kind: str, path: Path) -> str:
    packing = byte_streams.compression(path.name)
    if packing and not FILE_KINDS[kind]:
        raise InputError(f"{path}: a {kind} file is compressed inside and cannot be entered from outside; unpack it")
    return f"{kind}.{packing}" if packing else kind


def _checked_size(path: Path) -> int:
    """Bytes. Raises InputError for a file that cannot be read, and Unreadable for one that holds nothing."""
    try:
        size = file_size(path)
        # What a store lists it also opens, as a rule, and a build may have a hundred thousand objects to ask for.
        if not is_url(path):
            with byte_streams.open_bytes(path):
                pass
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    holds = size > 0
    if 0 < size < _PACKED_TEXT and byte_streams.compression(path.name):
        try:
            with byte_streams.open_unpacked(path) as stream:
                holds = bool(byte_streams.read_block(stream, 1))
        except byte_streams.Damaged:  # reading it says where, or counts it as dropped
            return size
    if not holds:
        raise Unreadable(f"{path}: the file is empty; remove it, or build with --on-error drop", "empty file")
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


def _check_names(names: dict[Path, str]) -> None:
    """Documents are called after their files, and every string of a corpus is UTF-8."""
    for path, name in names.items():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"{path}: the file's name is not UTF-8; rename it") from None


def _gathered(sizes: Sequence[int], unit_bytes: int) -> list[tuple[int, int, int]]:
    """(start, end, bytes) of runs of neighbours that reach `unit_bytes`."""
    spans, start, size = [], 0, 0
    for i, bytes_ in enumerate(sizes):
        size += bytes_
        if size >= unit_bytes or i + 1 == len(sizes):
            spans.append((start, i + 1, size))
            start, size = i + 1, 0
    return spans


def _pairs(borders: list[int]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(borders))
