"""A group of work units becomes shards: a pure function of the input, the tokenizer and the settings."""

import hashlib
import itertools
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_prep import minhash, records, segment, sources, unit_folder
from data_prep.build_settings import Settings
from data_prep.corpus_files import SPLITS
from data_prep.document_facts import FactsWriter
from data_prep.errors import InputError
from data_prep.files import write_error
from data_prep.inputs import Reading
from data_prep.leaks import REASON, LeakCounter
from data_prep.record_pieces import cut_sentences, group_sentences
from data_prep.shard_writer import ShardWriter
from data_prep.storage import Folder
from data_prep.tokenizer import Tokenizer

# Text that goes through the tokenizer in one call, in characters; and documents, each of which costs a little memory
# however short it is.
_BATCH_CHARACTERS, _BATCH_DOCUMENTS = 1 << 19, 1 << 12
_SAMPLES = 20
# Where the merge drops near duplicates, most of the first may be among them.
_SAMPLES_OF_MANY = 100
_SAMPLE_CHARACTERS = 300
_HASHES = 1 << 64


def text_hash(text: str) -> int:
    """64 bits of BLAKE2b over the text's UTF-8: equal texts are duplicates, and the hash chooses the split."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def group_units(units: Iterable[sources.Unit], unit_bytes: int) -> list[tuple[sources.Unit, ...]]:
    """Consecutive units in groups of at most `unit_bytes`, a larger one alone: small files do not get a shard each."""
    groups: list[list[sources.Unit]] = []
    size = 0
    for unit in units:
        if not groups or size + unit.size > unit_bytes:
            groups.append([])
            size = 0
        groups[-1].append(unit)
        size += unit.size
    return [tuple(group) for group in groups]


def build_unit(
    number: int, parts: Sequence[sources.Unit], settings: Settings, tokenizer: Tokenizer, units_dir: Path | Folder
) -> None:
    """Writes the folder `units_dir/number`, here or in a store: the shards of a group of units.

    Raises InputError for broken input, and when nothing can be written (a full disk).
    """
    name = unit_folder.scratch_name(number)
    scratch = (units_dir if isinstance(units_dir, Path) else Path(tempfile.gettempdir())) / name
    try:
        scratch.mkdir(parents=True)
        _Unit(number, settings, tokenizer, scratch).run(parts)
        if isinstance(units_dir, Path):
            unit_folder.rename(scratch, unit_folder.unit_dir(units_dir, number))
        else:
            unit_folder.upload(scratch, units_dir / unit_folder.unit_name(number))
    except OSError as error:
        target = unit_folder.unit_dir(units_dir, number) if isinstance(units_dir, Path) else scratch
        raise write_error(target, error) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Unit:
    """Documents of one unit on their way into shards."""

    def __init__(self, number: int, settings: Settings, tokenizer: Tokenizer, folder: Path):
        self._number, self._settings, self._tokenizer, self._folder = number, settings, tokenizer, folder
        self._dtype = records.token_dtype(tokenizer.vocab_size)
        self._threshold = round(settings.validation_share * _HASHES)
        self._shards = {split: ShardWriter(folder, split, tokenizer.vocab_size) for split in SPLITS}
        self._documents = 0
        self._long_sentences = self._empty_sentences = 0
        self._num_samples = _SAMPLES if settings.near_duplicates is None else _SAMPLES_OF_MANY
        self._samples: list[tuple[int, int, int, str]] = []
        self._facts, self._leaks = FactsWriter(folder), LeakCounter()

    def run(self, parts: Sequence[sources.Unit]) -> None:
        """Reads all parts, writes the shards and at last unit.json."""
        described = []
        for part in parts:
            first, dropped = self._documents, Counter[str]()
            for batch in _batches(part, self._settings.on_error, dropped):
                self._add(batch, part.reading, dropped)
            described.append(
                {
                    "source": part.name,
                    "input": part.input,
                    "bytes": part.size,
                    "first_document": first,
                    "documents": self._documents - first,
                    "dropped": dict(sorted(dropped.items())),
                }
            )
        summary = {
            "parts": described,
            "long_sentences_cut": self._long_sentences,
            "empty_sentences": self._empty_sentences,
            "samples": self._samples,
            "leaks": {"files": self._leaks.files, "sample": self._leaks.sample},
            "shards": {split: writer.finish() for split, writer in self._shards.items()},
        }
        self._facts.finish()
        (self._folder / unit_folder.UNIT_JSON).write_text(json.dumps(summary, sort_keys=True))

    def _add(self, documents: list[sources.Document], reading: Reading, dropped: Counter[str]) -> None:
        """Sentences, tokens and records of a batch of documents."""
        if self._settings.exclusions:
            read, documents = len(documents), self._leaks.keep(documents, self._settings.exclusions)
            if read > len(documents):
                dropped[REASON] += read - len(documents)
            if not documents:
                return
        split = []
        for document in documents:
            found, cut = segment.split(document.text, reading.language, reading.normalize)
            split.append(found)
            self._long_sentences += cut
        flat, lengths = self._encode([sentence for found in split for sentence in found])
        starts = self._tokenizer.word_start_table[flat]
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        starts[offsets[:-1][lengths > 0]] = True
        tokens = flat.astype(self._dtype)
        signatures: Sequence[np.ndarray | None] = [None] * len(documents)
        if self._settings.near_duplicates is not None:
            signatures = list(minhash.signatures([document.text for document in documents]))
        added = []
        end = 0
        for document, sentences, signature in zip(documents, split, signatures, strict=True):
            begin, end = end, end + len(sentences)
            sizes = lengths[begin:end]
            if not sizes.all():
                self._empty_sentences += int(np.count_nonzero(sizes == 0))
                sizes = sizes[sizes > 0]
            if not len(sizes):
                dropped["no tokens"] += 1
                continue
            span = slice(int(offsets[begin]), int(offsets[end]))
            self._add_document(document, sentences, sizes, tokens[span], starts[span], signature)
            added.append(document.text)
        self._facts.add(added)

    def _encode(self, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and lengths of the sentences; those of a huge document in several calls, which bounds the memory."""
        ends = np.cumsum([len(sentence) for sentence in sentences])
        if len(ends) == 0 or ends[-1] <= 2 * _BATCH_CHARACTERS:
            return self._tokenizer.encode_flat(sentences)
        borders = np.flatnonzero(np.diff(ends // _BATCH_CHARACTERS)) + 1
        calls = itertools.pairwise([0, *borders.tolist(), len(sentences)])
        encoded = [self._tokenizer.encode_flat(sentences[begin:end]) for begin, end in calls]
        return np.concatenate([ids for ids, _ in encoded]), np.concatenate([sizes for _, sizes in encoded])

    def _add_document(
        self,
        document: sources.Document,
        sentences: list[str],
        sizes: np.ndarray,
        tokens: np.ndarray,
        starts: np.ndarray,
        signature: np.ndarray | None,
    ) -> None:
        key = text_hash(document.text)
        writer = self._shards["validation" if key < self._threshold else "train"]
        number = (self._number << 32) + self._documents
        self._documents += 1
        self._sample(key, number, sentences)
        if len(tokens) <= self._settings.record_tokens:
            pieces = [sizes]
        else:
            sizes, cut = cut_sentences(sizes, starts, self._settings.record_tokens)
            self._long_sentences += cut
            pieces = group_sentences(sizes, self._settings.record_tokens)
        begin = 0
        for place, piece in enumerate(pieces):
            end = begin + int(piece.sum())
            mine = signature if place == 0 else None
            writer.add(document.id, number, key, place == 0, piece, tokens[begin:end], starts[begin:end], mine)
            begin = end

    def _sample(self, key: int, number: int, sentences: list[str]) -> None:
        """Keeps the sentences whose documents have the smallest mixed hashes: a random sample that no order of units
        changes."""
        rank = key * 0x9E3779B97F4A7C15 % _HASHES
        if len(self._samples) == self._num_samples and rank >= self._samples[-1][0]:
            return
        # A duplicate of a document is no second sample.
        if all(key != other for _, other, _, _ in self._samples):
            sentence = sentences[rank % len(sentences)]
            sample = (rank, key, number, sentence[:_SAMPLE_CHARACTERS])
            self._samples = sorted([*self._samples, sample])[: self._num_samples]


def _batches(part: sources.Unit, on_error: str, dropped: Counter[str]) -> Iterator[list[sources.Document]]:
    """Documents in batches, of at most `_BATCH_DOCUMENTS` and about `_BATCH_CHARACTERS`; what was dropped is counted by
    reason."""
    batch: list[sources.Document] = []
    size = 0
    try:
        for item in sources.read(part, on_error):
            if isinstance(item, sources.Dropped):
                dropped[item.reason] += 1
                continue
            batch.append(item)
            size += len(item.text)
            if size >= _BATCH_CHARACTERS or len(batch) == _BATCH_DOCUMENTS:
                yield batch
                batch, size = [], 0
    except OSError as error:
        raise InputError(f"{part.path}: cannot be read ({error.strerror or error})") from None
    if batch:
        yield batch
