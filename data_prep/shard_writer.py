"""Records of one split of a unit on their way into ArrayRecord files and their indices."""

from pathlib import Path
from typing import Any

import numpy as np

from data_prep import index, records
from data_prep.files import array_bytes, checksum, write_file

# A shard ends at whichever it reaches first: ArrayRecord gets slow beyond, and what the index needs is held in memory.
_SHARD_RECORDS = 100_000
_SHARD_TOKENS = 1 << 24


class ShardWriter:
    """Records of one split of a unit on their way into ArrayRecord files and indices."""

    def __init__(self, folder: Path, split: str, vocab_size: int):
        self._folder, self._split = folder, split
        self._counts = np.zeros(vocab_size, np.int64)
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
        content = records.encode(
            records.Record(id_.encode(), document, first, raw_lengths, raw_starts, tokens.tobytes())
        )
        self._writer.write(content)
        self._documents.append(document)
        self._hashes.append(key)
        self._first.append(first)
        self._lengths.append(raw_lengths)
        self._sentence_counts.append(len(lengths))
        self._tokens.append(tokens)
        self._starts.append(starts)
        if signature is not None:
            self._signatures.append(signature)
        self._total += len(tokens)
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
        self._documents: list[int] = []
        self._hashes: list[int] = []
        self._first: list[bool] = []
        self._lengths: list[bytes] = []
        self._sentence_counts: list[int] = []
        self._tokens: list[np.ndarray] = []
        self._starts: list[np.ndarray] = []
        self._signatures: list[np.ndarray] = []
        self._total = 0

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        try:
            writer.close()
        except RuntimeError as error:
            raise OSError(None, str(error).split(";")[0]) from None
        token_offsets = np.concatenate([[0], np.cumsum([len(t) for t in self._tokens], dtype=np.int64)])
        sentence_offsets = np.concatenate([[0], np.cumsum(self._sentence_counts, dtype=np.int64)])
        columns = {
            "document": np.array(self._documents, np.int64),
            "text_hash": np.array(self._hashes, np.uint64),
            "sentence_offsets": sentence_offsets,
            "token_offsets": token_offsets,
            "sentence_lengths": np.frombuffer(b"".join(self._lengths), "<u2"),
            "first": np.array(self._first, np.uint8),
            "word_starts": np.packbits(np.concatenate(self._starts)),
        }
        if self._signatures:
            # A place of all signatures lies together: the merge reads one after the other.
            columns["signature"] = np.stack(self._signatures, 1)
        self._counts += np.bincount(np.concatenate(self._tokens), minlength=len(self._counts))
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
