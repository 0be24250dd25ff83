"""AdamW, LAMB, clipping, decay mask and schedules against NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_bert
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples

from bert_jax.config import Config, OptimizerConfig, PhaseConfig, TrainConfig
from bert_jax.model.bert import abstract_params
from bert_jax.optimizer import decay_mask, learning_rate, make_optimizer, scale_by_trust_ratio


def plain_schedule(k, peak, warmup, n, schedule="linear", decay=1):
    if k < warmup:
        return peak * (k + 1) / warmup
    return (
        peak
        * {
            "linear": lambda: (n - k) / (n - warmup),
            "cosine": lambda: np.cos(np.pi / 2 * (k - warmup) / (n - warmup)) ** 2,
            "wsd": lambda: 1.0 if k < n - decay else (n - k) / decay,
            "constant": lambda: 1.0,
        }[schedule]()
    )


@settings(max_examples=examples(30))
@given(n=st.integers(1, 200), share=st.floats(0, 1), peak=st.floats(1e-6, 1.0))
def test_schedule_rises_and_falls(n, share, peak):
    warmup = int(share * n)
    config = Config(train=TrainConfig(num_steps=n), optimizer=OptimizerConfig(learning_rate=peak, warmup_steps=warmup))
    rate = learning_rate(config)
    steps = np.arange(n)
    expected = [plain_schedule(k, peak, warmup, n) for k in steps]
    np.testing.assert_allclose(jax.vmap(rate)(steps), expected, rtol=1e-5)
    assert float(rate(n)) == (0.0 if warmup < n else pytest.approx(0.0))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd", "constant"])
@settings(max_examples=examples(15))
@given(n=st.integers(1, 200), share=st.floats(0, 1), decay_share=st.floats(0.01, 1.0))
def test_schedules_equal_their_formulas(schedule, n, share, decay_share):
    warmup, decay = int(share * n), max(1, round(decay_share * n))
    optimizer = OptimizerConfig(learning_rate=0.5, warmup_steps=warmup, schedule=schedule, decay_share=decay_share)
    rate = learning_rate(Config(train=TrainConfig(num_steps=n), optimizer=optimizer))
    expected = [plain_schedule(k, 0.5, warmup, n, schedule, decay) for k in range(n)]
    found = rate(np.arange(200))[:n]  # of one length, so that nothing compiles anew
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd", "constant"])
def test_a_second_phase_warms_up_again_whatever_the_schedule(schedule):
    phases = (PhaseConfig(20, 16, 64, 0.6, 5), PhaseConfig(10, 32, 8, 0.4, 4))
    optimizer = OptimizerConfig(name="lamb", schedule=schedule, decay_share=0.3)
    rate = learning_rate(Config(train=TrainConfig(phases=phases), optimizer=optimizer))
    expected = [plain_schedule(k, 0.6, 5, 20, schedule, 6) for k in range(20)]
    expected += [plain_schedule(k, 0.4, 4, 10, schedule, 3) for k in range(10)]
    np.testing.assert_allclose(jax.vmap(rate)(np.arange(30)), expected, rtol=2e-5, atol=1e-7)


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


def test_updates_equal_numpy_lamb_layer_by_layer():
    """Stacked layers are cut apart for the reference, so that each layer's query and key has a ratio of its own."""
    settings_ = OptimizerConfig("lamb", 0.1, 3, weight_decay=0.2, b1=0.8, b2=0.95, eps=1e-3, max_grad_norm=0.0)
    draw = np.random.default_rng(1)
    sizes = np.array([0.1, 1.0, 10.0])[:, None, None]  # of the layers: one ratio for the stack would be far off
    params = {
        "embedding": draw.normal(size=(7, 4)),
        "unused": np.zeros((2, 4)),  # a norm of zero
        "layers": {
            "query": {"kernel": sizes * draw.normal(size=(3, 4, 5)), "bias": draw.normal(size=(3, 5))},
            "key": {"kernel": sizes[::-1] * draw.normal(size=(3, 4, 5)), "bias": draw.normal(size=(3, 5))},
            "norm": {"scale": draw.normal(size=(3, 4))},
        },
    }
    exact = jax.tree.map(lambda x: x.astype(np.float64), params)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    optimizer = make_optimizer(Config(train=TrainConfig(num_steps=10), optimizer=settings_))
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    first, second = (jax.tree.map(np.zeros_like, exact) for _ in range(2))
    for k in range(10):
        grads = jax.tree.map(lambda x: draw.normal(size=x.shape), exact)
        grads["unused"] = np.zeros((2, 4))
        updates, state = update(jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), grads), state, params)
        params = optax.apply_updates(params, updates)
        rate = plain_schedule(k, 0.1, 3, 10)
        leaves = zip(*(jax.tree_util.tree_leaves_with_path(t) for t in (exact, grads, first, second)), strict=True)
        for (path, x), (_, g), (_, m), (_, v) in leaves:
            name = path[-1].key
            for part in range(3) if path[0].key == "layers" else [...]:
                m[part] = 0.8 * m[part] + 0.2 * g[part]
                v[part] = 0.95 * v[part] + 0.05 * g[part] ** 2
                step = m[part] / (1 - 0.8 ** (k + 1)) / (np.sqrt(v[part] / (1 - 0.95 ** (k + 1))) + 1e-3)
                if name in ("bias", "scale"):
                    x[part] -= rate * step
                    continue
                step = step + 0.2 * x[part]
                norms = np.linalg.norm(x[part]), np.linalg.norm(step)
                x[part] -= rate * step * (norms[0] / norms[1] if all(norms) else 1.0)
    for (path, want), got in zip(jax.tree_util.tree_leaves_with_path(exact), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-5, err_msg=jax.tree_util.keystr(path))


def test_the_models_own_tree_has_a_ratio_a_layer():
    """The stacked leaves are found by the name that the encoder gives them."""
    params = small_bert.random_params(small_bert.model_config(), "nsp")
    updates, _ = scale_by_trust_ratio().update(jax.tree.map(lambda x: 3.0 * x, params), optax.EmptyState(), params)
    for (path, update), x in zip(jax.tree_util.tree_leaves_with_path(updates), jax.tree.leaves(params), strict=True):
        times = 3.0 if path[-1].key in ("bias", "scale") else 1.0
        np.testing.assert_allclose(update, times * x, rtol=1e-4, err_msg=jax.tree_util.keystr(path))
    layers = params["layers"]["attention"]["query"]["kernel"]
    steps = {"layers": {"kernel": np.stack([layers[0], 100.0 * layers[1]])}}
    found, _ = scale_by_trust_ratio().update(steps, optax.EmptyState(), {"layers": {"kernel": layers}})
    np.testing.assert_allclose(found["layers"]["kernel"], layers, rtol=1e-4)
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(params["layers"]))


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
