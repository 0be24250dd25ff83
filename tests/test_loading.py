"""The page about loading a model does what it says, and gives what the commands give."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from saved_models import save, saved_model

from bert_jax import checkpoint, load
from bert_jax.convert import to_hf
from bert_jax.convert.reference import forward
from bert_jax.fill_mask import fill_mask
from bert_jax.model.bert import bind_encoder
from data_prep.errors import InputError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "in_jax.md"


def test_the_page(tmp_path, monkeypatch, capsys):
    to_hf(save(tmp_path, "mlm"), tmp_path / "hf")
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S)[1], found)
    best = fill_mask(tmp_path / "hf", "the film is very [MASK] .", top_k=1)[0][0]
    assert capsys.readouterr().out.strip() == best["token_str"]
    batch, hidden = found["batch"], np.asarray(found["hidden"])
    used = batch["segment_ids"][1].sum()
    np.testing.assert_allclose(found["embeddings"][1], hidden[1, :used].mean(0), atol=1e-5)
    inputs = {name: batch[name] for name in ("input_ids", "token_type_ids")} | {"attention_mask": batch["segment_ids"]}
    logits = found["model"].word_logits(found["params"], batch)
    expected = forward(tmp_path / "hf", inputs)["logits"]
    np.testing.assert_allclose(np.asarray(logits)[0], expected[0], atol=1e-4)


def test_bad_input(tmp_path):
    model, _ = load(save(tmp_path, "mlm"))
    for texts, length in (([], None), (["a"], 21), (["a"], 2)):
        with pytest.raises(InputError, match="a length from 3 to 20"):
            model.batch(texts, length)
    assert model.batch(["the film is very good ."], 5)["input_ids"].shape == (1, 5)


@pytest.mark.parametrize("kernel", ["pallas", "cudnn"])
def test_a_run_whose_config_names_a_kernel_is_a_model_anywhere(tmp_path, kernel):
    saved = saved_model(tmp_path, "mlm")
    checkpoint.save_model(
        tmp_path / "run", dataclasses.replace(saved, config=dataclasses.replace(saved.config, attention=kernel))
    )
    model, params = load(tmp_path / "run")
    assert model.hidden_states(params, model.batch(["the film is very good ."])).shape[:2] == (1, 8)


@pytest.mark.parametrize(
    ("objective", "sizes"),
    [("classification", {}), ("tagging", {}), ("qa", {}), ("rtd", {"family": "electra", "embedding_size": 8})],
)
def test_hidden_states_of_any_model(tmp_path, objective, sizes):
    """Those of the encoder under a task's head, or a discriminator's, are those of a masked model with that encoder."""
    saved = saved_model(tmp_path, objective, **sizes)
    checkpoint.save_model(tmp_path / "model", saved)
    model, params = load(tmp_path / "model")
    batch = model.batch(["the film is very good .", "a sad book"])
    encoder = {name: saved.params[name] for name in ("embeddings", "layers")}
    masked = bind_encoder(saved.config, "mlm", encoder)
    np.testing.assert_allclose(model.hidden_states(params, batch), masked.encode(batch), atol=1e-6)
    with pytest.raises(InputError, match=f"{objective} model predicts no words; its hidden states"):
        model.word_logits(params, batch)
