"""Encoder, pooler and a linear head on [CLS]: the model of a fine-tuned task (Devlin et al., 2018, section 4.1).

Families differ in what stands between the pooler's product and the head, and in where there is dropout.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bert_jax.config import ModelConfig
from bert_jax.model.bert import Dropout, Params, abstract_params, bind_encoder
from bert_jax.model.layers import NORMAL, gelu, take_positions
from bert_jax.random_bits import Purpose

_PRETRAINING_HEADS = ("mlm", "nsp")
# As transformers' classes for sequence classification have them; tanh in the others.
_ACTIVATIONS = {"distilbert": jax.nn.relu, "electra": gelu}
_DROPOUT_BEFORE_POOLER = ("roberta", "xlm-roberta", "electra")


def classifier_shapes(config: ModelConfig, num_labels: int) -> Params:
    """The tree of such a model as jax.ShapeDtypeStruct: encoder, pooler, `classifier` (kernel [D,C] and bias [C])."""
    tree = {name: part for name, part in abstract_params(config, "nsp").items() if name not in _PRETRAINING_HEADS}
    return tree | {"classifier": head_shapes(config, num_labels)}


def head_shapes(config: ModelConfig, outputs: int) -> Params:
    """A linear head as jax.ShapeDtypeStruct: kernel [D,C] and bias [C]."""
    sizes = {"kernel": (config.hidden_size, outputs), "bias": (outputs,)}
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in sizes.items()}


def init_head(config: ModelConfig, outputs: int, seed: int) -> Params:
    """A fresh linear head: kernel [D,C] truncated normal of deviation 0.02, bias [C] zero."""
    kernel = NORMAL(jax.random.key(seed), (config.hidden_size, outputs), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(outputs, jnp.float32)}


def classifier_logits(
    config: ModelConfig, params: Params, batch: Mapping[str, Array], dropout: Dropout | None = None
) -> Float[Array, "B C"]:
    """Float32 logits of a row's one example.

    Args:
      config: sizes.
      params: as `classifier_shapes` says.
      batch: input_ids, token_type_ids, position_ids, segment_ids, int32 [B,S], with [CLS] at position 0.
      dropout: None for none.
    """
    encoder = {name: part for name, part in params.items() if name != "classifier"}
    model = bind_encoder(config, "nsp", encoder)
    first = take_positions(model.encode(batch, dropout), jnp.zeros((batch["input_ids"].shape[0], 1), jnp.int32))
    if dropout is not None and config.family in _DROPOUT_BEFORE_POOLER:
        first = dropout(first, config.hidden_dropout_rate, Purpose.DROPOUT_BEFORE_POOLER)
    pooled = _ACTIVATIONS.get(config.family, jnp.tanh)(model.pooler(first))[:, 0].astype(jnp.float32)
    if dropout is not None:
        pooled = dropout(pooled, config.hidden_dropout_rate, Purpose.DROPOUT_HEAD)
    return pooled @ params["classifier"]["kernel"] + params["classifier"]["bias"]
