"""What training reads cost as a corpus grows: planning a block, and records a second at random.

    python benchmarks/corpus_reads.py --documents 1000000 10000000 100000000 --folder /mnt/scratch

Simulates corpora of these sizes: a few real shards of 10,000 documents with their indices, under the names of as many
shards as the size takes (hard links), and the array of kept records in full. So a plan opens, maps and reads as many
files as it would, but finds more of them in the page cache; `--cold` drops the cache of each file before it is read.
A block is that of the default recipe (2**20 tokens). Planning may cost more until every record of a block is in
another shard, and must not get slower with the corpus from there on. `_cpu_` is this process's own time: what counts on
a machine that is busy with other things.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from bert_jax.config import DataConfig
from bert_jax.data.plan import RowSettings, plan_block
from data_prep import corpus_files
from data_prep.corpus_split import Split
from data_prep.files import write_integers
from data_prep.shard_writer import ShardWriter

VOCAB_SIZE = 30_000
SHARD_DOCUMENTS = 10_000
BLOCKS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[1_000_000, 10_000_000, 100_000_000])
    parser.add_argument("--distinct", type=int, default=8, help="real shards")
    parser.add_argument("--cold", action="store_true", help="drop the page cache of the files before each block")
    parser.add_argument("--folder", help="where to work; the system's temporary folder unless given")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.documents[0], arguments.distinct, arguments.cold)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        write_shards(Path(name), arguments.distinct)
        for documents in arguments.documents:
            folder = simulate(Path(name), documents, arguments.distinct)
            command = [sys.executable, __file__, "--measure", str(folder), "--documents", str(documents)]
            command += ["--distinct", str(arguments.distinct), *(["--cold"] if arguments.cold else [])]
            print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip(), flush=True)
            shutil.rmtree(folder)


def write_shards(folder: Path, distinct: int) -> None:
    """Documents of 1 to 40 sentences of 5 to 40 tokens."""
    draw = np.random.default_rng(0)
    for number in range(distinct):
        writer = ShardWriter(folder, f"shard{number}", VOCAB_SIZE)
        for document in range(SHARD_DOCUMENTS):
            lengths = draw.integers(5, 40, draw.integers(1, 40)).astype(np.int32)
            tokens = draw.integers(5, VOCAB_SIZE, lengths.sum()).astype(np.uint16)
            starts = draw.random(len(tokens)) < 0.7
            starts[np.cumsum(lengths) - lengths] = True
            writer.add(f"{number}-{document}", (number << 32) + document, document, True, lengths, tokens, starts)
        writer.finish()


def simulate(folder: Path, documents: int, distinct: int) -> Path:
    """A corpus of so many documents, by links."""
    out, count = folder / str(documents), documents // SHARD_DOCUMENTS
    (out / "index").mkdir(parents=True)
    for shard in range(count):
        origin = folder / f"shard{shard % distinct}-0"
        os.link(origin.with_suffix(".array_record"), out / corpus_files.shard_name("train", shard, count))
        os.link(origin.with_suffix(".safetensors"), out / corpus_files.index_name("train", shard, count))
    numbers = (np.arange(i, min(i + (1 << 20), documents)) for i in range(0, documents, 1 << 20))
    write_integers(out / corpus_files.kept_name("train"), documents, numbers)
    return out


def measure(folder: Path, documents: int, distinct: int, cold: bool) -> dict[str, float | int]:
    """Blocks planned and read in a process of its own."""
    count = documents // SHARD_DOCUMENTS
    tokens = documents * 440
    entry: dict[str, Any] = {"shards": [{"records": SHARD_DOCUMENTS}] * count}
    entry |= {f"kept_{what}": value for what, value in (("records", documents), ("documents", documents))}
    manifest = {"splits": {"train": entry | {"kept_tokens": tokens}}, "tokenizer": {"vocab_size": VOCAB_SIZE}}
    started = time.perf_counter()
    split = Split(folder, manifest, "train")
    opened = time.perf_counter() - started
    settings = RowSettings.of(DataConfig(corpus="simulated"), 128)
    plans, reads, sizes = [], [], []
    for block in range(BLOCKS):
        if cold:
            drop_cache(folder, count, distinct)
        began = clocks()
        plan = plan_block(split, settings, 0, 0, block * 7)
        planned = clocks()
        split.read(plan.records)
        plans.append(planned - began)
        reads.append(len(plan.records) / (clocks() - planned))
        sizes.append(len(plan.records))
    plan_wall, plan_cpu = 1e3 * np.median(plans[1:], axis=0)
    reads_wall, reads_cpu = np.median(reads[1:], axis=0)
    return {
        "documents": documents,
        "shards": count,
        "open_ms": round(opened * 1e3, 1),
        "first_plan_ms": round(plans[0][0] * 1e3, 1),
        "plan_ms": round(plan_wall, 1),
        "plan_cpu_ms": round(plan_cpu, 1),
        "records_a_block": round(statistics.mean(sizes)),
        "records_a_second": round(reads_wall),
        "records_a_cpu_second": round(reads_cpu),
        "megabytes_most": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def clocks() -> np.ndarray:
    """Seconds on the wall, and of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def drop_cache(folder: Path, count: int, distinct: int) -> None:
    for shard in range(min(count, distinct)):
        for name in (corpus_files.shard_name("train", shard, count), corpus_files.index_name("train", shard, count)):
            with open(folder / name, "rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
