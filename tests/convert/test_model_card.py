"""The card of a model says what its run wrote down: corpora, steps, losses and settings, of the step that it is of."""

import json

import pytest
import training_runs as runs
from saved_models import save

from bert_jax.convert.importing import open_model
from bert_jax.convert.model_card import model_card
from bert_jax.metrics import is_evaluation

STEPS = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    recipe = runs.make_recipe(folder, runs.make_corpus(folder, documents=120))
    changes = {"num_steps": STEPS, "eval_every": 3, "checkpoint_every": 3, "log_every": 4}
    code, said = runs.train(recipe, folder / "run", *(f"--config.train.{name}={n}" for name, n in changes.items()))
    assert code == 0, said
    return folder / "run"


@pytest.fixture(scope="module")
def every_step(run):
    """Tokens and examples of every step, of the same run with a line for each."""
    recipe = run.parent / "recipe.py"
    code, said = runs.train(
        recipe, run.parent / "logged", f"--config.train.num_steps={STEPS}", "--config.train.log_every=1"
    )
    assert code == 0, said
    return [line for line in runs.numbers(run.parent / "logged") if not is_evaluation(line)]


def card(directory, step=None, license=None):
    return model_card(directory, "out", open_model(directory, step), "float32", None, license)


def lines(run, evaluations):
    return {line["step"]: line for line in runs.numbers(run) if is_evaluation(line) == evaluations}


@pytest.mark.parametrize("step", [0, 3, STEPS])
def test_what_had_been_read(run, every_step, step):
    text = card(run, step)
    (corpus,) = json.loads((run / "run.json").read_text())["corpora"]
    assert f"- `{corpus['name']}`, fingerprint `{corpus['fingerprint']}`" in text
    read = every_step[step - 1] if step else {"tokens": 0, "examples": 0}
    assert f"{step} of {STEPS} steps, {read['tokens']:,} tokens, {read['examples']:,} examples." in text
    assert f"  - read: {read['tokens']:,} tokens in {step and step * 8} rows, 0 whole epochs" in text


def test_the_corpus_audit(run):
    text, audit = card(run), json.loads((run.parent / "corpus" / "manifest.json").read_text())["audit"]
    dropped = ", ".join(f"{name} {count}" for name, count in audit["dropped"].items())
    kept = f"  - {audit['documents_kept']:,} of {audit['documents_in']:,} documents kept"
    assert kept + (f" (dropped: {dropped})" if dropped else "") in text
    assert f", {audit['sentences']:,} sentences, {audit['tokens']:,} tokens" in text
    assert f"  - unknown tokens {audit['unknown_share']:.2%}" in text and "scripts: Latin" in text


@pytest.mark.parametrize(("step", "logged"), [(0, 0), (3, 0), (STEPS, STEPS - 1)])
def test_losses_of_the_step(run, step, logged):
    text = card(run, step)
    loss = lines(run, False)[logged]["loss"]
    assert f"- training loss at step {logged}: {loss:.4f}\n" in text and text.count("training loss") == 1
    held_out = {number: line for number, line in lines(run, True).items() if number <= step}
    assert text.count("held out, after") == bool(held_out)
    if held_out:
        last = held_out[max(held_out)]
        assert f"- held out, after {max(held_out)} steps: mlm_loss {last['eval/mlm_loss']:.4f}, mlm_accuracy " in text


def test_settings(run):
    text = card(run)
    settings = {
        "data.seq_len": 32,
        "train.num_steps": STEPS,
        "train.global_batch_size": 8,
        "optimizer.name": "adamw",
        "optimizer.learning_rate": 0.001,
        "optimizer.warmup_steps": 5,
        "model.dtype": "float32",
        "seed": 0,
    }
    for name, value in settings.items():
        assert f"| {name} | {value} |" in text
    assert "train.phases" not in text and "pretrained by masked language modelling and next sentence prediction" in text


@pytest.mark.parametrize("license", ["mit", "a: b # c", "no", "1.0", 'the "open" one', "[x", "two\nlines"])
def test_any_licence_is_yaml(tmp_path, license):
    yaml = pytest.importorskip("yaml", reason="it comes with huggingface_hub")
    front = card(save(tmp_path, "nsp"), license=license).split("---")[1]
    assert yaml.safe_load(front)["license"] == license
