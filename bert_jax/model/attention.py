"""Multi-head self-attention, block-diagonal in the segments of a row (Vaswani et al., 2017)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from bert_jax.config import ModelConfig
from bert_jax.model.layers import Dense, Dropout, product
from bert_jax.random_bits import Purpose


class SelfAttention(nnx.Module):
    """Queries, keys, values, and the output projection."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        """Declares the four projections."""
        size, heads, head = config.hidden_size, config.num_heads, config.head_size
        self.rate, self.dtype = config.attention_dropout_rate, jnp.dtype(config.dtype)

        def projection() -> Dense:
            return Dense(
                "BSD,DNH->BSNH",
                (size, heads, head),
                ("embed", "heads", "head"),
                ("heads", "head_vector"),
                config.dtype,
                rngs,
            )

        self.query, self.key, self.value = projection(), projection(), projection()
        self.output = Dense(
            "BSNH,NHD->BSD", (heads, head, size), ("heads", "head", "embed"), ("embed_vector",), config.dtype, rngs
        )

    def __call__(
        self,
        x: Float[Array, "B S D"],
        segment_ids: Int[Array, "B S"],
        dropout: Dropout | None,
        layer: int | Int[Array, ""],
    ) -> Float[Array, "B S D"]:
        """Every position attends the positions of its own segment.

        Args:
          x: the layer's input.
          segment_ids: number of the example that a position belongs to, 0 for padding (which attends padding).
          dropout: of the attention probabilities; None for none.
          layer: which layer of the stack this is.
        """
        query, key, value = self.query(x), self.key(x), self.value(x)
        scores = product("BTNH,BSNH->BNST", self.dtype, None, key, query)
        together = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
        scores = jnp.where(together, scores * query.shape[-1] ** -0.5, jnp.finfo(jnp.float32).min)
        probabilities = jax.nn.softmax(scores, axis=-1)
        if dropout is not None:
            probabilities = dropout(probabilities, self.rate, Purpose.DROPOUT_ATTENTION, layer)
        context = product("BNST,BTNH->BSNH", self.dtype, None, probabilities.astype(self.dtype), value)
        return self.output(context)
