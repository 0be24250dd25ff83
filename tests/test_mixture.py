"""A run on two corpora: what it says it has read is what its batches held, also when it was stopped in between."""

import json
import signal
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import training_runs as runs
from small_corpora import WORDS, many_texts, write_jsonl
from synthetic import random_split

from bert_jax import checkpoint
from bert_jax.config import Config, DataConfig, TrainConfig
from bert_jax.evaluate import evaluate_run
from bert_jax.inspect_batches import batches, inspect, stacked
from bert_jax.mixture import describe
from bert_jax.report import write_report
from bert_jax.train import _check_size
from data_prep.build import build_corpus
from data_prep.errors import InputError

MIXTURE = [3.0, 1.0]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The second corpus, in capitals, is so small that it ends several epochs."""
    folder = tmp_path_factory.mktemp("mixture")
    paths = [runs.make_corpus(folder / "large"), folder / "small" / "corpus"]
    (folder / "small").mkdir()
    capitals = write_jsonl(folder / "small" / "text.jsonl", [text.upper() for text in many_texts(5)])
    build_corpus([str(capitals)], folder / "large" / "tokenizer", paths[1], workers=1, validation_share=0)
    found = [{"path": str(path), "weight": weight} for path, weight in zip(paths, MIXTURE, strict=True)]
    recipe = folder / "recipe.py"
    text = runs.RECIPE.format(corpus="").replace('corpus=""', f"corpus={json.dumps(found)}")
    recipe.write_text(text.replace("eval_every=9", "eval_every=0"))
    return recipe


@pytest.fixture(scope="module")
def whole(recipe):
    code, said = runs.train(recipe, recipe.parent / "whole")
    assert code == 0, said
    return recipe.parent / "whole"


def test_rows_and_tokens_by_corpus_add_up(whole):
    lines = [line for line in runs.numbers(whole) if "loss" in line]
    assert len(lines) == 24
    for line in lines:  # the directories share a name, so they are numbered
        rows = [line[f"corpus_rows/corpus.{i}"] for i in range(2)]
        tokens = [line[f"corpus_tokens/corpus.{i}"] for i in range(2)]
        assert sum(rows) == 8 * (line["step"] + 1) and sum(tokens) == line["tokens"]
        assert abs(rows[0] - 0.75 * sum(rows)) < 2
    card = runs.card(whole)["corpora"]
    assert [(c["rows"], c["tokens"]) for c in card] == list(zip(rows, tokens, strict=True))
    assert [c["weight"] for c in card] == [0.75, 0.25] and card[1]["epoch"] > card[0]["epoch"]
    said = describe(card)
    assert (
        "weight 75.0%" in said and f"{rows[0] / sum(rows):.1%} of rows, {tokens[0] / sum(tokens):.1%} of tokens" in said
    )


def test_the_counts_are_those_of_the_batches_and_no_row_mixes(whole):
    found, tokenizer = batches(checkpoint.read_config(whole), None, 0, 6)
    words = [word for word in WORDS if not word.startswith("#")]
    capitals = {i for word in words for i in tokenizer.encode_batch([word.upper()])[0][1:]}
    lower = {i for word in words for i in tokenizer.encode_batch([word, f"T{word}"])[0]}
    ids = np.array([restored(batch) for batch in found])
    owner = np.isin(ids, list(capitals)).any(2)
    assert (np.isin(ids, list(lower)).any(2) != owner).all()
    assert np.array_equal(stacked(found)["corpus"], owner)  # the small one, in capitals, is number 1
    tokens = np.array([(batch["segment_ids"] > 0).sum(1) for batch in found])
    line = runs.numbers(whole)[5]
    assert line["step"] == 5
    for i in range(2):
        assert line[f"corpus_rows/corpus.{i}"] == (owner == i).sum()
        assert line[f"corpus_tokens/corpus.{i}"] == tokens[owner == i].sum()


def test_inspect_names_the_corpus_of_every_row(whole, tmp_path):
    said = inspect(None, whole, 3, 1, None)
    rows = [line for line in said.splitlines() if line.startswith("──")]
    inspect(None, whole, 3, 1, str(tmp_path / "batch.npz"))
    numbers = np.load(tmp_path / "batch.npz")["corpus"]
    assert numbers.shape == (1, 8) and numbers.dtype == np.int32
    assert [f"row {i}  corpus corpus.{number}  " in rows[i] for i, number in enumerate(numbers[0])] == [True] * 8


def test_a_mixture_is_evaluated_where_it_is_held_out(recipe, whole, capsys):
    large, small = (str(recipe.parent / name / "corpus") for name in ("large", "small"))
    found = evaluate_run(whole, None, None)
    said = capsys.readouterr().err.strip()
    assert small in said and large not in said and said.count("\n") == 0
    alone = evaluate_run(whole, None, large)
    assert not capsys.readouterr().err
    # The unigram model has been counted in all that is trained on.
    assert found.pop("unigram_mlm_loss") > alone.pop("unigram_mlm_loss") and found == alone
    with pytest.raises(InputError, match=f"^{small} has no validation split; build with a larger"):
        evaluate_run(whole, None, small)


def restored(batch):
    ids = batch["input_ids"].copy()
    rows, slots = np.nonzero(batch["masked_lm_labels"] != -100)
    ids[rows, batch["masked_lm_positions"][rows, slots]] = batch["masked_lm_labels"][rows, slots]
    return ids


def test_stopped_and_gone_on_counts_on(recipe, whole, tmp_path):
    process = runs.start(recipe, tmp_path / "run")
    runs.wait_for_step(process, tmp_path / "run", 7)
    process.send_signal(signal.SIGTERM)
    assert runs.finish(process)[0] == 75
    read = runs.card(tmp_path / "run")["corpora"]
    assert sum(c["rows"] for c in read) == 8 * checkpoint.saved_steps(tmp_path / "run")[-1]
    code, said = runs.train(recipe, tmp_path / "run")
    assert code == 0, said
    assert runs.numbers(whole) == runs.numbers(tmp_path / "run")
    assert runs.card(whole)["corpora"] == runs.card(tmp_path / "run")["corpora"]
    write_report([whole], tmp_path / "report.html")
    assert "of tokens, epoch" in (tmp_path / "report.html").read_text()


def test_other_weights_are_another_run(recipe, whole, tmp_path):
    other = tmp_path / "other.py"
    other.write_text(recipe.read_text().replace('"weight": 3.0', '"weight": 2.0'))
    code, said = runs.train(other, whole)
    assert code == 2 and "give the old weights" in said and said.count("\n") == 1
    # The same shares in other numbers are the same run.
    other.write_text(recipe.read_text().replace('"weight": 3.0', '"weight": 6.0').replace("1.0}", "2.0}"))
    code, said = runs.train(other, whole)
    assert code == 0 and "is finished" in said


@pytest.mark.parametrize("objective", ["nsp", "mlm"])
def test_one_validation_document_is_refused_before_training(objective):
    """Not after it, when the first evaluation finds no random next sentence."""
    splits = {"train": random_split(0, 20), "validation": random_split(1, 1)}
    corpus = SimpleNamespace(path="corpus", split=splits.get)
    config = Config(data=DataConfig(objective=objective, seq_len=16), train=TrainConfig(global_batch_size=1))
    refused = pytest.raises(InputError, match="one validation document") if objective == "nsp" else nullcontext()
    with refused:
        _check_size(corpus, config)
