"""The families known, by the `model_type` of their config.json (and our `config.model.family`)."""

from bert_jax.convert.bert import BERT
from bert_jax.convert.distilbert import DISTILBERT
from bert_jax.convert.electra import ELECTRA
from bert_jax.convert.mapping import Family
from bert_jax.convert.roberta import ROBERTA, XLM_ROBERTA

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (BERT, ROBERTA, XLM_ROBERTA, DISTILBERT, ELECTRA)
}
