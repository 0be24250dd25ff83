"""Whether every byte of a corpus is right: what `check` does besides printing the audit."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import corpus_files, records
from data_prep.corpus import Corpus
from data_prep.corpus_split import Split
from data_prep.errors import InputError
from data_prep.files import checksum
from data_prep.manifest import manifest_bytes, manifest_fingerprint
from data_prep.record_layout import read_ends
from data_prep.storage import Folder, is_url, local_folder

# Input files in the report: a corpus may be made of a million, and the manifest has them all.
_SOURCES = 20


def check(path: str | Path) -> tuple[dict[str, Any], str | None]:
    """The audit of the corpus at `path`, with its fingerprint, and what is wrong with it, or None.

    Verifies the manifest, the checksum of every file, that none is missing or extra, and that every record agrees with
    the index. What is wrong is one line that begins with the first damaged file; for an unfinished corpus the report is
    empty. Raises InputError where there is no corpus, or one of a newer format.
    """
    if is_url(path):
        state = corpus_files.unfinished(Folder(str(path)))
        if state:
            return {}, state
        with local_folder(path) as copy:
            try:
                report, damage = check(copy)
            except InputError as error:
                raise InputError(str(error).replace(str(copy), str(path))) from None
        return report, damage and damage.replace(str(copy), str(path))
    path = Path(path)
    state = corpus_files.unfinished(path)
    if state:
        return {}, state
    manifest, damage = _read_manifest(path)
    if damage:
        return {}, damage
    # Refuses a newer format; the manifest is whole.
    opened = Corpus.open(path)
    splits, sources = manifest["splits"], manifest["audit"]["sources"]
    report = {
        "fingerprint": opened.fingerprint,
        "format_version": manifest["format_version"],
        **manifest["audit"],
        "sources": dict(sorted(sources.items())[:_SOURCES]),
        "sources_not_shown": max(len(sources) - _SOURCES, 0),
        "shards": {name: len(entry["shards"]) for name, entry in splits.items()},
        "notes": manifest["notes"],
        "settings": manifest["settings"],
        "tokenizer": manifest["tokenizer"],
    }
    return report, next(_damages(path, manifest), None)


def _read_manifest(path: Path) -> tuple[dict[str, Any], str | None]:
    file = path / corpus_files.MANIFEST
    if not file.is_file():
        # Shards without a manifest are a corpus that lost it.
        if (path / "index").is_dir() and (path / "features.json").is_file():
            return {}, f"{file}: the file is missing"
        raise InputError(f"{path} is no corpus (it has no {corpus_files.MANIFEST}); make one with: bert-jax build")
    raw = file.read_bytes()
    try:
        manifest = json.loads(raw)
        whole = manifest["fingerprint"] == manifest_fingerprint(manifest)
        whole = whole and raw == manifest_bytes(manifest)
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
    for name in sorted(present - set(expected) - {corpus_files.MANIFEST}):
        yield f"{path / name}: the file is no part of the corpus"
    for name in corpus_files.SPLITS:
        yield from _disagreements(path, manifest, name)


def _disagreements(path: Path, manifest: dict[str, Any], name: str) -> Iterator[str]:
    """Records that are not what the index says. Only a fault of the program that wrote both can make them."""
    split = Split(path, manifest, name)
    vocab_size = manifest["tokenizer"]["vocab_size"]
    for shard, entry in enumerate(manifest["splits"][name]["shards"]):
        file = path / corpus_files.shard_name(name, shard, split.num_shards)
        columns = split.columns(shard)
        raw_records = split.raw_records(shard)
        if len(raw_records) != entry["records"] or len(columns["document"]) != entry["records"]:
            yield f"{file}: {len(raw_records)} records, {len(columns['document'])} in its index"
            continue
        ends = columns.get("record_ends")
        if ends is not None and read_ends(file, ends, np.array([len(raw) for raw in raw_records])) != raw_records:
            yield f"{file}: its records do not lie where its index says"
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
