"""What the model is made of: declared parameters, dense products, layer norm, dropout."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, UInt32

from bert_jax import random_bits
from bert_jax.model.partitioning import constrain

NORMAL = nnx.initializers.truncated_normal(0.02)
ZEROS = nnx.initializers.zeros_init()
ONES = nnx.initializers.ones_init()


def parameter(rngs: nnx.Rngs, initializer, shape: tuple[int, ...], axes: tuple[str, ...]) -> nnx.Param:
    """Declares a float32 parameter: its shape, first values and the logical names of its dimensions."""
    return nnx.Param(initializer(rngs.params(), shape, jnp.float32), out_sharding=axes)


def in_use(param: nnx.Param, axes: tuple[str, ...], dtype) -> Array:
    """The parameter in `dtype`, gathered over `fsdp` (after the cast, so that the smaller type travels)."""
    return constrain(jnp.asarray(param[...], dtype), *axes)


def _as_it_is(y: Array) -> Array:
    return y


def product(
    equation: str,
    dtype,
    axes: tuple[str, ...] | None,
    x: Array,
    y: Array | tuple[Array, ...],
    joined: Callable[[Any], Array] = _as_it_is,
) -> Array:
    """einsum(equation, x, joined(y)) with operands in `dtype` and float32 sums, forwards and backwards.

    The gradient of a float32 parameter is float32, never rounded to `dtype` on its way. Results narrower than the sums
    are left to the caller's cast: hardware (and XLA on CPUs) multiplies bfloat16 fast only into float32. The backward
    pass keeps x and y as they came, and joins and gathers anew.

    Args:
      equation: of einsum, two operands, no letter that only one of the three has.
      dtype: of the operands.
      axes: logical names of joined(y)'s dimensions if it is a parameter, which is gathered for use; else None.
      x, y: arrays of any float dtype.
      joined: linear; makes the operand of what is given as y.
    """
    return _product(equation, dtype, axes, joined, x, y)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _product(equation, dtype, axes, joined, x, y):
    return _product_forward(equation, dtype, axes, joined, x, y)[0]


def _operand(y: Array, dtype, axes: tuple[str, ...] | None) -> Array:
    y = y.astype(dtype)
    return y if axes is None else constrain(y, *axes)


def _product_forward(equation, dtype, axes, joined, x, y):
    operand = _operand(joined(y), dtype, axes)
    return jnp.einsum(equation, x.astype(dtype), operand, preferred_element_type=jnp.float32), (x, y)


def _product_backward(equation, dtype, axes, joined, operands, gradient):
    x, y = operands
    operand_names, result = equation.split("->")
    of_x, of_y = operand_names.split(",")
    gradient = gradient.astype(dtype)
    into = {"preferred_element_type": jnp.float32}
    whole, parted = jax.vjp(joined, y)
    x_gradient = jnp.einsum(f"{result},{of_y}->{of_x}", gradient, _operand(whole, dtype, axes), **into)
    y_gradient = jnp.einsum(f"{of_x},{result}->{of_y}", x.astype(dtype), gradient, **into)
    return x_gradient.astype(x.dtype), *parted(y_gradient.astype(whole.dtype))


_product.defvjp(_product_forward, _product_backward)


def kept(x: Array) -> Array:
    """x, marked as what `KEPT_PRODUCTS` keeps: a product as it is used, with its bias and in the layer's dtype (as sums
    in float32 it would take twice the memory).
    """
    return checkpoint_name(x, _PRODUCT)


_PRODUCT = "product"
# A policy of jax.checkpoint: the backward pass has the products, and computes all else anew.
KEPT_PRODUCTS = jax.checkpoint_policies.save_only_these_names(_PRODUCT)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dropout:
    """Where every dropout site gets its bits: a function of seed, step, layer, global row and position.

    Attributes:
      seed, step: non-negative integer scalars (may be traced).
      rows: [B] global row numbers.
    """

    seed: Any
    step: Any
    rows: Int[Array, " B"]

    def __call__(self, x: Array, rate: float, purpose: random_bits.Purpose, layer: int | Array = 0) -> Array:
        """Drops elements of x [B, ...] with probability `rate` and scales the others by 1 / (1 - rate)."""
        if rate == 0.0:
            return x
        return random_bits.dropout(x, rate, random_bits.stream(self.seed, self.step, purpose, layer), self.rows)

    def of_probabilities(
        self, x: Float[Array, "B N S S"], rate: float, layer: int | Array = 0
    ) -> Float[Array, "B N S S"]:
        """The same of attention's probabilities, by draws of their own (`random_bits.score_keep_mask`)."""
        if rate == 0.0:
            return x
        row_keys = self.row_keys(random_bits.Purpose.DROPOUT_ATTENTION, layer)
        return jnp.where(random_bits.score_keep_mask(rate, row_keys, x.shape[1:]), x / (1.0 - rate), 0.0)

    def row_keys(self, purpose: random_bits.Purpose, layer: int | Array = 0) -> UInt32[Array, "2 B"]:
        """What a kernel needs to draw the bits of one site itself."""
        return jnp.stack(random_bits.row_keys(random_bits.stream(self.seed, self.step, purpose, layer), self.rows))


