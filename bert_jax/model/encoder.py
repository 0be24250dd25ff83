"""The stack of post-norm transformer layers: parameters stacked, one traced body, scanned (Devlin et al., 2018)."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from bert_jax.config import ModelConfig
from bert_jax.model.attention import SelfAttention
from bert_jax.model.layers import KEPT_PRODUCTS, Dense, Dropout, LayerNorm, gelu
from bert_jax.model.partitioning import constrain
from bert_jax.random_bits import Purpose


class Mlp(nnx.Module):
    """up, gelu, down."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        """Declares the two products."""
        size, wide = config.hidden_size, config.intermediate_size
        self.up = Dense("BSD,DF->BSF", (size, wide), ("embed", "mlp"), ("mlp_vector",), config.dtype, rngs)
        self.down = Dense("BSF,FD->BSD", (wide, size), ("mlp", "embed"), ("embed_vector",), config.dtype, rngs)

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """Up, gelu, down."""
        return self.down(gelu(self.up(x)))


class Layer(nnx.Module):
    """Attention and MLP, each followed by dropout, the residual sum and layer norm."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        """Declares one layer (the encoder stacks them)."""
        self.rate = config.hidden_dropout_rate
        self.attention = SelfAttention(config, rngs)
        self.attention_norm = LayerNorm(config.hidden_size, config.layer_norm_eps, config.dtype, rngs)
        self.mlp = Mlp(config, rngs)
        self.mlp_norm = LayerNorm(config.hidden_size, config.layer_norm_eps, config.dtype, rngs)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        segment_ids: Int[Array, "B S"],
        dropout: Dropout | None,
        layer: int | Int[Array, ""],
    ) -> Float[Array, "B S D"]:
        """Maps hidden states to hidden states; `layer` says which draws are this layer's."""
        attended = self.attention(x, segment_ids, dropout, layer)
        if dropout is not None:
            attended = dropout(attended, self.rate, Purpose.DROPOUT_ATTENTION_OUTPUT, layer)
        x = self.attention_norm(x + attended)
        transformed = self.mlp(x)
        if dropout is not None:
            transformed = dropout(transformed, self.rate, Purpose.DROPOUT_MLP_OUTPUT, layer)
        return constrain(self.mlp_norm(x + transformed), "batch", None, None)


def stack(config: ModelConfig, rngs: nnx.Rngs) -> Layer:
    """All layers as one module whose parameters have a leading axis of layers."""
    build = nnx.vmap(
        functools.partial(Layer, config),
        in_axes=0,
        out_axes=0,
        transform_metadata={nnx.PARTITION_NAME: "layers"},
    )
    return build(rngs.split(config.num_layers))


def run_layers(
    layers: Layer,
    config: ModelConfig,
    x: Float[Array, "B S D"],
    segment_ids: Int[Array, "B S"],
    dropout: Dropout | None,
) -> Float[Array, "B S D"]:
    """Applies the stacked layers in order; `config.remat` says what the backward pass computes anew.

    `config.layers` "unroll" traces a copy of the body for every layer, else one is scanned.
    """
    description, params = nnx.split(layers)

    def body(x, layer_params_and_number):
        layer_params, number = layer_params_and_number
        return nnx.merge(description, layer_params)(x, segment_ids, dropout, number), None

    unrolled = config.layers == "unroll"
    if config.remat != "none":
        policy = KEPT_PRODUCTS if config.remat == "dots" else None
        # A loop keeps what is computed anew apart from the first time; in a row the compiler would merge the two.
        body = jax.checkpoint(body, policy=policy, prevent_cse=unrolled)
    numbers = jnp.arange(config.num_layers, dtype=jnp.int32)
    return jax.lax.scan(body, x, (params, numbers), unroll=unrolled)[0]
