"""To Hugging Face directories and back: a mapping table a family, and a gate before anything appears."""

from bert_jax.convert.exporting import Form, to_hf
from bert_jax.convert.gate import ConversionMismatch
from bert_jax.convert.hf_writing import parse_size
from bert_jax.convert.importing import from_hf, open_model

__all__ = ["ConversionMismatch", "Form", "from_hf", "open_model", "parse_size", "to_hf"]
