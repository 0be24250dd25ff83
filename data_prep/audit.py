"""The account of a corpus: what build stores in the manifest and check prints, and whether every byte is right."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep import corpus, records
from data_prep.errors import InputError
from data_prep.files import checksum
from data_prep.index import open_columns
from data_prep.storage import Folder, is_url, local_folder

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
    path: Path,
    manifest: dict[str, Any],
    summaries: list[dict[str, Any]],
    samples: list[list[Any]],
    kept: dict[str, np.ndarray],
    unknown: int,
) -> dict[str, Any]:
    """The audit of a corpus whose units are described by `summaries`, with `kept`, bool [records], for each split.

    documents_in = documents_kept + all of dropped. Sentences, tokens and what follows from them are of the kept
    documents, as is `unknown`, the number of unknown tokens; `long_sentences_cut` and `empty_sentences` (of characters
    that the tokenizer removes) are of all that were read.
    """
    sources, inputs, lengths = _Sources(summaries, "source"), _Sources(summaries, "input"), _Lengths()
    splits: dict[str, dict[str, int]] = {}
    one_sentence = long_documents = 0
    for name, kept_records in kept.items():
        split = {what: 0 for what in ("documents", "duplicates", "records", "sentences", "tokens")}
        for documents in _documents(path, manifest, name, kept_records):
            sources.count(documents)
            inputs.count(documents)
            chosen = documents.kept
            tokens, sentences = documents.tokens[chosen], documents.sentences[chosen]
            lengths.add(tokens)
            one_sentence += int(np.count_nonzero(sentences == 1))
            long_documents += int(np.count_nonzero(documents.records[chosen] > 1))
            split["documents"] += len(tokens)
            split["duplicates"] += int(np.count_nonzero(~chosen))
            split["sentences"] += int(sentences.sum())
            split["tokens"] += int(tokens.sum())
        splits[name] = split | {"records": int(np.count_nonzero(kept_records))}
    dropped = Counter(dropped_documents(summaries))
    dropped["duplicate"] += sum(split["duplicates"] for split in splits.values())
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
        "inputs": inputs.counts(),
        "sources": sources.counts(),
        "splits": splits,
        "sample_sentences": [text for _, _, text in samples],
    }


class _Documents(NamedTuple):
    """Columns [n] of documents: number, tokens, sentences, records, and whether it is kept."""

    number: np.ndarray
    tokens: np.ndarray
    sentences: np.ndarray
    records: np.ndarray
    kept: np.ndarray


def _documents(path: Path, manifest: dict[str, Any], name: str, kept: np.ndarray) -> Iterator[_Documents]:
    """The documents of a split, those of one shard after the other's, each whole though its records may lie in two."""
    shards = len(manifest["splits"][name]["shards"])
    waiting: _Documents | None = None  # a document that may go on in the next shard
    done = 0
    for shard in range(shards):
        columns = open_columns(path / corpus.index_name(name, shard, shards))
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
        self._kept, self._duplicates, self._tokens = np.zeros((3, len(self._parts)), np.int64)

    def count(self, documents: _Documents) -> None:
        """Adds some kept documents and duplicates."""
        # Of parts that start at the same number, all but the last are empty.
        part = np.searchsorted(self._starts, documents.number, side="right") - 1
        np.add.at(self._kept, part, documents.kept)
        np.add.at(self._duplicates, part, ~documents.kept)
        np.add.at(self._tokens, part, np.where(documents.kept, documents.tokens, 0))

    def counts(self) -> dict[str, dict[str, Any]]:
        """Of each source or input: documents_in, documents_kept, dropped, tokens, bytes."""
        found: dict[str, dict[str, Any]] = {}
        columns = (self._kept.tolist(), self._duplicates.tolist(), self._tokens.tolist())
        for (_, part), kept, duplicates, tokens in zip(self._parts, *columns, strict=True):
            counts = found.setdefault(
                part[self._by], {"documents_in": 0, "documents_kept": 0, "dropped": {}, "tokens": 0, "bytes": 0}
            )
            counts["documents_in"] += part["documents"] + sum(part["dropped"].values())
            counts["documents_kept"] += kept
            counts["tokens"] += tokens
            counts["bytes"] += part["bytes"]
            dropped = Counter(part["dropped"]) + Counter(duplicate=duplicates)
            counts["dropped"] = dict(Counter(counts["dropped"]) + dropped)
        return found


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


