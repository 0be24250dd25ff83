"""What a TPU would be given, told without one: the kernel as its compiler takes it, and the whole step around it.

Lowering for TPUs turns a kernel into the dialect of their cores, which knows fewer operations, layouts and shapes than
interpretation does: what it cannot express fails here. (What does not fit a chip's memory only libtpu can tell.)
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import pytest
import small_bert

from bert_jax.compiled_step import abstract_arguments, jitted_step
from bert_jax.config import MeshConfig
from bert_jax.model import choices
from bert_jax.model.attention_kernel import attend
from bert_jax.sharding import make_mesh

BOTH = ["attention_backward", "attention_forward"]


def kernels(exported: jax.export.Exported) -> list[str]:
    """The kernels in a lowered program, by name; of calls that are the same some versions of jax lower only one."""
    assert exported.platforms == ("tpu",)
    text = exported.mlir_module()
    names = re.findall(r'kernel_name = "(\w+)"', text)
    assert len(names) == text.count("@tpu_custom_call(")
    return sorted(set(names))


@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize(
    ("length", "head_size"), [(128, 32), (128, 64), (128, 128), (384, 64), (512, 32), (512, 64), (512, 128)]
)
def test_the_kernel_lowers_forwards_and_backwards(length, head_size, rate):
    batch, features = 8, 256

    @jax.jit
    def gradients(projected, bias, segment_ids, row_keys, first_head):
        attended = functools.partial(attend, head_size, rate, False)

        def summed(projected, bias):
            return jnp.sum(attended(projected, bias, segment_ids, row_keys, first_head).astype(jnp.float32))

        return jax.grad(summed, argnums=(0, 1))(projected, bias)

    arguments = (
        jax.ShapeDtypeStruct((batch, length, 3 * features), jnp.bfloat16),
        jax.ShapeDtypeStruct((3 * features,), jnp.bfloat16),
        jax.ShapeDtypeStruct((batch, length), jnp.int32),
        jax.ShapeDtypeStruct((2, batch), jnp.uint32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
    )
    assert kernels(jax.export.export(gradients, platforms=["tpu"])(*arguments)) == BOTH


def test_the_whole_step_lowers_with_the_kernel_in_both_directions(monkeypatch):
    """As `auto` takes it on a TPU: bfloat16, unrolled layers, the kernel."""
    config = small_bert.run_config(
        attention="pallas",
        layers="unroll",
        hidden_size=128,
        num_heads=2,
        max_position_embeddings=128,
        dtype="bfloat16",
        attention_dropout_rate=0.1,
        hidden_dropout_rate=0.1,
    )
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, seq_len=128))
    monkeypatch.setattr(choices, "_acting", lambda platform: "tpu")
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    exported = jax.export.export(jitted_step(config, 0, mesh), platforms=["tpu"])(*abstract_arguments(config, 0, mesh))
    assert kernels(exported) == BOTH
