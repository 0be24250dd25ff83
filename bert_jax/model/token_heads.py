"""Encoder and a linear head on every token: tags, and where an answer begins and ends (Devlin et al., 2018, section 4).

The same in all families.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from bert_jax.config import ModelConfig
from bert_jax.model.bert import Dropout, Params, abstract_params, bind_encoder
from bert_jax.model.classifier import head_shapes
from bert_jax.random_bits import Purpose

HEADS = {"tagging": "tagger", "qa": "span"}  # task to the name of its head
_ENCODER = ("embeddings", "layers")
_DROPOUT = ("tagger",)  # transformers' classes for spans have none before the head


def token_head_shapes(config: ModelConfig, head: str, outputs: int) -> Params:
    """The tree of such a model as jax.ShapeDtypeStruct: encoder, and the head (kernel [D,C] and bias [C])."""
    tree = {name: part for name, part in abstract_params(config, "mlm").items() if name in _ENCODER}
    return tree | {head: head_shapes(config, outputs)}


def token_logits(
    config: ModelConfig, params: Params, batch: Mapping[str, Array], dropout: Dropout | None = None
) -> Float[Array, "B S C"]:
    """Float32 logits of every token.

    Args:
      config: sizes.
      params: as `token_head_shapes` says.
      batch: input_ids, token_type_ids, position_ids, segment_ids, int32 [B,S].
      dropout: None for none.
    """
    (head,) = params.keys() - set(_ENCODER)
    model = bind_encoder(config, "mlm", {name: params[name] for name in _ENCODER})
    hidden = model.encode(batch, dropout).astype(jnp.float32)
    if dropout is not None and head in _DROPOUT:
        hidden = dropout(hidden, config.hidden_dropout_rate, Purpose.DROPOUT_HEAD)
    return hidden @ params[head]["kernel"] + params[head]["bias"]
