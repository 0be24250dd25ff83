"""Evaluation files, which `build --exclude` names, to texts: .txt, .jsonl, .json, .tsv, .csv, here or in a store."""

import csv
import glob
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any, cast

from data_prep.errors import InputError
from data_prep.storage import is_url
from data_prep.storage import matches as stored_matches

KNOWN_FILES = ".txt, .jsonl, .json, .tsv, .csv"


def expand(names: Iterable[str | Path]) -> list[Path]:
    """The files that paths, globs and URLs name, each once. Raises InputError for a glob that no file matches."""
    return list(dict.fromkeys(path for name in names for path in _matches(str(name))))


def content(path: Path) -> bytes:
    """A file's bytes. Raises InputError where it cannot be read, or is of another kind."""
    if _kind(path) not in KNOWN_FILES.split(", "):
        raise InputError(f"{path}: unknown kind of evaluation file; --exclude takes {KNOWN_FILES}")
    try:
        with path.open("rb") as stream:
            return stream.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def texts(path: Path, raw: bytes) -> Iterator[str]:
    """The lines of a .txt, all strings of a .jsonl or .json at whatever depth, all fields of a .tsv or .csv.

    Raises InputError for what is broken.
    """
    try:
        decoded = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; convert the file") from None
    kind = _kind(path)
    if kind == ".txt":
        yield from decoded.split("\n")
    elif kind == ".jsonl":
        for number, line in enumerate(decoded.split("\n"), 1):
            if line.strip():
                try:
                    yield from _strings(json.loads(line))
                except (ValueError, RecursionError):
                    raise InputError(f"{path}:{number}: no JSON; mend the line") from None
    elif kind == ".json":
        try:
            yield from _strings(json.loads(decoded))
        except (ValueError, RecursionError):
            raise InputError(f"{path}: no JSON; mend the file, or name it .jsonl if every line is an object") from None
    elif kind == ".tsv":
        for line in decoded.split("\n"):
            yield from line.split("\t")
    else:
        csv.field_size_limit(max(csv.field_size_limit(), len(raw)))  # a field may be a whole book
        try:
            for row in csv.reader(io.StringIO(decoded, newline="")):
                yield from row
        except csv.Error as error:
            raise InputError(f"{path}: no CSV ({error}); mend the file") from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _matches(name: str) -> list[Path]:
    if is_url(name):
        stored = stored_matches(name)
        if not stored:
            raise InputError(f"{name}: no object matches; check the address")
        return cast(list[Path], stored)
    if os.path.exists(name) or not glob.has_magic(name):
        return [Path(name)]
    paths = [Path(match) for match in sorted(glob.glob(name, recursive=True)) if os.path.isfile(match)]
    if not paths:
        raise InputError(f"{name}: no file matches; check the pattern and the working directory")
    return paths


def _kind(path: Path) -> str:
    return PurePath(path.name).suffix.lower()
