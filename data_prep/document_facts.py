"""What is counted in the text of every document while it is at hand, for the audit: scripts and lines.

A unit's folder holds it until the merge, which knows the documents that are kept (data_prep.kept_facts):
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

from data_prep.files import array_bytes, write_file

# Punctuation, spaces and digits belong to no script.
_NO_SCRIPT = ("Zyyy", "Zinh")
NO_SCRIPT = -1
# Only a huge document is counted in parts.
_CHARACTERS_AT_ONCE = 1 << 20
_ASCII = bytes(range(128))
_NO_ASCII_LETTER = bytes(byte for byte in range(256) if not (byte < 128 and chr(byte).isalpha()))


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
            lines = text.encode().split(b"\n")
            self._line_counts.append(len(lines))
            self._lines.extend(hashlib.blake2b(line, digest_size=8).digest() for line in lines)
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
