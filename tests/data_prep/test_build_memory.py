"""Memory of a build does not grow with a unit, which may be a whole packed file: peaks of Python's own allocations."""

import gzip
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from small_corpora import make_tokenizer

from data_prep import byte_streams, document_facts, hash_groups, kept_facts, shard_writer, shards, sources
from data_prep.build_settings import Settings
from data_prep.document_facts import FactsWriter
from data_prep.kept_facts import KeptFacts
from data_prep.tokenizer import load_tokenizer

# What is held in pieces is held in smaller ones, so that a small unit has many of them.
LIMITS = [
    (byte_streams, "BLOCK", 1 << 12),
    (document_facts, "_LINES_AT_ONCE", 1 << 8),
    (hash_groups, "_FAN_OUT_BITS", 3),
    (kept_facts, "_LINES_AT_ONCE", 1 << 8),
    (kept_facts, "_SCRIPTS_AT_ONCE", 1 << 8),
    (shard_writer, "_SHARD_RECORDS", 300),
    (shard_writer, "_COUNTED_AT_ONCE", 1 << 10),
    (shards, "_BATCH_CHARACTERS", 1 << 12),
]


@pytest.fixture
def small_pieces(monkeypatch):
    for module, name, value in LIMITS:
        monkeypatch.setattr(module, name, value)


def peak(work, *arguments) -> int:
    """The most bytes that Python allocated while it worked."""
    tracemalloc.start()
    try:
        work(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_unit_of_short_documents(tmp_path, small_pieces, kind):
    tokenizer = load_tokenizer(make_tokenizer(tmp_path / "tokenizer"))
    peaks = []
    for number, documents in enumerate([500, 1000, 10_000]):
        file = tmp_path / f"{number}.{kind}.gz"
        texts = [f"bird {i % 1000}" for i in range(documents)]
        lines = [json.dumps({"text": text}) for text in texts] if kind == "jsonl" else [f"{text}\n" for text in texts]
        file.write_bytes(gzip.compress("\n".join(lines).encode()))
        (source,) = sources.expand([str(file)])
        units = sources.units(source, 1 << 30)
        settings = Settings(validation_share=0.05)
        peaks.append(peak(shards.build_unit, number, units, settings, tokenizer, tmp_path / "units"))
    # The first one fills the caches.
    assert peaks[2] < 1.15 * peaks[1]


def facts(folder: Path, documents: int) -> None:
    folder.mkdir(parents=True)
    writer = FactsWriter(folder)
    for begin in range(0, documents, 100):
        writer.add([f"line {i}\nмышь {i % 7}" for i in range(begin, begin + 100)])
    writer.finish()


def test_facts_of_a_unit_as_they_are_written(tmp_path, small_pieces):
    facts(tmp_path / "first", 100)
    assert peak(facts, tmp_path / "long", 10_000) < 1.15 * peak(facts, tmp_path / "short", 1_000)


def audit(folder: Path, documents: int) -> None:
    found = KeptFacts([folder], np.array([documents]), folder)
    for begin in range(0, documents, 500):
        numbers = np.arange(begin, begin + 500)
        found.keep(numbers)
        found.main_scripts(numbers)
    found.script_shares()
    found.duplicated_lines()


def test_facts_of_a_unit_as_they_are_read(tmp_path, small_pieces, monkeypatch):
    read = kept_facts.first_entries
    monkeypatch.setattr(kept_facts, "first_entries", lambda *found: read(*found, at_once=1 << 6))
    facts(tmp_path / "short", 1_000)
    facts(tmp_path / "long", 10_000)
    audit(tmp_path / "short", 1_000)
    assert peak(audit, tmp_path / "long", 10_000) < 1.15 * peak(audit, tmp_path / "short", 1_000)


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_facts_of_a_unit_are_read_once(tmp_path):
    facts(tmp_path / "unit", 10_000)
    before = bytes_read()
    audit(tmp_path / "unit", 10_000)
    stored = sum(file.stat().st_size for file in (tmp_path / "unit").iterdir())
    assert bytes_read() - before < 2 * stored


def test_batches_of_short_documents(tmp_path):
    file = tmp_path / "short.txt"
    file.write_text("a\n\n" * 30_000)
    (source,) = sources.expand([str(file)])
    (unit,) = sources.units(source, 1 << 30)
    sizes = [len(batch) for batch in shards._batches(unit, "fail", {})]
    assert sum(sizes) == 30_000
    assert max(sizes) <= 1 << 13
