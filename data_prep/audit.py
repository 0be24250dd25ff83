"""The account of a corpus: what build stores in the manifest and check prints.

Every figure is a sum over documents, or of a sample that is chosen by hashes of texts: none depends on how the work was
cut and shared. Shards are gone through one by one.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.document_facts import Facts, duplicated_lines, script_shares
from data_prep.index import open_columns
from data_prep.padding import padding, sample_of_sentences

_QUANTILES = (0, 5, 25, 50, 75, 95, 100)
_SAMPLES = 20
# Documents of more tokens than this are few: each length is an entry of a dictionary.
_COUNTED_LENGTHS = 1 << 20


def dropped_documents(summaries: list[dict[str, Any]]) -> dict[str, int]:
    """Documents that the units dropped, by reason."""
    dropped: Counter[str] = Counter()
    for summary in summaries:
        for part in summary["parts"]:
            dropped.update(part["dropped"])
    return dict(sorted(dropped.items()))


def summarise(
    indices: dict[str, list[Path]],
    summaries: list[dict[str, Any]],
    samples: list[list[Any]],
    unit_dirs: Sequence[Path],
    kept: dict[str, np.ndarray],
    near: dict[str, np.ndarray] | None,
    unknown: int,
) -> dict[str, Any]:
    """The audit of a corpus.

    documents_in = documents_kept + all of dropped. Sentences, tokens and what follows from them are of the kept
    documents; `long_sentences_cut` and `empty_sentences` (of characters that the tokenizer removes) are of all that
    were read. What a training run would make of the corpus (`padding`, `trivial_negatives`) is of the train split.

    Args:
        indices: the index files of each split.
        summaries, samples, unit_dirs: what the units say of themselves, and where their facts lie.
        kept: bool [records] for each split.
        near: bool [records] for each split, those that were dropped as near duplicates, where these were looked for.
        unknown: the number of unknown tokens in the kept documents.
    """
    sources, inputs, lengths = _Sources(summaries, "source"), _Sources(summaries, "input"), _Lengths()
    units = _KeptOfUnits(summaries)
    splits: dict[str, dict[str, int]] = {}
    one_sentence = long_documents = 0
    for name, kept_records in kept.items():
        split = {what: 0 for what in ("documents", "duplicates", "near_duplicates", "sentences", "tokens")}
        for documents in _documents(indices[name], kept_records, near[name] if near else None):
            sources.count(documents)
            units.add(documents)
            inputs.count(documents)
            chosen = documents.kept
            tokens, sentences = documents.tokens[chosen], documents.sentences[chosen]
            lengths.add(tokens)
            one_sentence += int(np.count_nonzero(sentences == 1))
            long_documents += int(np.count_nonzero(documents.records[chosen] > 1))
            split["documents"] += len(tokens)
            split["duplicates"] += int(np.count_nonzero(documents.duplicates))
            split["near_duplicates"] += int(np.count_nonzero(documents.near))
            split["sentences"] += int(sentences.sum())
            split["tokens"] += int(tokens.sum())
        splits[name] = split | {"records": int(np.count_nonzero(kept_records))}
    dropped = Counter(dropped_documents(summaries))
    dropped["duplicate"] += sum(split["duplicates"] for split in splits.values())
    dropped["near duplicate"] += sum(split["near_duplicates"] for split in splits.values())
    kept_documents = sum(split["documents"] for split in splits.values())
    tokens_kept = sum(split["tokens"] for split in splits.values())
    return {
        "documents_in": kept_documents + dropped.total(),
        "documents_kept": kept_documents,
        "dropped": dict(sorted((+dropped).items())),
        "records": sum(split["records"] for split in splits.values()),
        "sentences": sum(split["sentences"] for split in splits.values()),
        "tokens": tokens_kept,
        "unknown_share": int(unknown) / tokens_kept if tokens_kept else 0.0,
        "tokens_per_document": lengths.quantiles(),
        "one_sentence_documents": one_sentence,
        "long_documents": long_documents,
        "long_sentences_cut": sum(summary["long_sentences_cut"] for summary in summaries),
        "empty_sentences": sum(summary["empty_sentences"] for summary in summaries),
        "duplicated_lines_share": duplicated_lines(unit_dirs, units.kept),
        "scripts": script_shares(unit_dirs, units.kept),
        "padding": padding(sample_of_sentences(indices["train"], kept["train"])),
        "trivial_negatives": _trivial_negatives(
            lambda: _documents(indices["train"], kept["train"], None), sources, unit_dirs, units.kept
        ),
        "inputs": inputs.counts(),
        "sources": sources.counts(),
        "splits": splits,
        "sample_sentences": [text for _, _, text in samples],
    }


class _Documents(NamedTuple):
    """Columns [n] of documents: number, tokens, sentences, records, and whether it is kept, or else dropped as a near
    duplicate."""

    number: np.ndarray
    tokens: np.ndarray
    sentences: np.ndarray
    records: np.ndarray
    kept: np.ndarray
    near: np.ndarray

    @property
    def duplicates(self) -> np.ndarray:
        """bool [n]: dropped because an earlier one has the same text."""
        return ~self.kept & ~self.near


def _documents(indices: Sequence[Path], kept: np.ndarray, near: np.ndarray | None) -> Iterator[_Documents]:
    """The documents of a split, those of one shard after the other's, each whole though its records may lie in two."""
    waiting: _Documents | None = None  # a document that may go on in the next shard
    done = 0
    for index in indices:
        columns = open_columns(index)
        count = len(columns["first"])
        starts = np.flatnonzero(columns["first"])
        # What comes before the first beginning is of the document before.
        borders = starts if len(starts) and starts[0] == 0 else np.concatenate([[0], starts])
        found = _Documents(
            columns["document"][borders],
            np.add.reduceat(np.diff(columns["token_offsets"]), borders),
            np.add.reduceat(np.diff(columns["sentence_offsets"]), borders),
            np.diff(borders, append=count),
            kept[done + borders],
            near[done + borders] if near is not None else np.zeros(len(borders), bool),
        )
        done += count
        if waiting is not None and waiting.number[0] == found.number[0]:
            for column, more in zip(waiting[1:4], found[1:4], strict=True):
                more[0] += column[0]
        elif waiting is not None:
            yield waiting
        waiting = _Documents(*(column[-1:] for column in found))
        yield _Documents(*(column[:-1] for column in found))
    if waiting is not None:
        yield waiting


