"""Multi-head self-attention, block-diagonal in the segments of a row (Vaswani et al., 2017)."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from bert_jax.config import ModelConfig
from bert_jax.model import attention_kernel
from bert_jax.model.layers import Dense, Dropout, product
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
            return self._by_kernel(x, segment_ids, dropout, layer)
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.kind == "cudnn":
            return self.output(cudnn_attention(query, key, value, segment_ids))
        scores = product("BTNH,BSNH->BNST", self.dtype, None, key, query)
        together = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
        scores = jnp.where(together, scores * query.shape[-1] ** -0.5, jnp.finfo(jnp.float32).min)
        probabilities = jax.nn.softmax(scores, axis=-1)
        if dropout is not None:
            probabilities = dropout(probabilities, self.rate, Purpose.DROPOUT_ATTENTION, layer)
        context = product("BNST,BTNH->BSNH", self.dtype, None, probabilities.astype(self.dtype), value)
        return self.output(context)

    def _by_kernel(self, x, segment_ids, dropout: Dropout | None, layer) -> Float[Array, "B S D"]:
        dense = self.query, self.key, self.value
        products, biases = tuple(each.flat_product(x) for each in dense), tuple(each.flat_bias() for each in dense)
        rate = self.rate if dropout is not None else 0.0
        if dropout is None:
            row_keys = jnp.zeros((2, x.shape[0]), jnp.uint32)
        else:
            row_keys = dropout.row_keys(Purpose.DROPOUT_ATTENTION, layer)
        context = attend_on_mesh(self.head_size, rate, products, biases, segment_ids, row_keys)
        return self.output.flat(context)


def cudnn_attention(query, key, value, segment_ids: Int[Array, "B S"]) -> Float[Array, "B S N H"]:
    """Attention within segments by cuDNN's fused kernel, on GPUs; without dropout, and with packing as a mask.

    Args:
      query, key, value: [B,S,N,H], bfloat16.
      segment_ids: positions attend those with the same number.
    """
    together = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    return jax.nn.dot_product_attention(query, key, value, mask=together, implementation="cudnn")


def attend_on_mesh(head_size: int, rate: float, products, biases, segment_ids, row_keys) -> Float[Array, "B S E"]:
    """`attention_kernel.attend`, every device of the mesh with its rows and heads; arguments as there."""
    mesh = jax.sharding.get_abstract_mesh()
    kernel = functools.partial(attention_kernel.attend, head_size, rate, INTERPRET)
    if mesh.empty or mesh.size == 1:
        return kernel(products, biases, segment_ids, row_keys, jnp.zeros(1, jnp.int32))
    heads = products[0].shape[-1] // head_size

    def local(products, biases, segment_ids, row_keys):
        first = jax.lax.axis_index("tensor") * (heads // mesh.shape["tensor"])
        return kernel(products, biases, segment_ids, row_keys, first.reshape(1))

    wide, rows = PartitionSpec(BATCH_AXES, None, "tensor"), PartitionSpec(BATCH_AXES)
    specs = (wide, PartitionSpec("tensor"), rows, PartitionSpec(None, BATCH_AXES))
    mapped = jax.shard_map(local, in_specs=specs, out_specs=wide, check_vma=False)
    return mapped(products, biases, segment_ids, row_keys)
