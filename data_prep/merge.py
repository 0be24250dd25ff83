"""The last step of a build: finished units become one corpus.

It moves shards to their final names, marks duplicates, counts, and writes the manifest; no shard is rewritten. It may
be broken off anywhere and run again: a file that has been moved already is found at its new place.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import audit, corpus, records, shards
from data_prep.errors import InputError
from data_prep.files import array_bytes, write_file
from data_prep.tokenizer import Tokenizer

_READ_RECORDS = 4096


class NothingLeft(InputError):
    """Every document was dropped."""


@dataclass(frozen=True)
class _Shard:
    """Where a shard was written, and the entry that describes it."""

    unit: int
    split: str
    place: int
    entry: dict[str, Any]


def merge(partial: Path, units_dir: Path, units: int, identity: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Makes the corpus in `partial` from the units 0 to `units` - 1 in `units_dir` and returns its manifest, written
    last.

    `identity` is what the manifest says of the input, the tokenizer and the settings. Raises InputError when no
    document is left.
    """
    summaries = [_summary(shards.unit_dir(units_dir, number)) for number in range(units)]
    by_split = _shards_by_split(summaries)
    if not by_split["train"] and not by_split["validation"]:
        dropped = audit.dropped_documents(summaries)
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise NothingLeft(f"no document is left for the corpus (dropped: {reasons or 'none read'}); check the inputs")
    notes = []
    if not by_split["train"]:
        by_split = {"train": by_split["validation"], "validation": []}
        notes.append("all documents fell into the validation split, which became the train split")
    if not by_split["validation"]:
        notes.append("the validation split is empty")
    files: dict[str, dict[str, Any]] = {}
    for split, found in by_split.items():
        _move(partial, units_dir, split, found, files)
    manifest: dict[str, Any] = {
        **identity,
        "notes": notes,
        "splits": {split: _split_entry(found) for split, found in by_split.items()},
    }
    kept, counts = {}, {}
    for split, found in by_split.items():
        reader = corpus.Split(partial, manifest, split)
        kept[split] = _kept_records(reader, identity["settings"]["keep_duplicates"])
        counts[split] = _token_counts(units_dir, tokenizer.vocab_size, found, reader, kept[split])
        numbers = np.flatnonzero(kept[split]).astype(np.int64)
        for name, array in ((corpus.kept_name(split), numbers), (corpus.token_counts_name(split), counts[split])):
            files[name] = write_file(partial / name, array_bytes(array))
    manifest["audit"] = audit.summarise(
        partial, manifest, summaries, kept, sum(int(count[tokenizer.unk_id]) for count in counts.values())
    )
    for split, entry in manifest["splits"].items():
        entry |= {
            f"kept_{what}": manifest["audit"]["splits"][split][what] for what in ("records", "documents", "tokens")
        }
    for name, content in tokenizer.files().items():
        files[f"tokenizer/{name}"] = write_file(partial / "tokenizer" / name, content)
    for name, value in (
        ("features.json", records.features(tokenizer.vocab_size)),
        ("dataset_info.json", _dataset_info(manifest, files)),
    ):
        files[name] = write_file(partial / name, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())
    manifest["files"] = files
    manifest["fingerprint"] = corpus.manifest_fingerprint(manifest)
    scratch = units_dir / corpus.MANIFEST
    write_file(scratch, corpus.manifest_bytes(manifest))
    os.replace(scratch, partial / corpus.MANIFEST)
    return manifest


def unit_is_done(folder: Path) -> bool:
    """Whether a unit's folder is whole, or its shards have been moved by a merge that was broken off."""
    return (folder / shards.UNIT_JSON).exists()


def _summary(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / shards.UNIT_JSON).read_bytes())
    except ValueError:
        raise InputError(
            f"{folder / shards.UNIT_JSON} is damaged; remove {folder} and run the same command again"
        ) from None


