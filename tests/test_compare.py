"""A run is held against another at equal updates or tokens, and says in one sentence whether its loss is normal."""

import json
import math
from pathlib import Path

import pytest

from bert_jax import checkpoint
from bert_jax.compare import compare, names, write_curves
from bert_jax.config import Config, TrainConfig
from data_prep.errors import InputError


def make_run(directory, loss, steps=101, every=25, tokens=1000, evaluations=True, **train):
    """A run whose losses are a function of the tokens that it has read."""
    directory.mkdir()
    config = Config(train=TrainConfig(**train))
    checkpoint.write_json(directory / "config.json", checkpoint.config_json(config))
    lines = []
    for step in range(0, steps, 5):
        value = loss((step + 1) * tokens)
        lines.append({"step": step, "tokens": (step + 1) * tokens, "mlm_loss": value + 0.05, "nsp_loss": 0.6})
        if evaluations and step and step % every == 0:
            lines.append({"step": step, "eval/mlm_loss": loss(step * tokens), "eval/nsp_loss": 0.7, "eval/tokens": 9})
    lines = [{name: None if value != value else value for name, value in line.items()} for line in lines]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def decay(tokens):
    return 5.0 + 4.0 * math.exp(-tokens / 40_000)


@pytest.fixture
def reference(tmp_path):
    return make_run(tmp_path / "reference", decay)


def test_a_run_against_itself(reference):
    report, sentence = compare(reference, reference)
    assert not report["worse"] and report["axis"] == "steps" and report["at"] == 100
    assert report["held_out"]["mlm_loss"]["difference"] == report["training"]["nsp_loss"]["difference"] == 0
    assert [point[0] for point in report["points"]] == [25, 50, 75, 100]
    assert "that is normal" in sentence and report["other_settings"] == {}


def test_worse_and_better(tmp_path, reference):
    worse = make_run(tmp_path / "worse", lambda tokens: decay(tokens) + 0.3, global_batch_size=255)
    report, sentence = compare(worse, reference)
    assert report["worse"] and report["held_out"]["mlm_loss"]["difference"] == pytest.approx(0.3)
    assert (
        "0.3000 above" in sentence and "more than the 0.1 allowed; settings differ: train.global_batch_size" in sentence
    )
    assert report["other_settings"] == {"train.global_batch_size": [255, 256]}
    assert not compare(worse, reference, 0.31)[0]["worse"]
    assert not compare(reference, worse)[0]["worse"]


def test_an_early_run_is_compared_where_both_were(tmp_path, reference):
    early = make_run(tmp_path / "early", decay, steps=61, every=10)
    report, _ = compare(early, reference)
    assert [point[0] for point in report["points"]] == [30, 40, 50, 60]  # the reference begins at 25
    assert not report["worse"] and report["training"]["mlm_loss"]["difference"] == pytest.approx(0, abs=1e-6)
    # Between two places of the reference its line runs above the curve.
    assert 0 < -report["points"][0][1] + report["points"][0][2] < 0.1


def test_other_batches_are_compared_at_equal_tokens(tmp_path, reference):
    large = make_run(tmp_path / "large", decay, steps=51, every=10, tokens=2000)
    report, sentence = compare(large, reference)
    assert report["axis"] == "tokens" and report["at"] == pytest.approx(100_000) and not report["worse"]
    assert "tokens" in sentence


def test_without_evaluations_and_without_numbers(tmp_path, reference):
    blind = make_run(tmp_path / "blind", lambda tokens: decay(tokens) + 0.2, evaluations=False)
    report, sentence = compare(blind, reference)
    assert report["worse"] and report["held_out"] == {} and sentence.startswith("training masked-word loss")
    diverged = make_run(tmp_path / "diverged", lambda tokens: math.nan)
    report, sentence = compare(diverged, reference)
    assert report["worse"] and "no number" in sentence
    json.dumps(report, allow_nan=False)


def test_curves_of_several_seeds(tmp_path, reference):
    other = make_run(tmp_path / "other", lambda tokens: decay(tokens) + 0.1)
    write_curves([reference, other], tmp_path / "curves.json", "two")
    report, _ = compare(reference, tmp_path / "curves.json")
    assert report["held_out"]["mlm_loss"]["difference"] == pytest.approx(-0.05, abs=1e-4)
    assert report["spread"] == pytest.approx(0.1, abs=1e-4)


@pytest.mark.parametrize("name", names())
def test_shipped_curves(tmp_path, name, reference):
    report, _ = compare(reference, Path(name))
    assert report["other_settings"]


def test_bad_input(tmp_path, reference):
    with pytest.raises(InputError, match="no run, no file, and no curve"):
        compare(reference, tmp_path / "nothing")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match="holds no curves"):
        compare(reference, tmp_path / "x.json")
    empty = make_run(tmp_path / "empty", decay, steps=0)
    with pytest.raises(InputError, match="no logged step yet"):
        compare(empty, reference)
    with pytest.raises(InputError, match="nats from 0 up"):
        compare(reference, reference, -1.0)
