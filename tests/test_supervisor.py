"""The parent of one process of several: codes pass through, deaths become 75, signals go on, no orphan stays."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_runs import ROOT

from bert_jax.supervisor import one_of_several
from data_prep.errors import InputError

CHILD = """
import os, signal, sys, time
from bert_jax import supervisor
supervisor.end_with_parent()
print(os.getpid(), flush=True)
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(74))
exec(sys.argv[1])
"""
PARENT = """
import sys
from bert_jax import supervisor
supervisor._COMMAND = [sys.executable, "-c", sys.argv[1]]
sys.exit(supervisor.supervise(sys.argv[2:]))
"""


def start(what):
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD, what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("sys.exit(0)", 0, ""),
        ("sys.exit(2)", 2, ""),
        ("sys.exit(3)", 3, ""),
        ("os.abort()", 75, "SIGABRT, which happens when another host of the run is gone"),
        ("os.kill(os.getpid(), 9)", 75, "want of memory"),
    ],
)
def test_how_the_child_ends_is_how_the_run_ends(what, code, said):
    process = start(what)
    _, error = process.communicate(timeout=30)
    assert process.returncode == code
    if said:
        assert said in error and "run the same command again on all hosts" in error and error.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_go_on_to_the_child_as_sigterm(number):
    process = start("time.sleep(60)")
    process.stdout.readline()
    time.sleep(0.2)  # until its handler stands
    process.send_signal(number)
    assert process.wait(20) == 74


def test_no_child_outlives_its_parent():
    process = start("time.sleep(60)")
    child = int(process.stdout.readline())
    process.kill()
    process.wait(20)
    stat = Path(f"/proc/{child}/stat")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
            state = stat.read_text().rsplit(")", 1)[1].split()[0] if stat.parent.parent.exists() else ""
        except (ProcessLookupError, FileNotFoundError):
            return
        if state == "Z":  # dead, and nobody has asked yet
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("the child lives on")


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"JAX_NUM_PROCESSES": "1"}, False),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1", "JAX_COORDINATOR_ADDRESS": "[::1]:80"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_NUM_PROCESSES": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
    ],
)
def test_what_says_that_there_are_several(environment, several):
    assert one_of_several(environment | {"TPU_SKIP_MDS_QUERY": "1"}) is several


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_NUM_PROCESSES": "abc"}, "JAX_NUM_PROCESSES='abc' is no number"),
        ({"JAX_NUM_PROCESSES": "-2"}, "JAX_NUM_PROCESSES='-2' is no number"),
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_PROCESS_ID='' is no number"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS='' is no host:port"),
        (
            {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "there"},
            "JAX_COORDINATOR_ADDRESS='there' is no host:port",
        ),
        (
            {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2", "JAX_COORDINATOR_ADDRESS": "there:80"},
            "JAX_PROCESS_ID=2, but JAX_NUM_PROCESSES=2; ids are 0 to 1",
        ),
    ],
)
def test_a_cluster_named_wrongly_is_a_line(environment, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        one_of_several(environment)
