"""One command on one host or many: finds the cluster it runs in, and moves rows onto the devices of all hosts."""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # the coordination service, which jax has no public name for; Orbax asks it so, too
from jax.sharding import NamedSharding

from bert_jax.endings import Ended, Ending, ending
from bert_jax.supervisor import STOPPED, named_cluster, one_of_several

_JOINING = 3  # hosts start minutes apart: to find each other they have so many times what counts as death later
_WAITING = 24 * 3600 * 1000  # milliseconds; the watchdog looks at the clock, and heartbeats tell of the dead


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
    named = named_cluster(environment) if "JAX_NUM_PROCESSES" in environment else {}
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
def agreeing(part: str, workdir: Path, name: str) -> Iterator[None]:
    """Around a part of the run that all hosts do before any goes on; at its end they wait for the slowest.

    What fails at one of them ends the run at all, in the same way. Waits at the coordination service, not in a
    collective: those give up after half a minute, and say then that somebody is gone.

    Args:
      part: what is done, a name used once in a run.
      workdir, name: the run's, see `endings.ending`.

    Raises:
      Ended: at every host, when any of several failed. What fails on one host alone is raised as it is.
    """
    if jax.process_count() == 1:
        yield
        return
    client = distributed.global_state.client
    assert client is not None  # of several processes all have joined
    failures = f"bert_jax/{part}/failures/"
    try:
        yield
    except Exception as error:
        told = dataclasses.astuple(ending(error, workdir, name))
        client.key_value_set(f"{failures}{jax.process_index():08}", json.dumps(told))
    client.wait_at_barrier(f"bert_jax/{part}", _WAITING)
    for _, told in sorted(client.key_value_dir_get(failures)):
        raise Ended(Ending(*json.loads(told)))


def leave(code: int, together: bool = False) -> int:
    """Returns the exit code on one host; ends a process of several at once, so that the others notice.

    An orderly end would wait for processes that are gone or hang.

    Args:
      code: of this process.
      together: all hosts leave now and know it: none goes while another still asks the coordination service.
    """
    if jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        if together:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                jax.distributed.shutdown()
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
