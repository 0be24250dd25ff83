"""What is not in the default recipe, all in one run, stopped and gone on with: it equals the uninterrupted one."""

import signal

import jax
import numpy as np
import training_runs as runs

from bert_jax import checkpoint

RECIPE = """
from bert_jax.config import default_config

def get_config():
    config = default_config()
    config.model.update(hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64, max_position_embeddings=64,
                        dtype="float32")
    config.data.update(corpus="{corpus}", objective="mlm", mlm_documents="across", masking="span", block_tokens=4000)
    config.train.update(accumulation=2, log_every=1, checkpoint_every=5, phases=(
        dict(num_steps=12, seq_len=32, global_batch_size=16, learning_rate=0.02, warmup_steps=3),
        dict(num_steps=12, seq_len=64, global_batch_size=8, learning_rate=0.01, warmup_steps=2),
    ))
    config.optimizer.update(name="lamb", schedule="wsd", decay_share=0.25)
    return config
"""


def test_lamb_spans_full_sentences_and_phases_resume_exactly(tmp_path):
    corpus = runs.make_corpus(tmp_path)
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE.format(corpus=corpus))
    code, said = runs.train(recipe, tmp_path / "whole")
    assert code == 0, said
    process = runs.start(recipe, tmp_path / "parts")
    runs.wait_for_step(process, tmp_path / "parts", 7)
    process.send_signal(signal.SIGTERM)
    assert runs.finish(process)[0] == 75
    code, said = runs.train(recipe, tmp_path / "parts")
    assert code == 0 and "resuming" in said
    assert runs.numbers(tmp_path / "whole") == runs.numbers(tmp_path / "parts")
    whole, parts = (checkpoint.load_model(tmp_path / name).params for name in ("whole", "parts"))
    assert jax.tree.all(jax.tree.map(np.array_equal, whole, parts))
    lines = [line for line in runs.numbers(tmp_path / "whole") if "loss" in line]
    assert lines[-1]["loss"] < 0.95 * lines[0]["loss"] and "nsp_loss" not in lines[0]
    rates = [line["learning_rate"] for line in lines]
    np.testing.assert_allclose(rates[:4], [0.02 / 3, 0.04 / 3, 0.02, 0.02], rtol=1e-5)
    np.testing.assert_allclose(rates[11:16], [0.02 / 3, 0.005, 0.01, 0.01, 0.01], rtol=1e-5)
