"""The whole line as a user types it: raw text, vocabulary, corpus, training stopped and gone on with, evaluation,
conversion, fine-tuning, prediction; every command in a process of its own."""

import json
import os
import random
import signal
import subprocess
import sys

import pytest
import training_runs as runs

ANIMALS = ["bird", "horse", "cat", "fish"]
METALS = ["iron", "copper", "silver", "tin"]


def command(*words: object) -> str:
    """Runs `bert-jax WORDS` and returns its stdout."""
    done = subprocess.run(
        [sys.executable, "-m", "bert_jax", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(runs.ROOT)},
    )
    assert done.returncode == 0, (words, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout


def sentence(draw: random.Random, words: list[str]) -> str:
    first, second = draw.sample(words, 2)
    return f"The {first} {draw.choice(['stood', 'lay', 'was'])} {draw.choice(['near', 'behind', 'above'])} a {second}."


def write_text(path, documents: int) -> None:
    """Documents that keep to their subject, so that there is something to learn: of words, and of what follows."""
    draw = random.Random(0)
    texts = []
    for i in range(documents):
        words = (ANIMALS, METALS)[i % 2]
        texts.append("\n".join(" ".join(sentence(draw, words) for _ in range(3)) for _ in range(2)))
    path.write_text("\n\n".join(texts) + "\n")


def write_task(path, rows: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    labels = [draw.choice(["animal", "metal"]) for _ in range(rows)]
    lines = [f"{sentence(draw, ANIMALS if label == 'animal' else METALS)}\t{label}" for label in labels]
    path.write_text("\n".join(["text\tlabel", *lines]) + "\n")
    return labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("line")


def test_from_raw_text_to_predictions(folder):
    write_text(folder / "text.txt", 600)
    command("vocab", "--input", folder / "text.txt", "--output", folder / "tokenizer", "--size", "200", "--lowercase")
    command(
        "build", "--input", folder / "text.txt", "--tokenizer", folder / "tokenizer", "--output", folder / "corpus",
        "--validation-share", "0.2", "--workers", "2",
    )  # fmt: skip
    audit = json.loads(command("check", folder / "corpus"))
    assert audit["documents_in"] == 600 and audit["documents_kept"] + sum(audit["dropped"].values()) == 600
    assert audit["unknown_share"] == 0.0

    recipe, run = runs.make_recipe(folder, folder / "corpus"), folder / "run"
    longer = ["--config.train.num_steps=150", "--config.train.eval_every=0", "--config.optimizer.learning_rate=5e-3"]
    process = runs.start(recipe, run, *longer)
    runs.wait_for_step(process, run, 20)
    process.send_signal(signal.SIGTERM)
    code, said = runs.finish(process)
    assert code == 75, said
    code, said = runs.train(recipe, run, *longer)
    assert code == 0 and "resuming" in said, said
    lines = runs.numbers(run)
    assert [line["step"] for line in lines if "loss" in line] == list(range(150))

    held_out = json.loads(command("evaluate", run))
    assert held_out["mlm_loss"] == pytest.approx(lines[-1]["eval/mlm_loss"], rel=1e-6)
    assert held_out["mlm_loss"] < held_out["unigram_mlm_loss"] - 0.3
    assert "[MASK→" in command("inspect", run, "--step", "149")

    command("convert", "to-hf", run, folder / "hf")
    text = "the cat stood near a [MASK] ."
    of_run, of_export = (json.loads(command("fill-mask", model, text))["masks"] for model in (run, folder / "hf"))
    assert [word["token_str"] for word in of_run[0]] == [word["token_str"] for word in of_export[0]]
    assert of_run[0][0]["token_str"] in ANIMALS + METALS  # what follows an "a" in this text
    command("convert", "from-hf", folder / "hf", folder / "back")

    write_task(folder / "train.tsv", 200, 1)
    labels = write_task(folder / "dev.tsv", 60, 2)
    result = json.loads(
        command(
            "finetune", "--task", "classification", "--train", folder / "train.tsv", "--dev", folder / "dev.tsv",
            "--init", folder / "back", "--workdir", folder / "tuned", "--learning-rate", "3e-3", "--epochs", "10",
        )
    )  # fmt: skip
    assert result["dev"]["accuracy"] >= 0.9
    assert json.loads((folder / "tuned" / "metrics.json").read_text()) == result
    command("predict", folder / "tuned", "--input", folder / "dev.tsv", "--output", folder / "predictions.jsonl")
    predicted = [json.loads(line)["label"] for line in (folder / "predictions.jsonl").read_text().splitlines()]
    right = sum(one == other for one, other in zip(predicted, labels, strict=True))
    assert right / len(labels) == pytest.approx(result["dev"]["accuracy"])

    command("report", run, "--output", folder / "report.html")
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 4 and f"{held_out['mlm_loss']:.4f}" in page
    assert "http" not in page.replace("http-equiv", "")
