"""Fine-tuning learns what can be learned, writes a whole directory, and repeats itself; predictions follow."""

import dataclasses
import json
import random

import numpy as np
import pytest
from saved_models import BAD, GOOD, save, saved_model
from wrong_tuning import refused

from bert_jax import checkpoint
from bert_jax.convert import to_hf
from bert_jax.finetune import finetune
from bert_jax.finetune.predict import predict
from bert_jax.finetune.train import _tell_other_dropout
from data_prep.errors import InputError

SETTINGS = {"epochs": 4, "batch_size": 16, "learning_rate": 1e-2, "max_seq_len": 16}


def sentences(count, seed, longest=4):
    """(text, whether it has a good word in it)"""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        good = draw.random() < 0.5
        filler = [draw.choice(["the", "film", "book", "is", "was", "very"]) for _ in range(draw.randint(1, longest))]
        filler.insert(draw.randint(0, len(filler)), draw.choice(GOOD if good else BAD))
        rows.append((" ".join(filler), good))
    return rows


def write_tsv(path, rows, header="text\tlabel"):
    path.write_text("\n".join([header, *("\t".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pretrained model, train and dev files."""
    folder = tmp_path_factory.mktemp("task")
    names = {True: "up", False: "down"}
    for name, count, seed in (("train", 192, 1), ("dev", 60, 2)):
        write_tsv(folder / f"{name}.tsv", [(text, names[good]) for text, good in sentences(count, seed, 7)])
    return folder, save(folder, "nsp", fresh=True, hidden_size=32, num_layers=1)


@pytest.fixture(scope="module")
def tuned(files, tmp_path_factory):
    folder, model = files
    workdir = tmp_path_factory.mktemp("tuned") / "out"
    result = finetune("classification", folder / "train.tsv", folder / "dev.tsv", model, workdir, **SETTINGS)
    return workdir, result


def test_it_learns_and_keeps_the_best_epoch(tuned):
    workdir, result = tuned
    assert result["task"] == "classification"
    assert result["dev"]["accuracy"] >= 0.95
    accuracies = [epoch["accuracy"] for epoch in result["epochs"]]
    assert len(accuracies) == SETTINGS["epochs"]
    assert result["best_epoch"] == accuracies.index(max(accuracies)) + 1
    assert result["dev"]["accuracy"] == max(accuracies)
    assert json.loads((workdir / "metrics.json").read_text()) == result


def test_what_is_written(tuned):
    workdir, _ = tuned
    assert {path.name for path in workdir.iterdir()} == {
        "config.json",
        "run.json",
        "tokenizer",
        "checkpoints",
        "metrics.json",
    }
    model = checkpoint.load_model(workdir)
    assert model.objective == "classification"
    assert model.card == {
        "task": "classification",
        "labels": ["down", "up"],
        "max_seq_len": 16,
        "text_columns": ["text"],
    }
    assert model.params["classifier"]["kernel"].shape == (32, 2)
    assert "mlm" not in model.params


def test_same_arguments_same_model(files, tmp_path):
    _, model = files
    file = write_tsv(tmp_path / "x.tsv", sentences(40, 7))
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        finetune("classification", file, file, model, tmp_path / name, **{**SETTINGS, "epochs": 1}, seed=seed)
        runs.append(checkpoint.load_model(tmp_path / name).params["layers"]["mlp"]["up"]["kernel"])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_predictions_are_those_of_the_metrics(files, tuned, tmp_path):
    folder, _ = files
    workdir, result = tuned
    predict(workdir, folder / "dev.tsv", tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    truth = [line.split("\t")[1] for line in (folder / "dev.tsv").read_text().splitlines()[1:]]
    assert len(lines) == len(truth)
    right = np.mean([line["label"] == label for line, label in zip(lines, truth, strict=True)])
    assert right == pytest.approx(result["dev"]["accuracy"])
    for line in lines:
        assert sum(line["probabilities"].values()) == pytest.approx(1)
        assert line["score"] == max(line["probabilities"].values()) == line["probabilities"][line["label"]]


def test_predictions_do_not_depend_on_company_order_or_format(tuned, tmp_path):
    """Each row alone, from the fine-tuned directory; all rows, reversed, from its export."""
    workdir, _ = tuned
    texts = [text for text, _ in sentences(7, 3)] + ["the " * 40 + "sad"]
    rows = [{"text": text} for text in texts]
    to_hf(workdir, tmp_path / "hf")
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows[::-1])))
    predict(tmp_path / "hf", tmp_path / "all.jsonl", tmp_path / "all.out")
    together = [json.loads(line) for line in (tmp_path / "all.out").read_text().splitlines()][::-1]
    for i in (0, 3, 7):
        (tmp_path / "one.jsonl").write_text(json.dumps(rows[i]))
        predict(workdir, tmp_path / "one.jsonl", tmp_path / "one.out")
        alone = json.loads((tmp_path / "one.out").read_text())
        assert alone["label"] == together[i]["label"]
        assert alone["score"] == pytest.approx(together[i]["score"], abs=1e-5)


def test_pairs_and_numbers(files, tmp_path):
    """Regression on pairs: whether both texts are good, as a number; from a fine-tuned model, whose head is left
    out."""
    _, model = files
    rows = [(a, b, 2.0 * (x == y) - 1.0) for (a, x), (b, y) in zip(sentences(96, 4), sentences(96, 5), strict=True)]
    header = "first\tsecond\tlabel"
    train, dev = (
        write_tsv(tmp_path / "train.tsv", rows[:64], header),
        write_tsv(tmp_path / "dev.tsv", rows[64:], header),
    )
    result = finetune("regression", train, dev, model, tmp_path / "out", **{**SETTINGS, "epochs": 2})
    assert set(result["dev"]) == {"pearson", "spearman", "mean_squared_error"}
    predict(tmp_path / "out", dev, tmp_path / "out.jsonl")
    scores = [json.loads(line)["score"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = np.mean((np.array(scores) - [row[2] for row in rows[64:]]) ** 2)
    assert result["dev"]["mean_squared_error"] == pytest.approx(expected, rel=1e-3)
    finetune("classification", train, dev, tmp_path / "out", tmp_path / "again", **{**SETTINGS, "epochs": 1})


def test_labels_sort_as_numbers_where_they_are(files, tmp_path):
    _, model = files
    rows = [(text, 10 if good else 9) for text, good in sentences(32, 6)]
    file = write_tsv(tmp_path / "x.tsv", rows)
    finetune("classification", file, file, model, tmp_path / "out", **{**SETTINGS, "epochs": 1})
    assert checkpoint.load_model(tmp_path / "out").card["labels"] == ["9", "10"]


def test_a_model_without_pooler_gets_a_fresh_one(tmp_path, capsys):
    model = save(tmp_path, "mlm")
    file = write_tsv(tmp_path / "x.tsv", sentences(20, 8))
    finetune("classification", file, file, model, tmp_path / "out", **{**SETTINGS, "epochs": 1})
    assert "has no pooler: started fresh" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "ranking"}, "known are classification, regression, tagging"),
        ({"epochs": 0}, "--epochs 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"learning_rate": 0.0}, "must be positive"),
        ({"learning_rate": 1e30}, "lower --learning-rate"),
        ({"max_seq_len": 4}, "too short"),
        ({"max_seq_len": 64}, "exceeds the 20 positions"),
        ({"train": "text\tlabel\na\tx\nb\tx\n"}, "one label only, 'x'"),
        ({"dev": "text\tlabel\na\tup\nb\tsideways\n"}, r"dev.tsv:3: label 'sideways' does not occur in"),
        ({"dev": "words\tlabel\na\tup\n"}, "no column 'text'"),
        ({"train": "text\nfilm\n"}, "no column 'label'"),
        ({"task": "regression"}, "is no number"),
    ],
)
def test_bad_input_leaves_nothing(files, tmp_path, changes, message):
    folder, model = files
    arguments = (
        {"task": "classification", "train": folder / "train.tsv", "dev": folder / "dev.tsv"} | SETTINGS | changes
    )
    refused(tmp_path, model, arguments | changes, ".tsv", message)


def test_existing_workdir_and_missing_model(files, tmp_path):
    folder, model = files
    with pytest.raises(InputError, match="exists already"):
        finetune("classification", folder / "train.tsv", folder / "dev.tsv", model, tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        finetune("classification", folder / "train.tsv", folder / "dev.tsv", tmp_path / "no", tmp_path / "out")


def test_bad_input_of_predict(files, tuned, tmp_path):
    folder, model = files
    workdir, _ = tuned
    with pytest.raises(InputError, match="no task head"):
        predict(model, folder / "dev.tsv", tmp_path / "out")
    pairs = write_tsv(tmp_path / "pairs.tsv", [("a", "b")], "first\tsecond")
    with pytest.raises(InputError, match="the model was trained on text"):
        predict(workdir, pairs, tmp_path / "out")
    with pytest.raises(InputError, match="is no directory"):
        predict(workdir, folder / "dev.tsv", tmp_path / "no" / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, ""),
        ({"classifier_dropout": None}, ""),
        ({"classifier_dropout": 0.1}, ""),
        (
            {"classifier_dropout": 0.3},
            "m: classifier_dropout 0.3 is not used here: heads drop 0.1, as hidden states do\n",
        ),
        ({"qa_dropout": 0.2}, "m: qa_dropout 0.2 is not used here: heads drop 0.1, as hidden states do\n"),
    ],
)
def test_a_heads_own_dropout_is_named(tmp_path, capsys, fields, said):
    _tell_other_dropout(dataclasses.replace(saved_model(tmp_path), hf_fields=fields), "m")
    assert capsys.readouterr().err == said
