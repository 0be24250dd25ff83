"""AdamW, clipping, decay mask and schedule against NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_bert
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_jax.config import Config, OptimizerConfig, PhaseConfig, TrainConfig
from bert_jax.model.bert import abstract_params
from bert_jax.optimizer import decay_mask, learning_rate, make_optimizer


def plain_schedule(k, peak, warmup, n):
    return peak * (k + 1) / warmup if k < warmup else peak * (n - k) / (n - warmup)


@settings(max_examples=30)
@given(n=st.integers(1, 200), share=st.floats(0, 1), peak=st.floats(1e-6, 1.0))
def test_schedule_rises_and_falls(n, share, peak):
    warmup = int(share * n)
    config = Config(train=TrainConfig(num_steps=n), optimizer=OptimizerConfig(learning_rate=peak, warmup_steps=warmup))
    rate = learning_rate(config)
    steps = np.arange(n)
    expected = [plain_schedule(k, peak, warmup, n) for k in steps]
    np.testing.assert_allclose(jax.vmap(rate)(steps), expected, rtol=1e-5)
    assert float(rate(n)) == (0.0 if warmup < n else pytest.approx(0.0))


def test_phases_with_a_rate_of_their_own_restart_and_others_follow_the_run():
    phases = (
        PhaseConfig(num_steps=20, seq_len=16, global_batch_size=8),
        PhaseConfig(num_steps=10, seq_len=32, global_batch_size=8, learning_rate=0.5, warmup_steps=4),
        PhaseConfig(num_steps=10, seq_len=64, global_batch_size=8),
    )
    config = Config(train=TrainConfig(phases=phases), optimizer=OptimizerConfig(learning_rate=2.0, warmup_steps=5))
    expected = [plain_schedule(k, 2.0, 5, 40) for k in range(40)]
    expected[20:30] = [plain_schedule(k, 0.5, 4, 10) for k in range(10)]
    np.testing.assert_allclose([learning_rate(config)(k) for k in range(40)], expected, rtol=1e-5)


def test_decay_spares_biases_and_norms_only():
    mask = decay_mask(abstract_params(small_bert.model_config(), "nsp"))
    flat = {
        "/".join(entry.key for entry in path): value for path, value in jax.tree_util.tree_flatten_with_path(mask)[0]
    }
    assert {name for name, value in flat.items() if value} == {
        "embeddings/word/embedding",
        "embeddings/position/embedding",
        "embeddings/token_type/embedding",
        *(f"layers/attention/{name}/kernel" for name in ("query", "key", "value", "output")),
        "layers/mlp/up/kernel",
        "layers/mlp/down/kernel",
        "pooler/kernel",
        "mlm/transform/kernel",
        "nsp/kernel",
    }


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0, 100.0])
def test_updates_equal_numpy_adamw(max_grad_norm):
    settings_ = OptimizerConfig(
        learning_rate=0.1, warmup_steps=3, weight_decay=0.2, b1=0.8, b2=0.95, eps=1e-3, max_grad_norm=max_grad_norm
    )
    config = Config(train=TrainConfig(num_steps=10), optimizer=settings_)
    draw = np.random.default_rng(0)
    exact = {"kernel": draw.normal(size=(3, 4)), "bias": draw.normal(size=4), "scale": draw.normal(size=4)}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), exact)
    optimizer = make_optimizer(config)
    state = optimizer.init(params)
    first, second = ({name: np.zeros_like(x) for name, x in exact.items()} for _ in range(2))
    update = jax.jit(optimizer.update)
    for k in range(10):
        grads = {name: draw.normal(size=x.shape) * 3 for name, x in exact.items()}
        updates, state = update(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), grads), state, params)
        params = optax.apply_updates(params, updates)
        total = np.sqrt(sum((g**2).sum() for g in grads.values()))
        shrink = min(1.0, max_grad_norm / total) if max_grad_norm else 1.0
        rate = plain_schedule(k, 0.1, 3, 10)
        for name, x in exact.items():
            g = grads[name] * shrink
            if name == "kernel":
                x -= rate * 0.2 * x
            first[name] = 0.8 * first[name] + 0.2 * g
            second[name] = 0.95 * second[name] + 0.05 * g * g
            mean, square = first[name] / (1 - 0.8 ** (k + 1)), second[name] / (1 - 0.95 ** (k + 1))
            x -= rate * mean / (np.sqrt(square) + 1e-3)
    for name, x in exact.items():
        np.testing.assert_allclose(params[name], x, rtol=1e-4, atol=1e-5)


def test_clipping_is_left_out_where_it_is_off():
    config = Config(train=TrainConfig(num_steps=10))
    off = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, max_grad_norm=0.0, eps=1e3))
    on = dataclasses.replace(config, optimizer=dataclasses.replace(off.optimizer, max_grad_norm=1.0))
    params = {"kernel": jnp.ones((2, 2))}
    grads = {"kernel": jnp.full((2, 2), 50.0)}
    sizes = []
    for one in (off, on):
        optimizer = make_optimizer(one)
        updates, _ = optimizer.update(grads, optimizer.init(params), jax.tree.map(jnp.zeros_like, params))
        sizes.append(float(jnp.abs(updates["kernel"]).max()))
    assert sizes[0] / sizes[1] == pytest.approx(100.0, rel=0.1)  # the gradient's norm is 100; eps keeps Adam linear
