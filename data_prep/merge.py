"""The last step of a build: finished units become one corpus.

It moves shards to their final names, marks duplicates, counts, and writes the manifest; no shard is rewritten. It may
be broken off anywhere and run again: a file that has been moved already is found at its new place. Shards are gone
through one by one, and what there is a record or a document lies on the disk, so memory holds little but the manifest,
whatever the size of the corpus.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import audit, corpus, corpus_files, leaks, moves, records, unit_folder
from data_prep.equal_texts import kept_records
from data_prep.errors import InputError
from data_prep.files import array_bytes, write_file, write_integers
from data_prep.kept_facts import KeptFacts
from data_prep.manifest import manifest_fingerprint, manifest_lines
from data_prep.near_duplicates import find_near_duplicates
from data_prep.shard_reading import Beginnings, Indices, ShardReader, token_counts
from data_prep.tokenizer import Tokenizer
from data_prep.unit_summaries import ShardTable, Summaries

_WRITE_RECORDS = 1 << 17


class NothingLeft(InputError):
    """Every document was dropped."""


def merge(
    partial: Path,
    units_dir: Path,
    units: int,
    identity: dict[str, Any],
    tokenizer: Tokenizer,
    move: moves.Mover | None = None,
    shard_file: ShardReader | None = None,
) -> dict[str, Any]:
    """Makes the corpus in `partial` from the units 0 to `units` - 1 in `units_dir` and returns its manifest, written
    last.

    `identity` is what the manifest says of the input, the tokenizer and the settings. `move` and `shard_file` are given
    where shards lie elsewhere than in `partial` (data_prep.places). Raises InputError when no document is left.
    """
    summaries = Summaries(units_dir, units)
    by_split, notes = _splits(summaries)
    (move or moves.Renamer(partial, units_dir))(moves.planned_moves(by_split))
    read = shard_file or partial.joinpath
    indices = {split: Indices(partial, split, len(table)) for split, table in by_split.items()}
    settings = identity["settings"]
    scratch = units_dir / "merge"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    kept = {}
    for split, table in by_split.items():
        number, documents = (int(table.column(what).sum()) for what in ("records", "documents"))
        kept[split] = kept_records(indices[split], number, documents, settings["keep_duplicates"], scratch)
    near, near_account = None, None
    if settings["near_duplicates"] is not None:
        beginnings = Beginnings(by_split, indices, read, tokenizer)
        near, near_account = find_near_duplicates(indices, kept, settings["near_duplicates"], beginnings, scratch)
        for split, dropped in near.items():
            kept[split][dropped] = False
    unknown, made = 0, {}
    for split, table in by_split.items():
        counts = token_counts(units_dir, tokenizer.vocab_size, split, table, indices[split], kept[split], read)
        unknown += int(counts[tokenizer.unk_id])
        name = corpus_files.kept_name(split)
        made[name] = write_integers(partial / name, int(np.count_nonzero(kept[split])), _numbers(kept[split]))
        name = corpus_files.token_counts_name(split)
        made[name] = write_file(partial / name, array_bytes(counts))
    facts = KeptFacts(
        [unit_folder.unit_dir(units_dir, number) for number in range(units)], summaries.documents, scratch
    )
    account = audit.summarise(indices, summaries, facts, kept, near, unknown)
    if near_account is not None:
        account["near_duplicates"] = near_account
    if settings["exclude"]:
        account["leaks"] = leaks.account(settings["exclude"], summaries.leaks)
    for name, content in tokenizer.files().items():
        made[f"tokenizer/{name}"] = write_file(partial / "tokenizer" / name, content)
    for name, value in (
        ("features.json", records.features(tokenizer.vocab_size)),
        ("dataset_info.json", _dataset_info(by_split)),
    ):
        made[name] = write_file(partial / name, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())
    shutil.rmtree(scratch)
    manifest: dict[str, Any] = {
        **identity,
        "notes": notes,
        "splits": {split: _split_entry(table, account["splits"][split]) for split, table in by_split.items()},
        "audit": account,
        "files": dict(_shard_files(by_split)) | made,
    }
    manifest["fingerprint"] = manifest_fingerprint(manifest)
    written = units_dir / corpus_files.MANIFEST
    with open(written, "w") as stream:
        stream.writelines(manifest_lines(manifest))
    os.replace(written, partial / corpus_files.MANIFEST)
    return manifest


def _splits(summaries: Summaries) -> tuple[dict[str, ShardTable], list[str]]:
    """The shards of each split, and what is to be noted of them."""
    train, validation = summaries.shards["train"], summaries.shards["validation"]
    notes = []
    if not len(train) and not len(validation):
        reasons = ", ".join(f"{count} {reason}" for reason, count in summaries.parts.dropped_documents().items())
        raise NothingLeft(f"no document is left for the corpus (dropped: {reasons or 'none read'}); check the inputs")
    if not len(train):
        train, validation = validation, train
        notes.append("all documents fell into the validation split, which became the train split")
    if not len(validation):
        notes.append("the validation split is empty")
    return {"train": train, "validation": validation}, notes


def _numbers(kept: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of the kept records, ascending, in pieces."""
    for begin in range(0, len(kept), _WRITE_RECORDS):
        yield begin + np.flatnonzero(kept[begin : begin + _WRITE_RECORDS])


def _split_entry(table: ShardTable, audited: dict[str, int]) -> dict[str, Any]:
    entry: dict[str, Any] = {"shards": [table.counts(shard) for shard in range(len(table))]}
    return entry | {f"kept_{what}": audited[what] for what in ("records", "documents", "tokens")}


def _shard_files(by_split: dict[str, ShardTable]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and checksum of every shard and index."""
    for split, table in by_split.items():
        for shard in range(len(table)):
            yield corpus_files.shard_name(split, shard, len(table)), table.checksum(shard, "shard")
            yield corpus_files.index_name(split, shard, len(table)), table.checksum(shard, "index")


def _dataset_info(by_split: dict[str, ShardTable]) -> dict[str, Any]:
    """What TFDS calls dataset_info.json."""
    splits = [
        {
            "name": name,
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "shardLengths": [str(size) for size in table.column("records").tolist()],
            "numBytes": str(int(table.column("shard").sum())),
        }
        for name, table in by_split.items()
        if len(table)
    ]
    return {
        "name": corpus_files.DATASET_NAME,
        "version": f"{corpus.FORMAT_VERSION}.0.0",
        "fileFormat": "array_record",
        "description": "Tokenised documents for pretraining. Duplicates are among them: index/SPLIT.kept.npy "
        "lists the others.",
        "splits": splits,
    }
