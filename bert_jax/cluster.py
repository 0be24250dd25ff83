"""One command on one host or many: finds the cluster it runs in, and moves rows onto the devices of all hosts."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from bert_jax.supervisor import STOPPED, one_of_several
from data_prep.errors import InputError

# What jax, Gloo and Orbax say when another process cannot be reached any more.
_PEER_LOST = re.compile(
    r"gloo|peer|connection|heartbeat|coordination|barrier|unavailable|deadline.exceeded|nccl|timed out", re.IGNORECASE
)

_JOINING = 3  # hosts start minutes apart: to find each other they have so many times what counts as death later


def join(peer_seconds: int, environment: Mapping[str, str] = os.environ) -> None:
    """Joins the processes of a pod or job where the environment shows one; does nothing on one host.

    `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` name a cluster explicitly; Slurm, Open MPI and
    TPU pods are recognised by jax itself. Must run before anything else touches a device.

    Args:
      peer_seconds: a process that has not been heard of for so long counts as dead, and the others end; one that has
        never been heard of, after three times that.
      environment: of this process.
    """
    if not one_of_several(environment):
        return
    if environment.get("JAX_PLATFORMS") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    named: dict[str, Any] = {}
    if "JAX_NUM_PROCESSES" in environment:
        named = dict(
            coordinator_address=environment["JAX_COORDINATOR_ADDRESS"],
            num_processes=int(environment["JAX_NUM_PROCESSES"]),
            process_id=int(environment["JAX_PROCESS_ID"]),
        )
    try:
        jax.distributed.initialize(
            **named, initialization_timeout=_JOINING * peer_seconds, heartbeat_timeout_seconds=peer_seconds
        )
    except jax.errors.JaxRuntimeError as error:
        reason = next(iter(str(error).splitlines()), "")[:120]
        say = f"error: the hosts of the run did not find each other ({reason}); run the same command again on all hosts"
        print(say, file=sys.stderr, flush=True)
        os._exit(STOPPED)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Around a run: a process of several that fails ends at once, so that the others notice.

    An orderly end would wait for processes that are gone or hang. A failure that another process's loss explains ends
    in one line and exit code 75. On one host nothing is changed.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        if isinstance(error, InputError):
            code, text = 2, f"error: {' '.join(str(error).split())}"
        elif isinstance(error, jax.errors.JaxRuntimeError | TimeoutError | ValueError) and _PEER_LOST.search(
            str(error)
        ):
            reason = next(iter(str(error).splitlines()), "")[:120]
            code = STOPPED
            text = (
                f"error: another host of the run is gone ({reason}); "
                "the last checkpoint is good: run the same command again on all hosts"
            )
        else:
            code, text = 1, "".join(traceback.format_exception(error))
        print(text, file=sys.stderr, flush=True)
        leave(code)


def leave(code: int) -> int:
    """Returns the exit code on one host; ends a process of several at once."""
    if jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def local_rows(sharding: NamedSharding, size: int) -> np.ndarray:
    """Sorted numbers of the rows of a batch of `size` that this process's devices hold."""
    slices = sharding.addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in slices]))


def to_devices(arrays: Mapping[str, np.ndarray], size: int, sharding: NamedSharding) -> dict[str, jax.Array]:
    """Global arrays of `size` rows, every process giving its own: `local_rows`, in their order."""
    rows = local_rows(sharding, size)

    def place(values: np.ndarray) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(size)
            first = np.searchsorted(rows, start)
            return values[first : first + stop - start]

        return jax.make_array_from_callback((size, *values.shape[1:]), sharding, part)

    return {name: place(values) for name, values in arrays.items()}