class Dense(nnx.Module):
    """y = einsum(equation, x, kernel) + bias, with operands and result in `dtype`, sums in float32."""

    def __init__(
        self,
        equation: str,
        shape: tuple[int, ...],
        axes: tuple[str, ...],
        bias_axes: tuple[str, ...],
        dtype,
        rngs: nnx.Rngs,
    ):
        """Declares the parameters.

        Args:
          equation: of einsum; the input, the kernel, the output.
          shape: of the kernel, inputs first.
          axes: logical names of the kernel's dimensions.
          bias_axes: of the bias's, which are the kernel's last.
          dtype: of the product.
          rngs: with a `params` stream.
        """
        self.equation, self.axes, self.bias_axes, self.dtype = equation, axes, bias_axes, jnp.dtype(dtype)
        self.kernel = parameter(rngs, NORMAL, shape, axes)
        self.bias = parameter(rngs, ZEROS, shape[len(shape) - len(bias_axes) :], bias_axes)

    def __call__(self, x: Array) -> Array:
        """The product and the bias, in `dtype`."""
        y = product(self.equation, self.dtype, self.axes, x, jnp.asarray(self.kernel[...]))
        return kept((y + in_use(self.bias, self.bias_axes, jnp.float32)).astype(self.dtype))

    def flat(self, x: Float[Array, "B S D"]) -> Float[Array, "B S E"]:
        """The same of a kernel from heads to features, for an input with its heads side by side.

        TPUs pad the last dimension of an array to 128, so heads of 64 features apart would be half empty.
        """
        kernel, features = jnp.asarray(self.kernel[...]), x.shape[-1]
        y = product("BSD,DE->BSE", self.dtype, ("heads", "embed"), x, kernel, lambda y: y.reshape(features, -1))
        return kept((y + in_use(self.bias, self.bias_axes, jnp.float32).reshape(-1)).astype(self.dtype))


