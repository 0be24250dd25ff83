"""BERT with its pretraining heads (Devlin et al., 2018): module descriptions, and params as a plain nested dict.

RoBERTa (Liu et al., 2019), DistilBERT (Sanh et al., 2019) and ELECTRA (Clark et al., 2020) are the same encoder: what
they have more or less of is said by the config's sizes.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from bert_jax.config import ModelConfig
from bert_jax.model.encoder import run_layers, stack
from bert_jax.model.layers import (
    NORMAL,
    ZEROS,
    Dense,
    Dropout,
    LayerNorm,
    gelu,
    in_use,
    parameter,
    product,
    take_positions,
)
from bert_jax.model.partitioning import constrain
from bert_jax.random_bits import Purpose

__all__ = ["Bert", "Dropout", "Params", "abstract_params", "bind", "init_params", "logical_axes"]

Params = dict[str, Any]

PADDED_LOGIT = -1e9  # far below any logit, so exp(it - max) is exactly 0, and far from overflow


def _table(size: int, used: int, features: int, axes: tuple[str, str], rngs: nnx.Rngs) -> nnx.Param:
    def initializer(key, shape, dtype):
        return jnp.where(jnp.arange(size)[:, None] < used, NORMAL(key, shape, dtype), 0.0)

    return parameter(rngs, initializer, (size, features), axes)


class Embedding(nnx.Module):
    """A table of vectors; rows from `used` on are padding, zero at first."""

    def __init__(self, size: int, used: int, features: int, axes: tuple[str, str], rngs: nnx.Rngs):
        """Declares a [size, features] table."""
        self.axes = axes
        self.embedding = _table(size, used, features, axes, rngs)

    def __call__(self, ids: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        return jnp.take(in_use(self.embedding, self.axes, jnp.float32), ids, axis=0, mode="clip")


class Embeddings(nnx.Module):
    """Word, position and, where there are any, token type, summed in float32, normed, and projected where narrower."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        """Declares the tables, the norm and what the config asks for besides."""
        size, vocab = config.word_size, config.padded_vocab_size
        self.rate, self.offset = config.hidden_dropout_rate, config.position_offset
        self.word = Embedding(vocab, config.vocab_size, size, ("vocab", "embed"), rngs)
        positions, types = config.position_offset + config.max_position_embeddings, config.type_vocab_size
        self.position = Embedding(positions, positions, size, ("position", "embed"), rngs)
        self.token_type = Embedding(types, types, size, ("token_type", "embed_vector"), rngs) if types else None
        self.norm = LayerNorm(size, config.layer_norm_eps, config.dtype, rngs)
        self.project = _projection(config, rngs) if size != config.hidden_size else None

    def __call__(self, batch: Mapping[str, Any], dropout: Dropout | None) -> Float[Array, "B S D"]:
        summed = self.word(batch["input_ids"]) + self.position(batch["position_ids"] + self.offset)
        if self.token_type is not None:
            summed += self.token_type(batch["token_type_ids"])
        x = self.norm(constrain(summed, "batch", None, None))
        if dropout is not None:
            x = dropout(x, self.rate, Purpose.DROPOUT_EMBEDDINGS)
        if self.project is not None:
            x = self.project(x)
        return constrain(x, "batch", None, None)


def _projection(config: ModelConfig, rngs: nnx.Rngs) -> Dense:
    sizes = (config.word_size, config.hidden_size)
    return Dense("BSE,ED->BSD", sizes, ("embed", "embed_out"), ("embed_vector",), config.dtype, rngs)


class MlmHead(nnx.Module):
    """Transform, norm, decoder; the decoder's weight is the word embedding, unless it is untied."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        """Declares the transform and what the decoder has of its own."""
        size = config.word_size
        self.transform = Dense(
            "BPD,DE->BPE", (config.hidden_size, size), ("embed", "embed_out"), ("embed_vector",), config.dtype, rngs
        )
        self.norm = LayerNorm(size, config.layer_norm_eps, config.dtype, rngs)
        self.dtype = jnp.dtype(config.dtype)
        self.decoder = Decoder(config, rngs)

    def __call__(self, hidden: Float[Array, "B P D"], words: Float[Array, "V E"]) -> Float[Array, "B P V"]:
        """Logits against every row of the word embedding `words`, or of the decoder's own table where it has one."""
        transformed = self.norm(gelu(self.transform(hidden)))
        table = words if self.decoder.embedding is None else jnp.asarray(self.decoder.embedding[...])
        logits = product("BPE,VE->BPV", self.dtype, ("vocab", "embed"), transformed, table)
        return logits + self.decoder.bias_in_use()


class Decoder(nnx.Module):
    """A bias a word, and a vector a word where it is untied from the word embedding."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        """Declares the bias and, where it is untied, the table."""
        self.used, size = config.vocab_size, config.padded_vocab_size
        self.bias = parameter(rngs, ZEROS, (size,), ("vocab_vector",))
        axes = ("vocab", "embed")
        tied = config.tie_word_embeddings
        self.embedding = None if tied else _table(size, self.used, config.word_size, axes, rngs)

    def bias_in_use(self) -> Float[Array, " V"]:
        """Padding rows get a bias so low that they never win and add nothing to the softmax."""
        bias = in_use(self.bias, ("vocab_vector",), jnp.float32)
        return jnp.where(jnp.arange(bias.shape[0]) < self.used, bias, PADDED_LOGIT)


class ReplacedTokenHead(nnx.Module):
    """Which tokens are not the text's own: dense, gelu, one logit a position (Clark et al., 2020)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        """Declares the two products."""
        size = config.hidden_size
        self.transform = Dense(
            "BSD,DE->BSE", (size, size), ("embed", "embed_out"), ("embed_vector",), config.dtype, rngs
        )
        self.output = Dense("BSD,DC->BSC", (size, 1), ("embed_vector", "label"), ("label",), jnp.float32, rngs)

    def __call__(self, hidden: Float[Array, "B S D"]) -> Float[Array, "B S"]:
        return self.output(gelu(self.transform(hidden)).astype(jnp.float32))[..., 0]


