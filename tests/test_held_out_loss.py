"""The held-out loss against NumPy: every row of the validation split, in one piece, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpy_bert
import pytest
import training_runs as runs
from small_bert import model_config, random_params

from bert_jax import checkpoint
from bert_jax.data.plan import RowSettings
from bert_jax.data.read import validation_batches
from bert_jax.evaluate import batch_rows, evaluate_run
from bert_jax.masking import MaskSettings, make_mask_fn
from data_prep.corpus import Corpus
from data_prep.tokenizer import load_tokenizer


@pytest.mark.parametrize("objective", ["nsp", "mlm"])
def test_evaluate_gives_the_loss_that_numpy_gives(tmp_path, objective):
    corpus_path = runs.make_corpus(tmp_path, documents=900)
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    small = model_config(vocab_size=tokenizer.vocab_size, max_position_embeddings=32, dtype="float32")
    params = random_params(small, objective)
    tokenizer.save(tmp_path / "words")
    model = checkpoint.SavedModel(small, objective, params, tmp_path / "words", 0, {})
    checkpoint.save_model(tmp_path / "run", model)
    config = checkpoint.read_config(tmp_path / "run")
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, corpus=str(corpus_path), seq_len=32),
        train=dataclasses.replace(config.train, global_batch_size=32, accumulation=2),
    )
    checkpoint.write_json(tmp_path / "run" / "config.json", checkpoint.config_json(config))

    settings = RowSettings.of(config.data, 32)
    split = Corpus.open(corpus_path).split("validation")
    clean = next(validation_batches(split, settings, config.seed, tokenizer, 4096, np.arange))
    rows = int((clean["segment_ids"] > 0).any(axis=1).sum())
    assert 100 < rows < 4096 and rows % batch_rows(config, 0)  # evaluate's last batch is not full
    clean = {name: values[:rows] for name, values in clean.items()}
    mask = make_mask_fn(MaskSettings.of(config.data, 32, tokenizer))
    batch = jax.tree.map(np.asarray, mask(jax.tree.map(jnp.asarray, clean), np.uint32(config.seed), 0))
    exact, eps = jax.tree.map(np.float64, params), small.layer_norm_eps
    hidden = numpy_bert.encode(exact, batch, eps)
    logits = numpy_bert.mlm_logits(exact, hidden, batch["masked_lm_positions"], eps, small.vocab_size)
    total, count, correct = numpy_bert.cross_entropy(logits, batch["masked_lm_labels"])

    got = evaluate_run(tmp_path / "run", None, None)
    assert got["mlm_loss"] == pytest.approx(total / count, rel=1e-5)
    assert got["mlm_accuracy"] == pytest.approx(correct / count, abs=1.5 / count)
    assert got["tokens"] == (clean["segment_ids"] > 0).sum()
    assert got["examples"] == clean["segment_ids"].max(axis=1).sum()  # those without a second part too
    if objective == "nsp":
        decisions = numpy_bert.nsp_logits(exact, numpy_bert.pool(exact, hidden, batch["cls_positions"]))
        total, count, correct = numpy_bert.cross_entropy(decisions, batch["next_sentence_labels"])
        assert got["nsp_loss"] == pytest.approx(total / count, rel=1e-5)
        assert got["nsp_accuracy"] == pytest.approx(correct / count, abs=1.5 / count)
