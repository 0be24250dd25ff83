"""Who runs the units of a build: processes on this machine, all of them or one part of an array job."""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

from data_prep import shards, sources
from data_prep.build_settings import Settings
from data_prep.encoder_choice import takes_fast
from data_prep.errors import InputError
from data_prep.storage import Folder
from data_prep.tokenizer import Tokenizer, load_tokenizer

Group = tuple[sources.Unit, ...]


@dataclass(frozen=True)
class Part:
    """Part `index` of `count`, from 0: it does the units index, index + count, ..."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """From "i/n". Raises InputError."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise InputError(f"--part is {text!r}; it must be i/n with i from 0 to n - 1, e.g. 0/4")
        return cls(int(index), int(count))


@dataclass(frozen=True)
class Job:
    """What every process of a build needs to know."""

    settings: Settings
    tokenizer_dir: Path | Folder
    units_dir: Path | Folder
    try_fast: bool = False  # take the faster encoder, where it agrees with the tokenizers library


def default_workers() -> int:
    """As many processes as this one may use cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_encoder(job: Job, tokenizer: Tokenizer, todo: Sequence[tuple[int, Group]]) -> bool:
    """Whether a job's units get the faster encoder, if it is wanted; then `tokenizer` has it from now on."""
    return job.try_fast and takes_fast(tokenizer, [group for _, group in todo])


class Runner(Protocol):
    """Does the numbered groups of units of a job, at least one, in any order."""

    def __call__(self, job: Job, tokenizer: Tokenizer, todo: Sequence[tuple[int, Group]], progress: "Progress") -> None:
        """Raises InputError for a unit that fails; finished units stay."""
        ...


def run_local(
    job: Job, tokenizer: Tokenizer, todo: Sequence[tuple[int, Group]], progress: "Progress", workers: int
) -> None:
    """Does the numbered groups of units in `workers` processes; one worker is this process itself.

    Raises the first InputError of a unit; on Ctrl-C, KeyboardInterrupt with a line to print. Finished units stay either
    way, and no process is left.
    """
    # The largest first, so that none is left over at the end; what is written does not depend on it.
    todo = sorted(todo, key=lambda item: -_size(item[1]))
    workers = min(workers, len(todo))
    try:
        with _one_thread_a_process():
            if workers <= 1:
                choose_encoder(job, tokenizer, todo)
                for number, group in todo:
                    shards.build_unit(number, group, job.settings, tokenizer, job.units_dir)
                    progress.advance(_size(group))
            else:
                _run_pool(job, tokenizer, todo, workers, progress)
    except KeyboardInterrupt:
        progress.close()
        raise KeyboardInterrupt(f"stopped with {progress.state()}; run the same command again to go on") from None
    progress.close()


def _run_pool(
    job: Job, tokenizer: Tokenizer, todo: Sequence[tuple[int, Group]], workers: int, progress: "Progress"
) -> None:
    # Spawned processes: forked ones would inherit the locks of the tokenizer's threads.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (job,))
    try:
        with _children_ignore_interrupts():
            # A process starts for each thing to do, as long as none is idle: all get ready while the encoder is looked
            # at here.
            for _ in range(workers):
                pool.submit(_ready)
        fast = choose_encoder(job, tokenizer, todo)
        with _children_ignore_interrupts():  # one may have been idle before all had started
            sizes = {pool.submit(_work, number, group, fast): _size(group) for number, group in todo}
        for future in concurrent.futures.as_completed(sizes):
            future.result()
            progress.advance(sizes[future])
    except BrokenProcessPool:
        raise InputError(
            "a worker process died (out of memory?); run the same command again with fewer --workers: "
            "finished units are kept"
        ) from None
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _one_thread_a_process() -> Iterator[None]:
    """Keeps the tokenizers library from starting threads, here and in processes that are started inside: they are the
    parallelism.
    """
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


@contextlib.contextmanager
def _children_ignore_interrupts() -> Iterator[None]:
    """Processes started inside never see Ctrl-C, which a terminal sends to all of them: the parent decides. One that
    comes meanwhile is raised at the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # As it starts, it would let interrupts through again.
    multiprocessing.resource_tracker.ensure_running()
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


_job: Job
_tokenizer: Tokenizer


def _start_worker(job: Job) -> None:
    global _job, _tokenizer
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _job, _tokenizer = job, load_tokenizer(str(job.tokenizer_dir))


def _ready() -> None:
    pass


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _work(number: int, group: Group, fast: bool) -> None:
    shards.build_unit(number, group, _job.settings, _tokenizer_with(fast), _job.units_dir)


@functools.cache
def _tokenizer_with(fast: bool) -> Tokenizer:
    if fast:
        _tokenizer.encode_faster()
    return _tokenizer


def _size(group: Group) -> int:
    return sum(unit.size for unit in group)


class Progress:
    """Units, megabytes a second and time left on stderr: a line drawn over itself on a terminal, else one in `every`
    s."""

    def __init__(self, units: int, size: int, stream: TextIO | None = None, every: float = 10.0):
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._units, self._size, self._every = units, size, every
        self._done = self._bytes = 0
        self._start = self._drawn = time.monotonic()

    def advance(self, size: int) -> None:
        """One more unit of `size` bytes is done."""
        self._done, self._bytes = self._done + 1, self._bytes + size
        now = time.monotonic()
        if self._terminal:
            self._stream.write(f"\r{self._line(now)}\x1b[K")
            self._stream.flush()
        elif now - self._drawn >= self._every:
            print(self._line(now), file=self._stream)
            self._drawn = now

    def state(self) -> str:
        """How far it got, for a message."""
        return f"{self._done} of {self._units} units done"

    def close(self) -> None:
        """Ends the line on a terminal."""
        if self._terminal and self._done:
            self._stream.write("\n")

    def _line(self, now: float) -> str:
        seconds = max(now - self._start, 1e-9)
        rate = self._bytes / seconds
        left = (self._size - self._bytes) / rate if rate else 0.0
        return f"build: {self._done}/{self._units} units, {rate / 1e6:.1f} MB/s, {left:.0f} s left"
