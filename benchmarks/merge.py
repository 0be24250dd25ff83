"""How long the merge of a build takes with many shards, and what it holds; 100,000 shards stand for 1.5 TB of text.

    python benchmarks/merge.py --shards 100000 --folder /mnt/scratch

Simulates what the units of a build leave: one unit is built from text, and every other has the same records under other
document numbers and text hashes, a share of them duplicates, with an index of its own and hard links to the rest.
Prints seconds, peak memory, and files open at once of the merge alone, which runs in a process of its own.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from data_prep import index, merge, shards, sources, unit_folder
from data_prep.build_settings import Settings
from data_prep.files import write_file
from data_prep.tokenizer import load_tokenizer
from data_prep.vocab import train_vocab

# As many copies of a file are linked before the next one is made: file systems limit the links to one.
_LINKS = 30_000
WORDS = [
    "the",
    "a",
    "of",
    "and",
    "to",
    "in",
    "house",
    "river",
    "stone",
    "bird",
    "walk",
    "old",
    "green",
    "over",
    "under",
    "between",
    "many",
    "people",
    "write",
    "read",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--documents", type=int, default=100, help="a shard")
    parser.add_argument("--duplicates", type=float, default=0.01, help="share of the documents")
    parser.add_argument("--vocab-size", type=int, default=500)
    parser.add_argument("--folder", help="where to work; the system's temporary folder unless given")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.shards)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        started = time.monotonic()
        simulate(folder, arguments)
        simulated = time.monotonic() - started
        command = [sys.executable, __file__, "--measure", name, "--shards", str(arguments.shards)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        print(json.dumps({"simulated_seconds": round(simulated, 1)} | json.loads(done.stdout), indent=1))


def simulate(folder: Path, arguments: argparse.Namespace) -> None:
    """Unit folders as the workers of a build leave them."""
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, 60)) + f" {i}." for i in range(arguments.documents)]
    raw = folder / "in.jsonl"
    raw.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    train_vocab([str(raw)], folder / "tokenizer", "wordpiece", arguments.vocab_size)
    tokenizer = load_tokenizer(folder / "tokenizer")
    (source,) = sources.expand([str(raw)])
    (unit,) = sources.units(source, 1 << 30)
    settings = Settings(validation_share=0.0)
    shards.build_unit(0, (unit,), settings, tokenizer, folder / "first")
    first = unit_folder.unit_dir(folder / "first", 0)
    summary = json.loads((first / unit_folder.UNIT_JSON).read_bytes())
    columns = {name: np.array(values) for name, values in index.open_columns(first / "train-0.safetensors").items()}
    linked = [file for file in first.iterdir() if file.name not in (unit_folder.UNIT_JSON, "train-0.safetensors")]
    columns["document"] -= columns["document"][0]
    repeated = draw.integers(0, 1 << 63, 1000, dtype=np.uint64)
    for number in range(arguments.shards):
        target = unit_folder.unit_dir(folder / "work" / "units", number)
        target.mkdir(parents=True)
        for file in linked:
            copy = folder / f"{number // _LINKS}-{file.name}"
            if not copy.exists():
                shutil.copy(file, copy)
            os.link(copy, target / file.name)
        hashes = draw.integers(0, 1 << 63, len(columns["document"]), dtype=np.uint64)
        copies = draw.random(len(hashes)) < arguments.duplicates
        hashes[copies] = draw.choice(repeated, np.count_nonzero(copies))
        changed = {"document": columns["document"] + (number << 32), "text_hash": hashes}
        entry = summary["shards"]["train"][0]
        entry["index"] = write_file(target / "train-0.safetensors", index.pack(columns | changed))
        summary["samples"] = [
            [int(draw.integers(1 << 62)), number, number << 32, text] for *_, text in summary["samples"]
        ]
        (target / unit_folder.UNIT_JSON).write_text(json.dumps(summary, sort_keys=True))


def measure(folder: Path, units: int) -> dict[str, float]:
    """One merge: seconds, what it is of, and the most that it held."""
    tokenizer = load_tokenizer(folder / "tokenizer")
    settings = Settings(validation_share=0.0).describe()
    identity = {
        "format_version": 1,
        "settings": settings,
        "sources": [],
        "tokenizer": {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size},
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    most_open = [0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            most_open[0] = max(most_open[0], len(os.listdir("/proc/self/fd")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, cpu = time.monotonic(), time.process_time()
    manifest = merge.merge(folder, folder / "work" / "units", units, identity, tokenizer)
    seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    ended.set()
    watcher.join()
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "shards": units,
        "documents": manifest["audit"]["documents_in"],
        "duplicates": manifest["audit"]["dropped"].get("duplicate", 0),
        "megabytes_before": round(before / 1024, 1),
        "megabytes_most": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "files_open_at_once": most_open[0],
        "manifest_megabytes": round((folder / "manifest.json").stat().st_size / 1e6, 1),
    }


if __name__ == "__main__":
    main()
