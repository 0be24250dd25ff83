"""What all units say of themselves, as the merge needs it: columns instead of a dictionary a unit, of which a large
build has a hundred thousand."""

import json
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.corpus_files import SPLITS
from data_prep.errors import InputError
from data_prep.unit_folder import UNIT_JSON, unit_dir, unit_name

# What the manifest says of a shard, and of which files it has the checksums.
COUNTED = ("records", "documents", "sentences", "tokens")
_FILES = ("shard", "index")
_SAMPLES = 100


class ShardTable:
    """The shards of a split, in the order of the corpus."""

    def __init__(self, split: str):
        # As their files are called in their units; the shards of validation may become those of train.
        self._split = split
        self._columns = {name: array("q") for name in ("unit", "place", *COUNTED, *_FILES)}
        self._digests = {what: bytearray() for what in _FILES}

    def add(self, unit: int, place: int, entry: dict[str, Any]) -> None:
        """Adds shard `place` of a unit, as unit.json describes it."""
        values = {"unit": unit, "place": place} | {name: entry[name] for name in COUNTED}
        for what in _FILES:
            values[what] = entry[what]["bytes"]
            self._digests[what] += bytes.fromhex(entry[what]["sha256"])
        for name, value in values.items():
            self._columns[name].append(value)

    def __len__(self) -> int:
        return len(self._columns["unit"])

    def column(self, name: str) -> np.ndarray:
        """int64 [shards]: "unit", one of `COUNTED`, or the bytes of the "shard" or the "index"."""
        return np.array(self._columns[name], np.int64)

    def counts(self, shard: int) -> dict[str, int]:
        """What the manifest says of a shard."""
        return {name: self._columns[name][shard] for name in COUNTED}

    def checksum(self, shard: int, what: str) -> dict[str, Any]:
        """The manifest's entry of its file "shard" or "index"."""
        digest = self._digests[what][32 * shard : 32 * shard + 32]
        return {"sha256": digest.hex(), "bytes": self._columns[what][shard]}

    def origin(self, shard: int) -> str:
        """Its name without a suffix, from the folder of all units."""
        return f"{unit_name(self._columns['unit'][shard])}/{self._split}-{self._columns['place'][shard]}"

    def token_counts(self) -> list[str]:
        """The files of its units' token counts, from the folder of all units."""
        return [f"{unit_name(unit)}/{self._split}.token_counts.npy" for unit in dict.fromkeys(self._columns["unit"])]


class Parts:
    """The pieces of sources that the units read, in the order of the input."""

    def __init__(self) -> None:
        self._columns = {name: array("q") for name in ("first_document", "documents", "bytes", "source", "input")}
        self._numbers: dict[str, dict[str, int]] = {"source": {}, "input": {}}
        self.dropped: dict[int, dict[str, int]] = {}  # by the part's place, of those that dropped something

    def add(self, unit: int, part: dict[str, Any]) -> None:
        """Adds one, as unit.json describes it."""
        if part["dropped"]:
            self.dropped[len(self)] = part["dropped"]
        for by, numbers in self._numbers.items():
            self._columns[by].append(numbers.setdefault(part[by], len(numbers)))
        self._columns["first_document"].append((unit << 32) + part["first_document"])
        self._columns["documents"].append(part["documents"])
        self._columns["bytes"].append(part["bytes"])

    def __len__(self) -> int:
        return len(self._columns["bytes"])

    def column(self, name: str) -> np.ndarray:
        """int64 [parts]: "first_document" (the number of the first that is a part's own), "documents" that got into
        shards, "bytes", and the place of its "source" or "input" among the `names`.
        """
        return np.array(self._columns[name], np.int64)

    def names(self, by: str) -> list[str]:
        """Of all sources or inputs, as they come first."""
        return list(self._numbers[by])

    def dropped_documents(self) -> dict[str, int]:
        """How many the units dropped, by reason."""
        total: Counter[str] = Counter()
        for dropped in self.dropped.values():
            total.update(dropped)
        return dict(sorted(total.items()))


class Summaries:
    """All units of a build.

    Attributes:
        shards: by split.
        parts: what was read.
        documents: int64 [units], those that got into shards.
        samples: (rank, key, document, sentence), the smallest of all units', some more than are shown: documents may be
            dropped.
        leaks: what the units with leaks counted of them.
        long_sentences_cut, empty_sentences: sums.
    """

    def __init__(self, units_dir: Path, units: int):
        """Raises InputError for a unit.json that is damaged."""
        self.shards = {split: ShardTable(split) for split in SPLITS}
        self.parts = Parts()
        self.documents = np.zeros(units, np.int64)
        self.samples: list[list[Any]] = []
        self.leaks: list[dict[str, Any]] = []
        self.long_sentences_cut = self.empty_sentences = 0
        for number in range(units):
            file = unit_dir(units_dir, number) / UNIT_JSON
            try:
                self._add(number, json.loads(file.read_bytes()))
            except ValueError:
                raise InputError(f"{file} is damaged; remove {file.parent} and run the same command again") from None

    def _add(self, unit: int, summary: dict[str, Any]) -> None:
        for split, table in self.shards.items():
            for place, entry in enumerate(summary["shards"][split]):
                table.add(unit, place, entry)
        for part in summary["parts"]:
            self.parts.add(unit, part)
            self.documents[unit] += part["documents"]
        self.samples = _smallest_samples(self.samples + summary["samples"])
        if summary["leaks"]["files"]:
            self.leaks.append(summary["leaks"])
        self.long_sentences_cut += summary["long_sentences_cut"]
        self.empty_sentences += summary["empty_sentences"]


def _smallest_samples(samples: list[list[Any]]) -> list[list[Any]]:
    """Those with the smallest ranks; of duplicates, which have the same, the first document."""
    ranked: dict[tuple[int, int], list[Any]] = {}
    for sample in samples:
        rank, key, _, _ = sample
        ranked.setdefault((rank, key), sample)
    return [sample for _, sample in sorted(ranked.items())[:_SAMPLES]]
