"""AdamW with the paper's schedule, and what is decayed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import Config

NOT_DECAYED = ("bias", "scale")


def _warmup_and_decay(step, peak: float, warmup_steps: int, num_steps: int):
    """peak * (k + 1) / warmup while k < warmup, then peak * (n - k) / (n - warmup)."""
    rising = peak * (step + 1) / max(warmup_steps, 1)
    falling = peak * (num_steps - step) / max(num_steps - warmup_steps, 1)
    return jnp.where(step < warmup_steps, rising, jnp.maximum(falling, 0.0))


def learning_rate(config: Config) -> Callable[[Any], jax.Array]:
    """The rate of step k, counted from 0 over the whole run.

    A phase with a learning rate of its own restarts: its own warm-up, its own decay to zero over its own steps. Other
    phases follow the one schedule over all steps.

    Returns:
      a function of an integer scalar (may be traced) to a float32 scalar.
    """
    phases, optimizer, total = config.phases(), config.optimizer, config.num_steps()

    def rate(step) -> jax.Array:
        # Whole numbers below 2**24 are exact in float32; a run has fewer steps.
        step = jnp.asarray(step).astype(jnp.float32)
        value = _warmup_and_decay(step, optimizer.learning_rate, optimizer.warmup_steps, total)
        start = 0
        for phase in phases:
            if phase.learning_rate > 0:
                own = _warmup_and_decay(step - start, phase.learning_rate, phase.warmup_steps, phase.num_steps)
                inside = (step >= start) & (step < start + phase.num_steps)
                value = jnp.where(inside, own, value)
            start += phase.num_steps
        return value.astype(jnp.float32)

    return rate


def decay_mask(params: Any) -> Any:
    """True for matrices and embeddings, False for biases and layer norms, by the leaf's name."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in NOT_DECAYED, params)


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Clipping by the global norm (where asked for), then AdamW as torch.optim.AdamW has it (Loshchilov and Hutter,
    2019)."""
    settings = config.optimizer
    adamw = optax.adamw(
        learning_rate(config),
        b1=settings.b1,
        b2=settings.b2,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        mask=decay_mask,
    )
    if settings.max_grad_norm > 0:
        return optax.chain(optax.clip_by_global_norm(settings.max_grad_norm), adamw)
    return adamw
