"""A dictionary in front of a tokenizer: text between two spaces is encoded once and looked up ever after.

A tokenizer spends its time on words that it has seen a thousand times. Where nothing it does crosses a space, a
text's ids are those of its chunks one after another, and a look-up costs a hundredth of an encoding. Lengths and ids
lie in flat arrays, so that a batch is a few NumPy calls and no list per chunk.
"""

from collections.abc import Callable, Sequence

import numpy as np

Encoded = tuple[np.ndarray, np.ndarray]  # ids int32 [total], lengths int32 [n]


class ChunkCache:
    """Ids of texts by way of their chunks.

    Args:
        split: text to chunks whose encodings, one after another, are the text's encoding.
        encode: chunks to their ids; called with chunks that are not in the cache only.
        max_chunks: the cache is emptied when it holds more (about 250 bytes each).
        max_chunk_chars: longer chunks come back too rarely to be kept.
    """

    def __init__(
        self,
        split: Callable[[str], Sequence[str]],
        encode: Callable[[list[str]], Encoded],
        max_chunks: int = 1 << 18,
        max_chunk_chars: int = 48,
    ):
        self._split = split
        self._encode = encode
        self._max_chunks = max_chunks
        self._max_chunk_chars = max_chunk_chars
        self._index, self._size, self._ids, self._starts, self._counts = self._nothing()

    def __len__(self) -> int:
        return len(self._index)

    def __call__(self, texts: Sequence[str]) -> Encoded:
        """ids int32 [total] of all texts in order, and lengths int32 [len(texts)]."""
        split = self._split
        chunks: list[str] = []
        ends = np.empty(len(texts) + 1, np.int64)
        ends[0] = 0
        for i, text in enumerate(texts, 1):
            chunks += split(text)
            ends[i] = len(chunks)
        index = np.fromiter(map(self._index.__getitem__, chunks), np.int64, len(chunks))
        kept = self._size
        if self._index.new or self._index.passing:
            kept = self._add(self._index.new)
            if self._index.passing:
                self._add(self._index.passing)
                index[index < 0] = kept - 1 - index[index < 0]
            self._index.new, self._index.passing = [], []
        counts = self._counts[index]
        text_ends = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        # Token j of the batch is token j - (where its chunk begins in the batch) of its chunk.
        shift = np.repeat(self._starts[index] - text_ends[:-1], counts)
        shift += np.arange(len(shift))
        ids = self._ids[shift]
        lengths = np.diff(text_ends[ends]).astype(np.int32)
        self._size = kept
        if self._size > self._max_chunks:
            self._index, self._size, self._ids, self._starts, self._counts = self._nothing()
        return ids, lengths

    def _nothing(self) -> tuple["_Index", int, np.ndarray, np.ndarray, np.ndarray]:
        """An empty cache: chunk numbers, how many, all their ids, where each chunk's begin, how many they are."""
        index = _Index(self._max_chunk_chars)
        return index, 0, np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int32)

    def _add(self, chunks: list[str]) -> int:
        """Encodes chunks and puts them behind those that are there; returns how many there are now."""
        if not chunks:
            return self._size
        ids, counts = self._encode(chunks)
        used = int(self._starts[self._size - 1] + self._counts[self._size - 1]) if self._size else 0
        starts = used + np.cumsum(counts, dtype=np.int64) - counts
        self._ids = _put(self._ids, used, ids)
        self._starts = _put(self._starts, self._size, starts)
        self._counts = _put(self._counts, self._size, counts)
        self._size += len(chunks)
        return self._size


class _Index(dict[str, int]):
    """Chunk to its number. A chunk that is not there gets the next number and is noted in `new`, a long one in
    `passing`.
    """

    def __init__(self, max_chunk_chars: int):
        super().__init__()
        self.new: list[str] = []
        self.passing: list[str] = []
        self._max_chunk_chars = max_chunk_chars

    def __missing__(self, chunk: str) -> int:
        if len(chunk) > self._max_chunk_chars:
            self.passing.append(chunk)
            return -len(self.passing)
        number = self[chunk] = len(self)
        self.new.append(chunk)
        return number


def _put(array: np.ndarray, at: int, values: np.ndarray) -> np.ndarray:
    """`array` with `values` from `at` on, in a larger array when they do not fit: growth costs a constant time a
    value.
    """
    end = at + len(values)
    if end > len(array):
        larger = np.empty(max(end, 2 * len(array), 1024), array.dtype)
        larger[:at] = array[:at]
        array = larger
    array[at:end] = values
    return array
