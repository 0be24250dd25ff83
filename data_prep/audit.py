"""The account of a corpus: what build stores in the manifest and check prints, and whether every byte is right."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import corpus, records
from data_prep.errors import InputError
from data_prep.files import checksum

_QUANTILES = (0, 5, 25, 50, 75, 95, 100)
_SAMPLES = 20


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
    kept: dict[str, np.ndarray],
    unknown: int,
) -> dict[str, Any]:
    """The audit of a corpus whose units are described by `summaries`, with `kept`, bool [records], for each split.

    documents_in = documents_kept + all of dropped. Sentences, tokens and what follows from them are of the kept
    documents, as is `unknown`, the number of unknown tokens; `long_sentences_cut` and `empty_sentences` (of characters
    that the tokenizer removes) are of all that were read.
    """
    sources = _Sources(summaries)
    splits: dict[str, dict[str, int]] = {}
    lengths, one_sentence, long_documents = [], 0, 0
    for name, kept_records in kept.items():
        documents = _documents(corpus.Split(path, manifest, name), kept_records)
        sources.count(documents)
        _, tokens, sentences, pieces, chosen = documents
        lengths.append(tokens[chosen])
        one_sentence += int(np.count_nonzero(sentences[chosen] == 1))
        long_documents += int(np.count_nonzero(pieces[chosen] > 1))
        splits[name] = {
            "documents": int(np.count_nonzero(chosen)),
            "duplicates": int(np.count_nonzero(~chosen)),
            "records": int(np.count_nonzero(kept_records)),
            "sentences": int(sentences[chosen].sum()),
            "tokens": int(tokens[chosen].sum()),
        }
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
        "tokens_per_document": _quantiles(np.concatenate(lengths)),
        "one_sentence_documents": one_sentence,
        "long_documents": long_documents,
        "long_sentences_cut": sum(summary["long_sentences_cut"] for summary in summaries),
        "empty_sentences": sum(summary["empty_sentences"] for summary in summaries),
        "sources": sources.counts,
        "splits": splits,
        "sample_sentences": _samples(summaries),
    }


def _documents(
    split: corpus.Split, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of every document of a split: number, tokens, sentences, records, and whether it is kept."""
    if split.num_records == 0:
        none = np.empty(0, np.int64)
        return none, none, none, none, np.empty(0, bool)
    columns = [split.columns(shard) for shard in range(split.num_shards)]
    starts = np.flatnonzero(np.concatenate([c["first"] for c in columns]))

    def total(values: list[np.ndarray]) -> np.ndarray:
        return np.add.reduceat(np.concatenate(values), starts)

    return (
        np.concatenate([c["document"] for c in columns])[starts],
        total([np.diff(c["token_offsets"]) for c in columns]),
        total([np.diff(c["sentence_offsets"]) for c in columns]),
        total([np.ones(len(c["first"]), np.int64) for c in columns]),
        kept[starts],
    )


class _Sources:
    """Counts by the name of the source."""

    def __init__(self, summaries: list[dict[str, Any]]):
        self.counts: dict[str, dict[str, Any]] = {}
        parts = [(unit, part) for unit, summary in enumerate(summaries) for part in summary["parts"]]
        self._names = [part["source"] for _, part in parts]
        self._starts = np.array([(unit << 32) + part["first_document"] for unit, part in parts], np.int64)
        for _, part in parts:
            counts = self.counts.setdefault(
                part["source"], {"documents_in": 0, "documents_kept": 0, "dropped": {}, "tokens": 0, "bytes": 0}
            )
            counts["documents_in"] += part["documents"] + sum(part["dropped"].values())
            counts["bytes"] += part["bytes"]
            for reason, number in part["dropped"].items():
                counts["dropped"][reason] = counts["dropped"].get(reason, 0) + number

    def count(self, documents: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> None:
        """Adds the kept documents and the duplicates of one split."""
        number, tokens, _, _, kept = documents
        # Of parts that start at the same number, all but the last are empty.
        part = np.searchsorted(self._starts, number, side="right") - 1
        size = len(self._names)
        kept_of = np.bincount(part[kept], minlength=size)
        duplicates_of = np.bincount(part[~kept], minlength=size)
        tokens_of = np.zeros(size, np.int64)
        np.add.at(tokens_of, part[kept], tokens[kept])
        for place, name in enumerate(self._names):
            counts = self.counts[name]
            counts["documents_kept"] += int(kept_of[place])
            counts["tokens"] += int(tokens_of[place])
            if duplicates_of[place]:
                dropped = counts["dropped"]
                dropped["duplicate"] = dropped.get("duplicate", 0) + int(duplicates_of[place])


def _quantiles(values: np.ndarray) -> dict[str, float]:
    """Values at shares of the sorted array, no interpolation, and the mean."""
    ordered = np.sort(values)
    found: dict[str, float] = {f"p{q}": int(ordered[(len(ordered) - 1) * q // 100]) for q in _QUANTILES}
    return found | {"mean": int(ordered.sum()) / len(ordered)}


def _samples(summaries: list[dict[str, Any]]) -> list[str]:
    """Sentences of the documents with the smallest ranks; a duplicate has its original's rank and sentence."""
    ranked = {(rank, key): text for summary in summaries for rank, key, text in summary["samples"]}
    return [text for _, text in sorted(ranked.items())[:_SAMPLES]]


def check(path: str | Path) -> tuple[dict[str, Any], str | None]:
    """The audit of the corpus at `path`, with its fingerprint, and what is wrong with it, or None.

    Verifies the manifest, the checksum of every file, that none is missing or extra, and that every record agrees with
    the index. What is wrong is one line that begins with the first damaged file; for an unfinished corpus the report is
    empty. Raises InputError where there is no corpus, or one of a newer format.
    """
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
