"""Pretraining of BERT-style encoders in JAX: sample, mask, train, checkpoint, convert, fine-tune."""

__version__ = "0.2.0"
