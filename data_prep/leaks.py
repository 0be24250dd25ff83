"""Documents that hold passages of evaluation files: what `build --exclude` drops.

A passage is 13 words in a row, as in the decontamination of GPT-3 (Brown et al., 2020, appendix C), words as
data_prep.words has them. An evaluation text of 8 to 12 words is a passage as a whole; a shorter one is no evidence and
is only counted.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.documents import Document, clean
from data_prep.errors import InputError
from data_prep.sources import short_names
from data_prep.words import grams, mix, spans, word_hashes

PASSAGE_WORDS = 13
SHORTEST = 8
KNOWN_FILES = ".txt, .jsonl, .json, .tsv, .csv"
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
            `too_short` to be looked for (2 to 7 words).
    """

    def __init__(self, paths: Sequence[str | Path]):
        """Raises InputError for a file that is missing, of another kind, broken, or without any passage."""
        files = list(dict.fromkeys(map(Path, paths)))
        unique: dict[str, tuple[str, Path, bytes]] = {}
        for name, path in sorted(zip(short_names(files), files, strict=True)):
            raw = _content(path)
            unique.setdefault(hashlib.sha256(raw).hexdigest(), (name, path, raw))
        self.files: list[dict[str, Any]] = []
        hashes: dict[int, list[np.ndarray]] = {}
        owners: dict[int, list[np.ndarray]] = {}
        for number, (digest, (name, path, raw)) in enumerate(unique.items()):
            texts = [clean(text) for text in _texts(path, raw)]
            found, counts = _passages(texts)
            if not found:
                raise InputError(f"{path}: no text of at least {SHORTEST} words to look for; leave it out of --exclude")
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
            f"{short} texts of 2 to {SHORTEST - 1} words are too short to look for"
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
    return {"passage_words": PASSAGE_WORDS, "files": files, "sample": sample}


def _passages(texts: Sequence[str]) -> tuple[dict[int, np.ndarray], dict[str, int]]:
    """Hashes of the passages by their number of words, and the counts of texts."""
    words = word_hashes(texts)
    sizes = np.diff(words.offsets)
    found = {PASSAGE_WORDS: grams(words, PASSAGE_WORDS).hashes}
    for size in range(SHORTEST, PASSAGE_WORDS):
        whole = grams(words, size)
        found[size] = whole.hashes[sizes[whole.text] == size]
    counts = {
        "texts": int(np.count_nonzero(sizes)),
        "too_short": int(np.count_nonzero((sizes > 1) & (sizes < SHORTEST))),
    }
    return {size: values for size, values in found.items() if len(values)}, counts


def _content(path: Path) -> bytes:
    if path.suffix.lower() not in KNOWN_FILES.split(", "):
        raise InputError(f"{path}: unknown kind of evaluation file; --exclude takes {KNOWN_FILES}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _texts(path: Path, raw: bytes) -> Iterator[str]:
    """The lines of a .txt, all strings of a .jsonl or .json at whatever depth, all fields of a .tsv or .csv."""
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; convert the file") from None
    kind = path.suffix.lower()
    if kind == ".txt":
        yield from content.split("\n")
    elif kind == ".jsonl":
        for number, line in enumerate(content.split("\n"), 1):
            if line.strip():
                try:
                    yield from _strings(json.loads(line))
                except (ValueError, RecursionError):
                    raise InputError(f"{path}:{number}: no JSON; mend the line") from None
    elif kind == ".json":
        try:
            yield from _strings(json.loads(content))
        except (ValueError, RecursionError):
            raise InputError(f"{path}: no JSON; mend the file, or name it .jsonl if every line is an object") from None
    elif kind == ".tsv":
        for line in content.split("\n"):
            yield from line.split("\t")
    else:
        try:
            for row in csv.reader(io.StringIO(content, newline="")):
                yield from row
        except csv.Error as error:
            raise InputError(f"{path}: no CSV ({error}); mend the file") from None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
