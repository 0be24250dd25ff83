"""Losses as sums and counts: whoever has all the sums divides once, so batches may be cut in any way."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Sums = tuple[Float[Array, ""], Int[Array, ""], Int[Array, ""]]


def mlm_loss(logits: Float[Array, "B P V"], labels: Int[Array, "B P"]) -> Sums:
    """Cross entropy of the masked tokens.

    Args:
      logits: over the (padded) vocabulary.
      labels: token ids, -100 where a slot is unused.

    Returns:
      (sum of losses in nats, float32; number of labels; number of labels that have the highest logit).
    """
    return _cross_entropy(logits, labels)


def nsp_loss(logits: Float[Array, "B K C"], labels: Int[Array, "B K"]) -> Sums:
    """Cross entropy of the next-sentence (or sentence-order) decision; arguments and results as in `mlm_loss`."""
    return _cross_entropy(logits, labels)


def _cross_entropy(logits: Array, labels: Array) -> Sums:
    used = labels >= 0
    losses, right = _of_labels(logits.astype(jnp.float32), labels)
    return (
        jnp.sum(jnp.where(used, losses, 0.0)),
        jnp.sum(used, dtype=jnp.int32),
        jnp.sum(used & right, dtype=jnp.int32),
    )


@jax.custom_vjp
def _of_labels(logits: Float[Array, "... V"], labels: Int[Array, "..."]) -> tuple[Array, Array]:
    """Cross entropy of each label, and whether it is the argmax; the backward pass keeps the logits and one number a
    label."""
    return _forward(logits, labels)[0]


def _forward(logits, labels):
    # Sums over the same elements, so that the compiler may take them in one reading. Selects, no gather: they fuse,
    # their gradient is no scatter, and a vocabulary cut over devices needs no exchange.
    highest = jnp.max(logits, axis=-1)
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    top, label = highest[..., None], labels[..., None]
    total = jnp.sum(jnp.exp(logits - top), axis=-1)
    own = jnp.sum(jnp.where(classes == label, logits, 0.0), axis=-1)
    # The label is the argmax if it is the highest and nothing before it is equal.
    before = jnp.sum(jnp.where((logits == top) & (classes < label), 1.0, 0.0), axis=-1)
    log_total = highest + jnp.log(total)
    return (log_total - own, (own == highest) & (before == 0)), (logits, log_total, labels)


def _backward(saved, gradients):
    logits, log_total, labels = saved
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    wrong = jnp.exp(logits - log_total[..., None]) - jnp.where(classes == labels[..., None], 1.0, 0.0)
    return wrong * gradients[0][..., None], None


_of_labels.defvjp(_forward, _backward)
