"""A two-layer BERT for trying things: trains on a laptop's CPU in minutes.

    bert-jax pretrain --config configs/bert_tiny.py --config.data.corpus=CORPUS --workdir runs/tiny

Hardware: any; on two CPU cores about 10,000 tokens a second. Expect the held-out MLM loss to leave the unigram model's
behind within a few hundred steps; it is no model to use, only one to see everything work.
"""

from bert_jax.config import default_config


def get_config():
    """The recipe."""
    config = default_config()
    config.model.update(
        hidden_size=128, num_layers=2, num_heads=2, intermediate_size=512, max_position_embeddings=512, dtype="float32"
    )
    config.data.update(seq_len=128)
    config.train.update(num_steps=1000, global_batch_size=32, log_every=10, eval_every=250, checkpoint_every=250)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=100)
    return config