class Bert(nnx.Module):
    """Encoder, pooler and heads. Describes; used through `bind` inside pure functions.

    Shapes: B rows, S positions, D hidden size, P predictions a row, K examples a row, V padded vocabulary.
    """

    def __init__(self, config: ModelConfig, objective: str, rngs: nnx.Rngs):
        """Declares all parameters; objective `mlm` has neither pooler nor NSP head, `rtd` has its one head.

        Args:
          config: sizes; `vocab_size` must be filled in.
          objective: "nsp", "sop" or "mlm", or "rtd" (ELECTRA's discriminator, which is not trained here).
          rngs: with a `params` stream.
        """
        size = config.hidden_size
        self.config, self.objective = config, objective
        self.embeddings = Embeddings(config, rngs)
        self.layers = stack(config, rngs)
        if objective == "rtd":
            self.discriminator = ReplacedTokenHead(config, rngs)
            return
        self.mlm = MlmHead(config, rngs)
        if objective != "mlm":
            self.pooler = Dense(
                "BKD,DE->BKE", (size, size), ("embed", "embed_out"), ("embed_vector",), config.dtype, rngs
            )
            self.nsp = Dense("BKD,DC->BKC", (size, 2), ("embed_vector", "label"), ("label",), jnp.float32, rngs)

    def encode(self, batch: Mapping[str, Any], dropout: Dropout | None = None) -> Float[Array, "B S D"]:
        """Hidden states of the last layer, in `config.dtype`.

        Args:
          batch: input_ids, token_type_ids, position_ids, segment_ids, int32 [B,S]; attention stays within a segment, 0
          is padding.
          dropout: None for none (evaluation).
        """
        names = ("input_ids", "token_type_ids", "position_ids", "segment_ids")
        inputs = {name: jnp.asarray(batch[name]) for name in names}
        x = self.embeddings(inputs, dropout)
        return run_layers(self.layers, self.config, x, inputs["segment_ids"], dropout)

    def pool(self, hidden: Float[Array, "B S D"], cls_positions: Int[Array, "B K"]) -> Float[Array, "B K D"]:
        """tanh(dense(hidden state of every example's [CLS]))."""
        return jnp.tanh(self.pooler(take_positions(hidden, cls_positions)))

    def mlm_logits(self, hidden: Float[Array, "B S D"], positions: Int[Array, "B P"]) -> Float[Array, "B P V"]:
        """Float32 logits over the padded vocabulary at these positions; padding entries are about -1e9."""
        return self.mlm(take_positions(hidden, positions), jnp.asarray(self.embeddings.word.embedding[...]))

    def nsp_logits(self, pooled: Float[Array, "B K D"]) -> Float[Array, "B K 2"]:
        """Float32 logits: 0 the true next, 1 not."""
        return self.nsp(pooled.astype(jnp.float32))


def _build(config: ModelConfig, objective: str, seed: int) -> Bert:
    # Shardings are given from outside (`sharding.state_shardings`); the logical names are only recorded here.
    with nnx.use_eager_sharding(False):
        return Bert(config, objective, nnx.Rngs(params=seed))


@functools.lru_cache(maxsize=32)
def _abstract(config: ModelConfig, objective: str) -> tuple[Any, nnx.State]:
    # Wherever it is asked for, inside a mesh too: the logical names are no axes of a mesh.
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        return nnx.split(nnx.eval_shape(lambda: _build(config, objective, 0)))


def init_params(config: ModelConfig, objective: str, seed: int) -> Params:
    """First parameters, float32: truncated normal of deviation 0.02 for kernels and embeddings, zero biases.

    Jit it with shardings to have them created where they belong; values do not depend on the mesh.
    """
    return nnx.to_pure_dict(nnx.state(_build(config, objective, seed)))


def abstract_params(config: ModelConfig, objective: str) -> Params:
    """The tree of `init_params` as jax.ShapeDtypeStruct."""
    shapes = nnx.to_pure_dict(_abstract(config, objective)[1])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shapes)


def logical_axes(config: ModelConfig, objective: str) -> Params:
    """The tree of `init_params` with the logical name of every dimension, as declared."""
    state = _abstract(config, objective)[1]
    named = jax.tree.map(
        lambda param: tuple(param.get_metadata("out_sharding")), state, is_leaf=lambda node: isinstance(node, nnx.Param)
    )
    return nnx.to_pure_dict(named)


def bind(config: ModelConfig, objective: str, params: Params) -> Bert:
    """The model with these parameters; cheap, for use inside jitted functions."""
    return nnx.merge(_abstract(config, objective)[0], params)


def bind_encoder(config: ModelConfig, objective: str, params: Params) -> Bert:
    """`bind` where params may lack heads: those are zeros, described but never to be used, so they cost nothing."""
    missing = {name: part for name, part in abstract_params(config, objective).items() if name not in params}
    return bind(config, objective, params | jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), missing))
