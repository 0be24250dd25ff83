"""How long `bert-jax build` takes against the bare Hugging Face tokenizer on the same text.

    python benchmarks/build.py [--input 'texts/*.txt'] [--tokenizer DIR]

Both sides use the same number of cores: the build with that many processes (reading, cleaning, splitting into
sentences, tokenising, writing, merging, checksums), the library's encode_batch with that many threads on paragraphs
that are in memory already. They run in turn, each in a process of its own, and the fastest of each is taken. A ratio
below 1 says that the whole build is faster.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", nargs="+", default=["python-docs"], help="as for bert-jax build")
    parser.add_argument("--tokenizer", help="a tokenizer directory; by default WordPiece, 8k, trained on the input")
    parser.add_argument("--workers", type=int, default=2, help="processes of the build, threads of the library")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=["build", "library"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        seconds = {"build": build, "library": library}[arguments.side](arguments.folder, arguments.workers)
        print(json.dumps(seconds))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(compare(Path(folder), arguments), indent=1))


def compare(folder: Path, arguments: argparse.Namespace) -> dict[str, float | int | list[float]]:
    """Seconds of both sides, MB of text a second, and the ratio."""
    size = prepare(folder, arguments.input, arguments.tokenizer)
    seconds: dict[str, list[float]] = {"build": [], "library": []}
    for _ in range(arguments.repeats):
        for side, taken in seconds.items():
            environment = os.environ | {"RAYON_NUM_THREADS": str(arguments.workers), "TOKENIZERS_PARALLELISM": "true"}
            command = [
                sys.executable,
                __file__,
                "--side",
                side,
                "--folder",
                folder,
                "--workers",
                str(arguments.workers),
            ]
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            taken.append(json.loads(done.stdout))
            print(f"{side}: {taken[-1]:.2f} s", file=sys.stderr)
    ours, theirs = min(seconds["build"]), min(seconds["library"])
    return {
        "megabytes": size / 1e6,
        "cores": arguments.workers,
        "build_seconds": seconds["build"],
        "library_seconds": seconds["library"],
        "build_megabytes_per_second": size / ours / 1e6,
        "library_megabytes_per_second": size / theirs / 1e6,
        "ratio": ours / theirs,
    }


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


def build(folder: Path, workers: int) -> float:
    """Seconds of a whole build, worker processes started included."""
    from data_prep.build import build_corpus

    with tempfile.TemporaryDirectory(dir=folder) as output:
        start = time.perf_counter()
        build_corpus([str(folder / "text.jsonl")], folder / "tokenizer", Path(output) / "corpus", workers=workers)
        return time.perf_counter() - start


def library(folder: Path, workers: int) -> float:
    """Seconds of encode_batch alone; how many threads it has is set by RAYON_NUM_THREADS."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    with open(folder / "text.jsonl") as stream:
        paragraphs = [paragraph for line in stream for paragraph in json.loads(line)["text"].split("\n")]
    start = time.perf_counter()
    for begin in range(0, len(paragraphs), 10_000):
        tokenizer.encode_batch(paragraphs[begin : begin + 10_000], add_special_tokens=False)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
