"""How a run that fails ends: its exit code, and the one line that says what happened and what to do."""

import contextlib
import dataclasses
import errno
import os
import re
import traceback
from pathlib import Path

import jax

from bert_jax.checkpoint import os_error_numbers, saved_steps
from bert_jax.run_checkpoints import DiskFull, NotSaved
from bert_jax.run_store import NotFetched, StoreRefused
from bert_jax.supervisor import STOPPED
from data_prep.errors import InputError

# What jax, Gloo and Orbax say when another process cannot be reached any more.
_PEER_LOST = re.compile(
    r"gloo|peer|connection|heartbeat|coordination|barrier|unavailable|deadline.exceeded|nccl|timed out", re.IGNORECASE
)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)
# A disk, or the server of a network file system, gives out: on this machine perhaps for a while only, on another not.
_FAILING = (
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EREMOTEIO,
    errno.ENOTCONN,
    errno.ENODEV,
    errno.ENXIO,
)


@dataclasses.dataclass(frozen=True)
class Ending:
    """An exit code, what goes to stderr, and what the run card says (empty: what it said before)."""

    code: int
    text: str
    how: str = ""


class Ended(Exception):
    """A run of several hosts ends, and all of them know how."""

    def __init__(self, ending: Ending):
        super().__init__(ending.text)
        self.ending = ending


def ending(error: Exception, workdir: Path, name: str) -> Ending:
    """How a run ends that met this error: 2 a user's mistake, 75 where a restart goes on, 1 a defect, with a traceback.

    Args:
      error: what was raised.
      workdir: the run directory on this machine.
      name: what the user calls it: the same, or a URL.
    """
    if isinstance(error, Ended):
        return error.ending
    if isinstance(error, InputError):
        return Ending(2, f"error: {' '.join(str(error).split())}".replace(str(workdir), name))
    newest = _newest(workdir)
    good = "nothing is saved yet" if newest is None else f"checkpoint {newest} is the last good one"
    if isinstance(error, StoreRefused):
        kept = f"this machine keeps what is missing there (newest checkpoint: {'none' if newest is None else newest})"
        return Ending(STOPPED, f"error: {error}; {kept}: run the same command again here", "store refused")
    if isinstance(error, NotFetched):
        return Ending(STOPPED, f"error: {error}; run the same command again on all hosts", "store refused")
    if isinstance(error, NotSaved):
        again = "which another run may have written; see that none runs, and run the same command again"
        return Ending(STOPPED, f"error: {error}, {again}", "not saved")
    numbers = [error.errno] if isinstance(error, OSError) else os_error_numbers(error)
    if isinstance(error, DiskFull) or any(number in _FULL for number in numbers):
        again = "free some space and run the same command again"
        return Ending(STOPPED, f"error: the disk of {workdir} is full; {good}: {again}", "disk full")
    for number in numbers:
        where = getattr(error, "filename", None) or workdir
        if number in _FAILING:
            text = f"error: {os.strerror(number)} at {where}; {good}: run the same command again"
            return Ending(STOPPED, text, "file system failed")
        if number in _REFUSED:
            return Ending(2, f"error: {os.strerror(number)} at {where}; see who may write there, or name another place")
    if jax.process_count() > 1 and _is_of_lost_peer(error):
        reason = next(iter(str(error).splitlines()), "")[:120]
        again = "the last checkpoint is good: run the same command again on all hosts"
        return Ending(STOPPED, f"error: another host of the run is gone ({reason}); {again}")
    return Ending(1, "".join(traceback.format_exception(error)))


def _newest(workdir: Path) -> int | None:
    with contextlib.suppress(OSError):  # the very file system that gives out
        return max(saved_steps(workdir), default=None)
    return None


def _is_of_lost_peer(error: Exception) -> bool:
    kinds = jax.errors.JaxRuntimeError | TimeoutError | ValueError
    return isinstance(error, kinds) and _PEER_LOST.search(str(error)) is not None
