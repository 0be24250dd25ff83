"""The facts of the documents that are kept, gathered over all units (data_prep.document_facts)."""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_prep.document_facts import num_scripts, script_name
from data_prep.errors import InputError
from data_prep.files import array_pieces, mapped_array, mapped_flags
from data_prep.hash_groups import first_entries

_PLACE = (1 << 32) - 1
_LINE = np.dtype([("hash", "<u8")])
# What is read at once, of a unit of any size.
_LINES_AT_ONCE, _SCRIPTS_AT_ONCE = 1 << 17, 1 << 16


class KeptFacts:
    """Facts of all units, of which documents are entered as kept."""

    def __init__(self, folders: Sequence[Path], documents: np.ndarray, scratch: Path):
        """`folders` of the units, with int64 [units] `documents` each; `scratch` is a folder to work in."""
        self._folders, self._scratch = folders, scratch
        self._offsets = np.concatenate([[0], np.cumsum(documents)])
        self._kept = mapped_flags(scratch, int(self._offsets[-1]))

    def keep(self, numbers: np.ndarray) -> None:
        """Enters documents by their numbers, int64 [n], ascending, each once."""
        self._kept[self._offsets[numbers >> 32] + (numbers & _PLACE)] = True

    def kept(self, number: int) -> bool:
        """Whether a document has been entered."""
        return bool(self._kept[self._offsets[number >> 32] + (number & _PLACE)])

    def main_scripts(self, numbers: np.ndarray) -> np.ndarray:
        """int64 [n]: the script with the most characters of each document, NO_SCRIPT for none; int64 [n] ascending."""
        found = np.empty(len(numbers), np.int64)
        units, begins = np.unique(numbers >> 32, return_index=True)
        for unit, (begin, end) in zip(units.tolist(), pairwise([*begins.tolist(), len(numbers)]), strict=True):
            with _whole(self._folders[unit]):
                scripts = mapped_array(self._folders[unit] / "main_scripts.npy", "<i2")
                found[begin:end] = scripts[numbers[begin:end] & _PLACE]
        return found

    def script_shares(self) -> dict[str, float]:
        """The share of each script among the letters of the documents entered."""
        characters = np.zeros(num_scripts(), np.int64)
        for unit, folder in enumerate(self._folders):
            with _whole(folder):
                for piece in array_pieces(folder / "scripts.npy", "<i8", 3 * _SCRIPTS_AT_ONCE):
                    place, script, count = piece.reshape(-1, 3).T
                    mine = self._kept[self._offsets[unit] + place]
                    np.add.at(characters, script[mine], count[mine])
        total = int(characters.sum())
        present = np.flatnonzero(characters).tolist()
        return {script_name(i): int(characters[i]) / total for i in present}

    def duplicated_lines(self) -> float:
        """The share of lines of the documents entered that stand in them before, be it in the same one."""
        total = 0

        def hashes() -> Iterator[np.ndarray]:
            nonlocal total
            for unit, folder in enumerate(self._folders):
                with _whole(folder):
                    lines = array_pieces(folder / "line_hashes.npy", "<u8", _LINES_AT_ONCE)
                    documents = array_pieces(folder / "line_documents.npy", "<u4", _LINES_AT_ONCE)
                    for found, places in zip(lines, documents, strict=True):
                        found = found[self._kept[self._offsets[unit] + places]]
                        total += len(found)
                        yield found.view(_LINE)

        stored = sum((folder / "line_hashes.npy").stat().st_size // 8 for folder in self._folders)
        distinct = sum(map(len, first_entries(hashes(), stored, self._scratch / "lines")))
        return (total - distinct) / total if total else 0.0


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[None]:
    """Raises InputError where files of a unit are not as they should be."""
    try:
        yield
    except (OSError, ValueError, IndexError):
        raise InputError(
            f"{folder}: its files are missing or damaged, or of an older version; remove it and run the same command "
            "again"
        ) from None
