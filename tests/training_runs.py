"""Runs of the real command in processes of their own, on a tiny corpus, and what to compare of them."""

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import small_corpora

from bert_jax import checkpoint
from bert_jax.metrics import read_lines
from data_prep.build import build_corpus

ROOT = Path(__file__).resolve().parents[1]
TIMES = ("tokens_per_second", "step_seconds", "mfu")
RECIPE = """
from bert_jax.config import default_config

def get_config():
    config = default_config()
    config.model.update(hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64, max_position_embeddings=64,
                        dtype="float32")
    config.data.update(corpus="{corpus}", seq_len=32, block_tokens=4000)
    config.train.update(num_steps=24, global_batch_size=8, accumulation=2, log_every=1, eval_every=9,
                        checkpoint_every=5)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=5)
    return config
"""

# Everything at once: two corpora, two phases, dropout (the default), accumulation, evaluations.
FULL_RECIPE = """
from bert_jax.config import default_config

def get_config():
    config = default_config()
    config.model.update(hidden_size=16, num_layers=1, num_heads=4, intermediate_size=32, max_position_embeddings=64,
                        dtype="float32")
    config.data.update(corpus=[dict(path="{one}", weight=3.0), dict(path="{two}", weight=1.0)], block_tokens=1024)
    config.train.update(accumulation=2, log_every=1, eval_every=7, checkpoint_every=3)
    config.train.phases = [dict(num_steps=16, seq_len=32, global_batch_size=24),
                           dict(num_steps=8, seq_len=64, global_batch_size=24)]
    config.optimizer.update(learning_rate=1e-3, warmup_steps=5)
    return config
"""
FAULTY = ROOT / "tests" / "faulty_program.py"


def make_corpus(directory: Path, documents: int = 400, seed: int = 0) -> Path:
    """A corpus of some thousand tokens in several blocks."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = small_corpora.make_tokenizer(directory / "tokenizer")
    text = small_corpora.write_jsonl(directory / "text.jsonl", small_corpora.many_texts(documents, seed))
    build_corpus([str(text)], tokenizer, directory / "corpus", workers=1, validation_share=0.1)
    return directory / "corpus"


def make_recipe(directory: Path, corpus: Path) -> Path:
    recipe = directory / "recipe.py"
    recipe.write_text(RECIPE.format(corpus=corpus))
    return recipe


def make_full_recipe(directory: Path) -> Path:
    """The recipe of everything at once, and its corpora."""
    recipe = directory / "full.py"
    corpora = [
        make_corpus(directory / name, documents, seed) for name, documents, seed in (("a", 200, 0), ("b", 90, 7))
    ]
    recipe.write_text(FULL_RECIPE.format(one=corpora[0], two=corpora[1]))
    return recipe


def start(recipe: Path, workdir: Path, *overrides: str, **environment: str | None) -> subprocess.Popen:
    """`bert-jax pretrain` in a process of its own, with further variables, or without those that are None."""
    cache = Path(os.environ.get("PYTEST_SHARED_TMP", str(recipe.parent))) / "compile_cache"
    variables = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    words = ["pretrain", "--config", str(recipe), "--workdir", str(workdir), *overrides]
    program = [str(FAULTY)] if "FAULT" in environment else ["-m", "bert_jax"]
    return subprocess.Popen(
        [sys.executable, *program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in variables.items() if value is not None},
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and what was said on stderr."""
    _, said = process.communicate(timeout=600)
    return process.returncode, said


def train(recipe: Path, workdir: Path, *overrides: str, **environment: str | None) -> tuple[int, str]:
    return finish(start(recipe, workdir, *overrides, **environment))


def cluster(count: int) -> list[dict[str, str]]:
    """The variables of each of several hosts."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count)}
    return [shared | {"JAX_PROCESS_ID": str(i)} for i in range(count)]


def start_hosts(
    count: int, recipe: Path, workdir: Path, *overrides: str, environments: Any = None, **environment: str
) -> list[subprocess.Popen]:
    """The command on several hosts, each a process here; `environments` are variables of each."""
    return [
        start(recipe, workdir, *overrides, **host, **environment, **(environments[i] if environments else {}))
        for i, host in enumerate(cluster(count))
    ]


def wait_for_step(process: subprocess.Popen, workdir: Path, step: int) -> None:
    """Returns when the run has logged a step."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        path = workdir / "metrics.jsonl"
        if path.exists() and any(line["step"] >= step for line in read_lines(path)):
            return
        if process.poll() is not None:
            raise AssertionError(f"ended early: {process.communicate()}")
        time.sleep(0.01)
    raise AssertionError(f"no step {step} within the time")


def numbers(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl without the times."""
    return [
        {name: value for name, value in line.items() if name not in TIMES}
        for line in read_lines(workdir / "metrics.jsonl")
    ]


def difference(one: Path, two: Path) -> str | None:
    """The first thing in which the metrics of two runs, times aside, or their last parameters differ; None for none."""
    for left, right in itertools.zip_longest(numbers(one), numbers(two)):
        if left != right:
            return f"metrics: {left}, {right}"
    left, right = (checkpoint.load_model(run).params for run in (one, two))
    same = jax.tree.map(np.array_equal, left, right)
    changed = [jax.tree_util.keystr(path) for path, equal in jax.tree_util.tree_leaves_with_path(same) if not equal]
    return f"parameters: {', '.join(changed)}" if changed else None


def same_to_the_last_bit(one: Path, two: Path) -> bool:
    """Whether two runs have the same metrics, times aside, and the same parameters at the end."""
    return difference(one, two) is None


def card(workdir: Path) -> dict:
    return json.loads((workdir / "run.json").read_text())
