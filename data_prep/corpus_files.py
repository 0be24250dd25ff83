"""What the files of a corpus are called, and whether they are all there.

    manifest.json               format version, checksums of all files, settings, counts, audit, fingerprint
    dataset_info.json  features.json    what tensorflow-datasets needs to read the shards
    bert_corpus-SPLIT.array_record-i-of-n   the records of a split
    index/SPLIT-i-of-n.safetensors      the index of each shard (data_prep.index)
    index/SPLIT.kept.npy                int64: numbers of the kept records, ascending; the others are duplicates
    index/SPLIT.token_counts.npy        int64 [vocab_size]: how often each token stands in the kept records
    tokenizer/                          the tokenizer's own files

A record is one document, or a piece of a very long one. Records of a split are numbered from 0 over its shards, in the
order of the input. SPLIT is train or validation; a split of a tiny corpus may be empty and then has no shard.
"""

from pathlib import Path

from data_prep.errors import InputError
from data_prep.storage import Folder

DATASET_NAME = "bert_corpus"
SPLITS = ("train", "validation")
MANIFEST = "manifest.json"


def shard_name(split: str, shard: int, count: int) -> str:
    """File name of a shard, as tensorflow-datasets expects it."""
    return f"{DATASET_NAME}-{split}.array_record-{shard:05d}-of-{count:05d}"


def index_name(split: str, shard: int, count: int) -> str:
    """File name of a shard's index."""
    return f"index/{split}-{shard:05d}-of-{count:05d}.safetensors"


def kept_name(split: str) -> str:
    """File name of the array of kept records."""
    return f"index/{split}.kept.npy"


def token_counts_name(split: str) -> str:
    """File name of the counts of tokens."""
    return f"index/{split}.token_counts.npy"


def unfinished(path: Path | Folder) -> str | None:
    """One line that says so if a build of this corpus is under way or was broken off, else None."""
    is_partial = path.name.endswith(".partial")
    if isinstance(path, Folder):
        partial: Path | Folder = path.partial
        # A listing may be long: only where it decides.
        here, there = is_partial and bool(path.sizes()), path.read(MANIFEST) is not None
        half = not there and bool(path.partial.sizes())
    else:
        partial = partial_path(named(path))
        here, half = path.is_dir(), not path.exists() and partial.is_dir()
    if is_partial and here:
        return f"{path} is an unfinished build; run its build command again to finish it"
    if half:
        return f"{path} is unfinished ({partial} is there); run its build command again to finish it"
    return None


def named(path: Path) -> Path:
    """A folder's path that ends in its name, as "." does not. Raises InputError for one that can be no corpus's."""
    # Three dots are a name like any other.
    whole = path if path.name.strip(".") else path.resolve()
    if not whole.name:
        raise InputError(f"{path} is no place for a corpus; name a folder in it")
    try:
        str(whole).encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: the path is not UTF-8, and ArrayRecord opens no other; rename it") from None
    return whole


def partial_path(path: Path) -> Path:
    """Where a build works until the corpus is whole."""
    return path.with_name(path.name + ".partial")
