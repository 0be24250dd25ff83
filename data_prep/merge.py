"""The last step of a build: finished units become one corpus.

It moves shards to their final names, marks duplicates, counts, and writes the manifest; no shard is rewritten. It may
be broken off anywhere and run again: a file that has been moved already is found at its new place. Shards are gone
through one by one, so memory holds a byte a record and the manifest, whatever the size of the corpus.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep import audit, corpus, leaks, records, shards
from data_prep.equal_texts import first_of_equal
from data_prep.errors import InputError
from data_prep.files import array_bytes, write_file, write_integers
from data_prep.index import open_columns
from data_prep.near_duplicates import find_near_duplicates
from data_prep.tokenizer import Tokenizer

_READ_RECORDS = 4096
_WRITE_RECORDS = 1 << 20
_BEGINNING_TOKENS = 48


class NothingLeft(InputError):
    """Every document was dropped."""


class Move(NamedTuple):
    """A file of a unit, relative to the folder of all units, that gets its final name in the corpus."""

    origin: str
    name: str
    size: int


# Gives files their final names; raises InputError for one that is not there whole, neither here nor there.
Mover = Callable[[list[Move]], None]
# A local file with the content of a shard of the corpus, for as long as it is read.
ShardReader = Callable[[str], Path]


class _Shard(NamedTuple):
    """Where a shard was written, and the entry that describes it."""

    unit: int
    split: str
    place: int
    entry: dict[str, Any]


def merge(
    partial: Path,
    units_dir: Path,
    units: int,
    identity: dict[str, Any],
    tokenizer: Tokenizer,
    move: Mover | None = None,
    shard_file: ShardReader | None = None,
) -> dict[str, Any]:
    """Makes the corpus in `partial` from the units 0 to `units` - 1 in `units_dir` and returns its manifest, written
    last.

    `identity` is what the manifest says of the input, the tokenizer and the settings. `move` and `shard_file` are given
    where shards lie elsewhere than in `partial` (data_prep.places). Raises InputError when no document is left.
    """
    summaries, samples = _summaries(units_dir, units)
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
    moves = [planned for split, found in by_split.items() for planned in _moves(split, found, files)]
    (move or Renamer(partial, units_dir))(moves)
    manifest: dict[str, Any] = {
        **identity,
        "notes": notes,
        "splits": {split: _split_entry(found) for split, found in by_split.items()},
    }
    read = shard_file or partial.joinpath
    indices = {
        split: [partial / corpus.index_name(split, place, len(found)) for place in range(len(found))]
        for split, found in by_split.items()
    }
    settings = identity["settings"]
    kept = {
        split: _kept_records(indices[split], found, settings["keep_duplicates"], units_dir / "hashes")
        for split, found in by_split.items()
    }
    near, near_account = None, None
    if settings["near_duplicates"] is not None:
        beginnings = _Beginnings(by_split, indices, read, tokenizer)
        near, near_account = find_near_duplicates(indices, kept, settings["near_duplicates"], beginnings)
        kept = {split: kept[split] & ~near[split] for split in kept}
    unknown = 0
    for split, found in by_split.items():
        counts = _token_counts(units_dir, tokenizer.vocab_size, split, found, indices[split], kept[split], read)
        unknown += int(counts[tokenizer.unk_id])
        name = corpus.kept_name(split)
        files[name] = write_integers(partial / name, int(np.count_nonzero(kept[split])), _numbers(kept[split]))
        name = corpus.token_counts_name(split)
        files[name] = write_file(partial / name, array_bytes(counts))
    facts = [shards.unit_dir(units_dir, number) for number in range(units)]
    manifest["audit"] = audit.summarise(indices, summaries, samples, facts, kept, near, unknown)
    if near_account is not None:
        manifest["audit"]["near_duplicates"] = near_account
    if settings["exclude"]:
        counted = [summary["leaks"] for summary in summaries]
        manifest["audit"]["leaks"] = leaks.account(settings["exclude"], counted)
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


def _summaries(units_dir: Path, units: int) -> tuple[list[dict[str, Any]], list[list[Any]]]:
    """What the units say of themselves, and the smallest of their samples, which would be most of it."""
    summaries: list[dict[str, Any]] = []
    samples: list[list[Any]] = []
    for number in range(units):
        file = shards.unit_dir(units_dir, number) / shards.UNIT_JSON
        try:
            summary = json.loads(file.read_bytes())
        except ValueError:
            raise InputError(f"{file} is damaged; remove {file.parent} and run the same command again") from None
        samples = audit.smallest_samples(samples + summary.pop("samples"))
        summaries.append(summary)
    return summaries, samples


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


def _moves(split: str, found: list[_Shard], files: dict[str, dict[str, Any]]) -> Iterator[Move]:
    """The moves of shards and indices to their final names; enters their checksums."""
    for place, shard in enumerate(found):
        origin = f"{shards.unit_name(shard.unit)}/{shard.split}-{shard.place}"
        for suffix, name, what in (
            (".array_record", corpus.shard_name(split, place, len(found)), "shard"),
            (".safetensors", corpus.index_name(split, place, len(found)), "index"),
        ):
            files[name] = shard.entry[what]
            yield Move(origin + suffix, name, shard.entry[what]["bytes"])


class Renamer:
    """Moves on one file system: renames."""

    def __init__(self, partial: Path, units_dir: Path):
        self._partial, self._units_dir = partial, units_dir

    def __call__(self, moves: list[Move]) -> None:
        """Gives files their final names, those that have them already passed over. Raises InputError."""
        (self._partial / "index").mkdir(exist_ok=True)
        for origin, name, size in moves:
            target = self._partial / name
            if (self._units_dir / origin).exists():
                os.replace(self._units_dir / origin, target)
            if not target.exists() or target.stat().st_size != size:
                raise InputError(
                    f"{self._units_dir / origin} is missing or damaged; remove {self._partial} and run the same "
                    "command again"
                )


def _kept_records(indices: list[Path], found: list[_Shard], keep_duplicates: bool, scratch: Path) -> np.ndarray:
    """bool [records]: the first of all documents with the same text is kept, whole."""
    if keep_duplicates or not found:
        return np.ones(sum(shard.entry["records"] for shard in found), bool)
    first = np.empty(sum(shard.entry["records"] for shard in found), bool)

    def hashes() -> Iterator[np.ndarray]:
        done = 0
        for index in indices:
            columns = open_columns(index)
            begins = columns["first"] != 0
            first[done : done + len(begins)] = begins
            done += len(begins)
            yield columns["text_hash"][begins]

    documents = first_of_equal(hashes(), sum(shard.entry["documents"] for shard in found), scratch)
    kept = np.empty(len(first), bool)
    done = 0
    for begin in range(0, len(first), _WRITE_RECORDS):
        number = done + np.cumsum(first[begin : begin + _WRITE_RECORDS])
        kept[begin : begin + len(number)] = documents[number - 1]
        done = int(number[-1])
    return kept


def _numbers(kept: np.ndarray) -> Iterator[np.ndarray]:
    """The numbers of the kept records, ascending, in pieces."""
    for begin in range(0, len(kept), _WRITE_RECORDS):
        yield begin + np.flatnonzero(kept[begin : begin + _WRITE_RECORDS])


def _token_counts(
    units_dir: Path,
    vocab_size: int,
    split: str,
    found: list[_Shard],
    indices: list[Path],
    kept: np.ndarray,
    shard_file: ShardReader,
) -> np.ndarray:
    """int64 [vocab_size]: the units' counts, less those of the records that are not kept, which alone are read."""
    counts = np.zeros(vocab_size, np.int64)
    for unit, name in dict.fromkeys((shard.unit, shard.split) for shard in found):
        counts += np.load(shards.unit_dir(units_dir, unit) / f"{name}.token_counts.npy")
    end = 0
    for place, shard in enumerate(found):
        begin, end = end, end + shard.entry["records"]
        left_out = np.flatnonzero(~kept[begin:end])
        if len(left_out):
            file = shard_file(corpus.shard_name(split, place, len(found)))
            counts -= _counted(file, open_columns(indices[place])["token_offsets"], left_out, vocab_size)
    return counts


