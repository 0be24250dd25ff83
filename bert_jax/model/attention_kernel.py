"""Self-attention within segments as one Pallas kernel for TPUs, forwards and backwards: scores never leave the chip.

A row's scores fit the fast memory whole (rows of BERT are short), so a softmax is one pass over its column and no
running maximum is needed, and several short rows share a step. Dropout is the hash of `random_bits`, element for
element what the reference draws. Scores are held transposed, keys by queries: sums over keys then run along the
registers, their results are rows that broadcast at no cost, and of the backward pass's products none needs a large
transposition. (After FlashAttention-2, Dao, 2023: the backward pass recomputes the probabilities from the logarithm of
their sums.)

Registers are 128 lanes wide. Heads of 64 features are taken in twos without taking them apart: the other head's
features are zeroed in the one operand of a product whose sum runs over them.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, BFloat16, Float, Int, UInt32

from bert_jax import random_bits
from bert_jax.model.layers import kept

LANES = 128
MAX_LENGTH = 512  # of a row: some [S, S] arrays of float32 must fit the fast memory at once
_STEP_ROWS = 1024  # positions that a step of the grid takes, in whole rows

_NT = (((1,), (1,)), ((), ()))  # x y^T
_NN = (((1,), (0,)), ((), ()))  # x y


@dataclasses.dataclass(frozen=True)
class _Shape:
    """Of a call: rows, positions, heads and features a head on one device, and the rate of dropout."""

    batch: int
    length: int
    heads: int
    head_size: int
    rate: float

    def __post_init__(self):
        """Else the grid would leave heads out, and what is left out stays what memory held."""
        if refusal := unsupported(self.length, self.heads, self.head_size):
            raise ValueError(refusal)

    @property
    def together(self) -> int:
        """Heads that share the lanes of a register."""
        return heads_together(self.head_size)

    @property
    def lanes(self) -> int:
        """Features of the heads that are taken together."""
        return self.together * self.head_size

    @property
    def rows(self) -> int:
        """Rows a step of the grid."""
        most = max(1, _STEP_ROWS // self.length)
        return max(rows for rows in range(1, most + 1) if self.batch % rows == 0)

    @property
    def grid(self) -> tuple[int, int]:
        """Steps: blocks of rows, groups of heads."""
        return self.batch // self.rows, self.heads // self.together

    def cost(self, products: int, arrays: int) -> pl.CostEstimate:
        """What the compiler may assume of a pass with so many products a head and arrays of the input's size.

        FLOPs are those executed: sums run over all lanes, zeros included.
        """
        scores = self.batch * self.heads * self.length**2
        moved = arrays * self.batch * self.length * self.heads * self.head_size * 2
        sums = self.batch * self.heads * self.length * 4
        return pl.CostEstimate(
            flops=2 * products * scores * self.lanes, transcendentals=scores, bytes_accessed=moved + sums
        )


def heads_together(head_size: int) -> int:
    """Heads that share the lanes of a register."""
    return max(1, LANES // head_size)


def unsupported(length: int, heads: int, head_size: int) -> str | None:
    """Why rows of `length` positions with so many heads of so many features, all on one device, cannot be had; None
    where they can."""
    if length % LANES or length > MAX_LENGTH:
        return f"the kernel takes rows of a multiple of {LANES} up to {MAX_LENGTH}, not {length}"
    together = heads_together(head_size)
    if (together * head_size) % LANES or heads % together:
        return f"the kernel takes heads that fill registers of {LANES}, not {heads} of {head_size} features"
    return None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def attend(
    head_size: int,
    rate: float,
    interpret: bool,
    projected: Float[Array, "B S F"],
    bias: Float[Array, " F"],
    segment_ids: Int[Array, "B S"],
    row_keys: UInt32[Array, "2 B"],
    first_head: Int[Array, "1"],
) -> BFloat16[Array, "B S E"]:
    """softmax(query key^T / sqrt(head_size)) value within segments, with dropout of the probabilities.

    The bias is added here because the kernel of the backward pass sums its gradient while it has it at hand; apart,
    that would be one more reading of a whole array.

    Args:
      head_size: features a head; E is a number of heads times that.
      rate: of dropout.
      interpret: run it as plain jax, wherever there is no TPU.
      projected: without the bias, with F = 3 E: of every `heads_together` heads the queries, the keys, then the values,
        side by side. Taken in bfloat16 once the bias is added; S and heads are such that `unsupported` gives None.
      bias: of the same order.
      segment_ids: positions attend those with the same number.
      row_keys: from `random_bits.row_keys`, of every row.
      first_head: the number of the first head, where other devices have others.

    Returns:
      the context, bfloat16, heads side by side.

    Raises:
      ValueError: S or the heads do not fit the kernel.
    """
    return _forward(head_size, rate, interpret, projected, bias, segment_ids, row_keys, first_head)[0]


def _shape(head_size: int, rate: float, projected: Array) -> _Shape:
    batch, length, features = projected.shape
    return _Shape(batch, length, features // 3 // head_size, head_size, rate)


def _spec(shape: _Shape, arrays: int) -> pl.BlockSpec:
    """Blocks of an array that has so many times the features of queries."""
    return pl.BlockSpec((shape.rows, shape.length, arrays * shape.lanes), lambda i, j, *_: (i, 0, j))


def _specs(shape: _Shape) -> tuple[pl.BlockSpec, pl.BlockSpec]:
    """Blocks of segment ids and of the logarithms of sums."""
    segments = pl.BlockSpec((shape.rows, 1, shape.length), lambda i, j, *_: (i, 0, 0))
    logs = pl.BlockSpec((shape.rows, 1, shape.together, shape.length), lambda i, j, *_: (i, j, 0, 0))
    return segments, logs


def _call(kernel, shape: _Shape, in_specs, out_specs, out_shape, cost, interpret: bool, name: str):
    grid = pltpu.PrefetchScalarGridSpec(num_scalar_prefetch=2, grid=shape.grid, in_specs=in_specs, out_specs=out_specs)
    return pl.pallas_call(
        functools.partial(kernel, shape),
        grid_spec=grid,
        out_shape=out_shape,
        cost_estimate=cost,
        interpret=interpret,
        name=name,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
    )


def _forward(head_size, rate, interpret, projected, bias, segment_ids, row_keys, first_head):
    shape = _shape(head_size, rate, projected)
    inputs = kept((projected + bias).astype(jnp.bfloat16))
    segments, logs = _specs(shape)
    batch, length, features = inputs.shape
    call = _call(
        _forward_kernel,
        shape,
        [segments, _spec(shape, 3)],
        [_spec(shape, 1), logs],
        [
            jax.ShapeDtypeStruct((batch, length, features // 3), inputs.dtype),
            jax.ShapeDtypeStruct((batch, shape.grid[1], shape.together, length), jnp.float32),
        ],
        shape.cost(products=2, arrays=4),
        interpret,
        "attention_forward",
    )
    scalars = row_keys.astype(jnp.int32), first_head.astype(jnp.int32)
    context, log_sums = call(*scalars, segment_ids[:, None, :], inputs)
    like = jnp.zeros(0, projected.dtype), jnp.zeros(0, bias.dtype)
    return context, (inputs, segment_ids, scalars, log_sums, like)


def _backward(head_size, rate, interpret, saved, gradient):
    inputs, segment_ids, scalars, log_sums, like = saved
    shape = _shape(head_size, rate, inputs)
    segments, logs = _specs(shape)
    sums = pl.BlockSpec((1, 1, 3 * shape.lanes), lambda i, j, *_: (i, 0, j))
    call = _call(
        _backward_kernel,
        shape,
        [segments, _spec(shape, 3), _spec(shape, 1), logs],
        [_spec(shape, 3), sums],
        [
            jax.ShapeDtypeStruct(inputs.shape, inputs.dtype),
            jax.ShapeDtypeStruct((shape.grid[0], 1, inputs.shape[-1]), jnp.float32),
        ],
        shape.cost(products=5, arrays=7),
        interpret,
        "attention_backward",
    )
    of_inputs, sums = call(*scalars, segment_ids[:, None, :], inputs, gradient.astype(inputs.dtype), log_sums)
    of_projected, of_bias = of_inputs.astype(like[0].dtype), jnp.sum(sums, axis=(0, 1)).astype(like[1].dtype)
    return of_projected, of_bias, None, None, None


attend.defvjp(_forward, _backward)


def _dot(x: Array, y: Array, dimensions) -> Array:
    return jax.lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32)


def _only(x: Array, head: int, shape: _Shape, axis: int = 1) -> Array:
    """x with zeros in the features of the other heads."""
    if shape.together == 1:
        return x
    return jnp.where(_of_head(x.shape, head, shape, axis), x, jnp.zeros_like(x))


def _of_head(size: tuple[int, ...], head: int, shape: _Shape, axis: int) -> Array:
    feature = jax.lax.broadcasted_iota(jnp.int32, size, axis)
    return (feature >= head * shape.head_size) & (feature < (head + 1) * shape.head_size)


def _together(segments: Int[Array, "1 S"]) -> Array:
    """[S, S], keys by queries: whether they lie in the same segment."""
    length = segments.shape[1]
    wide = jnp.broadcast_to(segments, (LANES, length))
    return jnp.tile(wide.T, (1, length // LANES)) == segments


def _kept(shape: _Shape, row_keys, row, head, counter: Int[Array, "T S"]) -> Array:
    """[S, S], keys by queries: what `random_bits.score_keep_mask` draws for a row's probabilities [N, S, S]."""
    first, second = row_keys[0, row], row_keys[1, row]
    bits = random_bits.mixed(counter + head * (shape.length * shape.length // 2), first, second)
    return jnp.concatenate(random_bits.halves_kept(bits, shape.rate))


def _counter(shape: _Shape) -> Int[Array, "T S"]:
    """The number of a hash among those of its head, two keys a hash; held keys by queries."""
    half = shape.length // 2
    keys, queries = (jax.lax.broadcasted_iota(jnp.int32, (half, shape.length), axis) for axis in (0, 1))
    return queries * half + keys


def _forward_kernel(shape: _Shape, row_keys, first_head, segments, inputs, context, log_sums):
    scale = shape.head_size**-0.5
    block, group = pl.program_id(0), pl.program_id(1)
    counter = _counter(shape) if shape.rate > 0 else None
    for row in range(shape.rows):
        together = _together(segments[row])
        q, k, v = _apart(inputs[row], shape)
        k, values = k.astype(jnp.float32), v.astype(jnp.float32).T.astype(q.dtype)
        turned = jnp.zeros((shape.lanes, shape.length), jnp.float32)
        for head in range(shape.together):
            scores = _dot(_only(k, head, shape).astype(q.dtype), q, _NT) * scale
            scores = jnp.where(together, scores, jnp.finfo(jnp.float32).min)
            highest = jnp.max(scores, axis=0, keepdims=True)
            weights = jnp.exp(scores - highest)
            total = jnp.sum(weights, axis=0, keepdims=True)
            log_sums[row, 0, head : head + 1, :] = highest + jnp.log(total)
            if counter is not None:
                number = first_head[0] + group * shape.together + head
                kept = _kept(shape, row_keys, block * shape.rows + row, number, counter)
                weights = jnp.where(kept, weights, 0.0)
            part = _dot(values, weights.astype(q.dtype), _NN) * (1.0 / (total * (1.0 - shape.rate)))
            turned = _join(turned, part, head, shape)
        context[row] = turned.T.astype(context.dtype)


def _apart(row: Array, shape: _Shape) -> list[Array]:
    """Queries, keys and values of a row."""
    return [row[:, place * shape.lanes : (place + 1) * shape.lanes] for place in range(3)]


def _join(first: Array, other: Array, head: int, shape: _Shape, axis: int = 0) -> Array:
    """`other` in the features of a head, `first` elsewhere."""
    return jnp.where(_of_head(first.shape, head, shape, axis), other, first)


def _backward_kernel(shape: _Shape, row_keys, first_head, segments, inputs, gradient, log_sums, of_inputs, sums):
    scale = shape.head_size**-0.5
    totals = [jnp.zeros((1, shape.lanes), jnp.float32) for _ in range(3)]
    block, group = pl.program_id(0), pl.program_id(1)
    counter = _counter(shape) if shape.rate > 0 else None
    for row in range(shape.rows):
        together = _together(segments[row])
        q, k, v = _apart(inputs[row], shape)
        g, k, v = gradient[row], k.astype(jnp.float32), v.astype(jnp.float32)
        keys = k.T.astype(q.dtype)
        of_query = jnp.zeros((shape.lanes, shape.length), jnp.float32)
        of_key = of_value = jnp.zeros((shape.length, shape.lanes), jnp.float32)
        for head in range(shape.together):
            scores = _dot(_only(k, head, shape).astype(q.dtype), q, _NT) * scale
            scores = jnp.where(together, scores, jnp.finfo(jnp.float32).min)
            weights = jnp.exp(scores - log_sums[row, 0, head : head + 1, :])
            of_weights = _dot(_only(v, head, shape).astype(q.dtype), g, _NT)
            dropped = weights
            if counter is not None:
                number = first_head[0] + group * shape.together + head
                kept = _kept(shape, row_keys, block * shape.rows + row, number, counter)
                dropped = jnp.where(kept, weights * (1.0 / (1.0 - shape.rate)), 0.0)
            shared = dropped * of_weights
            of_scores = (shared - weights * jnp.sum(shared, axis=0, keepdims=True)).astype(q.dtype)
            value_part = _dot(dropped.astype(q.dtype), g, _NN)
            key_part = _dot(of_scores, q, _NN)
            query_part = _dot(keys, of_scores, _NN)
            of_query = _join(of_query, query_part, head, shape)
            of_key = _join(of_key, key_part, head, shape, axis=1)
            of_value = _join(of_value, value_part, head, shape, axis=1)
        for place, x in enumerate((of_query.T * scale, of_key * scale, of_value)):
            features = slice(place * shape.lanes, (place + 1) * shape.lanes)
            of_inputs[row, :, features] = x.astype(of_inputs.dtype)
            totals[place] += jnp.sum(x, axis=0, keepdims=True)
    sums[0] = jnp.concatenate(totals, axis=1)
