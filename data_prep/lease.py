"""One build at a time on an output where no operating system keeps locks: a lease that a dead build loses.

`OUT.lock` beside the output names its holder, who writes it again every few seconds. Whoever finds one that has not
been renewed for a while, or whose holder was a process of this machine that is gone, takes it. Two that take it in the
same moment are told apart by reading it again. Even if both went on, the corpus would be right: all that a build writes
is determined by its input, so the lease saves work and is not what keeps the bytes.
"""

import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from data_prep.errors import Busy, InputError
from data_prep.storage import Folder

RENEWED_EVERY = 10.0
# Seconds; clocks of two machines may differ by some of them.
DEAD_AFTER = 60.0
_SETTLED_AFTER = 1.0


class Lease:
    """The lease on `NAME.lock` in `folder`, for the output NAME. Raises Busy on entry when another build has it."""

    def __init__(self, folder: Folder, name: str):
        self._folder, self._file, self._output = folder, f"{name}.lock", f"{folder.url}/{name}"
        self._holder = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "process": _this_process()}
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Lease":
        if not self._folder.create(self._file, self._content()):
            holder = self._read()
            if holder is not None and not _is_dead(holder):
                seconds = max(0, round(time.time() - holder["renewed"]))
                raise Busy(
                    f"{self._output}: another build is writing it (on {holder['host']}, last sign of life {seconds} s "
                    f"ago); wait for it, or stop it first: a dead one is passed over after {DEAD_AFTER:.0f} s"
                )
            self._folder.write(self._file, self._content())
            time.sleep(_SETTLED_AFTER)
            taken = self._read()
            if taken is None or taken["id"] != self._holder["id"]:
                raise Busy(f"{self._output}: another build took it over in the same moment; leave it to that one")
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._released.set()
        assert self._thread is not None
        self._thread.join()
        holder = self._read()
        if holder is not None and holder["id"] == self._holder["id"]:
            self._folder.remove([self._file])

    def _renew(self) -> None:
        while not self._released.wait(RENEWED_EVERY):
            try:
                holder = self._read()
                if holder is not None and holder["id"] != self._holder["id"]:
                    # This process stood still for so long that it was taken for dead.
                    return
                self._folder.write(self._file, self._content())
            except InputError:
                # The store may answer again next time; if it does not, the build itself will meet it.
                continue

    def _content(self) -> bytes:
        return json.dumps(self._holder | {"renewed": time.time()}).encode()

    def _read(self) -> dict[str, Any] | None:
        content = self._folder.read(self._file)
        if content is None:
            return None
        try:
            holder = json.loads(content)
            return holder | {"renewed": float(holder["renewed"]), "host": str(holder["host"]), "id": str(holder["id"])}
        except (ValueError, KeyError, TypeError):
            # Half-written by one who died, or by one who is about to go on: then it is renewed soon.
            return None


def _is_dead(holder: dict[str, Any]) -> bool:
    if time.time() - holder["renewed"] > DEAD_AFTER:
        return True
    number, started, numbering = holder["process"]
    if holder["host"] != socket.gethostname() or numbering != _numbering():
        return False
    return _started(number) != started


def _this_process() -> list[int | str]:
    return [os.getpid(), _started(os.getpid()), _numbering()]


def _numbering() -> str:
    """Whose process numbers these are: containers of one machine count for themselves."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(process: int) -> str:
    """When a process of this boot of this machine began; empty when it is gone, or is one that waits to be reaped."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else f"{fields[19]} {boot}"
