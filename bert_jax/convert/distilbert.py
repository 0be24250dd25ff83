"""DistilBERT (Sanh et al., 2019): BERT's layers under other names, without token types, pooler and next sentences."""

import dataclasses
from typing import Any

from bert_jax.config import ModelConfig
from bert_jax.convert.config_fields import Fields, fields_from_hf, fields_to_hf
from bert_jax.convert.mapping import LAYER, Family, Row
from bert_jax.convert.rows import RENAMED, dense, embeddings, norm

_LAYER = f"distilbert.transformer.layer.{LAYER}"

TABLE = (
    *(row for row in embeddings("distilbert") if "token_type" not in row.ours),
    *dense("layers/attention/query", f"{_LAYER}.attention.q_lin"),
    *dense("layers/attention/key", f"{_LAYER}.attention.k_lin"),
    *dense("layers/attention/value", f"{_LAYER}.attention.v_lin"),
    *dense("layers/attention/output", f"{_LAYER}.attention.out_lin", inputs=2),
    *norm("layers/attention_norm", f"{_LAYER}.sa_layer_norm"),
    *dense("layers/mlp/up", f"{_LAYER}.ffn.lin1"),
    *dense("layers/mlp/down", f"{_LAYER}.ffn.lin2"),
    *norm("layers/mlp_norm", f"{_LAYER}.output_layer_norm"),
    *dense("mlm/transform", "vocab_transform"),
    *norm("mlm/norm", "vocab_layer_norm"),
    Row("mlm/decoder/embedding", "vocab_projector.weight", "table", vocabulary=True),  # untied only
    Row("mlm/decoder/bias", "vocab_projector.bias", "vector", vocabulary=True),
    *dense("pooler", "pre_classifier"),  # a task's, not pretrained
    *dense("classifier", "classifier"),
    *dense("tagger", "classifier"),
    *dense("span", "qa_outputs"),
)

_FIELDS: Fields = {
    "vocab_size": ("vocab_size", 30522),
    "hidden_size": ("dim", 768),
    "num_layers": ("n_layers", 6),
    "num_heads": ("n_heads", 12),
    "intermediate_size": ("hidden_dim", 3072),
    "max_position_embeddings": ("max_position_embeddings", 512),
    "hidden_dropout_rate": ("dropout", 0.1),
    "attention_dropout_rate": ("attention_dropout", 0.1),
}
# Sinusoidal tables are stored like learned ones, and trained like them here. The norms' epsilon is no field there.
_FIXED = {"activation": "gelu"}


def _config_to_hf(config: ModelConfig) -> dict[str, Any]:
    return fields_to_hf(config, _FIELDS, _FIXED)


def _config_from_hf(said: dict[str, Any], where: str) -> ModelConfig:
    config = fields_from_hf(said, where, "distilbert", _FIELDS, _FIXED)
    return dataclasses.replace(config, type_vocab_size=0, layer_norm_eps=1e-12)


DISTILBERT = Family(
    model_type="distilbert",
    prefix="distilbert.",
    architectures={
        "DistilBertForMaskedLM": "mlm",
        "DistilBertModel": "mlm",
        "DistilBertForSequenceClassification": "classification",
        "DistilBertForTokenClassification": "tagging",
        "DistilBertForQuestionAnswering": "qa",
    },
    bare="DistilBertModel",
    table=TABLE,
    tied={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    position_ids="distilbert.embeddings.position_ids",
    renamed=RENAMED,
    config_to_hf=_config_to_hf,
    config_from_hf=_config_from_hf,
)
