"""One command on one host or many: finds the cluster it runs in, and moves rows onto the devices of all hosts."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from bert_jax import tpu_vm

# What says that this process is one of several: the variable, and whether its value means more than one.
_SEVERAL = {
    "SLURM_STEP_NUM_TASKS": lambda value: int(value) > 1,
    "OMPI_COMM_WORLD_SIZE": lambda value: int(value) > 1,
    "TPU_WORKER_HOSTNAMES": lambda value: "," in value,
    "MEGASCALE_NUM_SLICES": lambda value: int(value) > 1,
}


def _one_of_several(environment: Mapping[str, str]) -> bool:
    """An explicit number decides; else the surroundings do."""
    if "JAX_NUM_PROCESSES" in environment:
        return int(environment["JAX_NUM_PROCESSES"]) > 1
    named = any(name in environment and several(environment[name]) for name, several in _SEVERAL.items())
    return named or tpu_vm.is_pod(environment)


def join(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the processes of a pod or job where the environment shows one; does nothing on one host.

    `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` name a cluster explicitly; Slurm, Open MPI and
    TPU pods are recognised by jax itself. Must run before anything else touches a device.
    """
    if not _one_of_several(environment):
        return
    if environment.get("JAX_PLATFORMS") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if "JAX_NUM_PROCESSES" in environment:
        jax.distributed.initialize(
            coordinator_address=environment["JAX_COORDINATOR_ADDRESS"],
            num_processes=int(environment["JAX_NUM_PROCESSES"]),
            process_id=int(environment["JAX_PROCESS_ID"]),
        )
    else:
        jax.distributed.initialize()


def local_rows(sharding: NamedSharding, size: int) -> np.ndarray:
    """Sorted numbers of the rows of a batch of `size` that this process's devices hold."""
    slices = sharding.addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in slices]))


def to_devices(
    arrays: Mapping[str, np.ndarray], rows: np.ndarray, size: int, sharding: NamedSharding
) -> dict[str, jax.Array]:
    """Global arrays of `size` rows from the rows that this process holds, every process giving its own."""

    def place(values: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(size)
            first = np.searchsorted(rows, start)
            return values[first : first + stop - start]

        return jax.make_array_from_callback((size, *values.shape[1:]), sharding, part)

    return {name: place(values) for name, values in arrays.items()}
