"""What a GPU would be given, told without one: cuDNN's arguments, and the whole step lowered for CUDA."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_bert

from bert_jax.compiled_step import abstract_arguments, jitted_step
from bert_jax.config import MeshConfig
from bert_jax.config_check import check
from bert_jax.model import bert
from bert_jax.sharding import make_mesh
from data_prep.errors import InputError

SIZES = {"hidden_size": 32, "num_heads": 4, "dtype": "bfloat16", "attention_dropout_rate": 0.0}


def test_cudnn_is_asked_for_with_packing_as_a_mask_and_gives_what_einsum_gives(monkeypatch):
    asked, plain = [], jax.nn.dot_product_attention

    def pretended(query, key, value, **options):
        asked.append({"shape": query.shape, "dtype": query.dtype, **options})
        return plain(query, key, value, **options | {"implementation": "xla"})

    monkeypatch.setattr(jax.nn, "dot_product_attention", pretended)
    hidden, grads = {}, {}
    for kind in ("einsum", "cudnn"):
        config = small_bert.model_config(attention=kind, layers="scan", **SIZES)
        params, batch = small_bert.random_params(config, "nsp"), small_bert.packed_batch(config, 4)
        in_use = np.asarray(batch["segment_ids"] > 0)

        def encoded(params, config=config, batch=batch, in_use=in_use):
            hidden = bert.bind(config, "nsp", params).encode(batch)
            return jnp.sum(jnp.where(in_use[..., None], jnp.sin(hidden.astype(jnp.float32)), 0.0)), hidden

        (_, hidden[kind]), grads[kind] = jax.value_and_grad(encoded, has_aux=True)(params)
    (call,) = asked  # one traced body of all layers
    assert call["implementation"] == "cudnn" and call["dtype"] == jnp.bfloat16 and call["shape"] == (4, 16, 4, 8)
    assert call["mask"].shape == (4, 1, 16, 16) and call["mask"].dtype == bool
    got, want = (np.asarray(hidden[kind], np.float32)[in_use] for kind in ("cudnn", "einsum"))
    assert np.linalg.norm(got - want) < 0.02 * np.linalg.norm(want)
    layers = {kind: grads[kind]["layers"] for kind in grads}
    for kind in layers:
        del layers[kind]["attention"]["key"]["bias"]  # zero but for rounding
    small_bert.assert_same_gradients(layers["cudnn"], layers["einsum"], 0.05)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"attention_dropout_rate": 0.1}, "drops no probabilities"),
        ({"dtype": "float32"}, "take bfloat16, and config.model.dtype is float32"),
        ({"attention": "pallas", "dtype": "float32"}, "take bfloat16, and config.model.dtype is float32"),
        ({"hidden_size": 16}, "multiple of 8 up to 128 features, not 4"),
    ],
)
def test_what_kernels_cannot_do_is_refused(change, said):
    check(small_bert.run_config(attention="cudnn", **SIZES))
    with pytest.raises(InputError, match=said):
        check(small_bert.run_config(**{"attention": "cudnn"} | SIZES | change))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_whole_step_lowers_for_cuda(dtype):
    config = small_bert.run_config(attention="einsum", **SIZES | {"dtype": dtype, "attention_dropout_rate": 0.1})
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, masking="whole_word"))
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    exported = jax.export.export(jitted_step(config, 0, mesh), platforms=["cuda"])(*abstract_arguments(config, 0, mesh))
    assert exported.platforms == ("cuda",)
    assert "dot_general" in exported.mlir_module()
