"""Multi-head self-attention, block-diagonal in the segments of a row (Vaswani et al., 2017)."""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from bert_jax.config import ModelConfig
from bert_jax.model import attention_kernel
from bert_jax.model.layers import Dense, Dropout, in_use, kept, product
from bert_jax.model.partitioning import BATCH_AXES
from bert_jax.random_bits import Purpose

INTERPRET = False  # tests set it: the kernel as plain jax, where there is no TPU


class SelfAttention(nnx.Module):
    """Queries, keys, values, and the output projection."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        """Declares the four projections."""
        size, heads, head = config.hidden_size, config.num_heads, config.head_size
        self.rate, self.dtype = config.attention_dropout_rate, jnp.dtype(config.dtype)
        self.kind, self.head_size = config.attention, head

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
        if self.kind == "pallas":
            together = attention_kernel.heads_together(self.head_size)
            rate = self.rate if dropout is not None else 0.0
            if dropout is None:
                row_keys = jnp.zeros((2, x.shape[0]), jnp.uint32)
            else:
                row_keys = dropout.row_keys(Purpose.DROPOUT_ATTENTION, layer)
            projected, bias = self._projected(x, together)
            return self.output.flat(attend_on_mesh(self.head_size, rate, projected, bias, segment_ids, row_keys))
        projected, bias = self._projected(x, 1)
        apart = kept((projected + bias).astype(self.dtype)).reshape(*x.shape[:2], -1, 3, self.head_size)
        query, key, value = (apart[:, :, :, place] for place in range(3))
        if self.kind == "cudnn":
            return self.output(cudnn_attention(query, key, value, segment_ids))
        drop = None if dropout is None else lambda x: dropout.of_probabilities(x, self.rate, layer)
        return self.output(einsum_attention(query, key, value, segment_ids, drop))

    def _projected(self, x: Float[Array, "B S D"], together: int) -> tuple[Float[Array, "B S F"], Float[Array, " F"]]:
        """Queries, keys and values without their biases, and the biases, in float32: of every so many heads together
        the queries, then the keys, then the values, side by side.

        One product rather than three: the gradient of x is one sum over all features, and where heads are cut over
        devices, one exchange. In this order each device's share is its own heads'.
        """

        def side_by_side(arrays: Iterable[Array]) -> Array:
            apart = [array.reshape(*array.shape[:-2], -1, 1, together * self.head_size) for array in arrays]
            whole = jnp.concatenate(apart, axis=-2)
            return whole.reshape(*whole.shape[:-3], -1)

        parts = self.query, self.key, self.value
        kernels = tuple(jnp.asarray(part.kernel[...]) for part in parts)
        biases = (in_use(part.bias, part.bias_axes, jnp.float32) for part in parts)
        projected = product("BSD,DE->BSE", self.dtype, ("embed", "heads"), x, kernels, side_by_side)
        return projected, side_by_side(biases)


def einsum_attention(
    query, key, value, segment_ids: Int[Array, "B S"], drop: Callable[[Array], Array] | None = None
) -> Float[Array, "B S N H"]:
    """Attention within segments as plain jax: the reference, for any backend.

    Args:
      query, key, value: [B,S,N,H]; their dtype is the products'.
      segment_ids: positions attend those with the same number.
      drop: from the probabilities [B,N,S,S]; None for nothing.
    """
    scores = product("BTNH,BSNH->BNST", query.dtype, None, key, query)
    scores = jnp.where(_together(segment_ids), scores * query.shape[-1] ** -0.5, jnp.finfo(jnp.float32).min)
    probabilities = jax.nn.softmax(scores, axis=-1)
    if drop is not None:
        probabilities = drop(probabilities)
    return product("BNST,BTNH->BSNH", query.dtype, None, probabilities.astype(query.dtype), value)


def cudnn_attention(query, key, value, segment_ids: Int[Array, "B S"]) -> Float[Array, "B S N H"]:
    """Attention within segments by cuDNN's fused kernel, on GPUs; without dropout, and with packing as a mask.

    Args:
      query, key, value: [B,S,N,H], bfloat16.
      segment_ids: positions attend those with the same number.
    """
    return jax.nn.dot_product_attention(query, key, value, mask=_together(segment_ids), implementation="cudnn")


def _together(segment_ids: Int[Array, "B S"]) -> Bool[Array, "B 1 S S"]:
    """Which positions attend which."""
    return segment_ids[:, None, :, None] == segment_ids[:, None, None, :]


def attend_on_mesh(head_size: int, rate: float, projected, bias, segment_ids, row_keys) -> Float[Array, "B S E"]:
    """`attention_kernel.attend`, every device of the mesh with its rows and heads; arguments as there."""
    mesh = jax.sharding.get_abstract_mesh()
    kernel = functools.partial(attention_kernel.attend, head_size, rate, INTERPRET)
    if mesh.empty or mesh.size == 1:
        return kernel(projected, bias, segment_ids, row_keys, jnp.zeros(1, jnp.int32))
    heads = projected.shape[-1] // 3 // head_size

    def local(projected, bias, segment_ids, row_keys):
        first = jax.lax.axis_index("tensor") * (heads // mesh.shape["tensor"])
        return kernel(projected, bias, segment_ids, row_keys, first.reshape(1))

    wide, rows = PartitionSpec(BATCH_AXES, None, "tensor"), PartitionSpec(BATCH_AXES)
    specs = (wide, PartitionSpec("tensor"), rows, PartitionSpec(None, BATCH_AXES))
    mapped = jax.shard_map(local, in_specs=specs, out_specs=wide, check_vma=False)
    return mapped(projected, bias, segment_ids, row_keys)
