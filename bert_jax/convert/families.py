"""The families known, by the `model_type` of their config.json (and our `config.model.family`)."""

from bert_jax.convert.bert import BERT
from bert_jax.convert.mapping import Family

FAMILIES: dict[str, Family] = {family.model_type: family for family in (BERT,)}
