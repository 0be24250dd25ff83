"""RoBERTa-Base as published (Liu et al., 2019): 125 M parameters, full sentences of 512 tokens, no next sentences.

    bert-jax pretrain --config configs/roberta_base.py --config.data.corpus=CORPUS --workdir runs/roberta

Hardware: a slice of some hundred TPUs, or as many GPUs as you get (`bert-jax plan` says whether it fits and how long it
takes; `--config.train.accumulation` where a batch does not); the same command on every host. Build the corpus with a
byte-level BPE vocabulary of 50,265 entries: RoBERTa's own files (vocab.json, merges.txt) as `--tokenizer`, or one from
`bert-jax vocab --kind bpe --normalize none`. Not run here at this size. What to expect once fine-tuned on MNLI is the
87.6 accuracy that the authors published with the weights.
"""

from bert_jax.config import default_config


def get_config():
    """The recipe."""
    config = default_config()
    config.model.update(
        family="roberta",
        hidden_size=768,
        num_layers=12,
        num_heads=12,
        intermediate_size=3072,
        max_position_embeddings=512,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    config.data.update(
        objective="mlm", mlm_documents="across", seq_len=512, masking="token", mask_prob=0.15, short_seq_prob=0.0
    )
    # The table of hyperparameters in the paper's appendix, column of the base model; gradients are not clipped.
    config.train.update(
        num_steps=500_000, global_batch_size=8192, log_every=100, eval_every=10_000, checkpoint_every=2_000
    )
    config.optimizer.update(
        learning_rate=6e-4, warmup_steps=24_000, weight_decay=0.01, b1=0.9, b2=0.98, eps=1e-6, max_grad_norm=0.0
    )
    return config
