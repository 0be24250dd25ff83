"""To Hugging Face directories and back: a mapping table a family, and a gate before anything appears."""

from bert_jax.convert.exporting import to_hf
from bert_jax.convert.gate import ConversionMismatch
from bert_jax.convert.importing import from_hf, open_model

__all__ = ["ConversionMismatch", "from_hf", "open_model", "to_hf"]
