"""Trains a vocabulary: a seeded sample of the inputs' text to a tokenizer directory."""

import dataclasses
import hashlib
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from data_prep import sources, vocab_directory, vocab_training
from data_prep.documents import Document
from data_prep.errors import InputError
from data_prep.input_samples import source_samples
from data_prep.inputs import Reading, parse_inputs
from data_prep.tokenizer_files import SPECIAL_TOKENS

KINDS = ("wordpiece", "unigram", "bpe", "char")
_SAMPLE_UNIT = 1 << 20  # bytes: the sample is made of pieces of the inputs of about this size
_PACKING_RATIO = 4  # text bytes to those of a compressed file, for sharing out the sample
_PARSED = (sources.PYTHON_DOCS, sources.WIKI)
_UNITS_A_ROUND = 64


def train_vocab(
    inputs: Sequence[str],
    output: str | Path,
    kind: str = "wordpiece",
    size: int = 30522,
    lowercase: bool = False,
    seed: int = 0,
    max_sample_bytes: int = 256 << 20,
    on_error: str = "fail",
    **reading: str | Sequence[str],
) -> dict[str, Any]:
    """Trains a tokenizer and writes its directory, whole or not at all; the same settings and text give the same bytes.

    Args:
        inputs: each `[NAME=]WHAT`.
        output: a directory of this machine, or the URL of one in an object store.
        kind: "char" gives every character a token of its own, for proteins and DNA.
        size: pieces asked for, special tokens included; a text that has fewer gets fewer, with a warning on stderr.
            Of characters it is the most that are kept, the frequent ones.
        max_sample_bytes: text beyond this many UTF-8 bytes is left out, by a choice that depends on `seed`; bounds
            the memory.
        reading: how the inputs are read, as `data_prep.inputs.parse_inputs` has it. SentencePiece trains on sentences.
            Where an input has `normalize` "none", as code has, the tokenizer gives back every text as it was, white
            space included: of kind "bpe", which is byte-level then, or "char".

    Returns `vocab_size` (the real one), `documents` and `sample_bytes` trained on, and `existing`: True when the
    directory was there already, made with the same settings.

    Raises InputError for bad inputs or settings, an output of other settings, and a size that the text cannot support.
    """
    named = parse_inputs(inputs, **reading)
    lossless = any(entry.reading.normalize == "none" for entry in named)
    _check(kind, size, max_sample_bytes, lowercase, lossless)
    found = sources.expand(named, on_error)
    settings = {
        "inputs": [[source.input, source.kind, source.name, source.size] for source in found],
        "samples": source_samples(found),
        "readings": {entry.name: dataclasses.asdict(entry.reading) for entry in named},
        "kind": kind,
        "size": size,
        "lowercase": lowercase,
        "seed": seed,
        "max_sample_bytes": max_sample_bytes,
        "on_error": on_error,
    }
    place = vocab_directory.directory(output)
    existing = vocab_directory.existing(place, settings)
    if existing is not None:
        _say(f"{place} is there already, made with the same settings")
        return {**existing, "existing": True}
    dropped = Counter[str]()
    texts, readings = _sample(found, seed, max_sample_bytes, on_error, dropped)
    if dropped:
        _say(f"dropped: {', '.join(f'{count} {reason}' for reason, count in sorted(dropped.items()))}")
    counts = {"documents": len(texts), "sample_bytes": sum(len(text.encode()) for text in texts)}
    if not texts:
        raise InputError(f"{', '.join(inputs)}: no text in it; a vocabulary needs some")
    _say(f"training {kind} on {counts['sample_bytes'] / 1e6:.1f} MB of {counts['documents']} documents")
    if kind == "char":
        tokenizer = vocab_training.train_characters(texts, size, lowercase, line_feeds=lossless)
    elif kind == "wordpiece":
        tokenizer = vocab_training.train_wordpiece(texts, size, lowercase)
    elif lossless:
        tokenizer = vocab_training.train_byte_level(texts, size)
    else:
        tokenizer = vocab_training.train_sentencepiece(texts, readings, kind, size, lowercase, seed)
    if tokenizer.vocab_size < size and kind != "char":
        _say(
            f"warning: the text has pieces for {tokenizer.vocab_size} only, not {size}; "
            "give more text or a smaller --size"
        )
    summary = {"vocab_size": tokenizer.vocab_size, **counts}
    vocab_directory.write(place, tokenizer, {"settings": settings, **summary})
    return {**summary, "existing": False}


