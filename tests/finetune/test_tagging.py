"""Tagging learns a rule, measures what it predicts, and loses no word; predictions follow."""

import dataclasses
import json
import random

import jax
import numpy as np
import pytest
from saved_models import BAD, GOOD, save, saved_model
from wrong_tuning import refused

from bert_jax import checkpoint
from bert_jax.cli import main
from bert_jax.convert import to_hf
from bert_jax.finetune import finetune
from bert_jax.finetune.classification import classification
from bert_jax.finetune.entities import entity_metrics
from bert_jax.finetune.predict import predict
from bert_jax.finetune.tagging import cross_entropy, tagging
from bert_jax.finetune.train import _first_params
from data_prep.errors import InputError
from data_prep.tokenizer import load_tokenizer

SETTINGS = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-2, "max_seq_len": 8}
LABELS = ["O", "B-BAD", "B-GOOD", "I-BAD", "I-GOOD"]


def tagged(count, seed, longest=8):
    """Sentences of (word, label): good and bad words are names, of a first word and perhaps a second one."""
    draw = random.Random(seed)
    sentences = []
    for _ in range(count):
        pairs = []
        for _ in range(draw.randint(1, longest)):
            kind, words = draw.choice([("GOOD", GOOD), ("BAD", BAD), (None, []), (None, [])])
            if kind is None:
                pairs.append((draw.choice(["the", "films", "book", "houses", "is", "."]), "O"))
                continue
            pairs.append((draw.choice(words[:2]), f"B-{kind}"))
            if draw.random() < 0.5:
                pairs.append((draw.choice(words[2:]), f"I-{kind}"))
        sentences.append(pairs[:longest])
    return sentences


def write_conll(path, sentences):
    path.write_text("\n\n".join("\n".join("\t".join(pair) for pair in pairs) for pairs in sentences) + "\n")
    return path


