"""BERT: the mapping table, the config, and the classes of transformers (Devlin et al., 2018)."""

import dataclasses
from typing import Any

from bert_jax.config import ModelConfig
from bert_jax.convert.mapping import Family, Row
from data_prep.errors import InputError

_LAYER = "bert.encoder.layer.{layer}"


def _dense(ours: str, theirs: str, inputs: int = 1) -> tuple[Row, Row]:
    return Row(f"{ours}/kernel", f"{theirs}.weight", "dense", inputs), Row(f"{ours}/bias", f"{theirs}.bias", "vector")


def _norm(ours: str, theirs: str) -> tuple[Row, Row]:
    return Row(f"{ours}/scale", f"{theirs}.weight", "vector"), Row(f"{ours}/bias", f"{theirs}.bias", "vector")


TABLE = (
    Row("embeddings/word/embedding", "bert.embeddings.word_embeddings.weight", "table", vocabulary=True),
    Row("embeddings/position/embedding", "bert.embeddings.position_embeddings.weight", "table"),
    Row("embeddings/token_type/embedding", "bert.embeddings.token_type_embeddings.weight", "table"),
    *_norm("embeddings/norm", "bert.embeddings.LayerNorm"),
    *_dense("layers/attention/query", f"{_LAYER}.attention.self.query"),
    *_dense("layers/attention/key", f"{_LAYER}.attention.self.key"),
    *_dense("layers/attention/value", f"{_LAYER}.attention.self.value"),
    *_dense("layers/attention/output", f"{_LAYER}.attention.output.dense", inputs=2),
    *_norm("layers/attention_norm", f"{_LAYER}.attention.output.LayerNorm"),
    *_dense("layers/mlp/up", f"{_LAYER}.intermediate.dense"),
    *_dense("layers/mlp/down", f"{_LAYER}.output.dense"),
    *_norm("layers/mlp_norm", f"{_LAYER}.output.LayerNorm"),
    *_dense("pooler", "bert.pooler.dense"),
    *_dense("mlm/transform", "cls.predictions.transform.dense"),
    *_norm("mlm/norm", "cls.predictions.transform.LayerNorm"),
    Row("mlm/decoder/embedding", "cls.predictions.decoder.weight", "table", vocabulary=True),  # untied only
    Row("mlm/decoder/bias", "cls.predictions.bias", "vector", vocabulary=True),
    *_dense("nsp", "cls.seq_relationship"),
    *_dense("classifier", "classifier"),
)

# Ours: (theirs, what transformers takes where the field is missing)
_CONFIG_FIELDS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", 30522),
    "hidden_size": ("hidden_size", 768),
    "num_layers": ("num_hidden_layers", 12),
    "num_heads": ("num_attention_heads", 12),
    "intermediate_size": ("intermediate_size", 3072),
    "max_position_embeddings": ("max_position_embeddings", 512),
    "type_vocab_size": ("type_vocab_size", 2),
    "hidden_dropout_rate": ("hidden_dropout_prob", 0.1),
    "attention_dropout_rate": ("attention_probs_dropout_prob", 0.1),
    "layer_norm_eps": ("layer_norm_eps", 1e-12),
}

# What the model has no other choice of; theirs must agree where it is said.
_FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}


def _config_to_hf(config: ModelConfig) -> dict[str, Any]:
    sizes = {theirs: getattr(config, ours) for ours, (theirs, _) in _CONFIG_FIELDS.items()}
    fixed = _FIXED | {"tie_word_embeddings": config.tie_word_embeddings, "initializer_range": 0.02, "use_cache": True}
    return {"model_type": "bert", **sizes, **fixed}


def _config_from_hf(fields: dict[str, Any], where: str) -> ModelConfig:
    """Raises InputError for a field that is not of its type, or that asks for what this BERT does not do."""
    for name, value in _FIXED.items():
        if fields.get(name, value) != value:
            raise InputError(f"{where}: {name} is {fields[name]!r}; only {value!r} is supported")
    kinds = {field.name: type(field.default) for field in dataclasses.fields(ModelConfig)}
    values: dict[str, Any] = {}
    for ours, (theirs, default) in _CONFIG_FIELDS.items():
        value = fields.get(theirs, default)
        if kinds[ours] is float and type(value) is int:
            value = float(value)
        positive = isinstance(value, kinds[ours]) and not isinstance(value, bool)
        positive = positive and (value >= 0 if ours.endswith("_rate") else value > 0)
        if not positive:
            raise InputError(f"{where}: {theirs} is {value!r}; it must be a positive {kinds[ours].__name__}")
        values[ours] = value
    if values["hidden_size"] % values["num_heads"]:
        raise InputError(
            f"{where}: hidden_size {values['hidden_size']} is not divisible by "
            f"num_attention_heads {values['num_heads']}; copy the model again"
        )
    tied = fields.get("tie_word_embeddings", True)
    if not isinstance(tied, bool):
        raise InputError(f"{where}: tie_word_embeddings is {tied!r}; it must be true or false")
    return ModelConfig(**values, tie_word_embeddings=tied)


BERT = Family(
    model_type="bert",
    prefix="bert.",
    architectures={
        "BertForPreTraining": "nsp",
        "BertModel": "nsp",
        "BertForMaskedLM": "mlm",
        "BertForSequenceClassification": "classification",
    },
    bare="BertModel",
    table=TABLE,
    tied={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    position_ids="bert.embeddings.position_ids",
    renamed={".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"},
    config_to_hf=_config_to_hf,
    config_from_hf=_config_from_hf,
)