def _check(kind: str, size: int, max_sample_bytes: int, lowercase: bool, lossless: bool) -> None:
    if kind not in KINDS:
        raise InputError(f"--kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    if lossless and kind not in ("bpe", "char"):
        raise InputError(
            f"--normalize none keeps white space, which --kind {kind} cannot; use --kind bpe (byte-level) or char"
        )
    if lossless and lowercase:
        raise InputError("--normalize none keeps the text as it is, and --lowercase changes it; leave one of them out")
    if size <= len(SPECIAL_TOKENS):
        raise InputError(
            f"--size is {size}; the {len(SPECIAL_TOKENS)} special tokens alone need as many, use e.g. 8000"
        )
    if max_sample_bytes < 1:
        raise InputError(f"the sample is {max_sample_bytes} bytes; use at least 1, e.g. {256 << 20}")


def _sample(
    found: list[sources.Source], seed: int, max_bytes: int, on_error: str, dropped: Counter[str]
) -> tuple[list[str], list[Reading]]:
    """Texts of at most max_bytes in all, each with how it was read: everything if it fits, otherwise documents of
    units drawn by a hash. What was dropped of the units that were read is counted by reason.

    A compressed file can only be read from its start: where there is too much text, it gives its first documents, as
    many as are its share.
    """
    total = sum(source.size * (_PACKING_RATIO if "." in source.kind else 1) for source in found)
    share = min(1.0, max_bytes / max(total, 1))
    units = [unit for source in found for unit in sources.units(source, _SAMPLE_UNIT)]
    if share < 1:
        units.sort(key=lambda unit: _hash(seed, unit.name, unit.start))
    pieces = Counter(unit.name for unit in units)
    texts: list[str] = []
    readings: list[Reading] = []
    used, told = 0, time.monotonic()
    for unit, found_texts in _read(units, on_error, dropped):
        whole = "." in unit.kind and pieces[unit.name] == 1
        quota = unit.size * _PACKING_RATIO * share if whole and share < 1 else max_bytes
        for text in found_texts:
            bytes_ = len(text.encode())
            if used + bytes_ > max_bytes:
                # A document that alone is more than the sample gives its beginning.
                if not texts:
                    texts, readings = [text.encode()[:max_bytes].decode("utf-8", "ignore")], [unit.reading]
                return texts, readings
            texts.append(text)
            readings.append(unit.reading)
            used += bytes_
            quota -= bytes_
            if quota <= 0:
                break
        if time.monotonic() - told > 5:
            _say(f"read {used / 1e6:.1f} MB of text")
            told = time.monotonic()
    return texts, readings


def _read(
    units: list[sources.Unit], on_error: str, dropped: Counter[str]
) -> Iterator[tuple[sources.Unit, Iterable[str]]]:
    """The units with their texts; of inputs whose parsing takes the time, in as many processes as cores."""
    cores = os.cpu_count() or 1
    if cores > 1 and len(units) > 1 and all(unit.kind.startswith(_PARSED) for unit in units):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(cores, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
            # Not all at once: the sample may be full long before the last.
            for i in range(0, len(units), _UNITS_A_ROUND):
                some = units[i : i + _UNITS_A_ROUND]
                for unit, (texts, left_out) in zip(some, pool.map(_texts, some, [on_error] * len(some)), strict=True):
                    dropped.update(left_out)
                    yield unit, texts
    else:
        for unit in units:
            yield unit, _kept(unit, on_error, dropped)


def _texts(unit: sources.Unit, on_error: str) -> tuple[list[str], Counter[str]]:
    dropped = Counter[str]()
    return list(_kept(unit, on_error, dropped)), dropped


def _kept(unit: sources.Unit, on_error: str, dropped: Counter[str]) -> Iterator[str]:
    for item in sources.read(unit, on_error):
        if isinstance(item, Document):
            yield item.text
        else:
            dropped[item.reason] += 1


def _hash(seed: int, name: str, start: int) -> bytes:
    return hashlib.blake2b(f"{seed}\n{start}\n{name}".encode(), digest_size=8).digest()


def _say(message: str) -> None:
    print(f"vocab: {message}", file=sys.stderr, flush=True)
