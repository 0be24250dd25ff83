"""gelu and layer norm against automatic differentiation of what they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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


@pytest.mark.parametrize(("mean", "deviation", "exact", "rounded"), [(1.0, 2.0, 1e-6, 5e-3), (300.0, 0.5, 3e-4, 3e-2)])
def test_layer_norm_and_its_gradients_are_those_of_its_definition(mean, deviation, exact, rounded):
    """Where the mean is far larger than the deviation, a mean of squares less a squared mean has little left."""
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(mean, deviation, (3, 5, 32)), jnp.float32)
    weight = jnp.asarray(draw.normal(1.0, 2.0, x.shape), jnp.float32)
    with nnx.use_eager_sharding(False):
        norm = LayerNorm(32, 1e-12, "float32", nnx.Rngs(params=0))
    description, params = nnx.split(norm)
    params = jax.tree.map(lambda leaf: jnp.asarray(draw.normal(1.0, 0.5, leaf.shape), jnp.float32), params)

    def ours(params, x):
        y = nnx.merge(description, params)(x)
        return jnp.sum(weight * y), y

    def definition(scale, bias, x):
        centred = x - x.mean(-1, keepdims=True)
        y = centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-12) * scale + bias
        return jnp.sum(np.asarray(weight, np.float64) * y), y

    for given, tolerance in ((x, exact), (x.astype(jnp.bfloat16), rounded)):
        (of_params, of_x), got = jax.grad(ours, (0, 1), has_aux=True)(params, given)
        arrays = (of_params["bias"][...], of_params["scale"][...], of_x, got)
        with jax.enable_x64(True):
            wide = [jnp.asarray(np.asarray(a, np.float64)) for a in (params["scale"][...], params["bias"][...], given)]
            (of_scale, of_bias, of_wide), want = jax.grad(definition, (0, 1, 2), has_aux=True)(*wide)
            expected = [np.asarray(a) for a in (of_bias, of_scale, of_wide, want)]
        for a, b in zip(arrays, expected, strict=True):
            assert np.linalg.norm(np.asarray(a, np.float64) - b) <= tolerance * np.linalg.norm(b)
