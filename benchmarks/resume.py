"""Time from the command to the first step of a resumed run: early in a run, and after a million steps.

    python benchmarks/resume.py

A small run is stopped after ten steps. A copy of it is made to look as if it had done a million: the checkpoint's step,
a position that many rows further in the corpus, and metrics of a million steps. Both are started again a few times, by
turns; the figure of each is the median, and the one to quote is their ratio. Neither replays anything: both cost one
start of the program, one block's plan and a program from the compile cache.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["JAX_PLATFORMS"] = "cpu"

import training_runs as runs

from bert_jax import checkpoint, checksums
from bert_jax.data.plan import RowSettings, plan_block
from bert_jax.evaluate import open_corpora
from bert_jax.metrics import cut_lines, read_lines

MILLION = 1_000_000
OVERRIDES = ("--config.train.num_steps=2000000", "--config.train.eval_every=0", "--config.train.checkpoint_every=10")


def first_step(recipe: Path, workdir: Path, step: int) -> float:
    """Seconds until a step is in metrics.jsonl; the run is killed then, and left as it was."""
    shutil.copytree(workdir, copy := workdir.with_name("copy"))
    size = (copy / "metrics.jsonl").stat().st_size
    began = time.monotonic()
    process = runs.start(recipe, copy, *OVERRIDES)
    with (copy / "metrics.jsonl").open("rb") as file:
        while process.poll() is None:
            file.seek(size)  # nothing is cut: the run was stopped where it resumes
            if f'"step": {step},'.encode() in file.read():
                break
            time.sleep(0.005)
    seconds = time.monotonic() - began
    process.kill()
    process.communicate()
    shutil.rmtree(copy)
    return seconds


def forward(run: Path, later: Path) -> None:
    """A copy of a run that looks as if it had done a million steps."""
    shutil.copytree(run, later)
    config = checkpoint.read_config(run)
    saved = later / "checkpoints" / str(MILLION)
    (later / "checkpoints" / "10").rename(saved)
    path = saved / "loader" / "metadata"
    ledger = json.loads(path.read_text())
    split = open_corpora(config)[0].split("train")
    settings = RowSettings.of(config.data, config.data.seq_len)
    blocks = max(1, round(split.kept_tokens / settings.block_tokens))
    rows = [plan_block(split, settings, 0, 0, block).num_rows for block in range(min(blocks, 8))]
    epoch, row = divmod(MILLION * config.train.global_batch_size, round(statistics.mean(rows) * blocks))
    block = min(blocks - 1, row // round(statistics.mean(rows)))
    ledger["position"]["corpora"] = [{"epoch": epoch, "block": block, "row": min(rows) // 2}]
    path.write_text(json.dumps(ledger))
    checksums.write(saved)
    line = read_lines(run / "metrics.jsonl")[0]
    with (later / "metrics.jsonl").open("w") as file:
        for step in range(0, MILLION, 10):
            file.write(json.dumps(line | {"step": step}) + "\n")


def main() -> None:
    """Prints both medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--documents", type=int, default=20_000, help="of the corpus")
    flags = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="resume."))
    try:
        recipe = runs.make_recipe(folder, runs.make_corpus(folder, flags.documents))
        process = runs.start(recipe, folder / "run", *OVERRIDES)
        while 10 not in checkpoint.saved_steps(folder / "run"):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for step in checkpoint.saved_steps(folder / "run"):
            if step > 10:
                shutil.rmtree(folder / "run" / "checkpoints" / str(step))
        cut_lines(folder / "run" / "metrics.jsonl", 10)  # what was logged before the kill came
        forward(folder / "run", folder / "later")
        seconds: dict[int, list[float]] = {10: [], MILLION: []}
        for _ in range(flags.rounds):
            for step, name in ((10, "run"), (MILLION, "later")):
                seconds[step].append(first_step(recipe, folder / name, step))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for step, times in seconds.items():
        print(f"first step after resuming at {step:>9,}: {statistics.median(times):.2f} s (least {min(times):.2f} s)")
    print(f"ratio of the medians: {statistics.median(seconds[MILLION]) / statistics.median(seconds[10]):.2f}")


if __name__ == "__main__":
    main()