class _Sources:
    """Counts by the name of the source, or of the input that it belongs to."""

    def __init__(self, summaries: list[dict[str, Any]], by: str):
        self._by = by
        self._parts = [(unit, part) for unit, summary in enumerate(summaries) for part in summary["parts"]]
        self._starts = np.array([(unit << 32) + part["first_document"] for unit, part in self._parts], np.int64)
        self._kept, self._duplicates, self._near, self._tokens = np.zeros((4, len(self._parts)), np.int64)
        numbers: dict[str, int] = {}
        self._source = np.array([numbers.setdefault(part["source"], len(numbers)) for _, part in self._parts], np.int64)

    def source(self, numbers: np.ndarray) -> np.ndarray:
        """int64 [n]: a number for the source of each document."""
        return self._source[self._part(numbers)]

    def count(self, documents: _Documents) -> None:
        """Adds some kept documents and duplicates."""
        part = self._part(documents.number)
        np.add.at(self._kept, part, documents.kept)
        np.add.at(self._duplicates, part, documents.duplicates)
        np.add.at(self._near, part, documents.near)
        np.add.at(self._tokens, part, np.where(documents.kept, documents.tokens, 0))

    def counts(self) -> dict[str, dict[str, Any]]:
        """Of each source or input: documents_in, documents_kept, dropped, tokens, bytes."""
        found: dict[str, dict[str, Any]] = {}
        columns = (self._kept.tolist(), self._duplicates.tolist(), self._near.tolist(), self._tokens.tolist())
        for (_, part), kept, duplicates, near, tokens in zip(self._parts, *columns, strict=True):
            counts = found.setdefault(
                part[self._by], {"documents_in": 0, "documents_kept": 0, "dropped": {}, "tokens": 0, "bytes": 0}
            )
            counts["documents_in"] += part["documents"] + sum(part["dropped"].values())
            counts["documents_kept"] += kept
            counts["tokens"] += tokens
            counts["bytes"] += part["bytes"]
            dropped = Counter(part["dropped"]) + Counter({"duplicate": duplicates, "near duplicate": near})
            counts["dropped"] = dict(Counter(counts["dropped"]) + dropped)
        return found

    def _part(self, numbers: np.ndarray) -> np.ndarray:
        # Of parts that start at the same number, all but the last are empty.
        return np.searchsorted(self._starts, numbers, side="right") - 1


