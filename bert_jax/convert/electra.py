"""ELECTRA (Clark et al., 2020): BERT's layers on embeddings that may be narrower.

The discriminator is what one fine-tunes; its head is kept, and not trained here. The generator is a masked language
model.
"""

import dataclasses
from typing import Any

from bert_jax.config import ModelConfig
from bert_jax.convert.config_fields import BERT_FIELDS, BERT_FIXED, Fields, fields_from_hf, fields_to_hf
from bert_jax.convert.mapping import Family, Row
from bert_jax.convert.rows import RENAMED, bert_layers, dense, embeddings, norm

TABLE = (
    *embeddings("electra"),
    *dense("embeddings/project", "electra.embeddings_project"),  # where the sizes differ
    *bert_layers("electra"),
    *dense("discriminator/transform", "discriminator_predictions.dense"),
    *dense("discriminator/output", "discriminator_predictions.dense_prediction"),
    *dense("mlm/transform", "generator_predictions.dense"),
    *norm("mlm/norm", "generator_predictions.LayerNorm"),
    Row("mlm/decoder/embedding", "generator_lm_head.weight", "table", vocabulary=True),  # untied only
    Row("mlm/decoder/bias", "generator_lm_head.bias", "vector", vocabulary=True),
    *dense("pooler", "classifier.dense"),  # a task's, not pretrained
    *dense("classifier", "classifier.out_proj"),
    *dense("tagger", "classifier"),
    *dense("span", "qa_outputs"),
)

_FIELDS: Fields = dict(BERT_FIELDS) | {
    "embedding_size": ("embedding_size", 128),
    "hidden_size": ("hidden_size", 256),
    "num_heads": ("num_attention_heads", 4),
    "intermediate_size": ("intermediate_size", 1024),
}


def _config_to_hf(config: ModelConfig) -> dict[str, Any]:
    return fields_to_hf(config, _FIELDS, BERT_FIXED) | {"embedding_size": config.word_size}


def _config_from_hf(said: dict[str, Any], where: str) -> ModelConfig:
    config = fields_from_hf(said, where, "electra", _FIELDS, BERT_FIXED)
    narrow = config.embedding_size if config.embedding_size != config.hidden_size else 0
    return dataclasses.replace(config, embedding_size=narrow)


ELECTRA = Family(
    model_type="electra",
    prefix="electra.",
    architectures={
        "ElectraForPreTraining": "rtd",
        "ElectraModel": "rtd",
        "ElectraForMaskedLM": "mlm",
        "ElectraForSequenceClassification": "classification",
        "ElectraForTokenClassification": "tagging",
        "ElectraForQuestionAnswering": "qa",
    },
    bare="ElectraModel",
    table=TABLE,
    tied={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    position_ids="electra.embeddings.position_ids",
    renamed=RENAMED,
    config_to_hf=_config_to_hf,
    config_from_hf=_config_from_hf,
)
