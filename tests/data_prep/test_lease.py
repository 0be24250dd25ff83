"""Leases: one holder at a time, lost by the dead, kept by the living."""

import errno
import json
import os
import signal
import socket
import threading
import time

import fsspec
import pytest
from small_corpora import start_script

from data_prep import lease, lock
from data_prep.errors import Busy
from data_prep.lease import Lease
from data_prep.lock import BuildLock
from data_prep.storage import Folder

HOLDER = """
import time, pathlib
from data_prep.lease import Lease
from data_prep.storage import Folder
with Lease(Folder(sys.argv[1]), "out"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder():
    store = fsspec.filesystem("memory")
    store.store.clear()
    yield Folder("memory://bucket")
    store.store.clear()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(lease, "_SETTLED_AFTER", 0.05)


def holder(folder):
    return json.loads(folder.read("out.lock"))


def test_one_at_a_time(folder):
    with Lease(folder, "out"):
        assert holder(folder)["host"] == socket.gethostname()
        with pytest.raises(Busy, match=r"memory://bucket/out: another build is writing it \(on .*, last sign of life"):
            Lease(folder, "out").__enter__()
        with Lease(folder, "other"):
            pass
    assert folder.read("out.lock") is None
    with Lease(folder, "out"):
        pass


def test_renewed_while_it_is_held(folder, monkeypatch):
    monkeypatch.setattr(lease, "RENEWED_EVERY", 0.02)
    with Lease(folder, "out"):
        first = holder(folder)
        end = time.monotonic() + 10
        while holder(folder)["renewed"] == first["renewed"]:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert holder(folder) == first | {"renewed": holder(folder)["renewed"]}


def written(folder, **changes):
    """A lease as another process of another machine has written it."""
    fields = {"id": "x", "host": "elsewhere", "process": [1, "", ""], "renewed": time.time()} | changes
    folder.write("out.lock", json.dumps(fields).encode())


def test_of_another_machine(folder):
    written(folder, renewed=time.time() - lease.DEAD_AFTER + 20)
    with pytest.raises(Busy, match=r"on elsewhere, last sign of life [34]. s ago"):
        Lease(folder, "out").__enter__()
    written(folder, renewed=time.time() - lease.DEAD_AFTER - 1)
    with Lease(folder, "out"):
        assert holder(folder)["id"] != "x"
    # The same number on another machine, or in a container of its own on this one, is another process.
    mine = lease._this_process()
    written(folder, host=socket.gethostname(), process=[mine[0], "long ago", "another numbering"])
    with pytest.raises(Busy):
        Lease(folder, "out").__enter__()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": "x"}'])
def test_half_written(folder, content):
    folder.write("out.lock", content)
    with Lease(folder, "out"):
        assert holder(folder)["renewed"]


def test_a_dead_process_of_this_machine_loses_it_at_once(tmp_path):
    folder = Folder(f"file://{tmp_path}")
    script = start_script(tmp_path / "hold.py", HOLDER, folder)
    assert script.stdout.readline() == "held\n"
    with pytest.raises(Busy):
        Lease(folder, "out").__enter__()
    os.kill(script.pid, signal.SIGKILL)
    script.wait()
    with Lease(folder, "out"):
        pass
    assert folder.read("out.lock") is None


def test_taken_by_two_at_once(folder, monkeypatch):
    written(folder, renewed=0)
    monkeypatch.setattr(lease, "_SETTLED_AFTER", 0.5)
    results = []

    def take():
        try:
            Lease(folder, "out").__enter__()
            results.append("taken")
        except Busy:
            results.append("busy")

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["busy"] * 3 + ["taken"]


def test_one_that_stood_still_does_not_take_it_back(folder, monkeypatch):
    monkeypatch.setattr(lease, "RENEWED_EVERY", 0.02)
    with Lease(folder, "out"):
        written(folder, id="new")
        time.sleep(0.2)
        assert holder(folder)["id"] == "new"
    assert holder(folder)["id"] == "new"


def test_where_the_file_system_has_no_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with BuildLock(tmp_path / "out"):
        with pytest.raises(Busy, match="another build is writing it"), BuildLock(tmp_path / "out"):
            pass
        # Parts need none: what they write is the same, whoever else writes it.
        with BuildLock(tmp_path / "out", shared=True, wait=True):
            pass
    assert not (tmp_path / "out.lock").exists()
    with BuildLock(tmp_path / "out"):
        pass
