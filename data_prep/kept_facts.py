"""The facts of the documents that are kept, gathered over all units (data_prep.document_facts)."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_prep.document_facts import NO_SCRIPT, num_scripts, script_name
from data_prep.errors import InputError
from data_prep.files import mapped_flags, read_array
from data_prep.hash_groups import first_entries

_PLACE = (1 << 32) - 1
_LINE = np.dtype([("hash", "<u8")])


class KeptFacts:
    """Facts of all units, of which documents are entered as kept."""

    def __init__(self, folders: Sequence[Path], documents: np.ndarray, scratch: Path):
        """`folders` of the units, with int64 [units] `documents` each; `scratch` is a folder to work in."""
        self._folders, self._scratch = folders, scratch
        self._offsets = np.concatenate([[0], np.cumsum(documents)])
        self._kept = mapped_flags(scratch, int(self._offsets[-1]))
        self._characters = np.zeros(num_scripts(), np.int64)

    def keep(self, numbers: np.ndarray) -> None:
        """Enters documents by their numbers, int64 [n], ascending, each once."""
        self._kept[self._offsets[numbers >> 32] + (numbers & _PLACE)] = True
        _, script, characters = self._scripts(numbers).T
        np.add.at(self._characters, script, characters)

    def main_scripts(self, numbers: np.ndarray) -> np.ndarray:
        """int64 [n]: the script with the most characters of each document, NO_SCRIPT for none; int64 [n] ascending."""
        scripts = self._scripts(numbers)
        order = np.lexsort((scripts[:, 1], -scripts[:, 2], scripts[:, 0]))
        found, places = np.unique(scripts[order, 0], return_index=True)
        main = np.full(len(numbers), NO_SCRIPT, np.int64)
        main[found] = scripts[order[places], 1]
        return main

    def script_shares(self) -> dict[str, float]:
        """The share of each script among the letters of the documents entered."""
        total = int(self._characters.sum())
        present = np.flatnonzero(self._characters).tolist()
        return {script_name(i): int(self._characters[i]) / total for i in present}

    def duplicated_lines(self) -> float:
        """The share of lines of the documents entered that stand in them before, be it in the same one."""
        total = 0

        def hashes() -> Iterator[np.ndarray]:
            nonlocal total
            for unit, folder in enumerate(self._folders):
                documents = _read(folder, "line_documents", "<u4")
                mine = self._kept[self._offsets[unit] + documents]
                found = _read(folder, "line_hashes", "<u8")[mine]
                total += len(found)
                yield found.view(_LINE)

        stored = sum((folder / "line_hashes.npy").stat().st_size // 8 for folder in self._folders)
        distinct = sum(map(len, first_entries(hashes(), stored, self._scratch / "lines")))
        return (total - distinct) / total if total else 0.0

    def _scripts(self, numbers: np.ndarray) -> np.ndarray:
        """int64 [m, 3]: place of a document in `numbers`, script, characters."""
        found = [np.empty((0, 3), np.int64)]
        for unit in np.unique(numbers >> 32).tolist():
            found.append(_read(self._folders[unit], "scripts", "<i8").reshape(-1, 3) + np.array([unit << 32, 0, 0]))
        scripts = np.concatenate(found)
        place = np.searchsorted(numbers, scripts[:, 0])
        there = place < len(numbers)
        there[there] = numbers[place[there]] == scripts[there, 0]
        scripts = scripts[there]
        scripts[:, 0] = place[there]
        return scripts


def _read(folder: Path, name: str, dtype: str) -> np.ndarray:
    file = folder / f"{name}.npy"
    try:
        return read_array(file, dtype)
    except (OSError, ValueError):
        raise InputError(
            f"{file} is missing or damaged, or of an older version; remove {folder} and run the same command again"
        ) from None
