"""Whether an input file is still the one that an earlier build read: a hash of some of its bytes.

Name and size do not tell: putting one word in the place of another of its length keeps both. A hash of every byte
would, but every task of an array job would have to read the whole input before it begins. So a file is looked at in
places that are spread evenly over it, its beginning and its end among them: a megabyte of one file, less of each of
many. What is smaller is hashed whole. A change between the places of a large file goes unseen. Times of files and the
tags of stores take no part: they differ between copies of a text, and a corpus depends on its text only.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_prep.sources import FILE_KINDS, Source
from data_prep.storage import file_spans, input_path

_PLACE = 4096  # bytes
# Places of one file, and of all files together as long as each has the fewest.
_FEWEST, _MOST, _IN_ALL = 3, 256, 4096
_AT_ONCE = 32


def source_samples(found: Sequence[Source]) -> list[str | None]:
    """The hashes of the sources that are files; None for the others, which name their version.

    Raises InputError for a file that cannot be read.
    """
    files = [source for source in found if source.kind.partition(".")[0] in FILE_KINDS]
    hashes = samples([(input_path(source.path), source.size) for source in files])
    by_path = dict(zip((source.path for source in files), hashes, strict=True))
    return [by_path.get(source.path) for source in found]


def samples(files: Sequence[tuple[Path, int]]) -> list[str]:
    """BLAKE2b (128 bits, hex) of the size and the looked-at bytes of every (path, size).

    Raises InputError for a file that cannot be read.
    """
    places = min(max(_IN_ALL // max(len(files), 1), _FEWEST), _MOST)
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # a store, or a file system of a network, answers to many at once
        return list(pool.map(lambda file: _sample(file[0], file[1], places), files))


def _sample(path: Path, size: int, places: int) -> str:
    if size <= places * _PLACE:
        spans = [(0, size)]
    else:
        starts = [(size - _PLACE) * i // (places - 1) for i in range(places)]
        spans = [(start, start + _PLACE) for start in starts]
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    for content in file_spans(path, spans):
        digest.update(content)
    return digest.hexdigest()
