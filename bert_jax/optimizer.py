"""AdamW and LAMB, their schedules, and what is decayed."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import Config, OptimizerConfig

NOT_DECAYED = ("bias", "scale")
STACKED = "layers"  # parameters below this name have a leading axis of layers


def decay_steps(settings: OptimizerConfig, num_steps: int) -> int:
    """Steps of the last stretch of schedule `wsd`, at least one."""
    return max(1, round(settings.decay_share * num_steps))


def _schedule(settings: OptimizerConfig, step, peak: float, warmup_steps: int, num_steps: int):
    """The rate of step k of n: peak * (k + 1) / warmup while k < warmup, then what the schedule says."""
    rising = peak * (step + 1) / max(warmup_steps, 1)
    share = (num_steps - step) / max(num_steps - warmup_steps, 1)  # of the decay that is left, 1 down to 0
    if settings.schedule == "linear":
        falling = peak * share
    elif settings.schedule == "cosine":
        falling = peak * 0.5 * (1.0 - jnp.cos(math.pi * jnp.clip(share, 0.0, 1.0)))
    elif settings.schedule == "wsd":
        falling = peak * jnp.minimum((num_steps - step) / decay_steps(settings, num_steps), 1.0)
    else:
        falling = peak * jnp.ones_like(share)
    return jnp.where(step < warmup_steps, rising, jnp.maximum(falling, 0.0))


def learning_rate(config: Config) -> Callable[[Any], jax.Array]:
    """The rate of step k, counted from 0 over the whole run.

    After the warm-up, `linear` and `cosine` fall to zero at the end (half a cosine: Loshchilov and Hutter, 2017), `wsd`
    stays at its peak and falls linearly over the last `decay_share` of the steps (warm-up, stable, decay: Hu et al.,
    "MiniCPM", 2024), `constant` stays. A phase with a learning rate of its own restarts: its own warm-up, its own decay
    over its own steps. Other phases follow the one schedule over all steps.

    Returns:
      a function of an integer scalar (may be traced) to a float32 scalar.
    """
    phases, optimizer, total = config.phases(), config.optimizer, config.num_steps()

    def rate(step) -> jax.Array:
        # Whole numbers below 2**24 are exact in float32; a run has fewer steps.
        step = jnp.asarray(step).astype(jnp.float32)
        value = _schedule(optimizer, step, optimizer.learning_rate, optimizer.warmup_steps, total)
        start = 0
        for phase in phases:
            if phase.learning_rate > 0:
                own = _schedule(optimizer, step - start, phase.learning_rate, phase.warmup_steps, phase.num_steps)
                inside = (step >= start) & (step < start + phase.num_steps)
                value = jnp.where(inside, own, value)
            start += phase.num_steps
        return value.astype(jnp.float32)

    return rate


def decay_mask(params: Any) -> Any:
    """True for matrices and embeddings, False for biases and layer norms, by the leaf's name."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in NOT_DECAYED, params)


def scale_by_trust_ratio() -> optax.GradientTransformation:
    """Makes the norm of each tensor's update the norm of the tensor: the last line of LAMB (You et al., 2020, algorithm
    2, with the identity for phi).

    A tensor is one matrix of one layer: of stacked layers each has a ratio of its own, and queries, keys and values are
    tensors apart. The ratio is 1 for biases, for layer norms, and where either norm is zero.
    """

    def scale(path, update, param):
        if path[-1].key in NOT_DECAYED:
            return update
        stacked = any(entry.key == STACKED for entry in path)
        axes = tuple(range(1 if stacked else 0, param.ndim))
        size, step = (jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True)) for x in (param, update))
        return update * jnp.where((size > 0) & (step > 0), size / jnp.where(step > 0, step, 1.0), 1.0)

    def update(updates, state, params=None):
        return jax.tree_util.tree_map_with_path(scale, updates, params), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Clipping by the global norm (where asked for), then AdamW as torch.optim.AdamW has it (Loshchilov and Hutter,
    2019), or LAMB: AdamW's direction, bias-corrected, decay included, times a trust ratio a tensor."""
    settings = config.optimizer
    parts = [
        optax.scale_by_adam(b1=settings.b1, b2=settings.b2, eps=settings.eps),
        optax.add_decayed_weights(settings.weight_decay, decay_mask),
    ]
    if settings.name == "lamb":
        parts.append(scale_by_trust_ratio())
    optimizer = optax.chain(*parts, optax.scale_by_learning_rate(learning_rate(config)))
    if settings.max_grad_norm > 0:
        return optax.chain(optax.clip_by_global_norm(settings.max_grad_norm), optimizer)
    return optimizer