def check(path: str | Path) -> tuple[dict[str, Any], str | None]:
    """The audit of the corpus at `path`, with its fingerprint, and what is wrong with it, or None.

    Verifies the manifest, the checksum of every file, that none is missing or extra, and that every record agrees with
    the index. What is wrong is one line that begins with the first damaged file; for an unfinished corpus the report is
    empty. Raises InputError where there is no corpus, or one of a newer format.
    """
    if is_url(path):
        state = corpus.unfinished(Folder(str(path)))
        if state:
            return {}, state
        with local_folder(path) as copy:
            try:
                report, damage = check(copy)
            except InputError as error:
                raise InputError(str(error).replace(str(copy), str(path))) from None
        return report, damage and damage.replace(str(copy), str(path))
    path = Path(path)
    state = corpus.unfinished(path)
    if state:
        return {}, state
    manifest, damage = _read_manifest(path)
    if damage:
        return {}, damage
    # Refuses a newer format; the manifest is whole.
    opened = corpus.Corpus.open(path)
    splits = manifest["splits"]
    report = {
        "fingerprint": opened.fingerprint,
        "format_version": manifest["format_version"],
        **manifest["audit"],
        "shards": {name: len(entry["shards"]) for name, entry in splits.items()},
        "notes": manifest["notes"],
        "settings": manifest["settings"],
        "tokenizer": manifest["tokenizer"],
    }
    return report, next(_damages(path, manifest), None)


def _read_manifest(path: Path) -> tuple[dict[str, Any], str | None]:
    file = path / corpus.MANIFEST
    if not file.is_file():
        # Shards without a manifest are a corpus that lost it.
        if (path / "index").is_dir() and (path / "features.json").is_file():
            return {}, f"{file}: the file is missing"
        raise InputError(f"{path} is no corpus (it has no {corpus.MANIFEST}); make one with: bert-jax build")
    raw = file.read_bytes()
    try:
        manifest = json.loads(raw)
        whole = manifest["fingerprint"] == corpus.manifest_fingerprint(manifest)
        whole = whole and raw == corpus.manifest_bytes(manifest)
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    return (manifest, None) if whole else ({}, f"{file}: the file is damaged")


def _damages(path: Path, manifest: dict[str, Any]) -> Iterator[str]:
    expected = manifest["files"]
    present = {file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()}
    for name in sorted(expected):
        if name not in present:
            yield f"{path / name}: the file is missing"
        elif checksum(path / name) != expected[name]:
            yield f"{path / name}: the file is damaged (its checksum is not the manifest's)"
    for name in sorted(present - set(expected) - {corpus.MANIFEST}):
        yield f"{path / name}: the file is no part of the corpus"
    for name in corpus.SPLITS:
        yield from _disagreements(path, manifest, name)


def _disagreements(path: Path, manifest: dict[str, Any], name: str) -> Iterator[str]:
    """Records that are not what the index says. Only a fault of the program that wrote both can make them."""
    split = corpus.Split(path, manifest, name)
    vocab_size = manifest["tokenizer"]["vocab_size"]
    for shard, entry in enumerate(manifest["splits"][name]["shards"]):
        file = path / corpus.shard_name(name, shard, split.num_shards)
        columns = split.columns(shard)
        raw_records = split.raw_records(shard)
        if len(raw_records) != entry["records"] or len(columns["document"]) != entry["records"]:
            yield f"{file}: {len(raw_records)} records, {len(columns['document'])} in its index"
            continue
        for place, raw in enumerate(raw_records):
            if not _agrees(records.decode(raw), columns, place, vocab_size):
                yield f"{file}: record {place} does not agree with its index"


def _agrees(record: records.Record, columns: dict[str, np.ndarray], place: int, vocab_size: int) -> bool:
    begin, end = columns["token_offsets"][place : place + 2].tolist()
    bits = columns["word_starts"][begin >> 3 : (end + 7) >> 3]
    starts = np.unpackbits(bits)[begin & 7 :][: end - begin]
    lengths = columns["sentence_lengths"][slice(*columns["sentence_offsets"][place : place + 2])]
    tokens = np.frombuffer(record.tokens, records.token_dtype(vocab_size))
    return bool(
        record.document == columns["document"][place]
        and record.first == bool(columns["first"][place])
        and record.sentence_lengths == lengths.tobytes()
        and record.word_starts == np.packbits(starts).tobytes()
        and len(tokens) == end - begin == lengths.sum()
        and tokens.max() < vocab_size
    )