class LayerNorm(nnx.Module):
    """Layer norm over the last axis, in float32 whatever comes in; the result is in `dtype`."""

    def __init__(self, size: int, epsilon: float, dtype, rngs: nnx.Rngs):
        """Declares scale and bias of `size` features."""
        self.epsilon, self.dtype = epsilon, jnp.dtype(dtype)
        self.scale = parameter(rngs, ONES, (size,), ("embed_vector",))
        self.bias = parameter(rngs, ZEROS, (size,), ("embed_vector",))

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normed, scaled and shifted."""
        scale = in_use(self.scale, ("embed_vector",), jnp.float32)
        bias = in_use(self.bias, ("embed_vector",), jnp.float32)
        return _layer_norm(self.epsilon, self.dtype, x, scale, bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _layer_norm(epsilon: float, dtype, x: Array, scale: Array, bias: Array) -> Array:
    """Layer norm whose backward pass keeps x as it came and two numbers a row, and recomputes the rest."""
    return _layer_norm_forward(epsilon, dtype, x, scale, bias)[0]


def _layer_norm_forward(epsilon, dtype, x, scale, bias):
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    if x.dtype == jnp.float32:
        variance = jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True)
    else:  # squares of bfloat16 numbers are exact in float32: both sums in one reading
        variance = jnp.maximum(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) - jnp.square(mean), 0.0)
    inverse = jax.lax.rsqrt(variance + epsilon)
    return ((wide - mean) * inverse * scale + bias).astype(dtype), (x, mean, inverse, scale)


def _layer_norm_backward(epsilon, dtype, saved, gradient):
    x, mean, inverse, scale = saved
    normed = (x.astype(jnp.float32) - mean) * inverse
    gradient = gradient.astype(jnp.float32)
    rows = tuple(range(x.ndim - 1))
    of_scale, of_bias = jnp.sum(gradient * normed, axis=rows), jnp.sum(gradient, axis=rows)
    scaled = gradient * scale
    along = jnp.mean(scaled * normed, axis=-1, keepdims=True)
    of_x = (scaled - jnp.mean(scaled, axis=-1, keepdims=True) - normed * along) * inverse
    return of_x.astype(x.dtype), of_scale, of_bias


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


# Of an odd polynomial whose tanh, for |x| up to 6, is erf(x / sqrt(2)); fitted so that gelu's largest error is least.
_ERF = (0.7975078680724527, 0.03700565995636137, -0.00035151893701142905)


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """BERT's activation: x times the normal distribution function (Hendrycks and Gimpel, 2016).

    In float32 it is exact. In bfloat16 erf is the tanh of a polynomial; gelu is at most 3e-5 off and its derivative
    6e-5, less than bfloat16 rounds numbers above 0.02: TPUs have an instruction for tanh, and erf takes about twenty.
    """
    if x.dtype == jnp.float32:
        return jax.nn.gelu(x, approximate=False)
    return _fast_gelu(x)


def _normal_distribution(x: Array) -> Array:
    square = jnp.minimum(x * x, 36.0)  # beyond, tanh is 1 and the polynomial turns
    return 0.5 + 0.5 * jnp.tanh(x * (_ERF[0] + square * (_ERF[1] + square * _ERF[2])))


@jax.custom_vjp
def _fast_gelu(x: Array) -> Array:
    wide = x.astype(jnp.float32)
    return (wide * _normal_distribution(wide)).astype(x.dtype)


def _fast_gelu_forward(x: Array) -> tuple[Array, Array]:
    """gelu and its derivative, which the backward pass keeps: both come from one tanh, and each is used more than once,
    where the products that use them would compute them anew."""
    wide = x.astype(jnp.float32)
    distribution = _normal_distribution(wide)
    density = jnp.exp(-0.5 * wide * wide) * (2.0 * jnp.pi) ** -0.5
    results = (wide * distribution).astype(x.dtype), (distribution + wide * density).astype(x.dtype)
    return jax.lax.optimization_barrier(results)  # else the compiler computes them anew wherever they are used


def _fast_gelu_backward(slope: Array, gradient: Array) -> tuple[Array]:
    return ((gradient.astype(jnp.float32) * slope.astype(jnp.float32)).astype(slope.dtype),)


_fast_gelu.defvjp(_fast_gelu_forward, _fast_gelu_backward)


def take_positions(hidden: Float[Array, "B S D"], positions: Int[Array, "B P"]) -> Float[Array, "B P D"]:
    """The hidden states at some positions of every row."""
    return jnp.take_along_axis(hidden, positions[..., None], axis=1)
