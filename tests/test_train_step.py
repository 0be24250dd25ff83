"""One update: its metrics, its gradient, accumulation, what counts and what does not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_bert
import optax
import pytest
import small_bert

from bert_jax.config import MeshConfig
from bert_jax.optimizer import learning_rate, make_optimizer
from bert_jax.sharding import make_mesh
from bert_jax.train_state import abstract_state, create_state
from bert_jax.train_step import make_eval_step, make_train_step

MESH = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])


@functools.cache
def step_of(config):
    """Compiled once for all tests of a config."""
    return make_train_step(config, MESH, small_bert.already_masked)


@functools.cache
def one_step(config, empty=False):
    """(state before as NumPy, state after, metrics) of one step from random parameters."""
    batch = small_bert.packed_batch(config.model, config.train.global_batch_size)
    if empty:
        batch["masked_lm_labels"][:] = -100
        batch["next_sentence_labels"][:] = -100
    params = small_bert.random_params(config.model, config.data.objective)
    state = create_state(config, MESH, params)
    after, metrics = step_of(config)(state, batch)
    return params, batch, jax.tree.map(np.asarray, after), {name: np.asarray(value) for name, value in metrics.items()}


def first_moment(state):
    """After one step Adam's first moment is the clipped gradient times 1 - b1."""
    return next(x for x in jax.tree.leaves(state.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")).mu


@pytest.mark.parametrize("objective", ["nsp", "mlm"])
def test_metrics_equal_numpy(objective):
    config = small_bert.run_config(objective, hidden_dropout_rate=0.0, attention_dropout_rate=0.0)
    params, batch, after, metrics = one_step(config)
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    eps, vocab = config.model.layer_norm_eps, config.model.vocab_size
    hidden = numpy_bert.encode(exact, batch, eps)
    expected = {}
    logits = numpy_bert.mlm_logits(exact, hidden, batch["masked_lm_positions"], eps, vocab)
    total, count, correct = numpy_bert.cross_entropy(logits, batch["masked_lm_labels"])
    expected |= {"mlm_loss": total / count, "mlm_accuracy": correct / count, "loss": total / count}
    if objective == "nsp":
        logits = numpy_bert.nsp_logits(exact, numpy_bert.pool(exact, hidden, batch["cls_positions"]))
        total, count, correct = numpy_bert.cross_entropy(logits, batch["next_sentence_labels"])
        expected |= {"nsp_loss": total / count, "nsp_accuracy": correct / count}
        expected["loss"] += total / count
    expected |= {
        "learning_rate": 1e-3 / 2,
        "padding": (batch["segment_ids"] == 0).mean(),
        "tokens": (batch["segment_ids"] > 0).sum(),
        "examples": sum(len(set(row) - {0}) for row in batch["segment_ids"]),
    }
    assert set(metrics) == set(expected) | {"grad_norm"}
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-5, err_msg=name)
    integers = {name for name, value in metrics.items() if value.dtype == np.int32}
    assert integers == {"tokens", "examples"}
    assert {value.dtype for name, value in metrics.items() if name not in integers} == {np.dtype(np.float32)}
    assert int(after.step) == 1
    assert metrics["grad_norm"] > 1.0  # so it is clipped, and the moment tells by how much
    norm = small_bert.norm([small_bert.norm(x) for x in jax.tree.leaves(first_moment(after))])
    assert norm == pytest.approx(0.1, rel=1e-4)


def test_grad_norm_is_before_clipping():
    config = small_bert.run_config()
    unclipped = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, max_grad_norm=0.0))
    _, _, after, metrics = one_step(unclipped)
    norm = small_bert.norm([small_bert.norm(x) for x in jax.tree.leaves(first_moment(after))])
    assert metrics["grad_norm"] == pytest.approx(norm / 0.1, rel=1e-4)
    assert one_step(config)[3]["grad_norm"] == pytest.approx(metrics["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("objective", ["nsp", "mlm"])
@pytest.mark.parametrize("accumulation", [2, 4])
def test_accumulation_changes_nothing_but_rounding(objective, accumulation):
    one = small_bert.run_config(objective)
    several = dataclasses.replace(one, train=dataclasses.replace(one.train, accumulation=accumulation))
    _, _, expected, expected_metrics = one_step(one)
    _, _, got, metrics = one_step(several)
    assert set(metrics) == set(expected_metrics)
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    small_bert.assert_same_gradients(first_moment(got), first_moment(expected), 1e-4)
    # Adam's first update is about the gradient's sign: where that is rounding noise, it may be anything within the
    # rate.
    for a, b in zip(jax.tree.leaves(got.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1.1e-3)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_no_labels_at_all_give_loss_zero_and_finite_parameters(accumulation):
    _, _, after, metrics = one_step(small_bert.run_config(accumulation=accumulation), empty=True)
    assert metrics["loss"] == metrics["mlm_loss"] == metrics["nsp_loss"] == metrics["grad_norm"] == 0.0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after))


def test_seed_step_and_mask_function_take_part():
    config = small_bert.run_config()
    batch = small_bert.packed_batch(config.model, 8)
    seen = []

    def mask_fn(batch, seed, step):
        seen.append((seed, step.dtype))
        # The step decides about the labels: odd steps have none.
        labels = jnp.where(step % 2 == 1, -100, batch["masked_lm_labels"])
        return batch | {"masked_lm_labels": labels}

    step = make_train_step(config, MESH, mask_fn)
    state = create_state(config, MESH)
    losses = []
    for k in range(4):
        assert int(state.step) == k
        state, metrics = step(state, batch)
        losses.append(float(metrics["mlm_loss"]))
        np.testing.assert_allclose(metrics["learning_rate"], learning_rate(config)(k), rtol=1e-6)
    assert [loss > 0 for loss in losses] == [True, False, True, False]
    assert seen == [(0, jnp.int32)]  # traced once


def test_training_learns_a_batch_by_heart_and_is_repeatable():
    config = dataclasses.replace(
        small_bert.run_config(), train=dataclasses.replace(small_bert.run_config().train, num_steps=60)
    )
    batch = small_bert.packed_batch(config.model, 8)
    step = step_of(config)
    ends = []
    for _ in range(2):
        state, losses = create_state(config, MESH), []
        for _ in range(60):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
        ends.append(losses)
    assert ends[0] == ends[1]
    assert ends[0][-1] < ends[0][0] - 0.5


def test_update_is_the_optimizers():
    config = small_bert.run_config(hidden_dropout_rate=0.0, attention_dropout_rate=0.0)
    params, _, after, _ = one_step(config)
    optimizer = make_optimizer(config)
    grads = jax.tree.map(lambda moment: moment / np.float32(0.1), first_moment(after))  # clipped: the norm is 1
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(optax.apply_updates(params, updates)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)


def test_evaluation_gives_sums_and_padding_rows_add_nothing():
    config = small_bert.run_config()
    batch = small_bert.packed_batch(config.model, 8)
    params = small_bert.random_params(config.model, "nsp")
    evaluate = make_eval_step(config, MESH, small_bert.already_masked)
    whole = evaluate(params, batch)
    assert set(whole) == {f"{a}_{b}" for a in ("mlm", "nsp") for b in ("sum", "count", "correct")} | {
        "tokens",
        "examples",
    }
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    hidden = numpy_bert.encode(exact, batch, 1e-12)
    logits = numpy_bert.mlm_logits(exact, hidden, batch["masked_lm_positions"], 1e-12, config.model.vocab_size)
    total, count, correct = numpy_bert.cross_entropy(logits, batch["masked_lm_labels"])
    np.testing.assert_allclose(whole["mlm_sum"], total, rtol=1e-5)
    assert (int(whole["mlm_count"]), int(whole["mlm_correct"])) == (count, correct)

    padded = {name: np.concatenate([values[:5], np.zeros_like(values[5:])]) for name, values in batch.items()}
    alone = evaluate(params, {name: values[:5] for name, values in batch.items()})
    for name, value in evaluate(params, padded).items():  # labels 0 in rows of padding
        np.testing.assert_allclose(value, alone[name], rtol=1e-5, err_msg=name)


def test_state_is_described_without_being_made():
    config = small_bert.run_config()
    abstract, state = abstract_state(config), create_state(config, MESH)
    assert jax.tree.structure(abstract) == jax.tree.structure(state)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), abstract) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    with pytest.raises(ValueError, match="shape"):
        create_state(config, MESH, jax.tree.map(lambda x: np.zeros((*x.shape, 1)), abstract.params))


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, "the gradient alone"])
def test_a_loss_or_gradient_that_is_no_number_moves_nothing_and_the_step_counts(accumulation, bad):
    config = small_bert.run_config(accumulation=accumulation)
    batch = small_bert.packed_batch(config.model, 8)
    step = step_of(config)
    state, _ = step(create_state(config, MESH, small_bert.random_params(config.model, "nsp")), batch)
    before = jax.tree.map(np.array, state)  # copies: the state is donated
    if bad == "the gradient alone":
        before.params["nsp"]["kernel"] *= 1e30  # so is the loss then, and the squares of the gradient are too large
    else:
        before.params["mlm"]["decoder"]["bias"][5] = bad
    after, metrics = step(jax.device_put(before), batch)
    assert np.isfinite(metrics["loss"]) == (bad == "the gradient alone") and not np.isfinite(metrics["grad_norm"])
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        expected = old if np.issubdtype(old.dtype, np.floating) else old + 1  # whole numbers count steps
        np.testing.assert_array_equal(new, expected, err_msg=jax.tree_util.keystr(path))
