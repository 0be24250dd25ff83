"""Whole corpus builds beside Google's and NVIDIA's preprocessing for BERT, on the same text and in the same run.

    git clone https://github.com/google-research/bert google-bert
    git clone https://github.com/NVIDIA/LDDL lddl && python -m venv lddl-env
    lddl-env/bin/pip install 'dask[complete]==2023.5.0' distributed==2023.5.0 pandas==2.0.3 pyarrow==14.0.1 'numpy<2' \
        'transformers<4.40' nltk
    python benchmarks/build_peers.py --text 'novels/*.txt' \
        --google google-bert --lddl lddl --lddl-python lddl-env/bin/python

Neither is part of this project; a side whose checkout is not given is left out. What each is given and does:

- `build`: documents as .jsonl. It splits sentences, tokenises, writes shards, index, checksums and audit, drops
  duplicates. Pairs, masks and lengths are chosen in training, so one corpus serves all epochs and lengths.
- Google's create_pretraining_data.py, one process, with its defaults (128 tokens, 20 predictions, --dupe_factor 10) and
  with --dupe_factor 1: sentences are split for it beforehand, a sentence a line as it wants them. It runs without
  TensorFlow 1, which no current Python has: a stand-in module has flags and logging from absl as TensorFlow 1 does, and
  writes an example's integers as plain bytes where TensorFlow would serialise a tf.Example, which spares it work.
- NVIDIA's preprocess_bert_pretrain: --schedule local --local-n-workers 2 --sample-ratio 1.0, its defaults otherwise
  (128 tokens, --duplicate-factor 5), with and without --masking, a document a line. It asks for a Dask that does not
  run on Python 3.11; with 2023.5.0, texts are shuffled as that one did, and one name that Dask has dropped since
  (open_files, used for text output only) is given back. The model of NLTK's Punkt, a download otherwise, is trained
  beforehand on the text by NLTK's own trainer.

Every run is a command of its own, whose seconds and CPU seconds (all its processes, starting included) are taken; ours
run before, between and after the others, and their medians count. The ratios are our MB of text a CPU second and a
second over theirs. JSON goes to stdout, a table to stderr.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Stands in for TensorFlow 1 in create_pretraining_data.py.
TENSORFLOW = """
import array, glob, sys
from types import SimpleNamespace
from absl import app as _app, flags, logging

app = SimpleNamespace(run=lambda: _app.run(sys.modules["__main__"].main))
gfile = SimpleNamespace(GFile=lambda name, mode: open(name, mode, encoding="utf-8"), Glob=glob.glob)

class _Writer:
    def __init__(self, path):
        self._file = open(path, "wb")
    def write(self, record):
        self._file.write(len(record).to_bytes(8, "little") + record)
    def close(self):
        self._file.close()

class _Values:
    def __init__(self, value=()):
        self.value = value

class _Feature:
    def __init__(self, int64_list=_Values(), float_list=_Values()):
        self.int64_list, self.float_list = int64_list, float_list

class _Example:
    def __init__(self, features):
        self._features = features.feature
    def SerializeToString(self):
        return b"".join(
            array.array("f", f.float_list.value).tobytes() or array.array("q", f.int64_list.value).tobytes()
            for f in self._features.values()
        )

python_io = SimpleNamespace(TFRecordWriter=_Writer)
train = SimpleNamespace(
    Example=_Example, Features=SimpleNamespace, Feature=_Feature, Int64List=_Values, FloatList=_Values
)
"""
# The command of LDDL; at the end it waits for the workers, whose CPU time would be lost otherwise.
LDDL = """
import dask, dask.bytes, dask.distributed, fsspec
dask.config.set({"dataframe.shuffle.method": "tasks", "dataframe.shuffle.algorithm": "tasks"})
dask.bytes.open_files = fsspec.open_files
from lddl.dask.bert.pretrain import console_script

if __name__ == "__main__":
    console_script()
    dask.distributed.default_client().shutdown()
"""
PUNKT = """
import sys
from pathlib import Path
from nltk.tokenize import punkt

