"""A run whose directory is a URL: trained in a copy on this machine, its mirror, and kept in an object store.

The store has what a run directory on a disk has, but for the compile cache. A checkpoint is uploaded whole, its
`checksums.json` last: one without it is none, for readers and for the run. Logs go up before it, so a checkpoint never
has updates behind it that the logs in the store lack.

The store is the truth and the mirror may be deleted at any time. What a mirror has that the store could not take counts
as long as nobody has gone on with the run elsewhere since.
"""

import fcntl
import hashlib
import json
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bert_jax import checksums
from bert_jax.checkpoint import saved_steps, write_json
from bert_jax.metrics import METRICS, TENSORBOARD
from bert_jax.reporting import EVENTS, POSITIONS
from data_prep.errors import InputError
from data_prep.files import checksum
from data_prep.staging import cache_root
from data_prep.storage import Folder

LOGS = (METRICS, POSITIONS, EVENTS, "run.json")
_ID = ".run_id"  # tells a run from another one that had the same URL before
_UPLOADED = ".uploaded"  # in the mirror: the newest step that was uploaded from it
_SENT = ".sent.json"  # in the mirror: SHA-256 of the logs as they were last uploaded from it
_PAUSES = (1.0, 5.0, 25.0)  # seconds before trying again what a store refused


class StoreRefused(Exception):
    """The store did not take what was to be uploaded, also when asked again; it is still in the mirror."""


class NotFetched(Exception):
    """The store did not give a checkpoint that it has, also when asked again."""


class _Damaged(InputError):
    """An object is not what was written."""


def stored_steps(names: Sequence[str]) -> list[int]:
    """Steps of the whole checkpoints among the names of all objects of a run, ascending."""
    parts = [name.split("/") for name in names]
    return sorted(
        int(part[1])
        for part in parts
        if len(part) == 3 and part[0] == "checkpoints" and part[1].isdigit() and part[2] == checksums.FILE
    )


@contextmanager
def naming(local: Path, url: str) -> Iterator[None]:
    """Users' mistakes that are found in a copy are told of the URL, which is what the user named."""
    try:
        yield
    except InputError as error:
        if str(local) not in str(error):
            raise
        raise type(error)(str(error).replace(str(local), url)) from None


