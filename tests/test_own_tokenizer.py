"""Whatever reads a model refuses the tokenizer of another one, whose ids would be clipped in silence."""

import pytest
from saved_models import save, saved_model

from bert_jax.cli import main
from bert_jax.loading import load
from bert_jax.own_tokenizer import own_tokenizer
from data_prep.errors import InputError

TABLE = "text\tlabel\nthe film is good\tgood\nthe film is bad\tbad\n"
READERS = {
    "predict": ("classification", ["predict", "{model}", "--input", "{table}", "--output", "{out}"]),
    "fill-mask": ("nsp", ["fill-mask", "{model}", "a [MASK]"]),
    "to-hf": ("nsp", ["convert", "to-hf", "{model}", "{out}"]),
    "finetune": (
        "nsp",
        ["finetune", "--task", "classification", "--init", "{model}", "--train", "{table}", "--dev", "{table}",
         "--workdir", "{out}"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_commands(tmp_path, capsys, reader):
    objective, command = READERS[reader]
    model = save(tmp_path, objective, vocab_size=20)
    (tmp_path / "table.tsv").write_text(TABLE)
    places = {"model": model, "table": tmp_path / "table.tsv", "out": tmp_path / "out"}
    with pytest.raises(SystemExit) as ended:
        main([word.format(**places) for word in command])
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and "the tokenizer has 27 entries, the embeddings 20" in error
    assert not (tmp_path / "out").exists()


def test_load(tmp_path):
    with pytest.raises(InputError, match="27 entries, the embeddings 20"):
        load(save(tmp_path, vocab_size=20))


def test_positions_begin_behind_pad(tmp_path):
    with pytest.raises(InputError, match=r"positions begin after id 1 .* \[PAD\] is 0"):
        own_tokenizer(saved_model(tmp_path, "mlm", family="roberta", position_offset=2))
    assert own_tokenizer(saved_model(tmp_path, "mlm", family="roberta", position_offset=1)).vocab_size == 27
