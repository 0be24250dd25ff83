"""Families other than BERT by the commands that a user types, each line checked with PyTorch at its end."""

import json

import numpy as np
import pytest
import training_runs as runs
import transformers
from byte_level_vocabulary import byte_level
from family_models import LENGTH, make
from safetensors.numpy import load_file
from sentencepiece_vocabulary import moved_by_one
from small_corpora import make_tokenizer, many_texts, write_jsonl
from transformers_rows import held_out_losses, masked_validation_rows

from bert_jax import checkpoint
from bert_jax.cli import main
from data_prep.tokenizer import load_tokenizer

ADDED, LONGER = ["river", "stone"], 64

RECIPE = """
from bert_jax.config import default_config

def get_config():
    config = default_config()
    config.init = "{init}"
    config.extend.update(vocabulary=True, positions=True)
    config.model.update(family="{family}", hidden_size=24, num_layers=2, num_heads=3, intermediate_size=40,
                        max_position_embeddings={length}, position_offset=2, type_vocab_size=1, dtype="float32")
    config.data.update(corpus="{corpus}", objective="mlm", mlm_documents="across", seq_len=48, block_tokens=2000)
    config.train.update(num_steps=3, global_batch_size=8, log_every=1, eval_every=3, checkpoint_every=3)
    config.optimizer.update(learning_rate=1e-2, warmup_steps=1)
    return config
"""


