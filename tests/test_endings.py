"""Which errors end a run for a person to look at, and which for a scheduler to start it again."""

import errno

import pytest

from bert_jax.endings import Ended, Ending, ending
from bert_jax.run_checkpoints import DiskFull, NotSaved
from bert_jax.run_store import NotFetched, StoreRefused
from data_prep.errors import InputError


def os_error(number, *place):
    return OSError(number, "whatever", *place)


@pytest.fixture
def run(tmp_path):
    for step in ("0", "7", "7.damaged"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("error", "code", "said", "how"),
    [
        (InputError("{run} is\nno run"), 2, "error: s3://b/run is no run", ""),
        (os_error(errno.EACCES, "x"), 2, "error: Permission denied at x; ", ""),
        (os_error(errno.EROFS), 2, "error: Read-only file system at {run}; ", ""),
        (
            os_error(errno.ENOSPC),
            75,
            "error: the disk of {run} is full; checkpoint 7 is the last good one: ",
            "disk full",
        ),
        (DiskFull(), 75, "error: the disk of {run} is full; checkpoint 7 is the last good one: free ", "disk full"),
        (
            os_error(errno.EIO, "x"),
            75,
            "error: Input/output error at x; checkpoint 7 is the last ",
            "file system failed",
        ),
        (os_error(errno.ESTALE), 75, "error: Stale file handle at {run}; checkpoint 7 is ", "file system failed"),
        (ValueError("written [os_error_code='5']"), 75, "error: Input/output error at {run}; ", "file system failed"),
        (ValueError("written [os_error_code='28']"), 75, "error: the disk of {run} is full; ", "disk full"),
        (NotSaved("checkpoint 3 was not saved"), 75, "error: checkpoint 3 was not saved, which another ", "not saved"),
        (
            StoreRefused("b refuses"),
            75,
            "error: b refuses; this machine keeps what is missing there (newest",
            "store refused",
        ),
        (NotFetched("b refuses"), 75, "error: b refuses; run the same command again on all hosts", "store refused"),
        (Ended(Ending(75, "error: a host's", "disk full")), 75, "error: a host's", "disk full"),
        (FileNotFoundError(errno.ENOENT, "of ours", "x"), 1, "FileNotFoundError: ", ""),
        (ValueError("barrier"), 1, "ValueError: barrier", ""),  # one host has no others
    ],
)
def test_an_error_has_its_code_and_line(run, error, code, said, how):
    if isinstance(error, InputError):
        error = InputError(str(error).format(run=run))
    end = ending(error, run, "s3://b/run")
    assert (end.code, end.how) == (code, how)
    assert end.text.startswith(said.format(run=run)) and "\n" not in end.text.rstrip("\n")
    if code == 75 and not isinstance(error, Ended):
        assert "run the same command again" in end.text


def test_nothing_saved_is_said(tmp_path):
    assert "; nothing is saved yet: free some space" in ending(DiskFull(), tmp_path / "new", "new").text


@pytest.mark.parametrize("text", ["Gloo: connection closed by peer", "DEADLINE_EXCEEDED: barrier timed out"])
def test_of_several_hosts_another_may_be_gone(tmp_path, monkeypatch, text):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    end = ending(ValueError(text), tmp_path, "run")
    assert end.code == 75 and end.text.startswith(f"error: another host of the run is gone ({text})")
    assert ending(KeyError("connection"), tmp_path, "run").code == 1
