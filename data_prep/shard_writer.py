"""Records of one split of a unit on their way into ArrayRecord files and their indices."""

from array import array
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import index, record_layout, records
from data_prep.files import array_bytes, checksum, write_file

# A shard ends at whichever it reaches first: ArrayRecord gets slow beyond, and what the index needs is held in memory,
# which is why it is held as plain bytes.
_SHARD_RECORDS = 100_000
_SHARD_TOKENS = 1 << 24
# Tokens that are counted in one go: each costs as much as the vocabulary is large.
_COUNTED_AT_ONCE = 1 << 20


class ShardWriter:
    """Records of one split of a unit on their way into ArrayRecord files and indices."""

    def __init__(self, folder: Path, split: str, vocab_size: int):
        self._folder, self._split = folder, split
        self._counts = np.zeros(vocab_size, np.int64)
        self._token_type = records.token_dtype(vocab_size)
        self._uncounted = bytearray()
        self._finished: list[dict[str, Any]] = []
        self._writer: Any = None

    def add(
        self,
        id_: str,
        document: int,
        key: int,
        first: bool,
        lengths: np.ndarray,
        tokens: np.ndarray,
        starts: np.ndarray,
        signature: np.ndarray | None = None,
    ) -> None:
        """Adds one record, or a piece of a document, to the open shard; the first piece has the signature, if any."""
        if self._writer is None:
            self._open()
        raw_lengths = lengths.astype("<u2").tobytes()
        raw_starts = np.packbits(starts).tobytes()
        raw_tokens = tokens.tobytes()
        content = records.encode(records.Record(id_.encode(), document, first, raw_lengths, raw_starts, raw_tokens))
        self._writer.write(content)
        self._sizes.append(len(content))
        self._documents.append(document)
        self._hashes.append(key)
        self._first.append(first)
        self._lengths += raw_lengths
        self._sentence_counts.append(len(lengths))
        self._token_counts.append(len(tokens))
        self._starts += starts.tobytes()
        if signature is not None:
            self._signatures.append(signature)
        self._total += len(tokens)
        self._uncounted += raw_tokens
        if len(self._uncounted) >= _COUNTED_AT_ONCE * self._token_type.itemsize:
            self._count()
        if len(self._first) == _SHARD_RECORDS or self._total >= _SHARD_TOKENS:
            self._close()

    def finish(self) -> list[dict[str, Any]]:
        """Closes the last shard and returns an entry for every shard: counts and checksums."""
        if self._writer is not None:
            self._close()
        if self._finished:
            write_file(self._folder / f"{self._split}.token_counts.npy", array_bytes(self._counts))
        return self._finished

    def _open(self) -> None:
        from array_record.python import array_record_module

        self._path = self._folder / f"{self._split}-{len(self._finished)}.array_record"
        # Without compression: random ids do not shrink, and zstd triples the time to write.
        self._writer = array_record_module.ArrayRecordWriter(str(self._path), "group_size:1,uncompressed")
        self._sizes, self._documents, self._hashes = array("q"), array("q"), array("Q")
        self._first, self._sentence_counts, self._token_counts = array("B"), array("q"), array("q")
        self._lengths, self._starts = bytearray(), bytearray()
        self._signatures: list[np.ndarray] = []
        self._total = 0

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        try:
            writer.close()
        except RuntimeError as error:
            raise OSError(None, str(error).split(";")[0]) from None
        token_offsets = np.concatenate([[0], np.cumsum(self._token_counts, dtype=np.int64)])
        sentence_offsets = np.concatenate([[0], np.cumsum(self._sentence_counts, dtype=np.int64)])
        columns = {
            "document": np.array(self._documents, np.int64),
            "text_hash": np.array(self._hashes, np.uint64),
            "sentence_offsets": sentence_offsets,
            "token_offsets": token_offsets,
            "record_ends": record_layout.record_ends(self._path, self._sizes),
            "sentence_lengths": np.frombuffer(self._lengths, "<u2"),
            "first": np.array(self._first, np.uint8),
            "word_starts": np.packbits(np.frombuffer(self._starts, bool)),
        }
        if self._signatures:
            # A place of all signatures lies together: the merge reads one after the other.
            columns["signature"] = np.stack(self._signatures, 1)
        self._count()
        self._finished.append(
            {
                "records": len(self._first),
                "documents": sum(self._first),
                "tokens": self._total,
                "sentences": int(sentence_offsets[-1]),
                "shard": checksum(self._path),
                "index": write_file(self._path.with_suffix(".safetensors"), index.pack(columns)),
            }
        )

    def _count(self) -> None:
        tokens = np.frombuffer(bytes(self._uncounted), self._token_type)
        self._counts += np.bincount(tokens, minlength=len(self._counts))
        self._uncounted = bytearray()
