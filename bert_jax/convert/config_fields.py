"""The sizes of a config.json and ours, field by field, in both directions."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bert_jax.config import ModelConfig
from data_prep.errors import InputError

# Ours: (theirs, what transformers takes where the field is missing).
Fields = Mapping[str, tuple[str, Any]]

BERT_FIELDS: Fields = {
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

# What says how a model was trained, and matters to who goes on in transformers: kept for the way back.
OF_TRAINING = ("initializer_range", "classifier_dropout", "seq_classif_dropout", "qa_dropout", "sinusoidal_pos_embds")

_MOST, _MOST_LAYERS = 10**9, 10**4  # far above what there is, and small enough to count with

# What the model has no other choice of; theirs must agree where it is said.
BERT_FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}


def fields_to_hf(config: ModelConfig, fields: Fields, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of config.json that a model's sizes make."""
    sizes = {theirs: getattr(config, ours) for ours, (theirs, _) in fields.items()}
    usual = {"tie_word_embeddings": config.tie_word_embeddings, "initializer_range": 0.02, "use_cache": True}
    return {"model_type": config.family, **sizes, **fixed, **usual}


def fields_from_hf(
    said: Mapping[str, Any], where: str, family: str, fields: Fields, fixed: Mapping[str, Any]
) -> ModelConfig:
    """The sizes that config.json says.

    Args:
      said: what is in the file.
      where: its path, for messages.
      family: of the model.
      fields, fixed: of the family.

    Raises:
      InputError: a field that is not of its type, or that asks for what this encoder does not do.
    """
    for name, value in fixed.items():
        if said.get(name, value) != value:
            raise InputError(f"{where}: {name} is {said[name]!r}; only {value!r} is supported")
    kinds = {field.name: type(field.default) for field in dataclasses.fields(ModelConfig)}
    values: dict[str, Any] = {}
    for ours, (theirs, default) in fields.items():
        value = said.get(theirs, default)
        if kinds[ours] is float and type(value) is int:
            value = float(value)
        positive = isinstance(value, kinds[ours]) and not isinstance(value, bool)
        positive = positive and (value >= 0 if ours.endswith("_rate") else value > 0)
        most = _MOST_LAYERS if ours == "num_layers" else _MOST
        if not positive or value > most:
            raise InputError(
                f"{where}: {theirs} is {value!r}; it must be a positive {kinds[ours].__name__} up to {most}"
            )
        values[ours] = value
    if values["hidden_size"] % values["num_heads"]:
        raise InputError(
            f"{where}: {fields['hidden_size'][0]} {values['hidden_size']} is not divisible by "
            f"{fields['num_heads'][0]} {values['num_heads']}; copy the model again"
        )
    tied = said.get("tie_word_embeddings", True)
    if not isinstance(tied, bool):
        raise InputError(f"{where}: tie_word_embeddings is {tied!r}; it must be true or false")
    return ModelConfig(family=family, **values, tie_word_embeddings=tied)
