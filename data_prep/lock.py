"""One build at a time on an output: a lock that dies with its holder."""

import contextlib
import errno
import fcntl
import os
import sys
from pathlib import Path
from types import TracebackType

from data_prep.errors import Busy
from data_prep.lease import Lease
from data_prep.storage import Folder

# Some network file systems have no locks, or none without an option of the mount.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


class BuildLock:
    """A lock on `OUT.lock` beside the output: exclusive for whole builds and the merge, shared between parts.

    The operating system drops it when the process ends, however it ends. Where the file system has no locks, a lease
    stands for the exclusive one (data_prep.lease). Raises Busy on entry when it is held and `wait` is False.
    """

    def __init__(self, output: Path, shared: bool = False, wait: bool = False):
        self._output, self._path = output, output.with_name(output.name + ".lock")
        self._shared, self._wait = shared, wait
        self._fd = -1
        self._lease = contextlib.ExitStack()

    def __enter__(self) -> "BuildLock":
        mode = fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX
        while True:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(self._fd, mode | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    self._close()
                    self._take_lease()
                    return self
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    self._close()
                    raise
                if not self._wait:
                    self._close()
                    raise Busy(f"{self._output}: another build is writing it; wait for it, or stop it first") from None
                print(f"{self._output}: waiting for another build of it", file=sys.stderr)
                fcntl.flock(self._fd, mode)
            if self._is_current():
                return self
            # Whoever held it has removed the file meanwhile: this lock would lock nobody out.
            self._close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._fd < 0:
            self._lease.close()
            return
        # A shared holder must leave the file to the others.
        if not self._shared and not self._output.with_name(self._output.name + ".partial").exists():
            self._path.unlink(missing_ok=True)
        self._close()

    def _take_lease(self) -> None:
        # An empty file, as it is made for the other kind of lock, is nobody's lease.
        if not self._shared:
            folder = Folder(f"file://{self._output.parent.absolute()}")
            self._lease.enter_context(Lease(folder, self._output.name))

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1
