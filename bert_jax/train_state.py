"""What a run carries from step to step, created where it lives."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from bert_jax.config import Config
from bert_jax.model.bert import Params, abstract_params, init_params
from bert_jax.optimizer import make_optimizer
from bert_jax.sharding import state_shardings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The number of updates done, the parameters, the optimizer's state."""

    step: Int[Array, ""] | Any
    params: Params
    opt_state: Any


def _state_of(config: Config, params: Params) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, make_optimizer(config).init(params))


def abstract_state(config: Config) -> TrainState:
    """The state's tree as jax.ShapeDtypeStruct; nothing is computed."""
    params = abstract_params(config.model, config.data.objective)
    return jax.eval_shape(lambda params: _state_of(config, params), params)


def create_state(config: Config, mesh: Mesh, params: Params | None = None) -> TrainState:
    """The state at step 0, sharded from the start: it is never whole on one device.

    Args:
      config: the run.
      mesh: from `make_mesh`.
      params: host arrays to start from, in the model's tree; drawn from `config.seed` where None.

    Raises:
      ValueError: the given params have another tree or other shapes than the model's.
    """
    abstract = abstract_state(config)
    shardings = state_shardings(mesh, abstract)
    if params is None:
        build = jax.jit(
            lambda: _state_of(config, init_params(config.model, config.data.objective, config.seed)),
            out_shardings=shardings,
        )
        return build()

    def place(host, expected, sharding) -> jax.Array:
        host = np.asarray(host, np.float32)
        if host.shape != expected.shape:
            raise ValueError(f"a parameter has shape {host.shape}, the model's has {expected.shape}")
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    placed = jax.tree.map(place, params, abstract.params, shardings.params)
    return jax.jit(lambda params: _state_of(config, params), out_shardings=shardings, donate_argnums=0)(placed)
