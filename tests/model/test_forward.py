"""Every output and every gradient against a float64 NumPy BERT."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpy_bert
import pytest
import small_bert
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples

from bert_jax import losses
from bert_jax.model.bert import Dropout, abstract_params, bind, init_params, logical_axes
from bert_jax.random_bits import Purpose, keep_mask, row_keys, score_keep_mask, stream

SITES = {
    "embeddings": Purpose.DROPOUT_EMBEDDINGS,
    "attention": Purpose.DROPOUT_ATTENTION,
    "attention_output": Purpose.DROPOUT_ATTENTION_OUTPUT,
    "mlp_output": Purpose.DROPOUT_MLP_OUTPUT,
}


def as_float64(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def drawn_dropout(config, seed, step, rows):
    """The model's own draws, for the NumPy model."""

    def drop(x, site, layer=0):
        rate = config.attention_dropout_rate if site == "attention" else config.hidden_dropout_rate
        if rate == 0.0:
            return x
        keys, rows_at_hand = stream(seed, step, SITES[site], layer), jnp.asarray(rows)
        if site == "attention":
            keep = score_keep_mask(rate, jnp.stack(row_keys(keys, rows_at_hand)), x.shape[1:])
        else:
            keep = keep_mask(rate, keys, rows_at_hand, x.shape[1:])
        return np.where(np.asarray(keep), x / (1.0 - rate), 0.0)

    return drop


def outputs(config, objective, params, batch, dropout=None):
    @jax.jit
    def run(params, batch):
        model = bind(config, objective, params)
        hidden = model.encode(batch, dropout)
        result = {"hidden": hidden, "mlm": model.mlm_logits(hidden, batch["masked_lm_positions"])}
        if objective != "mlm":
            result["pooled"] = model.pool(hidden, batch["cls_positions"])
            result["nsp"] = model.nsp_logits(result["pooled"])
        return result

    return {name: np.asarray(value) for name, value in run(params, batch).items()}


def total_loss(config, objective, params, batch, dropout=None):
    batch = {name: jnp.asarray(values) for name, values in batch.items()}
    model = bind(config, objective, params)
    hidden = model.encode(batch, dropout)
    total, count, _ = losses.mlm_loss(model.mlm_logits(hidden, batch["masked_lm_positions"]), batch["masked_lm_labels"])
    value = total / jnp.maximum(count, 1)
    if objective != "mlm":
        logits = model.nsp_logits(model.pool(hidden, batch["cls_positions"]))
        total, count, _ = losses.nsp_loss(logits, batch["next_sentence_labels"])
        value += total / jnp.maximum(count, 1)
    return value


def check_outputs(config, objective, batch, seed=0, dropout=None, drop=numpy_bert.no_dropout):
    params = small_bert.random_params(config, objective, seed)
    got = outputs(config, objective, params, batch, dropout)
    exact, eps, vocab = as_float64(params), config.layer_norm_eps, config.vocab_size
    hidden = numpy_bert.encode(exact, batch, eps, drop)
    np.testing.assert_allclose(got["hidden"], hidden, rtol=0, atol=1e-4)
    logits = numpy_bert.mlm_logits(exact, hidden, batch["masked_lm_positions"], eps, vocab)
    np.testing.assert_allclose(got["mlm"][..., :vocab], logits, rtol=0, atol=2e-4)
    assert got["mlm"].dtype == np.float32
    assert (got["mlm"][..., vocab:] < -1e8).all()
    if objective != "mlm":
        pooled = numpy_bert.pool(exact, hidden, batch["cls_positions"])
        np.testing.assert_allclose(got["pooled"], pooled, rtol=0, atol=1e-4)
        np.testing.assert_allclose(got["nsp"], numpy_bert.nsp_logits(exact, pooled), rtol=0, atol=1e-4)


@settings(max_examples=examples(6))
@given(
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    head_size=st.sampled_from([2, 5, 8]),
    intermediate_size=st.integers(3, 20),
    vocab_size=st.integers(5, 140),
    eps=st.sampled_from([1e-12, 1e-3, 0.1]),
    objective=st.sampled_from(["nsp", "sop", "mlm"]),
    seed=st.integers(0, 1000),
)
def test_outputs_equal_numpy(layers, heads, head_size, intermediate_size, vocab_size, eps, objective, seed):
    config = small_bert.model_config(
        num_layers=layers,
        num_heads=heads,
        hidden_size=heads * head_size,
        intermediate_size=intermediate_size,
        vocab_size=vocab_size,
        layer_norm_eps=eps,
        type_vocab_size=3,
    )
    check_outputs(config, objective, small_bert.packed_batch(config, 3, seed=seed), seed)


