"""Documents that hold passages of evaluation files: what `build --exclude` drops.

A passage is 13 words in a row, as in the decontamination of GPT-3 (Brown et al., 2020, appendix C), words as
data_prep.words has them. An evaluation text of 8 to 12 words is a passage as a whole; a shorter one is no evidence and
is only counted. Where most of the words are letters of a script without spaces, twice as many make a passage: a word of
running Chinese text has one and a half to two characters.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import evaluation_files
from data_prep.documents import Document, clean
from data_prep.errors import InputError
from data_prep.sources import short_names
from data_prep.words import grams, mix, spans, word_hashes

PASSAGE_WORDS, PASSAGE_LETTERS = 13, 26
SHORTEST, SHORTEST_LETTERS = 8, 16
REASON = "leak"
_SAMPLES = 20
_SAMPLE_CHARACTERS = 200
# So many places a passage, in a table that tells most n-grams apart from all passages before anything is searched.
_FILTER_PLACES = 16


@dataclass(frozen=True)
class Leak:
    """A document that holds a passage: which one, of which evaluation file."""

    file: str
    passage: str  # as it stands in the document, case folded


class Exclusions:
    """Passages of evaluation files, looked up in batches of documents. Equal files make equal ones, in any order.

    Attributes:
        files: for each file its name, `sha256`, the number of its `texts`, of its `passages`, and of its texts that are
            `too_short` to be looked for (2 to 7 words, 2 to 15 letters of a script without spaces).
    """

    def __init__(self, names: Sequence[str | Path]):
        """Raises InputError for a file that is missing, of another kind, broken, or without any passage."""
        files = evaluation_files.expand(names)
        unique: dict[str, tuple[str, Path, bytes]] = {}
        for name, path in sorted(zip(short_names(files), files, strict=True)):
            raw = evaluation_files.content(path)
            unique.setdefault(hashlib.sha256(raw).hexdigest(), (name, path, raw))
        self.files: list[dict[str, Any]] = []
        hashes: dict[int, list[np.ndarray]] = {}
        owners: dict[int, list[np.ndarray]] = {}
        for number, (digest, (name, path, raw)) in enumerate(unique.items()):
            texts = [clean(text) for text in evaluation_files.texts(path, raw)]
            found, counts = _passages(texts)
            if not found:
                raise InputError(
                    f"{path}: no text of at least {SHORTEST} words, or {SHORTEST_LETTERS} letters in a script without "
                    "spaces, to look for; leave it out of --exclude"
                )
            passages = 0
            for size, values in found.items():
                values = np.unique(values)
                passages += len(values)
                hashes.setdefault(size, []).append(values)
                owners.setdefault(size, []).append(np.full(len(values), number, np.int32))
            self.files.append({"name": name, "sha256": digest, **counts, "passages": passages})
        self._tables = {size: _Table(np.concatenate(hashes[size]), np.concatenate(owners[size])) for size in hashes}

    def summary(self) -> str:
        """One line about what is looked for, and what cannot be."""
        passages, texts, short = (sum(file[what] for file in self.files) for what in ("passages", "texts", "too_short"))
        return (
            f"excluding documents that hold any of {passages} passages of {texts} texts in {len(self.files)} files; "
            f"{short} texts of 2 to {SHORTEST - 1} words are too short to look for "
            f"(2 to {SHORTEST_LETTERS - 1} letters in a script without spaces)"
        )

    def find(self, texts: Sequence[str]) -> list[Leak | None]:
        """The first passage of every text, or None."""
        words = word_hashes(texts)
        first: list[tuple[int, int, int] | None] = [None] * len(texts)
        for size, table in sorted(self._tables.items(), reverse=True):
            found = grams(words, size)
            places, files = table.find(found.hashes)
            leaking, earliest = np.unique(found.text[places], return_index=True)
            for text, at in zip(leaking.tolist(), earliest.tolist(), strict=True):
                word = int(found.first_word[places[at]] - words.offsets[text])
                first[text] = first[text] or (word, size, int(files[at]))
        return [self._leak(text, *place) if place else None for text, place in zip(texts, first, strict=True)]

    def _leak(self, text: str, word: int, size: int, file: int) -> Leak:
        folded, where = spans(text)
        return Leak(self.files[file]["name"], folded[where[word][0] : where[word + size - 1][1]])


class _Table:
    """64-bit hashes, sorted, with the file of each: the first one where several have it."""

    def __init__(self, hashes: np.ndarray, owners: np.ndarray):
        self._hashes, places = np.unique(hashes, return_index=True)
        self._owners = owners[places]
        self._bits = (len(self._hashes) * _FILTER_PLACES).bit_length()
        self._filter = np.zeros(1 << self._bits, bool)
        self._filter[self._slot(self._hashes)] = True

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places of those that are in the table, and their files."""
        maybe = np.flatnonzero(self._filter[self._slot(hashes)])
        at = np.searchsorted(self._hashes, hashes[maybe])
        there = self._hashes[np.minimum(at, len(self._hashes) - 1)] == hashes[maybe]
        return maybe[there], self._owners[at[there]]

    def _slot(self, hashes: np.ndarray) -> np.ndarray:
        return hashes >> np.uint64(64 - self._bits)


