"""Entries by hash, and the first of each, against a dictionary, with buffers that hold next to nothing."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.hash_groups import entries_by_hash, first_entries

ENTRY = np.dtype([("hash", "<u8"), ("place", "<i8")])
# Few values, so that there are equal ones; some differ in their lowest bits only, and so are spread to the end.
HASHES = st.sampled_from([0, 1, 2, 3, 1 << 8, 1 << 63, (1 << 63) + 1, (1 << 64) - 1]) | st.integers(0, (1 << 64) - 1)


@given(hashes=st.lists(HASHES, max_size=40), cuts=st.lists(st.integers(0, 40)), at_once=st.sampled_from([1, 2, 7, 100]))
def test_first_entries(tmp_path_factory, hashes, cuts, at_once):
    entries = np.zeros(len(hashes), ENTRY)
    entries["hash"], entries["place"] = np.array(hashes, np.uint64), np.arange(len(hashes))
    chunks = np.split(entries, sorted(min(cut, len(hashes)) for cut in cuts))
    scratch = tmp_path_factory.mktemp("scratch") / "hashes"
    found = list(first_entries(iter(chunks), len(hashes), scratch, at_once))
    expected = {}
    for place, value in enumerate(hashes):
        expected.setdefault(value, place)
    assert sorted(entry for piece in found for entry in piece.tolist()) == sorted(expected.items())
    assert not scratch.exists()
    pieces = [piece.tolist() for piece in entries_by_hash(iter(chunks), len(hashes), scratch, at_once)]
    assert sorted(entry for piece in pieces for entry in piece) == sorted(entries.tolist())
    assert all(piece == sorted(piece) for piece in pieces)
    in_piece = {value: {i for i, piece in enumerate(pieces) if value in dict(piece)} for value in hashes}
    assert all(len(places) == 1 for places in in_piece.values()) and not scratch.exists()


def test_memory_is_bounded(tmp_path):
    """Pieces stay near `at_once`, also past the number of files that are open at once."""
    draw = np.random.default_rng(0)
    count, at_once = 200_000, 64

    def chunks():
        for begin in range(0, count, 1000):
            entries = np.zeros(1000, ENTRY)
            entries["hash"] = draw.integers(0, 1 << 64, 1000, dtype=np.uint64)
            entries["place"] = np.arange(begin, begin + 1000)
            yield entries

    sizes = [len(piece) for piece in first_entries(chunks(), count, tmp_path / "hashes", at_once)]
    assert sum(sizes) == count and max(sizes) <= 2 * at_once
