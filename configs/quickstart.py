"""The recipe of `make quickstart`: a small BERT on the docstrings of Python and of this program's dependencies.

    bert-jax pretrain --config configs/quickstart.py --config.data.corpus=quickstart/corpus --workdir quickstart/run

Hardware: two CPU cores, some minutes. Expect a held-out MLM loss well below the unigram model's (both are printed by
`bert-jax evaluate`): it has learned which words go together, not yet what they mean.
"""

from bert_jax.config import default_config


def get_config():
    """The recipe."""
    config = default_config()
    config.model.update(
        hidden_size=192,
        num_layers=2,
        num_heads=3,
        intermediate_size=768,
        max_position_embeddings=128,
        # So short a training underfits: dropout would only slow it down.
        hidden_dropout_rate=0.0,
        attention_dropout_rate=0.0,
        dtype="float32",
    )
    config.data.update(seq_len=128)
    # Many small steps: a model that has seen little text leaves the unigram's plateau by the number of its updates.
    config.train.update(num_steps=1200, global_batch_size=16, log_every=10, eval_every=400, checkpoint_every=200)
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, b2=0.98)
    return config
