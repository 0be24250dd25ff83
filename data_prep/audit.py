"""The account of a corpus: what build stores in the manifest and check prints.

Every figure is a sum over documents, or of a sample that is chosen by hashes of texts: none depends on how the work was
cut and shared. Documents are gone through in blocks.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.document_blocks import Documents, document_blocks
from data_prep.kept_facts import KeptFacts
from data_prep.negatives import trivial_negatives
from data_prep.padding import padding, sample_of_sentences
from data_prep.unit_summaries import Parts, Summaries

_SAMPLES = 20
_QUANTILES = (0, 5, 25, 50, 75, 95, 100)
# Documents of more tokens than this are few: each length is an entry of a dictionary.
_COUNTED_LENGTHS = 1 << 20


def summarise(
    indices: Mapping[str, Sequence[Path]],
    summaries: Summaries,
    facts: KeptFacts,
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
        summaries, facts: what the units say of themselves, and the facts of their documents, none entered yet.
        kept: bool [records] for each split.
        near: bool [records] for each split, those that were dropped as near duplicates, where these were looked for.
        unknown: the number of unknown tokens in the kept documents.
    """
    sources, lengths = _Sources(summaries.parts), _Lengths()
    splits: dict[str, dict[str, int]] = {}
    one_sentence = long_documents = 0
    for name, kept_records in kept.items():
        split = {what: 0 for what in ("documents", "duplicates", "near_duplicates", "sentences", "tokens")}
        for documents in document_blocks(indices[name], kept_records, near[name] if near else None):
            sources.count(documents)
            chosen = documents.kept
            facts.keep(documents.number[chosen])
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

    def groups() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for documents in document_blocks(indices["train"], kept["train"], None):
            chosen = documents.kept
            numbers = documents.number[chosen]
            group = np.stack([sources.source(numbers), facts.main_scripts(numbers)], 1)
            yield documents.tokens[chosen], documents.sentences[chosen], group

    dropped = Counter(summaries.parts.dropped_documents())
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
        "long_sentences_cut": summaries.long_sentences_cut,
        "empty_sentences": summaries.empty_sentences,
        "duplicated_lines_share": facts.duplicated_lines(),
        "scripts": facts.script_shares(),
        "padding": padding(sample_of_sentences(indices["train"], kept["train"])),
        "trivial_negatives": trivial_negatives(groups),
        "inputs": sources.counts("input"),
        "sources": sources.counts("source"),
        "splits": splits,
        "sample_sentences": [text for *_, number, text in summaries.samples if facts.kept(number)][:_SAMPLES],
    }


class _Sources:
    """Counts by the part of the input that a document was in, and from these by its source or input."""

    def __init__(self, parts: Parts):
        self._parts = parts
        self._starts, self._source = parts.column("first_document"), parts.column("source")
        self._kept, self._duplicates, self._near, self._tokens = np.zeros((4, len(parts)), np.int64)

    def source(self, numbers: np.ndarray) -> np.ndarray:
        """int64 [n]: a number for the source of each document."""
        return self._source[self._part(numbers)]

    def count(self, documents: Documents) -> None:
        """Adds some kept documents and duplicates."""
        part = self._part(documents.number)
        np.add.at(self._kept, part, documents.kept)
        np.add.at(self._duplicates, part, documents.duplicates)
        np.add.at(self._near, part, documents.near)
        np.add.at(self._tokens, part, np.where(documents.kept, documents.tokens, 0))

    def counts(self, by: str) -> dict[str, dict[str, Any]]:
        """Of each "source" or "input": documents_in, documents_kept, dropped, tokens, bytes."""
        names, owner = self._parts.names(by), self._parts.column(by)

        def total(column: np.ndarray) -> list[int]:
            sums = np.zeros(len(names), np.int64)
            np.add.at(sums, owner, column)
            return sums.tolist()

        dropped = [Counter[str]() for _ in names]
        for part, reasons in self._parts.dropped.items():
            dropped[owner[part]].update(reasons)
        documents = [a + b.total() for a, b in zip(total(self._parts.column("documents")), dropped, strict=True)]
        for mine, duplicates, near in zip(dropped, total(self._duplicates), total(self._near), strict=True):
            mine.update({"duplicate": duplicates, "near duplicate": near})
        columns = zip(
            documents, total(self._kept), total(self._tokens), total(self._parts.column("bytes")), strict=True
        )
        return {
            name: {
                "documents_in": documents_in,
                "documents_kept": kept,
                "dropped": dict(+mine),
                "tokens": tokens,
                "bytes": size,
            }
            for name, mine, (documents_in, kept, tokens, size) in zip(names, dropped, columns, strict=True)
        }

    def _part(self, numbers: np.ndarray) -> np.ndarray:
        # Of parts that start at the same number, all but the last are empty.
        return np.searchsorted(self._starts, numbers, side="right") - 1


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
