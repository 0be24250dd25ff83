"""How long `bert-jax build` takes against the bare Hugging Face tokenizer on the same text.

    python benchmarks/build.py [--input 'texts/*.txt'] [--tokenizer DIR] [--workers 1 2]

The library encodes paragraphs that are in memory already (encode_batch, as many threads as the last of --workers). The
build does everything: reading, cleaning, splitting into sentences, tokenising, writing, merging, checksums; with the
tokenizers library alone, and with the fast encoder where it is installed (`pip install bert-jax[fast]`). All run in
turn, each in a process of its own. Of each the fastest run counts; `ratio` is its time over the library's, `cpu_ratio`
the same of CPU time, which other programs on the machine disturb less. Below 1 the whole build is faster.

`speed_up` is of several processes over the first of --workers. What the machine itself gives, whose cores may share
caches, memory and more, is told by as many builds of one process each at once, which have nothing to do with each
other: `speed_up_of_separate_builds`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", nargs="+", default=["python-docs"], help="as for bert-jax build")
    parser.add_argument("--tokenizer", help="a tokenizer directory; by default WordPiece, 8k, trained on the input")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="processes of the builds")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=["library", "tokenizers", "auto"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        (workers,) = arguments.workers
        run = library if arguments.side == "library" else build
        print(json.dumps(run(arguments.folder, arguments.side, workers)))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(Path(folder), arguments), indent=1))


def compare(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds, MB of text a second (1e6 bytes of UTF-8) and ratios of all sides."""
    size = prepare(folder, arguments.input, arguments.tokenizer)
    threads = arguments.workers[-1]
    runs = [("library", threads), *((side, n) for side in ("tokenizers", "auto") for n in arguments.workers)]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {run: [] for run in runs}
    separate: dict[str, list[float]] = {"tokenizers": [], "auto": []} if threads > 1 and 1 in arguments.workers else {}
    for _ in range(arguments.repeats):
        for side, workers in runs:
            found[side, workers].append(in_process(folder, side, workers))
            print(f"{side}, {workers}: {found[side, workers][-1]['seconds']:.2f} s", file=sys.stderr)
        for side, taken in separate.items():
            with ThreadPoolExecutor(threads) as pool:
                at_once = list(pool.map(lambda _, side=side: in_process(folder, side, 1), range(threads)))
            taken.append(max(run["seconds"] for run in at_once))
            print(f"{side}, {threads} separate builds: {taken[-1]:.2f} s", file=sys.stderr)
    best = {run: {**taken[0], **fastest(taken)} for run, taken in found.items()}
    theirs = best["library", threads]
    builds = []
    for (side, workers), ours in list(best.items())[1:]:
        if side == "auto" and ours["encoder"].startswith("tokenizers"):
            print("the fast encoder is not installed, or not taken for this tokenizer", file=sys.stderr)
            continue
        entry = {**ours, "workers": workers, "megabytes_per_second": size / ours["seconds"] / 1e6}
        entry["megabytes_per_cpu_second"] = size / ours["cpu_seconds"] / 1e6
        entry["ratio"] = ours["seconds"] / theirs["seconds"]
        entry["cpu_ratio"] = ours["cpu_seconds"] / theirs["cpu_seconds"]
        first = best[side, arguments.workers[0]]
        entry["speed_up"] = first["seconds"] / ours["seconds"]
        if workers == threads and side in separate:
            entry["speed_up_of_separate_builds"] = threads * best[side, 1]["seconds"] / min(separate[side])
        builds.append(entry)
    rates = {"megabytes_per_second": size / theirs["seconds"] / 1e6, "threads": threads}
    return {"megabytes": size / 1e6, "library": {**theirs, **rates}, "builds": builds}


def fastest(taken: list[dict[str, Any]]) -> dict[str, float]:
    return {name: min(run[name] for run in taken) for name in ("seconds", "cpu_seconds")}


def in_process(folder: Path, side: str, workers: int) -> dict[str, Any]:
    """One run; `cpu_seconds` are those of its process and of all that it started."""
    environment = os.environ | {"RAYON_NUM_THREADS": str(workers), "TOKENIZERS_PARALLELISM": "true"}
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder), "--workers", str(workers)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def prepare(folder: Path, inputs: list[str], tokenizer_dir: str | None) -> int:
    """Writes the documents as one .jsonl and the tokenizer into `folder`; returns the bytes of text."""
    from data_prep import sources
    from data_prep.tokenizer import load_tokenizer
    from data_prep.vocab import train_vocab

    size = 0
    with open(folder / "text.jsonl", "w") as stream:
        for source in sources.expand(inputs):
            for unit in sources.units(source, 1 << 30):
                for item in sources.read(unit, "drop"):
                    if isinstance(item, sources.Document):
                        stream.write(json.dumps({"id": item.id, "text": item.text}, ensure_ascii=False) + "\n")
                        size += len(item.text.encode())
    if tokenizer_dir:
        load_tokenizer(tokenizer_dir).save(folder / "tokenizer")
    else:
        train_vocab([str(folder / "text.jsonl")], folder / "tokenizer", size=8000, max_sample_bytes=8 << 20)
    return size


def build(folder: Path, encoder: str, workers: int) -> dict[str, Any]:
    """A whole build, worker processes started included; and how large the corpus is."""
    from data_prep.build import build_corpus

    with tempfile.TemporaryDirectory(dir=folder) as output:
        path = Path(output) / "corpus"
        start, used = time.perf_counter(), cpu_seconds()
        manifest = build_corpus(
            [str(folder / "text.jsonl")], folder / "tokenizer", path, workers=workers, encoder=encoder
        )
        assert manifest is not None  # only a part that waits for others has none
        seconds, used = time.perf_counter() - start, cpu_seconds() - used
        report = json.loads(path.with_name("corpus.report.json").read_bytes())
        stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        tokens = sum(entry["tokens"] for entry in manifest["splits"]["train"]["shards"])
        tokens += sum(entry["tokens"] for entry in manifest["splits"]["validation"]["shards"])
    return {
        "encoder": report["encoder"],
        "seconds": seconds,
        "cpu_seconds": used,
        "tokens": tokens,
        "corpus_bytes_per_token": stored / tokens,
    }


def library(folder: Path, _: str, threads: int) -> dict[str, Any]:
    """encode_batch alone; how many threads it has is set by RAYON_NUM_THREADS."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    with open(folder / "text.jsonl") as stream:
        paragraphs = [paragraph for line in stream for paragraph in json.loads(line)["text"].split("\n")]
    start, used = time.perf_counter(), cpu_seconds()
    for begin in range(0, len(paragraphs), 10_000):
        tokenizer.encode_batch(paragraphs[begin : begin + 10_000], add_special_tokens=False)
    seconds, used = time.perf_counter() - start, cpu_seconds() - used
    return {"encoder": f"tokenizers {tokenizers.__version__}", "seconds": seconds, "cpu_seconds": used}


if __name__ == "__main__":
    main()
