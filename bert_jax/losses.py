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
    logits = logits.astype(jnp.float32)
    used = labels >= 0
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    is_label = classes == labels[..., None]
    # A select and a sum, no gather: it fuses, its gradient is no scatter, and a vocabulary cut over devices needs no
    # exchange.
    own = jnp.sum(jnp.where(is_label, logits, 0.0), axis=-1)
    losses = jax.nn.logsumexp(logits, axis=-1) - own
    # The label wins if it is the highest and nothing before it is equal: argmax, as reductions that vectorise, and that
    # need no more than the maximum, so they read the logits along with the sum of exponentials.
    frozen = jax.lax.stop_gradient(logits)
    highest = jnp.max(frozen, axis=-1, keepdims=True)
    at_top = frozen == highest
    before = at_top & (classes < labels[..., None])
    correct = used & jnp.any(at_top & is_label, axis=-1) & ~jnp.any(before, axis=-1)
    return (
        jnp.sum(jnp.where(used, losses, 0.0)),
        jnp.sum(used, dtype=jnp.int32),
        jnp.sum(correct, dtype=jnp.int32),
    )
