"""Hashes of input files: the same wherever a file lies, another one for another text of the same size."""

import hashlib
import random

import fsspec
import pytest

from data_prep.input_samples import samples
from data_prep.storage import Folder, StoreFile

PLACE, MOST = 4096, 256


def spread(content: bytes, places: int) -> str:
    """The definition, the long way."""
    digest = hashlib.blake2b(str(len(content)).encode(), digest_size=16)
    if len(content) <= places * PLACE:
        digest.update(content)
    else:
        for i in range(places):
            start = (len(content) - PLACE) * i // (places - 1)
            digest.update(content[start : start + PLACE])
    return digest.hexdigest()


@pytest.mark.parametrize("size", [0, 1, PLACE, MOST * PLACE, MOST * PLACE + 1, 3_000_000])
def test_on_a_disk_and_in_a_store(tmp_path, size):
    content = random.Random(size).randbytes(size)
    file = tmp_path / "in.txt"
    file.write_bytes(content)
    fsspec.filesystem("memory").store.clear()
    Folder("memory://bucket").write("in.txt", content)
    stored = StoreFile("memory://bucket/in.txt")
    assert samples([(file, size)]) == samples([(stored, size)]) == [spread(content, MOST)]
    if size:
        for place in (0, size - 1):
            other = bytearray(content)
            other[place] ^= 1
            file.write_bytes(other)
            assert samples([(file, size)]) != samples([(stored, size)])


def test_many_files_are_looked_at_in_few_places(tmp_path):
    contents = [random.Random(i).randbytes(20_000) for i in range(2000)]
    for i, content in enumerate(contents):
        (tmp_path / str(i)).write_bytes(content)
    found = samples([(tmp_path / str(i), 20_000) for i in range(2000)])
    assert found == [spread(content, 3) for content in contents]