def test_outputs_with_dropout_equal_numpy_with_the_same_draws():
    config = small_bert.model_config(hidden_dropout_rate=0.3, attention_dropout_rate=0.2)
    batch = small_bert.packed_batch(config, 3)
    check_outputs(
        config,
        "nsp",
        batch,
        dropout=Dropout(7, 5, jnp.asarray(batch["rows"])),
        drop=drawn_dropout(config, 7, 5, batch["rows"]),
    )


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_gradients_of_all_parameters_equal_finite_differences(remat):
    config = small_bert.model_config(remat=remat, hidden_dropout_rate=0.2, attention_dropout_rate=0.2)
    batch = small_bert.packed_batch(config, 4)
    params = small_bert.random_params(config, "nsp")
    dropout = Dropout(7, 5, jnp.asarray(batch["rows"]))
    grads = jax.jit(jax.grad(lambda params: total_loss(config, "nsp", params, batch, dropout)))(params)
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    exact = [np.asarray(leaf, np.float64) for _, leaf in leaves]
    drop = drawn_dropout(config, 7, 5, batch["rows"])
    draw = np.random.default_rng(1)
    whole = small_bert.norm([small_bert.norm(grad) for grad in jax.tree.leaves(grads)])

    def loss_at(index, moved):
        moved_params = jax.tree.unflatten(tree, [*exact[:index], moved, *exact[index + 1 :]])
        return numpy_bert.loss(moved_params, batch, config.layer_norm_eps, config.vocab_size, drop)

    directions = 3 if remat == "none" else 1
    for index, ((path, _), grad) in enumerate(zip(leaves, jax.tree.leaves(grads), strict=True)):
        grad = np.asarray(grad, np.float64)
        for _ in range(directions):
            direction = draw.normal(size=grad.shape)
            direction /= small_bert.norm(direction)
            h = 1e-5
            slope = (loss_at(index, exact[index] + h * direction) - loss_at(index, exact[index] - h * direction)) / (
                2 * h
            )
            # A direction sees about 1/sqrt(size) of the gradient; float32 rounding enters at the whole's scale.
            expected_size = small_bert.norm(grad) / np.sqrt(grad.size)
            error = abs(slope - np.sum(grad * direction))
            assert error <= 1e-3 * expected_size + 3e-7 * whole, (jax.tree_util.keystr(path), slope, error)


def test_what_remat_computes_anew():
    """Products in the gradient's program: `dots` repeats attention's only, `full` all that a layer's gradient needs."""
    products = {}
    for remat in ("none", "dots", "full"):
        config = small_bert.model_config(remat=remat, num_layers=2)
        batch = small_bert.packed_batch(config, 4)
        params = small_bert.random_params(config, "nsp")
        grad = jax.grad(lambda params, config=config, batch=batch: total_loss(config, "nsp", params, batch))
        products[remat] = str(jax.make_jaxpr(grad)(params)).count("dot_general")
    assert products["none"] < products["dots"] <= products["full"] - 3, products


def test_what_is_computed_anew_needs_no_memory_meanwhile():
    none, dots, full = (
        gradient_of_four_layers("scan", remat).compile().memory_analysis().temp_size_in_bytes
        for remat in ("none", "dots", "full")
    )
    assert none > 1.5 * dots > 1.5 * 1.5 * full


def test_unrolled_layers_are_kept_from_being_merged_with_what_is_computed_anew():
    """The compiler for CPUs merges them nevertheless, so memory says nothing here; that for TPUs heeds the barriers."""
    none, full = (gradient_of_four_layers("unroll", remat).as_text() for remat in ("none", "full"))
    assert "optimization_barrier" in full and "optimization_barrier" not in none


@pytest.mark.parametrize("attention", ["einsum", "pallas"])
def test_products_are_kept_in_the_layers_dtype(attention, monkeypatch):
    """Of every layer: its input, queries, keys and values, and three more products; none as a sum in float32."""
    monkeypatch.setattr("bert_jax.model.attention.INTERPRET", True)
    sizes = {"hidden_size": 128, "num_heads": 2, "intermediate_size": 384, "max_position_embeddings": 128}
    config = small_bert.model_config(
        remat="dots", dtype="bfloat16", num_layers=3, attention=attention, layers="scan", **sizes
    )
    batch = small_bert.packed_batch(config, 2, 128)
    grad = jax.grad(lambda params: total_loss(config, "nsp", params, batch))
    loops = [eqn for eqn in jax.make_jaxpr(grad)(abstract_params(config, "nsp")).eqns if eqn.primitive.name == "scan"]
    stacked = [out.aval for out in loops[0].outvars if out.aval.shape[:3] == (3, 2, 128)]
    assert {aval.dtype.name for aval in stacked} == {"bfloat16"}
    assert sum(math.prod(aval.shape[3:]) for aval in stacked) == (1 + 3 + 1 + 1) * 128 + 384


def gradient_of_four_layers(layers, remat):
    config = small_bert.model_config(
        layers=layers, remat=remat, num_layers=4, hidden_size=64, num_heads=4, intermediate_size=256
    )
    batch = small_bert.packed_batch(config, 64)
    grad = jax.grad(lambda params: total_loss(config, "nsp", params, batch))
    return jax.jit(grad).lower(abstract_params(config, "nsp"))