@pytest.fixture
def command(capsys):
    """Runs `bert-jax WORDS` in this process and returns its stdout."""

    def run(*words: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        said = capsys.readouterr()
        assert end.value.code == 0, (words, said.err)
        return said.out

    return run


def write_task(path) -> list[str]:
    rows = [f"the {('house', 'river')[i % 2]} is old, number {i}\t{('inside', 'outside')[i % 2]}" for i in range(24)]
    path.write_text("\n".join(["text\tlabel", *rows]) + "\n")
    return [row.split("\t")[0] for row in rows]


def agrees(report: str) -> bool:
    fields = json.loads(report)
    return fields["agrees"] and fields["pytorch"].keys() == fields["numpy"].keys()


def predicted_as_by_pytorch(command, folder, tuned, exported, texts) -> None:
    """The trained classifier gives each text the label and score that transformers' pipeline gives it."""
    command("predict", tuned, "--input", folder / "task.tsv", "--output", folder / "predictions.jsonl")
    ours = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    theirs = transformers.pipeline("text-classification", model=str(exported))(texts, truncation=True)
    assert [answer["label"] for answer in ours] == [answer["label"] for answer in theirs]
    np.testing.assert_allclose(
        [answer["score"] for answer in ours], [answer["score"] for answer in theirs], atol=1e-5, rtol=0
    )


def finetune_words(folder, init, tuned) -> list:
    task = folder / "task.tsv"
    return [
        "finetune", "--task", "classification", "--train", task, "--dev", task, "--init", init, "--workdir", tuned,
        "--epochs", "2", "--learning-rate", "1e-2",
    ]  # fmt: skip


def begins_as_theirs(command, folder, run, tokenizer) -> None:
    """Step 0 is their model with added tokens and repeated positions, and has the loss that it has in transformers."""
    before, first = (load_file(folder / name / "model.safetensors") for name in ("theirs", "first"))
    for name, table in before.items():
        np.testing.assert_array_equal(first[name][: len(table)], table, err_msg=name)
        grown, mean = first[name][len(table) :], table.mean(axis=0, dtype=np.float64)
        if "position" in name:
            np.testing.assert_array_equal(grown, table[2 : 2 + LONGER - LENGTH])
        elif len(grown):
            assert len(grown) == len(ADDED)
            np.testing.assert_allclose(grown, np.broadcast_to(mean, grown.shape), atol=1e-6)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder / "first", dtype="float32")
    rows = masked_validation_rows(checkpoint.read_config(run), load_tokenizer(folder / "grown"))
    assert set(rows["input_ids"].flatten()) & set(tokenizer.convert_tokens_to_ids(ADDED))
    expected = held_out_losses(model, rows, tokenizer.pad_token_id)
    assert json.loads(command("evaluate", run, "--step", "0"))["mlm_loss"] == pytest.approx(
        expected["mlm_loss"], rel=1e-5
    )
    theirs = transformers.AutoTokenizer.from_pretrained(folder / "first")
    text = "The riverstone, old as a house."
    assert theirs(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize(
    ("family", "kind", "vocabulary", "start"),
    [
        ("roberta", "RobertaForMaskedLM", byte_level, "ours"),
        ("xlm-roberta", "XLMRobertaForMaskedLM", moved_by_one, "theirs"),  # no conversion before
    ],
)
def test_continued_from_theirs_to_theirs(tmp_path, command, family, kind, vocabulary, start):
    tokenizer = transformers.AutoTokenizer.from_pretrained(vocabulary(tmp_path / "vocabulary"))
    make(family, kind, vocab_size=len(tokenizer), scale=0.1).save_pretrained(tmp_path / "theirs")
    tokenizer.save_pretrained(tmp_path / "theirs")
    if start == "ours":
        command("convert", "from-hf", tmp_path / "theirs", tmp_path / "ours")
    text = write_jsonl(tmp_path / "text.jsonl", many_texts(80))
    tokenizer.add_tokens(ADDED)
    tokenizer.save_pretrained(tmp_path / "grown")
    command(
        "build", "--input", text, "--tokenizer", tmp_path / "grown", "--output", tmp_path / "corpus",
        "--validation-share", "0.2", "--workers", "1",
    )  # fmt: skip
    recipe, run = tmp_path / "recipe.py", tmp_path / "run"
    recipe.write_text(RECIPE.format(family=family, init=tmp_path / start, corpus=tmp_path / "corpus", length=LONGER))
    code, said = runs.train(recipe, run)
    assert code == 0, said
    lines = [line for line in runs.numbers(run) if "loss" in line]
    assert len(lines) == 3 and "nsp_loss" not in lines[0]
    held_out = json.loads(command("evaluate", run))
    assert np.isfinite(held_out["mlm_loss"]) and "nsp_loss" not in held_out

    command("convert", "to-hf", run, tmp_path / "first", "--step", "0")
    begins_as_theirs(command, tmp_path, run, tokenizer)

    command("convert", "to-hf", run, tmp_path / "hf")
    assert agrees(command("verify", tmp_path / "hf"))
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "hf"))
    assert before.keys() == after.keys()
    moved = {name for name in before if np.abs(before[name] - after[name][: len(before[name])]).max() > 1e-4}
    assert "lm_head.dense.weight" in moved and "roberta.encoder.layer.0.attention.self.query.weight" in moved

    question = "The old <mask> and the<mask>."
    ours = json.loads(command("fill-mask", tmp_path / "hf", question))["masks"]
    theirs = transformers.pipeline("fill-mask", model=str(tmp_path / "hf"), top_k=5)(question)
    for mine, their in zip(ours, theirs, strict=True):
        assert [word["token_str"] for word in mine] == [word["token_str"] for word in their]
        np.testing.assert_allclose([word["score"] for word in mine], [word["score"] for word in their], atol=1e-6)

    texts = write_task(tmp_path / "task.tsv")
    command(*finetune_words(tmp_path, run, tmp_path / "tuned"))
    command("convert", "to-hf", tmp_path / "tuned", tmp_path / "tuned_hf")
    assert agrees(command("verify", tmp_path / "tuned_hf"))
    predicted_as_by_pytorch(command, tmp_path, tmp_path / "tuned", tmp_path / "tuned_hf", texts)


@pytest.mark.parametrize(
    ("family", "kind"), [("distilbert", "DistilBertForMaskedLM"), ("electra", "ElectraForPreTraining")]
)
def test_finetuned_from_theirs_to_theirs(tmp_path, command, family, kind):
    vocabulary = make_tokenizer(tmp_path / "vocabulary") / "vocab.txt"
    tokenizer = transformers.BertTokenizerFast(str(vocabulary), do_lower_case=False)
    make(family, kind, vocab_size=len(tokenizer), scale=0.1).save_pretrained(tmp_path / "theirs")
    tokenizer.save_pretrained(tmp_path / "theirs")
    command("convert", "from-hf", tmp_path / "theirs", tmp_path / "ours")
    texts = write_task(tmp_path / "task.tsv")
    command(*finetune_words(tmp_path, tmp_path / "ours", tmp_path / "tuned"))
    command("convert", "to-hf", tmp_path / "tuned", tmp_path / "hf")
    probe = load_file(tmp_path / "hf" / "probe.safetensors")
    assert ("token_type_ids" in probe) == (family == "electra")
    assert agrees(command("verify", tmp_path / "hf"))
    predicted_as_by_pytorch(command, tmp_path, tmp_path / "tuned", tmp_path / "hf", texts)
