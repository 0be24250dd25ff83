"""BERT-Large in 8,601 steps of large batches (You et al., "Large Batch Optimization for Deep Learning: Training BERT in
76 minutes", 2020): 65,536 rows of 128, then 32,768 rows of 512, with LAMB.

    bert-jax pretrain --config configs/bert_large_lamb.py --config.data.corpus=CORPUS --workdir runs/large_lamb

Batches and the second warm-up are the paper's (its section 4.1: 8,599 steps). Steps, rates and warm-ups are those
published with NVIDIA's reproduction (DeepLearningExamples, PyTorch/LanguageModeling/BERT, pretrain_config.sh: 6e-3 and
28.43 % of 7,038 steps, then 4e-3 and 12.8 % of 1,563). There the rates fall with the square
root of the steps that are left; here, as in the paper, linearly.

Hardware: the paper's is a TPU v3 pod of 1,024 chips (76 minutes); a v5e-256 takes some hours. `accumulation` divides
what a device holds at once. Not run here at this size. What the paper reports: SQuAD v1.1 F1 of 90.58 (BERT-Large's
baseline in the same table: 90.40).
"""

from bert_jax.config import default_config


def get_config():
    """The recipe."""
    config = default_config()
    config.model.update(hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096)
    config.train.update(
        accumulation=8,
        log_every=10,
        eval_every=1_000,
        checkpoint_every=200,
        phases=(
            dict(num_steps=7_038, seq_len=128, global_batch_size=65_536, learning_rate=6e-3, warmup_steps=2_000),
            dict(num_steps=1_563, seq_len=512, global_batch_size=32_768, learning_rate=4e-3, warmup_steps=200),
        ),
    )
    config.data.update(masking="token", mask_prob=0.15)
    config.optimizer.update(
        name="lamb", schedule="linear", weight_decay=0.01, b1=0.9, b2=0.999, eps=1e-6, max_grad_norm=1.0
    )
    return config