def _shards_by_split(summaries: list[dict[str, Any]]) -> dict[str, list[_Shard]]:
    return {
        split: [
            _Shard(number, split, place, entry)
            for number, summary in enumerate(summaries)
            for place, entry in enumerate(summary["shards"][split])
        ]
        for split in corpus.SPLITS
    }


def _split_entry(found: list[_Shard]) -> dict[str, Any]:
    counted = ("records", "documents", "sentences", "tokens")
    return {
        "shards": [{name: shard.entry[name] for name in counted} for shard in found],
        "kept_records": 0,
        "kept_documents": 0,
        "kept_tokens": 0,
    }


def _move(partial: Path, units_dir: Path, split: str, found: list[_Shard], files: dict[str, dict[str, Any]]) -> None:
    """Renames shards and indices to their final names and enters their checksums."""
    (partial / "index").mkdir(exist_ok=True)
    for place, shard in enumerate(found):
        source = shards.unit_dir(units_dir, shard.unit) / f"{shard.split}-{shard.place}"
        for suffix, name, what in (
            (".array_record", corpus.shard_name(split, place, len(found)), "shard"),
            (".safetensors", corpus.index_name(split, place, len(found)), "index"),
        ):
            origin, target = source.with_suffix(suffix), partial / name
            if origin.exists():
                os.replace(origin, target)
            if not target.exists() or target.stat().st_size != shard.entry[what]["bytes"]:
                raise InputError(f"{origin} is missing or damaged; remove {partial} and run the same command again")
            files[name] = shard.entry[what]


def _kept_records(split: corpus.Split, keep_duplicates: bool) -> np.ndarray:
    """bool [records]: the first of all documents with the same text is kept, whole."""
    if keep_duplicates or split.num_records == 0:
        return np.ones(split.num_records, bool)
    columns = [split.columns(shard) for shard in range(split.num_shards)]
    first = np.concatenate([c["first"] for c in columns]) != 0
    hashes = np.concatenate([c["text_hash"][c["first"] != 0] for c in columns])
    _, places = np.unique(hashes, return_index=True)
    kept = np.zeros(len(hashes), bool)
    kept[places] = True
    return kept[np.cumsum(first) - 1]


def _token_counts(
    units_dir: Path, vocab_size: int, found: list[_Shard], split: corpus.Split, kept: np.ndarray
) -> np.ndarray:
    """int64 [vocab_size]: the units' counts, less those of the duplicates, which alone are read."""
    counts = np.zeros(vocab_size, np.int64)
    for unit, name in sorted({(shard.unit, shard.split) for shard in found}):
        counts += np.load(shards.unit_dir(units_dir, unit) / f"{name}.token_counts.npy")
    duplicates = np.flatnonzero(~kept)
    for begin in range(0, len(duplicates), _READ_RECORDS):
        ids, _ = split.read(duplicates[begin : begin + _READ_RECORDS])
        counts -= np.bincount(ids, minlength=vocab_size)
    return counts


def _dataset_info(manifest: dict[str, Any], files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What TFDS calls dataset_info.json."""
    splits = []
    for name, entry in manifest["splits"].items():
        sizes = [shard["records"] for shard in entry["shards"]]
        if sizes:
            names = [corpus.shard_name(name, place, len(sizes)) for place in range(len(sizes))]
            splits.append(
                {
                    "name": name,
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                    "shardLengths": [str(size) for size in sizes],
                    "numBytes": str(sum(files[file]["bytes"] for file in names)),
                }
            )
    return {
        "name": corpus.DATASET_NAME,
        "version": f"{corpus.FORMAT_VERSION}.0.0",
        "fileFormat": "array_record",
        "description": "Tokenised documents for pretraining. Duplicates are among them: index/SPLIT.kept.npy "
        "lists the others.",
        "splits": splits,
    }


def finish(partial: Path, output: Path) -> None:
    """Removes what the units left and gives the corpus its name: from here on it is visible."""
    if (partial / "work").exists():
        shutil.rmtree(partial / "work")
    if output.is_dir():
        output.rmdir()
    os.rename(partial, output)
