"""What is counted in the text of every document while it is at hand, for the audit: scripts and lines.

A unit's folder holds it until the merge, which knows the documents that are kept:
    scripts.npy         int64 [n, 3]    place of a document in its unit, number of a script, characters
    line_hashes.npy     uint64 [lines]  of all documents, ascending
    line_documents.npy  uint32 [lines]  the document of each
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fontTools import unicodedata as scripts_of_unicode
from fontTools.unicodedata import Scripts

from data_prep.errors import InputError
from data_prep.files import array_bytes, write_file

# Punctuation, spaces and digits belong to no script.
_NO_SCRIPT = ("Zyyy", "Zinh")
NO_SCRIPT = -1
_LINES_AT_ONCE = 1 << 24
# Batches of documents are smaller; only a huge document is counted in parts.
_CHARACTERS_AT_ONCE = 1 << 20


class FactsWriter:
    """Facts of the documents of a unit."""

    def __init__(self) -> None:
        self._scripts: list[np.ndarray] = []
        self._lines: list[bytes] = []
        self._line_counts: list[int] = []

    def add(self, texts: Sequence[str]) -> None:
        """Adds documents, in the order of their places in the unit."""
        first = len(self._line_counts)
        for text in texts:
            lines = text.split("\n")
            self._line_counts.append(len(lines))
            self._lines.extend(hashlib.blake2b(line.encode(), digest_size=8).digest() for line in lines)
        if texts:
            self._scripts.append(count_scripts(texts) + np.array([first, 0, 0]))

    def write(self, folder: Path) -> None:
        """Writes the three files."""
        hashes = np.frombuffer(b"".join(self._lines), "<u8")
        documents = np.repeat(np.arange(len(self._line_counts), dtype=np.uint32), self._line_counts)
        order = np.argsort(hashes, kind="stable")
        scripts = np.concatenate([np.empty((0, 3), np.int64), *self._scripts])
        write_file(folder / "scripts.npy", array_bytes(scripts.reshape(-1)))
        write_file(folder / "line_hashes.npy", array_bytes(hashes[order]))
        write_file(folder / "line_documents.npy", array_bytes(documents[order]))


class Facts:
    """The facts of a unit, as the merge reads them."""

    def __init__(self, folder: Path):
        self._folder = folder

    @property
    def scripts(self) -> np.ndarray:
        """int64 [n, 3]: document, script, characters."""
        return self._map("scripts").reshape(-1, 3)

    def main_scripts(self, documents: int) -> np.ndarray:
        """int64 [documents]: the script with the most characters of each document of the unit, NO_SCRIPT for none."""
        order = np.lexsort((self.scripts[:, 1], -self.scripts[:, 2], self.scripts[:, 0]))
        ordered = self.scripts[order]
        found, places = np.unique(ordered[:, 0], return_index=True)
        main = np.full(documents, NO_SCRIPT, np.int64)
        main[found] = ordered[places, 1]
        return main

    def lines(self, lowest: int, above: int) -> tuple[np.ndarray, np.ndarray]:
        """Hashes from `lowest` to below `above`, ascending, and their documents."""
        hashes, documents = (self._map(name) for name in ("line_hashes", "line_documents"))
        begin = int(np.searchsorted(hashes, np.uint64(lowest)))
        end = len(hashes) if above >> 64 else int(np.searchsorted(hashes, np.uint64(above)))
        return np.asarray(hashes[begin:end]), np.asarray(documents[begin:end])

    def num_lines(self) -> int:
        """Lines of all documents."""
        return len(self._map("line_hashes"))

    def _map(self, name: str) -> np.ndarray:
        file = self._folder / f"{name}.npy"
        try:
            # An empty file section cannot be mapped.
            return np.load(file, mmap_mode="r" if file.stat().st_size > 128 else None)
        except (OSError, ValueError):
            raise InputError(
                f"{file} is missing or damaged, or of an older version; remove {self._folder} and run the same command "
                "again"
            ) from None


def script_shares(units: Sequence[Path], kept: Sequence[np.ndarray]) -> dict[str, float]:
    """The share of each script among the letters of the kept documents, `kept` bool [documents] for each unit."""
    counts = np.zeros(len(_codes()), np.int64)
    for folder, mine in zip(units, kept, strict=True):
        scripts = Facts(folder).scripts
        _, script, characters = scripts[mine[scripts[:, 0]]].T
        np.add.at(counts, script, characters)
    total = int(counts.sum())
    return {script_name(i): int(counts[i]) / total for i in np.flatnonzero(counts).tolist()}


def duplicated_lines(units: Sequence[Path], kept: Sequence[np.ndarray]) -> float:
    """The share of lines of the kept documents that stand in them before, be it in the same one."""
    stored = sum(Facts(folder).num_lines() for folder in units)
    # A range of hashes at a time, of all units: memory does not grow with the corpus.
    ranges = max(1, -(-stored // _LINES_AT_ONCE))
    total = distinct = 0
    for i in range(ranges):
        hashes = [np.empty(0, np.uint64)]
        for folder, mine in zip(units, kept, strict=True):
            found, documents = Facts(folder).lines((i << 64) // ranges, ((i + 1) << 64) // ranges)
            hashes.append(found[mine[documents]])
        flat = np.concatenate(hashes)
        total += len(flat)
        distinct += len(np.unique(flat))
    return (total - distinct) / total if total else 0.0


def count_scripts(texts: Sequence[str]) -> np.ndarray:
    """int64 [n, 3]: text, script and its characters, for every script of every text; sorted."""
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    joined, table, width = "".join(texts), _script_table(), len(_codes())
    counts = np.zeros(len(texts) * width, np.int64)
    for begin in range(0, len(joined), _CHARACTERS_AT_ONCE):
        codes = np.frombuffer(joined[begin : begin + _CHARACTERS_AT_ONCE].encode("utf-32-le"), "<u4")
        script = table[codes]
        (mine,) = np.nonzero(script != NO_SCRIPT)
        text = np.searchsorted(ends, begin + mine, side="right")
        counts += np.bincount(text * width + script[mine], minlength=len(counts))
    (found,) = np.nonzero(counts)
    return np.stack([found // width, found % width, counts[found]], 1)


def script_name(script: int) -> str:
    """Unicode's name of a script."""
    return scripts_of_unicode.script_name(_codes()[script]).replace("_", " ") if script != NO_SCRIPT else "none"


@functools.cache
def _codes() -> list[str]:
    return sorted(set(Scripts.VALUES))


@functools.cache
def _script_table() -> np.ndarray:
    """int16 [code points]: the number of each character's script."""
    numbers = {code: NO_SCRIPT if code in _NO_SCRIPT else i for i, code in enumerate(_codes())}
    sizes = np.diff([*Scripts.RANGES, 0x110000])
    return np.repeat(np.array([numbers[code] for code in Scripts.VALUES], np.int16), sizes)
