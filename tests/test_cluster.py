"""One command finds its cluster: by our variables, Slurm's, or a TPU VM's metadata; one host stays alone."""

import http.server
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bert_jax import tpu_vm

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
from bert_jax import cluster
cluster.join(60)
import jax
from jax.experimental import multihost_utils
import numpy as np
numbers = multihost_utils.process_allgather(np.array([jax.process_index()]))
print(jax.process_count(), jax.process_index(), numbers.sum())
"""

# A run of three parts; in the second host 1 is late or fails, in the third, where it comes to that, host 0.
PARTS = """
import json, os, sys, time
from pathlib import Path
from bert_jax import cluster
from bert_jax.endings import Ended
from data_prep.errors import InputError
cluster.join(60)
import jax
raised = {"wrong": InputError("a line\\nof host %d" % jax.process_index()), "full": OSError(28, "No space left"),
          "bug": KeyError("k")}
for part, host in (("one", None), ("two", 1), ("three", 0)):
    try:
        with cluster.agreeing(part, Path("none"), "none"):
            what = os.environ["WHAT"] if host == jax.process_index() else ""
            time.sleep(2 if what == "late" else 0)
            if what in raised:
                raise raised[what]
    except Ended as error:
        print(error.ending.text, file=sys.stderr)
        if host == 1:
            cluster.leave(error.ending.code, together=True)
print("all parts", file=sys.stderr)
"""


def started(program, count, variables):
    """`count` local processes with these variables (a function of the number)."""
    base = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "JAX_NUM", "TPU_"))}
    base |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", program], env=base | variables(i), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for i in range(count)
    ]


def several(count, variables):
    """What `count` local processes with these variables (a function of the number) say of their cluster."""
    processes = started(PROGRAM, count, variables)
    ended = [process.communicate(timeout=120) for process in processes]
    assert all(process.returncode == 0 for process in processes), ended
    return [tuple(map(int, out.splitlines()[-1].split())) for out, _ in ended]  # Gloo talks before


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def test_processes_find_each_other_by_our_variables():
    port = free_port()
    told = several(
        2,
        lambda i: {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(i),
        },
    )
    assert told == [(2, 0, 1), (2, 1, 1)]


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("late", 0, "all parts"),
        ("wrong", 2, "error: a line of host 1"),
        ("full", 75, "error: the disk of none is full; nothing is saved yet: free some space and run the same command"),
        ("bug", 1, "KeyError: 'k'"),
    ],
)
def test_what_fails_at_one_process_ends_all_alike(what, code, said):
    port = free_port()
    processes = started(
        PARTS,
        2,
        lambda i: {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(i),
            "WHAT": what,
        },
    )
    ended = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [code] * 2, ended
    for text in ended:
        assert said in text and ("Traceback" in text) == (what == "bug"), text
        if code in (2, 75):
            assert text.splitlines()[-1].startswith(said)


def test_processes_find_each_other_by_slurms_variables():
    job = str(os.getpid())  # the port is made of it
    told = several(
        2,
        lambda i: {
            "SLURM_JOB_ID": job,
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_NUM_NODES": "1",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(i),
            "SLURM_LOCALID": "0",
        },
    )
    assert told == [(2, 0, 1), (2, 1, 1)]


def test_one_host_needs_nothing_and_one_task_of_slurm_is_alone():
    assert several(1, lambda i: {}) == [(1, 0, 0)]
    assert several(1, lambda i: {"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) == [(1, 0, 0)]


@pytest.mark.parametrize(("endpoints", "pod"), [("10.0.0.1,10.0.0.2", True), ("10.0.0.1", False), (None, False)])
@pytest.mark.parametrize("device", ["accel0", "vfio/0"])
def test_a_tpu_vm_asks_its_metadata_whether_it_is_one_of_several(tmp_path, monkeypatch, endpoints, pod, device):
    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            right = self.path.endswith("/instance/attributes/worker-network-endpoints")
            known = right and endpoints is not None and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write((endpoints or "").encode())

        def log_message(self, *words):
            pass

    with http.server.HTTPServer(("localhost", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {"GCE_METADATA_IP": f"localhost:{server.server_port}"}
        monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "libtpu")
        assert not tpu_vm.is_pod(environment, tmp_path)  # no chip
        (tmp_path / device).parent.mkdir(exist_ok=True)
        (tmp_path / device).touch()
        assert tpu_vm.is_pod(environment, tmp_path) == pod
        assert not tpu_vm.is_pod(environment | {"TPU_SKIP_MDS_QUERY": "1"}, tmp_path)
        server.shutdown()
    assert not tpu_vm.is_pod(environment, tmp_path)  # nobody answers