class RunStore:
    """The run at a URL, for the command that trains it. The leader writes to the store, other hosts read.

    Args:
      url: of the run directory.

    Raises:
      InputError: something else lies there, or the store refuses.
    """

    def __init__(self, url: str):
        self._folder = Folder(url)
        key = hashlib.sha256(self._folder.url.encode()).hexdigest()[:16]
        self.mirror = (cache_root() / "runs" / key / (self._folder.name or "run")).absolute()
        there = self._folder.sizes()  # asked by every host, so that all end alike
        if there and "config.json" not in there and _ID not in there:
            raise InputError(f"{self} is not empty and holds no run; name a new --workdir")

    def __str__(self) -> str:
        return str(self._folder)

    def fetch(self, leader: bool) -> None:
        """Makes the mirror what the store has: config, logs, tokenizer and the newest sound checkpoint.

        At the leader the store first gets what the mirror was left with when the store last refused, and a damaged
        checkpoint is said in one line and moved aside in the store.

        Raises:
          InputError: no checkpoint is sound, or the store refuses.
        """
        with self._locked():
            self._fetch(leader)

    def _fetch(self, leader: bool) -> None:
        listing = self._folder.sizes()
        there = self._folder.read(_ID)
        if there is None or _content(self.mirror / _ID) != there:
            shutil.rmtree(self.mirror, ignore_errors=True)
        self.mirror.mkdir(parents=True, exist_ok=True)
        if there is not None:
            (self.mirror / _ID).write_bytes(there)
        steps = stored_steps(list(listing))
        if leader and steps and _content(self.mirror / _UPLOADED) == str(steps[-1]).encode():
            self._upload_rest(steps[-1])
        else:
            for step in saved_steps(self.mirror):
                if step not in steps:
                    shutil.rmtree(self._checkpoint(step))
            self._fetch_files(listing)
        listing = self._folder.sizes()
        steps = stored_steps(list(listing))
        if steps and not any(self._fetch_newest(step, listing, leader) for step in reversed(steps)):
            raise InputError(f"none of the checkpoints in {self}/checkpoints is sound; start a new --workdir")

    def fetch_checkpoint(self, step: int) -> None:
        """Makes sure that the mirror has this checkpoint, which the leader has uploaded.

        Raises:
          NotFetched: it does not arrive, or not as it was written.
        """

        def fetch() -> None:
            with self._locked():
                if not self._fetch_newest(step, self._folder.sizes(), leader=False):
                    raise InputError(f"{self}/checkpoints/{step} is damaged")

        _patiently(fetch, NotFetched)

    def begin(self) -> None:
        """Called by the leader when the mirror is prepared: the store knows the run from now on.

        Raises:
          InputError: the store refuses.
        """
        if not (self.mirror / _ID).exists():
            (self.mirror / _ID).write_text(uuid.uuid4().hex)
        for name in (_ID, "run.json", "config.json"):  # the card first: it names changes that the config now has
            content = _content(self.mirror / name)
            if content is not None and content != self._folder.read(name):
                self._folder.write(name, content)
        there = self._folder.sizes()
        for path in sorted((self.mirror / "tokenizer").rglob("*")):
            name = path.relative_to(self.mirror).as_posix()
            if path.is_file() and there.get(name) != path.stat().st_size:
                self._folder.write(name, path.read_bytes())
        whole = {str(step) for step in stored_steps(list(there))}
        begun = {name.split("/")[1] for name in there if name.startswith("checkpoints/")}
        for step in begun - whole:
            if step.isdigit():  # not what was moved aside
                self._remove_checkpoint(self._folder / f"checkpoints/{step}")

    def only_best(self) -> set[int]:
        """Steps of the checkpoints in the store that stay only as long as they are the best."""
        found = set()
        for step in stored_steps(list(self._folder.sizes())):
            content = self._folder.read(f"checkpoints/{step}/loader/metadata") or b"{}"
            try:
                if json.loads(content).get("only_best"):
                    found.add(step)
            except ValueError:
                continue  # a damaged one is dealt with when it is read
        return found

    def upload(self, step: int, staying: Callable[[list[int]], list[bool]]) -> None:
        """Uploads the logs and then a checkpoint of the mirror, and removes checkpoints that are not to stay.

        Args:
          step: its files are all there.
          staying: for steps, ascending, which of them stay.

        Raises:
          StoreRefused: the store refuses, again and again.
        """
        _patiently(self._upload_logs)
        _patiently(lambda: self._upload_checkpoint(step))
        _patiently(lambda: self._remove_old(staying))

    def upload_logs(self) -> None:
        """Uploads the logs and the run card as they are.

        Raises:
          StoreRefused: the store refuses, again and again.
        """
        _patiently(self._upload_logs)

    def _upload_logs(self) -> None:
        """Uploads what is not there yet: of TensorBoard's files, of which every start has its own, mostly one."""
        there, sent = self._folder.sizes(), json.loads(_content(self.mirror / _SENT) or b"{}")
        boards = sorted((self.mirror / TENSORBOARD).rglob("*"))
        for path in [self.mirror / name for name in LOGS] + [board for board in boards if board.is_file()]:
            # Read at one stroke: the run may be appending, and some stores mind a file that grows while they read it.
            if (content := _content(path)) is not None:
                name, digest = path.relative_to(self.mirror).as_posix(), hashlib.sha256(content).hexdigest()
                if (sent.get(name), there.get(name)) != (digest, len(content)):
                    self._folder.write(name, content)
                    sent[name] = digest
        write_json(self.mirror / _SENT, sent)

    def _upload_checkpoint(self, step: int) -> None:
        target = self._folder / f"checkpoints/{step}"
        self._remove_checkpoint(target)
        source = self._checkpoint(step)
        names = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*")) if path.is_file()]
        target.upload([(source / name, name) for name in names if name != checksums.FILE])
        self._commit(target, step, (source / checksums.FILE).read_bytes())

    def _commit(self, target: Folder, step: int, sums: bytes) -> None:
        """Makes an uploaded checkpoint visible."""
        target.write(checksums.FILE, sums)
        (self.mirror / _UPLOADED).write_text(str(step))

    def _upload_rest(self, newest: int) -> None:
        for step in saved_steps(self.mirror):
            if step > newest and checksums.damage(self._checkpoint(step)) is None:
                self._upload_checkpoint(step)
        self._upload_logs()

    def _remove_old(self, staying: Callable[[list[int]], list[bool]]) -> None:
        steps = stored_steps(list(self._folder.sizes()))
        for step, stays in zip(steps, staying(steps), strict=True):
            if not stays:
                self._remove_checkpoint(self._folder / f"checkpoints/{step}")

    def _remove_checkpoint(self, target: Folder) -> None:
        if there := target.sizes():
            # First what makes it one: broken off in between, it is none.
            target.remove([name for name in (checksums.FILE,) if name in there])
            target.remove()

    def _fetch_files(self, listing: dict[str, int]) -> None:
        for name in (*LOGS, _SENT):
            (self.mirror / name).unlink(missing_ok=True)
        wanted = [name for name in listing if name in (*LOGS, "config.json") or name.startswith("tokenizer/")]
        self._folder.download([(name, self.mirror / name) for name in wanted])

    def _fetch_newest(self, step: int, listing: dict[str, int], leader: bool) -> bool:
        """Whether the mirror has this checkpoint now; not when the one in the store is damaged."""
        marker = self._folder.read(f"checkpoints/{step}/{checksums.FILE}")
        target = self._checkpoint(step)
        if _content(target / checksums.FILE) == marker and checksums.damage(target) is None:
            return True
        scratch = target.with_name(f".{step}")  # hidden: none until it has its name
        shutil.rmtree(scratch, ignore_errors=True)
        reason = self._download(step, listing, marker or b"", scratch)
        if reason is None:
            shutil.rmtree(target, ignore_errors=True)
            scratch.rename(target)
            return True
        shutil.rmtree(scratch, ignore_errors=True)
        if leader:
            self._set_aside(step, reason)
        return False

    def _download(self, step: int, listing: dict[str, int], marker: bytes, scratch: Path) -> str | None:
        """Gets a checkpoint's files, each held against its checksum as it arrives; what is wrong with them, or None."""
        prefix = f"checkpoints/{step}/"
        there = {name.removeprefix(prefix): size for name, size in listing.items() if name.startswith(prefix)}
        try:
            sums: dict[str, Any] = json.loads(marker)["files"]
            sizes = {name: expected["bytes"] for name, expected in sums.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{checksums.FILE} cannot be read"
        for name, size in sizes.items():
            if there.get(name) != size:
                return f"{name} has {there[name]} of {size} bytes" if name in there else f"{name} is missing"

        def verify(name: str, file: Path) -> None:
            if name in sums and checksum(file) != sums[name]:
                raise _Damaged(f"{name} has other bytes than were written")

        try:
            (self._folder / prefix.rstrip("/")).download([(name, scratch / name) for name in there], verify)
        except _Damaged as error:
            return str(error)
        return None

    def _set_aside(self, step: int, reason: str) -> None:
        source = self._folder / f"checkpoints/{step}"
        print(
            f"warning: checkpoint {source} is damaged ({reason[:120]}); moved to {step}.damaged, taking the one before",
            file=sys.stderr,
        )
        aside = self._folder / f"checkpoints/{step}.damaged"
        source.copy([(name, aside, name) for name in source.sizes()])
        self._remove_checkpoint(source)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Of several processes of a run on one machine, which share the mirror, one copies and the others find it."""
        self.mirror.parent.mkdir(parents=True, exist_ok=True)
        with self.mirror.with_name(f"{self.mirror.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _checkpoint(self, step: int) -> Path:
        return self.mirror / "checkpoints" / str(step)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _patiently(work: Callable[[], None], failure: type[Exception] = StoreRefused) -> None:
    for pause in (*_PAUSES, None):
        try:
            return work()
        except InputError as error:
            if pause is None:
                raise failure(str(error)) from None
            time.sleep(pause)
