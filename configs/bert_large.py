"""BERT-Large as published (Devlin et al., 2019): 340 M parameters, a million steps, 90 % at 128 tokens and 10 % at 512.

    bert-jax pretrain --config configs/bert_large.py --config.data.corpus=CORPUS --workdir runs/large

Hardware: a TPU v4-128 or v5e-64, or 16 A100/H100 and more; the same command on every host. Set `--config.mesh.fsdp`
where parameters and optimizer (5.4 GB in float32) should be shared out among devices. Not run here
at this size. What to expect once fine-tuned on MNLI is the paper's 86.7/85.9 accuracy (matched/mismatched, its table
1).
"""

from bert_jax.config import default_config


def get_config():
    """The recipe."""
    config = default_config()
    config.model.update(hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096)
    config.train.update(
        global_batch_size=256,
        log_every=100,
        eval_every=10_000,
        checkpoint_every=5_000,
        phases=(
            dict(num_steps=900_000, seq_len=128, global_batch_size=256),
            dict(num_steps=100_000, seq_len=512, global_batch_size=256),
        ),
    )
    config.data.update(masking="token", mask_prob=0.15)
    config.optimizer.update(
        learning_rate=1e-4, warmup_steps=10_000, weight_decay=0.01, b1=0.9, b2=0.999, eps=1e-6, max_grad_norm=1.0
    )
    return config
