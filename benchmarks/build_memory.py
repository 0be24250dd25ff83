"""The peak memory of every process of a build as its input grows: it must stay flat.

    python benchmarks/build_memory.py --megabytes 10 30 100 300 1000 --folder /mnt/scratch
    python benchmarks/build_memory.py --megabytes 30 200 --packed --workers 1
    python benchmarks/build_memory.py --megabytes 4 40 --short --packed --workers 1

The input is the documents of `python-docs` (or of --input) again and again, each time with a number in every document,
so that none is a duplicate; with --short, documents of one line of 11 bytes. With --packed it is one .gz, which is one
unit whatever its size, and with --workers 1 the one process does everything. Prints a line of JSON for each size: the
peak resident megabytes, as Linux counts them (VmHWM: private, shared and mapped files), of the process that shares the
work and merges, and of each worker.
"""

import argparse
import gzip
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep import documents, sources
from data_prep.vocab import train_vocab

BUILD = """
import sys
sys.path.insert(0, {root!r})
from data_prep.build import build_corpus
if __name__ == "__main__":
    build_corpus([sys.argv[1]], sys.argv[2], sys.argv[3], workers=int(sys.argv[4]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[10, 30, 100, 300])
    parser.add_argument("--input", nargs="+", default=["python-docs"])
    parser.add_argument("--packed", action="store_true", help="one .gz; megabytes are those of the text in it")
    parser.add_argument("--short", action="store_true", help="documents of one short line, not of --input")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", help="where to work; the system's temporary folder unless given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        file = folder / ("in.txt" if arguments.short else "in.jsonl")
        if arguments.packed:
            file = file.with_name(f"{file.name}.gz")
        texts = [] if arguments.short else list(read(arguments.input))
        for megabytes in arguments.megabytes:
            lines = short_documents() if arguments.short else numbered(texts)
            size = write(file, lines, megabytes * 1_000_000)
            if not (folder / "tokenizer").exists():
                train_vocab([str(file)], folder / "tokenizer", "wordpiece", 8000, lowercase=True)
            print(json.dumps(build(folder, file, size, arguments.workers)), flush=True)


def read(inputs: list[str]) -> Iterator[str]:
    for source in sources.expand(inputs):
        for unit in sources.units(source, 1 << 30):
            for item in sources.read(unit, "drop"):
                if isinstance(item, documents.Document):
                    yield item.text


def numbered(texts: list[str]) -> Iterator[bytes]:
    """Documents without end as lines of .jsonl, none like another."""
    for turn in itertools.count():
        for text in texts:
            yield json.dumps({"text": f"{text}\nThis is copy {turn}."}).encode() + b"\n"


def short_documents() -> Iterator[bytes]:
    """Documents of one line each without end, none like another, as .txt."""
    for number in itertools.count():
        yield b"no %08d\n\n" % number


def write(file: Path, lines: Iterator[bytes], size: int) -> int:
    """Writes lines until there are `size` bytes, before they are packed; returns how many there are."""
    written = 0
    with gzip.open(file, "wb", 1) if file.suffix == ".gz" else open(file, "wb") as stream:
        while written < size:
            written += stream.write(next(lines))
    return written


def build(folder: Path, file: Path, size: int, workers: int) -> dict[str, object]:
    """One build, watched."""
    script = folder / "build.py"
    script.write_text(BUILD.format(root=str(Path(__file__).resolve().parents[1])))
    output = folder / f"out{size}"
    command = [sys.executable, script, file, folder / "tokenizer", output, str(workers)]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_before = used.ru_utime + used.ru_stime
    started = time.monotonic()
    process = subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL)
    peaks: dict[int, float] = {}
    while process.poll() is None:
        for number in {process.pid, *children(process.pid)}:
            peaks[number] = max(peaks.get(number, 0.0), peak(number))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"the build failed with {process.returncode}")
    seconds = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = used.ru_utime + used.ru_stime - cpu_before
    manifest = json.loads((output / "manifest.json").read_bytes())
    stored = {"shards": ".array_record-", "index": "index/"}
    tokens = manifest["audit"]["tokens"]
    parent = peaks.pop(process.pid)
    return {
        "input_megabytes": round(size / 1e6),
        "documents": manifest["audit"]["documents_kept"],
        "parent": parent,
        # Less the tracker of multiprocessing's resources, which holds nothing.
        "workers": sorted((value for value in peaks.values() if value > 60), reverse=True),
        "megabytes_a_second": round(size / 1e6 / seconds, 2),
        # What a core does that has nothing else to do, however busy this machine is.
        "megabytes_a_cpu_second": round(size / 1e6 / cpu_seconds, 2),
        "bytes_a_token": {"input": round(size / tokens, 3)}
        | {
            what: round(sum(f["bytes"] for name, f in manifest["files"].items() if part in name) / tokens, 3)
            for what, part in stored.items()
        },
    }


def children(parent: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except OSError:
        return []


def peak(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return next((round(int(line.split()[1]) / 1024, 1) for line in lines if line.startswith("VmHWM")), 0.0)
    except OSError:
        return 0.0


if __name__ == "__main__":
    main()
