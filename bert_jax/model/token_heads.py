"""Encoder and a linear head on every token: tags, and where an answer begins and ends (Devlin et al., 2018, section 4).

The same in all families.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bert_jax.config import ModelConfig
from bert_jax.model.bert import Dropout, Params, abstract_params, bind
from bert_jax.model.layers import NORMAL
from bert_jax.random_bits import Purpose

HEADS = {"tagging": "tagger", "qa": "span"}  # task to the name of its head
_ENCODER = ("embeddings", "layers")
_DROPOUT = ("tagger",)  # transformers' classes for spans have none before the head


def token_head_shapes(config: ModelConfig, head: str, outputs: int) -> Params:
    """The tree of such a model as jax.ShapeDtypeStruct: encoder, and the head (kernel [D,C] and bias [C])."""
    tree = {name: part for name, part in abstract_params(config, "mlm").items() if name in _ENCODER}
    sizes = {"kernel": (config.hidden_size, outputs), "bias": (outputs,)}
    return tree | {head: {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in sizes.items()}}


def init_token_head(config: ModelConfig, outputs: int, seed: int) -> Params:
    """A fresh head: kernel [D,C] truncated normal of deviation 0.02, bias [C] zero."""
    kernel = NORMAL(jax.random.key(seed), (config.hidden_size, outputs), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(outputs, jnp.float32)}


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
    # The head for masked words is described too but never used here, so it costs nothing.
    shapes = {"mlm": abstract_params(config, "mlm")["mlm"]}
    unused = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    model = bind(config, "mlm", {name: params[name] for name in _ENCODER} | unused)
    hidden = model.encode(batch, dropout).astype(jnp.float32)
    if dropout is not None and head in _DROPOUT:
        hidden = dropout(hidden, config.hidden_dropout_rate, Purpose.DROPOUT_HEAD)
    return hidden @ params[head]["kernel"] + params[head]["bias"]
