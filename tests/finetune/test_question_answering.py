"""Question answering learns a rule, measures what it predicts, and answers from contexts longer than a row."""

import json
import random

import jax
import numpy as np
import pytest
from saved_models import GOOD, save

from bert_jax import checkpoint
from bert_jax.convert import to_hf
from bert_jax.finetune import finetune
from bert_jax.finetune.answer_metrics import answer_metrics
from bert_jax.finetune.predict import predict
from bert_jax.finetune.question_answering import question_answering, span_cross_entropy
from data_prep.errors import InputError
from data_prep.tokenizer import load_tokenizer

SETTINGS = {"epochs": 4, "batch_size": 32, "learning_rate": 1e-2, "max_seq_len": 16}


def questions(count, seed, longest=9, unanswered=0.2):
    """Contexts with one good word or two, the answer, or with none."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        words = [draw.choice(["the", "films", "book", "house", "is", "."]) for _ in range(draw.randint(4, longest))]
        answers = {"text": [], "answer_start": []}
        if draw.random() >= unanswered:
            place = draw.randint(0, len(words))
            answer = " ".join([draw.choice(GOOD[:2]), *draw.choices(GOOD[2:], k=draw.randint(0, 1))])
            answers = {"text": [answer], "answer_start": [len(" ".join([*words[:place], ""])) if place else 0]}
            words.insert(place, answer)
        rows.append({"question": "a river", "context": " ".join(words), "answers": answers})
    return rows


def write_jsonl(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def predicted(model, path, out, **options):
    predict(model, path, out, **options)
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qa")
    train = write_jsonl(folder / "train.jsonl", questions(384, 1))
    dev = write_jsonl(folder / "dev.jsonl", [*questions(60, 2), *questions(6, 3, 40)])
    model = save(folder, "nsp", fresh=True, hidden_size=32, num_layers=1)
    return dev, model, folder / "out", finetune("qa", train, dev, model, folder / "out", **SETTINGS)


def test_it_learns_and_says_what_it_measured(tuned, tmp_path):
    dev, _, workdir, result = tuned
    assert result["dev"]["exact_match"] > 0.9 and result["dev"]["no_answer_accuracy"] > 0.8
    assert checkpoint.load_model(workdir).card == {
        "task": "qa", "labels": [], "max_seq_len": 16, "null_threshold": 0.0
    }  # fmt: skip
    rows = [json.loads(line) for line in dev.read_text().splitlines()]
    answers = predicted(workdir, dev, tmp_path / "out")
    assert result["dev"] == pytest.approx(
        answer_metrics([row["answers"]["text"] for row in rows], [answer["answer"] for answer in answers])
    )
    for row, answer in zip(rows, answers, strict=True):
        span = row["context"][answer["start"] : answer["end"]] if answer["answer"] else ""
        assert answer["answer"] == span and (answer["start"] is None) == (answer["null_margin"] > 0)
        assert 0 < answer["score"] <= 1


def test_exports_squad_files_and_thresholds(tuned, tmp_path):
    """From the export, which does not know that there may be no answer."""
    dev, _, workdir, _ = tuned
    to_hf(workdir, tmp_path / "hf")
    ours = predicted(workdir, dev, tmp_path / "out")
    rows = [json.loads(line) for line in dev.read_text().splitlines()]
    entries = [{"id": i, "question": row["question"]} for i, row in enumerate(rows)]
    data = [
        {"paragraphs": [{"context": row["context"], "qas": [entry]}]} for row, entry in zip(rows, entries, strict=True)
    ]
    (tmp_path / "x.json").write_text(json.dumps({"data": data}))
    again = predicted(tmp_path / "hf", tmp_path / "x.json", tmp_path / "out", null_threshold=0.0)
    for i, (mine, other) in enumerate(zip(ours, again, strict=True)):
        assert other.pop("id") == i
        assert (mine["answer"], mine["start"]) == (other["answer"], other["start"])
        assert mine["score"] == pytest.approx(other["score"], abs=1e-5)
    always = predicted(tmp_path / "hf", dev, tmp_path / "out")
    assert all(answer["answer"] and "null_margin" not in answer for answer in always)
    never = predicted(workdir, dev, tmp_path / "out", null_threshold=-1e6)
    assert not any(answer["answer"] for answer in never)


def test_loss_by_hand():
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(3, 5, 2)).astype(np.float32)
    segments = np.array([[1, 1, 1, 0, 0], [1] * 5, [1] * 5], np.int32)
    batch = {
        "segment_ids": segments,
        "truth": np.array([[1, 2], [0, 0], [3, 3]], np.int32),
        "weights": np.float32([1, 1, 0]),
    }
    total, count = span_cross_entropy(jax.numpy.asarray(logits), jax.tree.map(jax.numpy.asarray, batch))
    expected = 0.0
    for row, length in ((0, 3), (1, 5)):
        for which in (0, 1):
            values = logits[row, :length, which].astype(np.float64)
            expected += (np.log(np.exp(values).sum()) - values[batch["truth"][row, which]]) / 2
    assert float(total) == pytest.approx(expected, rel=1e-5) and float(count) == 2


def test_without_unanswered_questions_there_is_always_an_answer(tuned, tmp_path, capsys):
    _, model, workdir, _ = tuned
    path = write_jsonl(tmp_path / "x.jsonl", questions(8, 4, unanswered=0))
    saved = checkpoint.load_model(model)
    ready = question_answering(path, path, saved, load_tokenizer(saved.tokenizer_dir), 16)
    assert ready.card == {"null_threshold": None}
    always_null = [np.float32([[9, 9]] + [[0, 0]] * (len(ids) - 1)) for ids in ready.dev.ids]
    assert ready.measure(always_null).keys() == {"exact_match", "f1"} and ready.measure(always_null)["f1"] > 0
    asked = [{"question": "the river " * 20, "context": "the sad film"}]
    predicted(workdir, write_jsonl(tmp_path / "y.jsonl", asked), tmp_path / "o")
    assert "1 questions are too long" in capsys.readouterr().err


def test_bad_input(tuned, tmp_path):
    dev, model, workdir, _ = tuned
    path = write_jsonl(
        tmp_path / "x.jsonl", [{"question": "a", "context": "bad", "answers": [{"text": "bad", "answer_start": 1}]}]
    )
    with pytest.raises(InputError, match=r"x.jsonl:1: at answer_start 1 the context has 'ad', not the answer 'bad'"):
        finetune("qa", path, dev, model, tmp_path / "out", **SETTINGS)
    with pytest.raises(InputError, match="--tags-field is no option of --task qa"):
        finetune("qa", dev, dev, model, tmp_path / "out", tags_field="x")
    with pytest.raises(InputError, match=r"x.jsonl:1: context is None"):
        predict(workdir, write_jsonl(tmp_path / "x.jsonl", [{"question": "a"}]), tmp_path / "out")
    with pytest.raises(InputError, match="no token type for a second text"):
        finetune("qa", dev, dev, save(tmp_path, "mlm", type_vocab_size=1), tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out").exists()