folder = Path(sys.argv[2]) / "tokenizers" / "punkt_tab" / "english"
folder.parent.mkdir(parents=True)
trainer = punkt.PunktTrainer(Path(sys.argv[1]).read_text(encoding="utf-8")[:2_000_000])
punkt.save_punkt_params(trainer.get_params(), str(folder))
"""


@dataclass(frozen=True)
class Side:
    """One command: a name, its words, what it is told by the environment, and the file or folder that it writes."""

    name: str
    processes: int
    words: Sequence[str | Path]
    environment: dict[str, str]
    output: Path
    ours: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", nargs="+", default=["python-docs"], help="as --input of bert-jax build")
    parser.add_argument("--megabytes", type=float, help="take no more of it")
    parser.add_argument("--tokenizer", help="a WordPiece directory; by default 30,522 lowercased, trained on the text")
    parser.add_argument("--google", type=Path, help="a checkout of google-research/bert")
    parser.add_argument("--lddl", type=Path, help="a checkout of NVIDIA/LDDL")
    parser.add_argument("--lddl-python", default=sys.executable, help="an interpreter with what LDDL needs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = prepare(folder, arguments.text, arguments.megabytes, arguments.tokenizer)
        result = prepared | {"runs": compare(folder, prepared["megabytes"], arguments)}
    print(json.dumps(result, indent=1))
    print(table(result["runs"]), file=sys.stderr)


def prepare(folder: Path, inputs: list[str], megabytes: float | None, tokenizer: str | None) -> dict[str, Any]:
    """Writes the same documents in the three forms, and the tokenizer, into `folder`."""
    from data_prep import segment, sources
    from data_prep.tokenizer import load_tokenizer
    from data_prep.vocab import train_vocab

    size = documents = 0
    (folder / "lddl" / "en").mkdir(parents=True)
    with (
        open(folder / "ours.jsonl", "w") as ours,
        open(folder / "google.txt", "w") as google,
        open(folder / "lddl" / "en" / "text.txt", "w") as lddl,
    ):
        items = (
            item
            for source in sources.expand(inputs)
            for unit in sources.units(source, 1 << 30)
            for item in sources.read(unit, "drop")
        )
        for item in items:
            if isinstance(item, sources.Dropped):
                continue
            ours.write(json.dumps({"text": item.text}, ensure_ascii=False) + "\n")
            google.write("\n".join(segment.sentences(item.text)) + "\n\n")
            lddl.write(f"document-{documents} " + item.text.replace("\n", " ") + "\n")
            documents += 1
            size += len(item.text.encode())
            if megabytes and size >= megabytes * 1e6:
                break
    if tokenizer:
        load_tokenizer(tokenizer).save(folder / "tokenizer")
    else:
        train_vocab([str(folder / "ours.jsonl")], folder / "tokenizer", "wordpiece", 30522, lowercase=True)
    return {"megabytes": size / 1e6, "documents": documents}


def compare(folder: Path, megabytes: float, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Figures of all sides, ours first."""
    mine = ours(folder)
    theirs = (google(folder, arguments.google) if arguments.google else []) + (
        lddl(folder, arguments.lddl, arguments.lddl_python) if arguments.lddl else []
    )
    taken: dict[str, list[dict[str, float]]] = {side.name: [] for side in (*mine, *theirs)}
    for side in [*mine, *(run for peer in theirs for run in (peer, *mine))]:
        taken[side.name].append(measured(side))
        print(f"{side.name}: {taken[side.name][-1]['seconds']:.1f} s", file=sys.stderr)
    runs: list[dict[str, Any]] = []
    for side in (*mine, *theirs):
        middle = {what: statistics.median(run[what] for run in taken[side.name]) for what in taken[side.name][0]}
        rates = {
            "megabytes_per_second": megabytes / middle["seconds"],
            "megabytes_per_cpu_second": megabytes / middle["cpu_seconds"],
        }
        runs.append({"name": side.name, "processes": side.processes, "ours": side.ours, **middle, **rates})
    for run in runs:
        # Of as many processes, so that the clock compares like with like.
        like = [other for other in runs if other["ours"] and other["processes"] == run["processes"]]
        for what in ("megabytes_per_second", "megabytes_per_cpu_second"):
            if not run["ours"]:
                run[f"ours_over_theirs_{what}"] = {o["name"]: round(o[what] / run[what], 1) for o in like}
    return runs


