"""Families other than BERT by the commands that a user types, each line checked with PyTorch at its end."""

import json

import numpy as np
import pytest
import transformers
from family_models import make
from safetensors.numpy import load_file
from small_corpora import make_tokenizer

from bert_jax.cli import main


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


@pytest.mark.parametrize(("family", "kind"), [("distilbert", "DistilBertForMaskedLM")])
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