class _KeptOfUnits:
    """Which documents of each unit are kept: a byte a document."""

    def __init__(self, summaries: list[dict[str, Any]]):
        self.kept = [np.zeros(sum(part["documents"] for part in summary["parts"]), bool) for summary in summaries]

    def add(self, documents: _Documents) -> None:
        """Enters some documents."""
        numbers = documents.number[documents.kept]
        for unit in np.unique(numbers >> 32).tolist():
            self.kept[unit][numbers[numbers >> 32 == unit] & 0xFFFFFFFF] = True


class _Lengths:
    """How many documents have how many tokens: all that quantiles need."""

    def __init__(self) -> None:
        self._counts = np.zeros(1 << 12, np.int64)
        self._longer: Counter[int] = Counter()

    def add(self, tokens: np.ndarray) -> None:
        """Counts documents of these lengths."""
        longer = tokens[tokens >= _COUNTED_LENGTHS]
        self._longer.update(longer.tolist())
        counts = np.bincount(tokens[tokens < _COUNTED_LENGTHS])
        if len(counts) > len(self._counts):
            self._counts = np.pad(self._counts, (0, len(counts) - len(self._counts)))
        self._counts[: len(counts)] += counts

    def quantiles(self) -> dict[str, float]:
        """Values at shares of the sorted array, no interpolation, and the mean."""
        longer = sorted(self._longer.items())
        lengths = np.concatenate([np.arange(len(self._counts)), [length for length, _ in longer]]).astype(np.int64)
        counts = np.concatenate([self._counts, [count for _, count in longer]]).astype(np.int64)
        ends = np.cumsum(counts)
        total = int(ends[-1])
        found: dict[str, float] = {
            f"p{q}": int(lengths[np.searchsorted(ends, (total - 1) * q // 100, side="right")]) for q in _QUANTILES
        }
        return found | {"mean": int((lengths * counts).sum()) / total}


def smallest_samples(samples: list[list[Any]]) -> list[list[Any]]:
    """Those (rank, key, sentence) with the smallest ranks; a duplicate has its original's rank and sentence."""
    ranked = {(rank, key): text for rank, key, text in samples}
    return [[rank, key, text] for (rank, key), text in sorted(ranked.items())[:_SAMPLES]]


def _trivial_negatives(
    documents: Callable[[], Iterator[_Documents]],
    sources: _Sources,
    unit_dirs: Sequence[Path],
    kept_of_units: list[np.ndarray],
) -> dict[str, float]:
    """The share of random next sentences that give themselves away: from a text of another main script, or of another
    source (file), than the A before them, or of either.

    The expectation under the sampler's rule: a negative comes from a sentence that is not its document's first, drawn
    evenly over all other documents, and documents need negatives in proportion to their tokens.
    """

    def groups() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Tokens, sentences, and source and script of the kept documents, int64 [n, 2]."""
        opened, scripts = -1, np.empty(0, np.int64)
        for found in documents():
            chosen = found.kept
            numbers = found.number[chosen]
            script = np.empty(len(numbers), np.int64)
            for unit in np.unique(numbers >> 32).tolist():
                if unit != opened:
                    opened, scripts = unit, Facts(unit_dirs[unit]).main_scripts(len(kept_of_units[unit]))
                mine = numbers >> 32 == unit
                script[mine] = scripts[numbers[mine] & 0xFFFFFFFF]
            group = np.stack([sources.source(numbers), script], 1)
            yield found.tokens[chosen], found.sentences[chosen], group

    # Sentences that may be drawn, by script, by source and by both.
    gives = {name: Counter[int]() for name in _GROUPINGS}
    total = 0
    for _, sentences, group in groups():
        total += int((sentences - 1).sum())
        for name, of in _GROUPINGS.items():
            values, places = np.unique(of(group), return_inverse=True)
            counts = np.bincount(places, weights=sentences - 1, minlength=len(values)).astype(np.int64)
            gives[name].update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    needed, alike = 0, dict.fromkeys(_GROUPINGS, 0.0)
    for tokens, sentences, group in groups():
        own = sentences - 1
        paired = (own > 0) & (total > own)
        needed += int(tokens[paired].sum())
        for name, of in _GROUPINGS.items():
            values, places = np.unique(of(group), return_inverse=True)
            there = np.array([gives[name][value] for value in values.tolist()], np.int64)[places] - own
            alike[name] += float((tokens[paired] * (there[paired] / (total - own[paired]))).sum())
    return {name: round(1 - alike[name] / needed, 6) if needed else 0.0 for name in _GROUPINGS}


_GROUPINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "script": lambda group: group[:, 1],
    "source": lambda group: group[:, 0],
    "script_or_source": lambda group: (group[:, 0] << 16) + group[:, 1],
}
