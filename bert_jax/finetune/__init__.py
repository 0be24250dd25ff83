"""Task heads on a pretrained encoder: training, metrics, predictions."""

from bert_jax.finetune.train import finetune

__all__ = ["finetune"]