def test_bfloat16_is_close_and_keeps_float32_where_it_must():
    config = small_bert.model_config(dtype="bfloat16")
    batch = small_bert.packed_batch(config, 4)
    params = small_bert.random_params(config, "nsp")
    got = outputs(config, "nsp", params, batch)
    want = outputs(dataclasses.replace(config, dtype="float32"), "nsp", params, batch)
    assert got["mlm"].dtype == got["nsp"].dtype == np.float32
    assert got["hidden"].dtype == jnp.bfloat16
    difference = small_bert.norm(got["hidden"].astype(np.float32) - want["hidden"])
    assert 1e-4 < difference / small_bert.norm(want["hidden"]) < 0.03
    grads = jax.jit(jax.grad(lambda params: total_loss(config, "nsp", params, batch)))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {np.dtype(np.float32)}


def test_padding_gives_no_nan_and_padded_vocabulary_no_gradient():
    config = small_bert.model_config()
    batch = small_bert.packed_batch(config, 4)
    batch["segment_ids"][0] = 0  # a row that is padding entirely
    params = small_bert.random_params(config, "nsp")
    value, grads = jax.jit(jax.value_and_grad(lambda params: total_loss(config, "nsp", params, batch)))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert not np.asarray(grads["embeddings"]["word"]["embedding"])[config.vocab_size :].any()
    assert not np.asarray(grads["mlm"]["decoder"]["bias"])[config.vocab_size :].any()


def test_parameter_tree_shapes_and_first_values():
    config = small_bert.model_config(hidden_size=64, intermediate_size=256, vocab_size=1000)
    params = jax.jit(lambda: init_params(config, "nsp", 3))()
    flat = {
        "/".join(entry.key for entry in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    layers, size, heads, head, wide, vocab = 2, 64, 2, 32, 256, 1024
    expected = {
        "embeddings/word/embedding": (vocab, size),
        "embeddings/position/embedding": (20, size),
        "embeddings/token_type/embedding": (2, size),
        "layers/attention/output/kernel": (layers, heads, head, size),
        "layers/attention/output/bias": (layers, size),
        "layers/mlp/up/kernel": (layers, size, wide),
        "layers/mlp/up/bias": (layers, wide),
        "layers/mlp/down/kernel": (layers, wide, size),
        "layers/mlp/down/bias": (layers, size),
        "pooler/kernel": (size, size),
        "pooler/bias": (size,),
        "mlm/transform/kernel": (size, size),
        "mlm/transform/bias": (size,),
        "mlm/decoder/bias": (vocab,),
        "nsp/kernel": (size, 2),
        "nsp/bias": (2,),
    }
    for name in ("query", "key", "value"):
        expected[f"layers/attention/{name}/kernel"] = (layers, size, heads, head)
        expected[f"layers/attention/{name}/bias"] = (layers, heads, head)
    for name in ("embeddings/norm", "mlm/norm"):
        expected |= {f"{name}/scale": (size,), f"{name}/bias": (size,)}
    for name in ("layers/attention_norm", "layers/mlp_norm"):
        expected |= {f"{name}/scale": (layers, size), f"{name}/bias": (layers, size)}
    assert {name: leaf.shape for name, leaf in flat.items()} == expected
    assert {leaf.dtype for leaf in flat.values()} == {np.dtype(np.float32)}

    drawn = []
    for name, leaf in flat.items():
        if name.endswith("bias"):
            assert not leaf.any(), name
        elif name.endswith("scale"):
            assert (leaf == 1).all(), name
        else:
            leaf = leaf[:1000] if name.startswith("embeddings/word") else leaf
            assert np.abs(leaf).max() <= 0.0401, name  # two deviations
            if leaf.size > 1000:
                # Truncated at two deviations a normal has 0.8796 of its deviation left.
                assert abs(leaf.std() / (0.02 * 0.8796) - 1) < 0.06, name
                drawn.append(leaf.reshape(-1)[:1000])
    assert not flat["embeddings/word/embedding"][1000:].any()
    kernels = flat["layers/mlp/up/kernel"]
    drawn += [kernels[0].reshape(-1)[2000:3000], kernels[1].reshape(-1)[2000:3000]]  # layers differ
    correlations = np.corrcoef(np.stack(drawn)) - np.eye(len(drawn))
    assert np.abs(correlations).max() < 0.2


def test_trees_agree_and_mlm_alone_has_neither_pooler_nor_nsp():
    config = small_bert.model_config()
    for objective in ("nsp", "sop", "mlm"):
        shapes = abstract_params(config, objective)
        params = init_params(config, objective, 0)
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
            lambda leaf: (leaf.shape, leaf.dtype), shapes
        )
        axes = logical_axes(config, objective)
        ranks = jax.tree.map(len, axes, is_leaf=lambda node: isinstance(node, tuple))
        assert ranks == jax.tree.map(lambda leaf: len(leaf.shape), shapes)
        assert ("pooler" in shapes, "nsp" in shapes) == ((objective != "mlm"),) * 2
        assert axes["layers"]["mlp"]["up"]["kernel"] == ("layers", "embed", "mlp")
