"""Pretraining of BERT-style encoders in JAX: sample, mask, train, checkpoint, convert, fine-tune."""

__version__ = "0.2.0"

__all__ = ["__version__", "load"]


def __getattr__(name: str):
    """`load`, when it is asked for: the command line's help need not wait for jax."""
    if name == "load":
        from bert_jax.loading import load

        return load
    raise AttributeError(f"module 'bert_jax' has no attribute {name!r}")
