"""One update, and one evaluation, as pure functions of state and batch."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from bert_jax.config import Config
from bert_jax.data.plan import IGNORED
from bert_jax.losses import mlm_loss, nsp_loss
from bert_jax.model.bert import Bert, Dropout, Params, bind
from bert_jax.model.choices import chosen
from bert_jax.model.partitioning import BATCH_AXES
from bert_jax.optimizer import learning_rate, make_optimizer
from bert_jax.sharding import batch_sharding, replicated, state_shardings
from bert_jax.train_state import TrainState, abstract_state

Batch = Mapping[str, Array]
MaskFn = Callable[[Batch, Any, Any], Batch]


def _masked(batch: Batch, mask_fn: MaskFn, seed, step) -> dict[str, Array]:
    """The batch as the model sees it; rows that are padding entirely have nothing to predict."""
    batch = dict(mask_fn(batch, seed, step))
    in_use = jnp.any(batch["segment_ids"] > 0, axis=-1, keepdims=True)
    for name in ("masked_lm_labels", "next_sentence_labels"):
        batch[name] = jnp.where(in_use, batch[name], IGNORED)
    return batch


def _sums(config: Config, mesh: Mesh, params: Params, batch: Batch, dropout: Dropout | None) -> dict[str, Array]:
    """Sums of losses, labels and right answers over the batch."""
    objective, seq_len = config.data.objective, batch["input_ids"].shape[1]
    taken = chosen(config.model, seq_len, mesh.devices.flat[0].platform, mesh.shape["tensor"])
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return _sums_of(bind(taken, objective, params), objective, batch, dropout)


def _sums_of(model: Bert, objective: str, batch: Batch, dropout: Dropout | None) -> dict[str, Array]:
    hidden = model.encode(batch, dropout)
    logits = model.mlm_logits(hidden, batch["masked_lm_positions"])
    values = {"mlm": mlm_loss(logits, batch["masked_lm_labels"])}
    if objective != "mlm":
        logits = model.nsp_logits(model.pool(hidden, batch["cls_positions"]))
        values["nsp"] = nsp_loss(logits, batch["next_sentence_labels"])
    names = ("sum", "count", "correct")
    return {f"{loss}_{name}": value for loss, sums in values.items() for name, value in zip(names, sums, strict=True)}


def _size(batch: Batch) -> dict[str, Array]:
    """Positions that are not padding, and examples: they are numbered from 1 in every row."""
    segments = batch["segment_ids"]
    return {
        "tokens": jnp.sum(segments > 0, dtype=jnp.int32),
        "examples": jnp.sum(jnp.max(segments, axis=-1), dtype=jnp.int32),
    }


def _microbatches(batch: Batch, accumulation: int, mesh: Mesh) -> dict[str, Array]:
    """[B, ...] to [accumulation, B / accumulation, ...]; microbatch a takes rows a::accumulation, which stay where they
    are."""
    rows = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))

    def cut(x: Array) -> Array:
        x = x.reshape(x.shape[0] // accumulation, accumulation, *x.shape[1:])
        return jax.lax.with_sharding_constraint(jnp.swapaxes(x, 0, 1), rows)

    return {name: cut(x) for name, x in batch.items()}


def make_train_step(
    config: Config, mesh: Mesh, mask_fn: MaskFn
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """The jitted update.

    Args:
      config: the run.
      mesh: from `make_mesh`.
      mask_fn: (batch, seed, step) to the batch with masked input_ids, masked_lm_positions and masked_lm_labels [B,P].

    Returns:
      (state, donated; batch) to (state, metrics). The batch holds int32 arrays: input_ids, token_type_ids,
      position_ids, segment_ids, word_starts [B,S], cls_positions, next_sentence_labels [B,K], rows [B] (global row
      numbers). Metrics are float32 scalars loss, mlm_loss, nsp_loss, mlm_accuracy, nsp_accuracy, learning_rate,
      grad_norm (before clipping), padding (share), and int32 tokens, examples; the nsp ones are absent for objective
      mlm. Where loss or grad_norm is not finite, parameters and moments stay as they are; the step counts.
    """
    optimizer, rate = make_optimizer(config), learning_rate(config)
    seed = np.uint32(config.seed)  # seeds go to 2**32 - 1, beyond what a Python integer may be in a trace
    shardings = state_shardings(mesh, abstract_state(config))
    accumulation = config.train.accumulation
    objectives = ("mlm",) if config.data.objective == "mlm" else ("mlm", "nsp")
    labels = {"mlm": "masked_lm_labels", "nsp": "next_sentence_labels"}

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        batch = _masked(batch, mask_fn, seed, state.step)
        # Known before the first backward pass, so that every microbatch is divided by the counts of the global batch.
        counts = {name: jnp.maximum(jnp.sum(batch[labels[name]] >= 0), 1).astype(jnp.float32) for name in objectives}

        def loss_fn(params: Params, batch: Batch) -> tuple[Array, dict[str, Array]]:
            sums = _sums(config, mesh, params, batch, Dropout(seed, state.step, batch["rows"]))
            return jnp.sum(jnp.stack([sums[f"{name}_sum"] / counts[name] for name in objectives])), sums

        gradient = jax.grad(loss_fn, has_aux=True)
        if accumulation == 1:
            grads, sums = gradient(state.params, batch)
        else:

            def add(total, micro: Batch):
                return jax.tree.map(jnp.add, total, gradient(state.params, micro)), None

            micros = _microbatches(batch, accumulation, mesh)
            first = jax.tree.map(lambda x: x[0], micros)
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, state.params, first))
            grads, sums = jax.lax.scan(add, zeros, micros)[0]
        grads = jax.lax.with_sharding_constraint(grads, shardings.params)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        loss = sum(sums[f"{name}_sum"] / counts[name] for name in objectives)
        grad_norm = optax.tree.norm(grads)
        # A loss or gradient that is no number moves nothing; whole numbers, which count steps, go on.
        good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(good, new, old) if jnp.issubdtype(new.dtype, jnp.floating) else new,
            (params, opt_state),
            (state.params, state.opt_state),
        )
        metrics = {
            "loss": loss,
            "learning_rate": rate(state.step),
            "grad_norm": grad_norm,
            "padding": jnp.mean(batch["segment_ids"] == 0, dtype=jnp.float32),
            **_size(batch),
        }
        for name in objectives:
            metrics[f"{name}_loss"] = sums[f"{name}_sum"] / counts[name]
            metrics[f"{name}_accuracy"] = sums[f"{name}_correct"] / counts[name]
        return TrainState(state.step + 1, params, opt_state), metrics

    return jax.jit(
        train_step,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def make_eval_step(config: Config, mesh: Mesh, mask_fn: MaskFn) -> Callable[[Params, Batch], dict[str, Array]]:
    """The jitted evaluation of a batch: (params, batch) to sums that the caller adds up and divides once.

    The masks are those of step 0 for the batch's rows, at every visit. Rows that are padding entirely add nothing.

    Returns:
      mlm_sum (float32), mlm_count, mlm_correct, tokens, examples (int32), and nsp_* likewise unless the objective is
      mlm.
    """
    shardings = state_shardings(mesh, abstract_state(config).params)

    def eval_step(params: Params, batch: Batch) -> dict[str, Array]:
        batch = _masked(batch, mask_fn, np.uint32(config.seed), 0)
        return _sums(config, mesh, params, batch, None) | _size(batch)

    return jax.jit(eval_step, in_shardings=(shardings, batch_sharding(mesh)), out_shardings=replicated(mesh))
