"""Runs of the real command in processes of their own, on a tiny corpus, and what to compare of them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import small_corpora

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


def start(recipe: Path, workdir: Path, *overrides: str, **environment: str) -> subprocess.Popen:
    """`bert-jax pretrain` in a process of its own."""
    cache = Path(os.environ.get("PYTEST_SHARED_TMP", str(recipe.parent))) / "compile_cache"
    variables = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    words = ["pretrain", "--config", str(recipe), "--workdir", str(workdir), *overrides]
    return subprocess.Popen(
        [sys.executable, "-m", "bert_jax", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and what was said on stderr."""
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def train(recipe: Path, workdir: Path, *overrides: str, **environment: str) -> tuple[int, str]:
    return finish(start(recipe, workdir, *overrides, **environment))


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


def card(workdir: Path) -> dict:
    return json.loads((workdir / "run.json").read_text())
