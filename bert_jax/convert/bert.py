"""BERT: the mapping table, the config, and the classes of transformers (Devlin et al., 2018)."""

from typing import Any

from bert_jax.config import ModelConfig
from bert_jax.convert.config_fields import BERT_FIELDS, BERT_FIXED, fields_from_hf, fields_to_hf
from bert_jax.convert.mapping import Family, Row
from bert_jax.convert.rows import RENAMED, bert_layers, dense, embeddings, norm

TABLE = (
    *embeddings("bert"),
    *bert_layers("bert"),
    *dense("pooler", "bert.pooler.dense"),
    *dense("carried/pooler", "bert.pooler.dense"),  # beside a head that does not use it
    *dense("mlm/transform", "cls.predictions.transform.dense"),
    *norm("mlm/norm", "cls.predictions.transform.LayerNorm"),
    Row("mlm/decoder/embedding", "cls.predictions.decoder.weight", "table", vocabulary=True),  # untied only
    Row("mlm/decoder/bias", "cls.predictions.bias", "vector", vocabulary=True),
    Row("carried/decoder_bias", "cls.predictions.bias", "vector", vocabulary=True),  # untied, beside the decoder's own
    *dense("nsp", "cls.seq_relationship"),
    *dense("classifier", "classifier"),
    *dense("tagger", "classifier"),
    *dense("span", "qa_outputs"),
)


def _config_to_hf(config: ModelConfig) -> dict[str, Any]:
    return fields_to_hf(config, BERT_FIELDS, BERT_FIXED)


def _config_from_hf(said: dict[str, Any], where: str) -> ModelConfig:
    return fields_from_hf(said, where, "bert", BERT_FIELDS, BERT_FIXED)


BERT = Family(
    model_type="bert",
    prefix="bert.",
    architectures={
        "BertForPreTraining": "nsp",
        "BertModel": "nsp",
        "BertForMaskedLM": "mlm",
        "BertForSequenceClassification": "classification",
        "BertForTokenClassification": "tagging",
        "BertForQuestionAnswering": "qa",
    },
    bare="BertModel",
    table=TABLE,
    tied={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    position_ids="bert.embeddings.position_ids",
    renamed=RENAMED,
    config_to_hf=_config_to_hf,
    config_from_hf=_config_from_hf,
)
