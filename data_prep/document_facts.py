"""What is counted in the text of every document while it is at hand, for the audit: scripts and lines.

A unit's folder holds it until the merge, which knows the documents that are kept (data_prep.kept_facts):
    scripts.npy         int64 [n * 3]       place of a document in its unit, number of a script, characters; ascending
    main_scripts.npy    int16 [documents]   the script with the most characters, NO_SCRIPT for none
    line_hashes.npy     uint64 [lines]      of all documents, in runs that are ascending
    line_documents.npy  uint32 [lines]      the document of each
"""

import functools
import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fontTools import unicodedata as scripts_of_unicode
from fontTools.unicodedata import Scripts

from data_prep.files import ArrayFile

# Punctuation, spaces and digits belong to no script.
_NO_SCRIPT = ("Zyyy", "Zinh")
NO_SCRIPT = -1
# Only a huge document is counted in parts.
_CHARACTERS_AT_ONCE = 1 << 20
# Lines that memory holds, beside those of one document: a unit may be a whole packed file.
_LINES_AT_ONCE = 1 << 17
_ASCII = bytes(range(128))
_NO_ASCII_LETTER = bytes(byte for byte in range(256) if not (byte < 128 and chr(byte).isalpha()))


class FactsWriter:
    """Facts of the documents of a unit on their way into the files of its folder."""

    def __init__(self, folder: Path):
        self._scripts = ArrayFile(folder / "scripts.npy", "<i8")
        self._main_scripts = ArrayFile(folder / "main_scripts.npy", "<i2")
        self._line_hashes = ArrayFile(folder / "line_hashes.npy", "<u8")
        self._line_documents = ArrayFile(folder / "line_documents.npy", "<u4")
        self._documents = 0
        # Lines that are in no file yet: their hashes, and how many each of the last documents has.
        self._hashes, self._counts = bytearray(), array("q")

    def add(self, texts: Sequence[str]) -> None:
        """Adds documents, in the order of their places in the unit."""
        if not texts:
            return
        scripts = count_scripts(texts)
        self._main_scripts.append(main_scripts(scripts, len(texts)))
        self._scripts.append((scripts + np.array([self._documents, 0, 0])).reshape(-1))
        for text in texts:
            lines = text.encode().split(b"\n")
            self._hashes += b"".join([hashlib.blake2b(line, digest_size=8).digest() for line in lines])
            self._counts.append(len(lines))
            self._documents += 1
            if len(self._hashes) >= 8 * _LINES_AT_ONCE:
                self._write_lines()

    def finish(self) -> None:
        """Makes the files whole."""
        self._write_lines()
        for file in (self._scripts, self._main_scripts, self._line_hashes, self._line_documents):
            file.finish()

    def _write_lines(self) -> None:
        hashes = np.frombuffer(bytes(self._hashes), "<u8")
        documents = np.repeat(np.arange(self._documents - len(self._counts), self._documents), self._counts)
        # The merge, which is one process, sorts what is sorted in parts faster.
        order = np.argsort(hashes, kind="stable")
        self._line_hashes.append(hashes[order])
        self._line_documents.append(documents[order])
        self._hashes, self._counts = bytearray(), array("q")


def count_scripts(texts: Sequence[str]) -> np.ndarray:
    """int64 [n, 3]: text, script and its characters, for every script of every text; sorted."""
    table, width, latin = _script_table(), num_scripts(), _codes().index("Latn")
    counts = np.zeros((len(texts), width), np.int64)
    for row, text in zip(counts, texts, strict=True):
        for begin in range(0, len(text), _CHARACTERS_AT_ONCE):
            raw = text[begin : begin + _CHARACTERS_AT_ONCE].encode()
            # Most text is ASCII for the most part, which is counted without being taken apart.
            row[latin] += len(raw.translate(None, _NO_ASCII_LETTER))
            others = raw.translate(None, _ASCII)
            if others:
                script = table[np.frombuffer(others.decode().encode("utf-32-le"), "<u4")]
                row += np.bincount(script[script != NO_SCRIPT], minlength=width)
    place, script = np.nonzero(counts)
    return np.stack([place, script, counts[place, script]], 1)


def main_scripts(counted: np.ndarray, texts: int) -> np.ndarray:
    """int64 [texts]: the script with the most characters of each text, the first of several, NO_SCRIPT for none; from
    what `count_scripts` counted."""
    order = np.lexsort((counted[:, 1], -counted[:, 2], counted[:, 0]))
    found, places = np.unique(counted[order, 0], return_index=True)
    main = np.full(texts, NO_SCRIPT, np.int64)
    main[found] = counted[order[places], 1]
    return main


def script_name(script: int) -> str:
    """Unicode's name of a script."""
    return scripts_of_unicode.script_name(_codes()[script]).replace("_", " ") if script != NO_SCRIPT else "none"


def num_scripts() -> int:
    """Numbers of scripts are below this."""
    return len(_codes())


@functools.cache
def _codes() -> list[str]:
    return sorted(set(Scripts.VALUES))


@functools.cache
def _script_table() -> np.ndarray:
    """int16 [code points]: the number of each character's script."""
    numbers = {code: NO_SCRIPT if code in _NO_SCRIPT else i for i, code in enumerate(_codes())}
    sizes = np.diff([*Scripts.RANGES, 0x110000])
    return np.repeat(np.array([numbers[code] for code in Scripts.VALUES], np.int16), sizes)