def write_jsonl(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def predicted(model, path, out):
    predict(model, path, out)
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Pretrained model, train and dev files; some sentences of dev are longer than a row."""
    folder = tmp_path_factory.mktemp("tagging")
    write_conll(folder / "train.conll", tagged(256, 1))
    write_conll(folder / "dev.conll", [*tagged(60, 2), *tagged(4, 3, 40)])
    return folder, save(folder, "nsp", fresh=True, hidden_size=32, num_layers=1)


@pytest.fixture(scope="module")
def tuned(files, tmp_path_factory):
    folder, model = files
    workdir = tmp_path_factory.mktemp("tuned") / "out"
    return workdir, finetune("tagging", folder / "train.conll", folder / "dev.conll", model, workdir, **SETTINGS)


def test_it_learns_and_says_what_it_measured(files, tuned, tmp_path, capsys):
    folder, _ = files
    workdir, result = tuned
    assert result["dev"]["f1"] > 0.95
    assert result["best_epoch"] == 1 + int(np.argmax([epoch["f1"] for epoch in result["epochs"]]))
    card = checkpoint.load_model(workdir).card
    assert card == {"task": "tagging", "labels": LABELS, "max_seq_len": 8, "tokens_field": "tokens"}
    answers = predicted(workdir, folder / "dev.conll", tmp_path / "out.jsonl")
    assert " sentences are longer than 8 tokens" in capsys.readouterr().err
    truth = [line.split("\n") for line in (folder / "dev.conll").read_text().strip().split("\n\n")]
    assert [answer["words"] for answer in answers] == [[pair.split("\t")[0] for pair in pairs] for pairs in truth]
    measured = entity_metrics(
        [[pair.split("\t")[1] for pair in pairs] for pairs in truth], [answer["labels"] for answer in answers]
    )
    assert result["dev"] == pytest.approx(measured)


def test_words_texts_and_exports_give_the_same(tuned, tmp_path):
    workdir, _ = tuned
    to_hf(workdir, tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["id2label"] == {
        str(i): label for i, label in enumerate(LABELS)
    }
    sentences = [[word for word, _ in pairs] for pairs in tagged(5, 9)] + [["the"] * 30 + ["bad", "sad"]]
    texts = [" ".join(words) for words in sentences]
    lists = write_jsonl(tmp_path / "a.jsonl", [{"tokens": words} for words in sentences])
    raw = write_jsonl(tmp_path / "b.jsonl", [{"text": text} for text in texts[::-1]])
    lines = tmp_path / "c.txt"
    lines.write_text("\n".join(texts) + "\n")
    ours = predicted(workdir, lists, tmp_path / "out")
    for others in (
        predicted(tmp_path / "hf", raw, tmp_path / "out")[::-1],
        predicted(workdir, lines, tmp_path / "out"),
    ):
        for mine, other in zip(ours, others, strict=True):
            for name in ("words", "offsets", "labels"):
                assert mine[name] == other[name]
            np.testing.assert_allclose(mine["scores"], other["scores"], atol=1e-5)
    for text, answer in zip(texts, ours, strict=True):
        assert [text[start:end] for start, end in answer["offsets"]] == answer["words"]
        for entity in answer["entities"]:
            assert text[entity["start"] : entity["end"]] == entity["text"]
    assert ours[-1]["entities"][-1]["text"] == "bad sad" and ours[-1]["entities"][-1]["label"] == "BAD"
    with pytest.raises(InputError, match="has neither 'tokens', a list of words, nor 'text'; it has words"):
        predict(workdir, write_jsonl(tmp_path / "d.jsonl", [{"words": ["a"]}]), tmp_path / "out")
    empty = write_jsonl(tmp_path / "e.jsonl", [{"text": " "}])
    assert predicted(workdir, empty, tmp_path / "out") == [
        {"words": [], "offsets": [], "labels": [], "scores": [], "entities": []}
    ]


def test_same_arguments_same_model(files, tuned, tmp_path):
    folder, model = files
    workdir, result = tuned
    assert result == finetune(
        "tagging", folder / "train.conll", folder / "dev.conll", model, tmp_path / "out", **SETTINGS
    )
    heads = [checkpoint.load_model(path).params["tagger"]["kernel"] for path in (workdir, tmp_path / "out")]
    np.testing.assert_array_equal(*heads)


def test_labels_that_are_no_entities(tmp_path):
    """Parts of speech, as numbers, in fields of other names; decided by accuracy, over words."""
    saved = saved_model(tmp_path, "nsp")
    path = write_jsonl(
        tmp_path / "x.jsonl", [{"words": ["the", "films"], "pos": [9, 10]}, {"words": ["sad"], "pos": [9]}]
    )
    ready = tagging(path, path, saved, load_tokenizer(saved.tokenizer_dir), 8, "words", "pos")
    assert ready.labels == ["9", "10"] and ready.decides == "accuracy" and ready.card == {"tokens_field": "words"}
    assert [truth.tolist() for truth in ready.train.truth] == [[-100, 0, 1, -100, -100], [-100, 0, -100]]
    rows = [np.array(row, np.float32) for row in ([[0, 1], [1, 0], [1, 0], [0, 1], [0, 1]], [[0, 1], [1, 0], [0, 1]])]
    measured = ready.measure(rows)  # [CLS], a continuing piece and [SEP] do not count
    assert measured["accuracy"] == pytest.approx(2 / 3) and "matthews_correlation" in measured
    tagger = dataclasses.replace(
        saved_model(tmp_path, "tagging"), card={"task": "tagging", "labels": ["9", "10", "11"]}
    )
    checkpoint.save_model(tmp_path / "tagger", tagger)
    (tmp_path / "x.txt").write_text("sad film")
    (answer,) = predicted(tmp_path / "tagger", tmp_path / "x.txt", tmp_path / "out")
    assert set(answer["labels"]) <= {"9", "10", "11"} and "entities" not in answer


def test_heads_go_on_or_start_fresh(tmp_path, capsys):
    """A tagger's own head stays where it has all labels; another one is left out, and that is said."""
    saved = saved_model(tmp_path, "tagging")
    tokenizer = load_tokenizer(saved.tokenizer_dir)
    some = write_conll(tmp_path / "some.conll", [[("the", "I-PER"), ("film", "O")]])
    ready = tagging(some, some, saved, tokenizer, 16)
    assert ready.labels == ["O", "B-PER", "I-PER"]
    params = _first_params(saved, ready, 0, "model")
    assert capsys.readouterr().err == "model: its tagging head goes on\n"
    np.testing.assert_array_equal(params["tagger"]["kernel"], saved.params["tagger"]["kernel"])

    head = write_conll(tmp_path / "head.conll", [[("word", "label"), ("the", "B-X"), ("film", "O")]])
    assert tagging(head, head, saved, tokenizer, 16).decides == "accuracy"
    assert "label 'label' is of no entity, so labels are measured one by one" in capsys.readouterr().err

    other = write_conll(tmp_path / "other.conll", [[("the", "X"), ("film", "O")]])
    ready = tagging(other, other, saved, tokenizer, 16)
    params = _first_params(saved, ready, 0, "model")
    assert capsys.readouterr().err == "model: its head, of other labels, is left out, a new one starts fresh\n"
    assert ready.labels == ["O", "X"] and params["tagger"]["kernel"].shape == (16, 2)

    table = tmp_path / "x.tsv"
    table.write_text("text\tlabel\nthe film\tup\na book\tdown\n")
    ready = classification(table, table, saved, tokenizer, 16)
    params = _first_params(saved, ready, 0, "model")
    said = capsys.readouterr().err
    assert "its head, for tagging, is left out, a new one starts fresh" in said and "has no pooler" in said
    assert params.keys() == {"embeddings", "layers", "pooler", "classifier"}

    classifier = saved_model(tmp_path, "classification")
    table.write_text("text\tlabel\nthe film\tso so\na book\tbad\n")
    ready = classification(table, table, classifier, tokenizer, 16)
    assert ready.labels == ["bad", "good", "so so"]
    params = _first_params(classifier, ready, 0, "model")
    np.testing.assert_array_equal(params["classifier"]["bias"], classifier.params["classifier"]["bias"])


def test_loss_is_a_sum_over_labelled_tokens():
    draw = np.random.default_rng(0)
    logits, truth = draw.normal(size=(2, 4, 3)).astype(np.float32), np.array([[-100, 2, 0, -100], [-100] * 4], np.int32)
    total, count = cross_entropy(jax.numpy.asarray(logits), {"truth": jax.numpy.asarray(truth)})
    log = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    assert float(total) == pytest.approx(-log[0, 1, 2] - log[0, 2, 0], rel=1e-5) and float(count) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"dev": "the\tO\nfilm\tB-X\n"},
            r"dev.conll:2: label 'B-X' does not occur in .*train.conll, which has O, B-BAD",
        ),
        ({"train": "the\tO\n"}, "one label only, 'O'"),
        ({"train": "the O\nfilm\n"}, r"train.conll:2: one column"),
        ({"task": "classification"}, "ends in '.conll'; known are"),
        ({"task": "regression", "tags_field": "x"}, "--tags-field is no option of --task regression"),
    ],
)
def test_bad_input_leaves_nothing(files, tmp_path, changes, message):
    folder, model = files
    arguments = {"task": "tagging", "train": folder / "train.conll", "dev": folder / "dev.conll"} | SETTINGS | changes
    refused(tmp_path, model, arguments, ".conll", message)


def test_a_wrong_field_by_the_command(files, tmp_path, capsys):
    _, model = files
    path = write_jsonl(tmp_path / "x.jsonl", [{"tokens": ["a"], "ner": ["O"]}])
    words = ["--train", path, "--dev", path, "--init", model, "--workdir", tmp_path / "out", "--tags-field", "pos"]
    with pytest.raises(SystemExit) as end:
        main(["finetune", "--task", "tagging", *map(str, words)])
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1
    assert "has no field 'pos'; it has tokens, ner: name the right one with --tags-field" in said


def test_random_models_predict_without_a_card(tmp_path):
    """A Hugging Face directory that another program could have written."""
    checkpoint.save_model(tmp_path / "model", saved_model(tmp_path, "tagging"))
    to_hf(tmp_path / "model", tmp_path / "hf")
    texts = tmp_path / "x.txt"
    texts.write_text("the film is good\n")
    (answer,) = predicted(tmp_path / "hf", texts, tmp_path / "out")
    assert answer["words"] == ["the", "film", "is", "good"] and set(answer["labels"]) <= {"O", "B-PER", "I-PER"}
