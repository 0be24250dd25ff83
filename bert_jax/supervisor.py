"""A parent for each of several processes, so that a run always ends with a code that says what to do.

With several hosts, jax's coordination service ends the processes that are left when one host dies: by abort, from C++,
where no Python sees it. The parent turns any death by a signal into one line and exit code 75. It knows no jax.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from bert_jax import tpu_vm
from data_prep.errors import InputError

STOPPED = 75
_COMMAND = [sys.executable, "-m", "bert_jax"]
_PARENT_ALIVE = "BERT_JAX_PARENT_ALIVE"  # number of a pipe that ends when the parent does

# What says that this process is one of several: the variable, and whether its value means more than one.
_SEVERAL = {
    "SLURM_STEP_NUM_TASKS": lambda value: int(value) > 1,
    "OMPI_COMM_WORLD_SIZE": lambda value: int(value) > 1,
    "TPU_WORKER_HOSTNAMES": lambda value: "," in value,
    "MEGASCALE_NUM_SLICES": lambda value: int(value) > 1,
}


def one_of_several(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment shows a pod or a job of several processes: an explicit number decides, else they do.

    Raises:
      InputError: the variables that name a cluster explicitly do not.
    """
    if "JAX_NUM_PROCESSES" in environment:
        return named_cluster(environment)["num_processes"] > 1
    named = any(name in environment and several(environment[name]) for name, several in _SEVERAL.items())
    return named or tpu_vm.is_pod(environment)


def named_cluster(environment: Mapping[str, str]) -> dict[str, Any]:
    """The cluster that three variables name explicitly, as `jax.distributed.initialize` wants it.

    Raises:
      InputError: one of them is missing, or wrong.
    """
    count = _number("JAX_NUM_PROCESSES", environment)
    if count <= 1:
        return {"num_processes": count}
    number, address = _number("JAX_PROCESS_ID", environment), environment.get("JAX_COORDINATOR_ADDRESS", "")
    if number >= count:
        raise InputError(f"JAX_PROCESS_ID={number}, but JAX_NUM_PROCESSES={count}; ids are 0 to {count - 1}")
    if not address.rpartition(":")[2].isdecimal():
        raise InputError(
            f"JAX_COORDINATOR_ADDRESS={address!r} is no host:port; name process 0's to all {count} processes"
        )
    return {"coordinator_address": address, "num_processes": count, "process_id": number}


def _number(name: str, environment: Mapping[str, str]) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise InputError(f"{name}={text!r} is no number; give one to every process, or unset JAX_NUM_PROCESSES")
    return int(text)


def is_child() -> bool:
    """Whether this process has a parent of this file."""
    return _PARENT_ALIVE in os.environ


def supervise(words: Sequence[str]) -> int:
    """Runs `bert-jax WORDS` in a child and returns its exit code, 75 where a signal ended it.

    SIGTERM and SIGINT go on to the child as SIGTERM, which all processes of the run agree upon; a second SIGINT kills.
    """
    child: subprocess.Popen | None = None
    received: list[int] = []

    def forward(number: int, frame: Any) -> None:
        received.append(number)
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGKILL if received.count(signal.SIGINT) > 1 else signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [*_COMMAND, *words],
        env=os.environ | {_PARENT_ALIVE: str(reading)},
        pass_fds=(reading,),
        stdin=subprocess.DEVNULL,
        process_group=0,  # a terminal's Ctrl-C reaches the child by way of the parent only
    )
    os.close(reading)
    if received:
        child.send_signal(signal.SIGTERM)
    code = child.wait()
    os.close(writing)
    if code >= 0:
        return code
    how = signal.Signals(-code).name
    if received:
        text = f"stopped by {signal.Signals(received[-1]).name} before anything new could be saved"
    elif how == "SIGKILL":
        text = "this process was killed (by the system for want of memory, perhaps)"
    else:
        text = f"this process ended by {how}, which happens when another host of the run is gone"
    print(
        f"error: {text}; the last checkpoint is good: run the same command again on all hosts",
        file=sys.stderr,
        flush=True,
    )
    return STOPPED


def end_with_parent() -> None:
    """In the child: ends this process when its parent is gone, so that no orphan holds the devices."""
    reading = int(os.environ[_PARENT_ALIVE])

    def wait() -> None:
        os.read(reading, 1)
        os._exit(STOPPED)

    threading.Thread(target=wait, name="parent", daemon=True).start()