class LeakCounter:
    """What a work unit dropped as leaks: a count a file, and a sample that no order of units changes."""

    def __init__(self) -> None:
        self.files: dict[str, int] = {}
        self.sample: list[tuple[int, str, str, str]] = []

    def keep(self, documents: list[Document], exclusions: Exclusions) -> list[Document]:
        """The documents without a passage; the others are counted."""
        kept = []
        for document, leak in zip(documents, exclusions.find([d.text for d in documents]), strict=True):
            if leak is None:
                kept.append(document)
                continue
            self.files[leak.file] = self.files.get(leak.file, 0) + 1
            digest = hashlib.blake2b(document.text.encode(), digest_size=8).digest()
            rank = int(mix(np.frombuffer(digest, "<u8"))[0])
            item = (rank, leak.file, leak.passage, document.text[:_SAMPLE_CHARACTERS])
            self.sample = smallest([self.sample, [item]])
        return kept


def smallest(samples: Sequence[Sequence[Any]]) -> list[Any]:
    """The items with the smallest ranks of several samples, each once."""
    return sorted({tuple(item) for sample in samples for item in sample})[:_SAMPLES]


def account(files: Sequence[dict[str, Any]], counted: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the audit says of leaks: the `files` with the documents that each cost, and a sample of these, from what the
    units `counted`."""
    files = [
        file | {"documents_dropped": sum(unit["files"].get(file["name"], 0) for unit in counted)} for file in files
    ]
    sample = [
        {"file": file, "passage": passage, "dropped": beginning}
        for _, file, passage, beginning in smallest([unit["sample"] for unit in counted])
    ]
    return {"passage_words": PASSAGE_WORDS, "passage_letters": PASSAGE_LETTERS, "files": files, "sample": sample}


def _passages(texts: Sequence[str]) -> tuple[dict[int, np.ndarray], dict[str, int]]:
    """Hashes of the passages by their number of words, and the counts of texts."""
    words = word_hashes(texts)
    sizes = np.diff(words.offsets)
    before = np.concatenate([[0], np.cumsum(words.letters)])  # letters before each word
    by_letters = 2 * np.diff(before[words.offsets]) >= sizes
    found: dict[int, list[np.ndarray]] = {}
    too_short = 0
    for of_letters, shortest, longest in ((False, SHORTEST, PASSAGE_WORDS), (True, SHORTEST_LETTERS, PASSAGE_LETTERS)):
        for size in range(shortest, longest):
            whole = grams(words, size)
            chosen = (sizes == size) & (by_letters == of_letters)
            found.setdefault(size, []).append(whole.hashes[chosen[whole.text]])
        parts = grams(words, longest)
        most = 2 * (before[parts.first_word + longest] - before[parts.first_word]) >= longest
        found.setdefault(longest, []).append(parts.hashes[most == of_letters])
        too_short += int(np.count_nonzero((sizes > 1) & (sizes < shortest) & (by_letters == of_letters)))
    hashes = {size: np.concatenate(values) for size, values in found.items()}
    counts = {"texts": int(np.count_nonzero(sizes)), "too_short": too_short}
    return {size: values for size, values in hashes.items() if len(values)}, counts
