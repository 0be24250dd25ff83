"""Hugging Face's FlaxBertForPreTraining, its training step compiled ahead of time: the peer of `step_tpu_aot.py`.

transformers had Flax until version 4; an environment with jax, flax, optax, libtpu and transformers 4.48 runs it. The
step is as that library's examples write it: bfloat16 computing on float32 parameters, dropout from a threefry key,
logits at every position, cross entropy weighted by what is masked, clipping, AdamW.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def compile_flax_bert(layers: int, hidden: int, batch: int, seq_len: int, device: Any) -> tuple[str | None, int]:
    """The optimised program's text, None where it does not fit, and the bytes that it needs.

    Args:
      layers, hidden: the encoder's size, with heads of 64 features.
      batch, seq_len: sequences a step and their positions.
      device: of a topology.
    """
    from transformers import BertConfig, FlaxBertForPreTraining  # type: ignore[attr-defined]  # of version 4

    from bert_jax.compiled_step import compile_or_size

    config = BertConfig(
        vocab_size=30522,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
    )
    model = FlaxBertForPreTraining(config, dtype=jnp.bfloat16, _do_init=False)
    params = jax.eval_shape(lambda: model.init_weights(jax.random.PRNGKey(0), (1, seq_len)))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4))

    def loss_fn(params, batch, key):
        outputs = model(
            batch["input_ids"],
            attention_mask=batch["attention_mask"],
            token_type_ids=batch["token_type_ids"],
            params=params,
            dropout_rng=key,
            train=True,
        )
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        words = cross_entropy(outputs.prediction_logits.astype(jnp.float32), batch["labels"]) * batch["weights"]
        pairs = cross_entropy(outputs.seq_relationship_logits.astype(jnp.float32), batch["next_sentence_label"])
        return words.sum() / batch["weights"].sum() + pairs.mean()

    def step(params, opt_state, batch, key):
        loss, grads = jax.value_and_grad(loss_fn)(params, batch, key)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    def shaped(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    arrays = {
        name: shaped(batch, seq_len) for name in ("input_ids", "attention_mask", "token_type_ids", "labels", "weights")
    }
    arrays |= {"weights": shaped(batch, seq_len, dtype=jnp.float32), "next_sentence_label": shaped(batch)}
    here = NamedSharding(Mesh(np.array([device]), ("data",)), PartitionSpec())
    jitted = jax.jit(step, donate_argnums=(0, 1), in_shardings=here, out_shardings=here)
    lowered = jitted.lower(params, jax.eval_shape(optimizer.init, params), arrays, shaped(2, dtype=jnp.uint32))
    compiled, needed = compile_or_size(lowered)
    if compiled is None:
        return None, needed
    account = compiled.memory_analysis()
    results = account.output_size_in_bytes - account.alias_size_in_bytes
    return compiled.as_text(), account.argument_size_in_bytes + account.temp_size_in_bytes + results
