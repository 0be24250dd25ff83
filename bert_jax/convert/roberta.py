"""RoBERTa (Liu et al., 2019) and XLM-RoBERTa (Conneau et al., 2019): BERT's layers, positions that begin after [PAD]'s
id, no next sentences, and heads of their own.
"""

import dataclasses
import functools
from typing import Any

from bert_jax.config import ModelConfig
from bert_jax.convert.config_fields import BERT_FIELDS, BERT_FIXED, fields_from_hf, fields_to_hf
from bert_jax.convert.mapping import Family, Row
from bert_jax.convert.rows import RENAMED, bert_layers, dense, embeddings, norm
from data_prep.errors import InputError

TABLE = (
    *embeddings("roberta"),
    *bert_layers("roberta"),
    *dense("carried/pooler", "roberta.pooler.dense"),  # pretrained, and used by no head
    *dense("mlm/transform", "lm_head.dense"),
    *norm("mlm/norm", "lm_head.layer_norm"),
    Row("mlm/decoder/embedding", "lm_head.decoder.weight", "table", vocabulary=True),  # untied only
    Row("mlm/decoder/bias", "lm_head.bias", "vector", vocabulary=True),
    Row("carried/decoder_bias", "lm_head.bias", "vector", vocabulary=True),  # untied, beside the decoder's own
    *dense("pooler", "classifier.dense"),  # a task's, not pretrained
    *dense("classifier", "classifier.out_proj"),
    *dense("tagger", "classifier"),
    *dense("span", "qa_outputs"),
)


_FIELDS = dict(BERT_FIELDS) | {"vocab_size": ("vocab_size", 50265)}


def _config_to_hf(config: ModelConfig) -> dict[str, Any]:
    return fields_to_hf(config, BERT_FIELDS, BERT_FIXED) | {
        "max_position_embeddings": config.max_position_embeddings + config.position_offset,
        "pad_token_id": config.position_offset - 1,
    }


def _config_from_hf(model_type: str, said: dict[str, Any], where: str) -> ModelConfig:
    fields = _FIELDS if model_type == "roberta" else BERT_FIELDS
    config = fields_from_hf(said, where, model_type, fields, BERT_FIXED)
    pad_id = said.get("pad_token_id", 1)
    if not isinstance(pad_id, int) or not 0 <= pad_id < config.max_position_embeddings - 1:
        raise InputError(f"{where}: pad_token_id is {pad_id!r}; positions begin after it, so it must be a small number")
    rows = config.max_position_embeddings
    return dataclasses.replace(config, max_position_embeddings=rows - pad_id - 1, position_offset=pad_id + 1)


def _family(model_type: str, name: str) -> Family:
    return Family(
        model_type=model_type,
        prefix="roberta.",
        architectures={
            f"{name}ForMaskedLM": "mlm",
            f"{name}Model": "mlm",
            f"{name}ForSequenceClassification": "classification",
            f"{name}ForTokenClassification": "tagging",
            f"{name}ForQuestionAnswering": "qa",
        },
        bare=f"{name}Model",
        table=TABLE,
        tied={
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
        position_ids="roberta.embeddings.position_ids",
        renamed=RENAMED,
        config_to_hf=_config_to_hf,
        config_from_hf=functools.partial(_config_from_hf, model_type),
    )


ROBERTA, XLM_ROBERTA = _family("roberta", "Roberta"), _family("xlm-roberta", "XLMRoberta")