def _counted(file: Path, token_offsets: np.ndarray, local: np.ndarray, vocab_size: int) -> np.ndarray:
    """int64 [vocab_size]: how often each token stands in some records of a shard."""
    reader, dtype = corpus.open_shard(file), records.token_dtype(vocab_size)
    counts = np.zeros(vocab_size, np.int64)
    for begin in range(0, len(local), _READ_RECORDS):
        chosen = local[begin : begin + _READ_RECORDS]
        sizes = (token_offsets[chosen + 1] - token_offsets[chosen]).tolist()
        raw = corpus.read_shard(reader, file, chosen)
        tokens = [records.last_tokens(content, size, dtype) for content, size in zip(raw, sizes, strict=True)]
        counts += np.bincount(np.concatenate(tokens), minlength=vocab_size)
    return counts


class _Beginnings:
    """How documents begin, from their tokens."""

    def __init__(
        self,
        by_split: dict[str, list[_Shard]],
        indices: dict[str, list[Path]],
        shard_file: ShardReader,
        tokenizer: Tokenizer,
    ):
        self._indices, self._shard_file, self._tokenizer = indices, shard_file, tokenizer
        self._borders = {
            split: np.cumsum([0, *(shard.entry["records"] for shard in found)]) for split, found in by_split.items()
        }

    def __call__(self, split: str, record: int) -> str:
        """The text of the first tokens of a record."""
        borders = self._borders[split]
        place = int(np.searchsorted(borders, record, side="right")) - 1
        local = record - int(borders[place])
        file = self._shard_file(corpus.shard_name(split, place, len(self._indices[split])))
        offsets = open_columns(self._indices[split][place])["token_offsets"]
        (raw,) = corpus.read_shard(corpus.open_shard(file), file, np.array([local]))
        size = int(offsets[local + 1] - offsets[local])
        tokens = records.last_tokens(raw, size, records.token_dtype(self._tokenizer.vocab_size))
        return self._tokenizer.decode(tokens[:_BEGINNING_TOKENS])


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