def ours(folder: Path) -> list[Side]:
    words: list[str | Path] = [sys.executable, "-m", "bert_jax", "build", "--input", folder / "ours.jsonl"]
    words += ["--tokenizer", folder / "tokenizer", "--output", folder / "corpus"]
    return [
        Side(
            f"build, {label}, {count}",
            count,
            [*words, "--encoder", encoder, "--workers", str(count)],
            {"PYTHONPATH": str(ROOT)},
            folder / "corpus",
            ours=True,
        )
        for encoder, label in (("tokenizers", "default install"), ("auto", "fast encoder"))
        for count in (1, 2)
    ]


def google(folder: Path, checkout: Path) -> list[Side]:
    (folder / "tensorflow.py").write_text(TENSORFLOW)
    words: list[str | Path] = [
        sys.executable,
        checkout / "create_pretraining_data.py",
        f"--input_file={folder / 'google.txt'}",
    ]
    words += [f"--output_file={folder / 'google.out'}", f"--vocab_file={folder / 'tokenizer' / 'vocab.txt'}"]
    environment = {"PYTHONPATH": str(folder)}
    return [
        Side(f"Google, dupe_factor {n}", 1, [*words, f"--dupe_factor={n}"], environment, folder / "google.out")
        for n in (1, 10)
    ]


def lddl(folder: Path, checkout: Path, python: str) -> list[Side]:
    (folder / "run_lddl.py").write_text(LDDL)
    (folder / "punkt.py").write_text(PUNKT)
    text = folder / "lddl" / "en" / "text.txt"
    subprocess.run([python, folder / "punkt.py", text, folder / "nltk"], check=True, stderr=subprocess.DEVNULL)
    words: list[str | Path] = [
        python,
        folder / "run_lddl.py",
        "--schedule",
        "local",
        "--local-n-workers",
        "2",
        "--sample-ratio",
        "1.0",
    ]
    words += ["--wikipedia", folder / "lddl", "--sink", folder / "lddl.out", "--num-blocks", "8"]
    words += ["--vocab-file", folder / "tokenizer" / "vocab.txt"]
    environment = {"PYTHONPATH": str(checkout), "NLTK_DATA": str(folder / "nltk"), "PYTHONWARNINGS": "ignore"}
    return [
        Side(f"LDDL, {label}", 2, [*words, *more], environment, folder / "lddl.out")
        for label, more in (("masks left to training", []), ("--masking", ["--masking"]))
    ]


def measured(side: Side) -> dict[str, float]:
    """One run from an empty output: seconds, CPU seconds of all its processes, and the memory of the largest one."""
    started = time.perf_counter()
    with open(side.output.parent / "log.txt", "w") as log:
        command = [str(word) for word in side.words]
        process = subprocess.Popen(command, env=os.environ | side.environment, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not side.output.exists():
        raise SystemExit(f"{side.name} failed:\n{(side.output.parent / 'log.txt').read_text()[-2000:]}")
    if side.output.is_dir():
        shutil.rmtree(side.output)
    else:
        side.output.unlink()
    return {"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_megabytes": used.ru_maxrss / 1024}


def table(runs: list[dict[str, Any]]) -> str:
    """The figures as Markdown; of the two builds the ratio of the default install, then that of the fast encoder."""
    lines = ["| | processes | MB/s | MB a CPU second | our MB a CPU second over theirs | largest process, MB |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for run in runs:
        ratio = " / ".join(
            f"{value:.0f}" for value in run.get("ours_over_theirs_megabytes_per_cpu_second", {}).values()
        )
        lines.append(
            f"| {run['name']} | {run['processes']} | {run['megabytes_per_second']:.2f} "
            f"| {run['megabytes_per_cpu_second']:.2f} | {ratio} | {run['peak_megabytes']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
