"""gelu and layer norm against automatic differentiation of what they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bert_jax.model import layers
from bert_jax.model.layers import LayerNorm, gelu


def test_the_cheap_gelu_is_the_exact_one_but_for_rounding():
    x = jnp.asarray(np.concatenate([np.linspace(-12, 12, 20_001), [-1e4, 1e4]]), jnp.float32)
    exact, exact_slope = jax.vmap(jax.value_and_grad(lambda x: jax.nn.gelu(x, approximate=False)))(x)
    cheap, slope = jax.vmap(jax.value_and_grad(layers._fast_gelu))(x)
    np.testing.assert_allclose(cheap, exact, rtol=1e-5, atol=3e-5)
    np.testing.assert_allclose(slope, exact_slope, rtol=1e-5, atol=6e-5)
    assert gelu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    np.testing.assert_array_equal(gelu(x), jax.nn.gelu(x, approximate=False))


def test_layer_norms_gradients_are_those_of_its_definition():
    draw = np.random.default_rng(0)
    x, weight = (jnp.asarray(draw.normal(1.0, 2.0, (3, 5, 32)), jnp.float32) for _ in range(2))
    with nnx.use_eager_sharding(False):
        norm = LayerNorm(32, 1e-12, "float32", nnx.Rngs(params=0))
    description, params = nnx.split(norm)
    params = jax.tree.map(lambda leaf: jnp.asarray(draw.normal(1.0, 0.5, leaf.shape), jnp.float32), params)

    def ours(params, x):
        return jnp.sum(weight * nnx.merge(description, params)(x))

    def definition(params, x):
        centred = x - x.mean(-1, keepdims=True)
        normed = centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-12)
        return jnp.sum(weight * (normed * params["scale"][...] + params["bias"][...]))

    for rounded, tolerance in ((x, 1e-4), (x.astype(jnp.bfloat16), 1e-2)):
        got = jax.grad(ours, (0, 1))(params, rounded)
        want = jax.grad(definition, (0, 1))(params, rounded.astype(jnp.float32))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=tolerance, atol=tolerance)
