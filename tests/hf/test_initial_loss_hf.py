"""A run that starts from a published model has its held-out loss: what transformers gives on the same masked rows."""

import dataclasses

import pytest
import training_runs as runs
from family_models import LENGTH, make
from transformers_rows import held_out_losses, masked_validation_rows

from bert_jax import checkpoint
from bert_jax.config import Config, DataConfig, TrainConfig
from bert_jax.convert.importing import read_hf
from bert_jax.convert.initialise import initial_params
from bert_jax.evaluate import evaluate_run
from data_prep.tokenizer import load_tokenizer


@pytest.mark.parametrize(("kind", "objective"), [("BertForPreTraining", "nsp"), ("BertForMaskedLM", "mlm")])
def test_loss_before_the_first_step(tmp_path, kind, objective):
    corpus = runs.make_corpus(tmp_path, documents=200)
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    theirs = make("bert", kind, vocab_size=tokenizer.vocab_size, scale=0.2)
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    config = Config(
        init=str(tmp_path / "theirs"),
        model=dataclasses.replace(read_hf(tmp_path / "theirs").config, dtype="float32"),
        data=DataConfig(corpus=str(corpus), seq_len=LENGTH, objective=objective),
        train=TrainConfig(global_batch_size=16),
    )
    params = initial_params(config, tokenizer)
    model = checkpoint.SavedModel(config.model, objective, params, tmp_path / "theirs", 0, {})
    checkpoint.save_model(tmp_path / "run", model)
    checkpoint.write_json(tmp_path / "run" / "config.json", checkpoint.config_json(config))
    ours = evaluate_run(tmp_path / "run", None, None)
    expected = held_out_losses(theirs, masked_validation_rows(config, tokenizer), tokenizer.pad_id)
    assert ("nsp_loss" in expected) == (objective == "nsp") and expected["mlm_loss"] > 1
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, rel=1e-5), name
