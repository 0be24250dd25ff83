"""The checkpoints of a run: saved in the background, restored onto any mesh."""

import contextlib
import errno
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax import checksums
from bert_jax.checkpoint import damage, os_error_numbers, quiet_orbax, saved_steps
from bert_jax.config import CheckpointConfig
from bert_jax.ledger import Ledger
from bert_jax.run_store import RunStore
from bert_jax.train_state import TrainState
from data_prep.errors import InputError

_ITEMS = ("params", "opt_state", "loader", "config")
_UNFINISHED = ".orbax-checkpoint-tmp"  # how Orbax calls a checkpoint that it is writing
_NONE, _ALL_DAMAGED = -1, -2


class CheckpointsDamaged(InputError):
    """No checkpoint of a run is sound."""


class NotSaved(Exception):
    """A checkpoint was declined because there is one of this step or a later one, which this run has not written."""


class DiskFull(Exception):
    """A checkpoint could not be written for want of room; those before it are untouched."""


@contextlib.contextmanager
def _naming_full_disks() -> Iterator[None]:
    """Turns what Orbax and TensorStore say of a full disk into `DiskFull`."""
    try:
        yield
    except Exception as error:
        full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if getattr(error, "errno", None) in full or any(number in full for number in os_error_numbers(error)):
            raise DiskFull from error
        raise


class Checkpoints:
    """The checkpoints of a run: saved asynchronously, the newest sound one restored onto any mesh.

    A checkpoint appears whole, with checksums of its files in it, or not at all.

    Args:
      directory: `RUN/checkpoints`.
      settings: which ones stay.
      store: where the run lies, if `directory` is in its mirror: then each checkpoint is uploaded when it is on disk.
        Of several hosts the leader writes and uploads the whole state, and all restore from mirrors of their own.
    """

    def __init__(self, directory: Path, settings: CheckpointConfig, store: RunStore | None = None):
        self._directory, self._store = directory, store
        quiet_orbax()
        self._keeping = _Keeping(settings, directory)
        self._uploads = ThreadPoolExecutor(1, "upload")
        self._upload: Future[None] | None = None
        self._alone = store is not None and jax.process_count() > 1  # no file is seen by two hosts
        together = ocp.options.MultiprocessingOptions()
        me = jax.process_index()
        if self._alone:
            directory.mkdir(parents=True, exist_ok=True)
            together = ocp.options.MultiprocessingOptions(
                primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"host{me}"
            )
        if store is not None and me == 0:
            self._keeping.only_best |= store.only_best()
        self._manager = ocp.CheckpointManager(
            epath.Path(directory),
            item_names=_ITEMS,
            options=ocp.CheckpointManagerOptions(
                create=not self._alone,
                preservation_policy=self._keeping,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
                multiprocessing_options=together,
            ),
        )

    def _seal(self) -> None:
        """Called by Orbax at the leader when all files are written, before their directory gets its name."""
        for partial in self._directory.glob(f"*{_UNFINISHED}"):
            checksums.write(partial)

    def save(self, step: int, state: TrainState, ledger: Ledger, config: dict[str, Any], only_best: bool) -> None:
        """Begins to save; returns once the arrays are copied, so that the state may be donated.

        Args:
          step: updates done.
          state, ledger, config: what is saved.
          only_best: kept only as long as no other evaluation is better, not as one of the newest.

        Raises:
          DiskFull: there was no room for this checkpoint or the one begun before it.
          NotSaved: there is one of this step or a later one already.
          StoreRefused: the one begun before it could not be uploaded.
        """
        self.wait()
        if self._alone:
            state = _gathered(state)
            if jax.process_index() > 0:
                return
        items = ocp.args.Composite(
            params=ocp.args.PyTreeSave(state.params),
            opt_state=ocp.args.PyTreeSave(state.opt_state),
            loader=ocp.args.JsonSave(ledger.to_json() | {"only_best": only_best}),
            config=ocp.args.JsonSave(config),
        )
        # Looked at beforehand: Orbax survives a disk that fills up while it writes, but buries the reason in
        # tracebacks.
        if shutil.disk_usage(self._directory).free < 1.02 * _local_bytes(state) + 2**20:
            raise DiskFull
        self._keeping.best = ledger.best.step if ledger.best else None
        if only_best:
            self._keeping.only_best.add(step)
        with _naming_full_disks():
            saved = self._manager.save(step, args=items)
        if not saved:
            newest = self._manager.latest_step()
            raise NotSaved(f"checkpoint {step} was not saved: {self._directory} has one of step {newest} already")
        if self._store is not None:
            self._upload = self._uploads.submit(self._send, self._store, step)

    def _send(self, store: RunStore, step: int) -> None:
        """In a thread: uploads a checkpoint when all of it is on disk."""
        with _naming_full_disks():
            self._manager.wait_until_finished()
        store.upload(step, self._keeping.staying)

    def restore_newest(self, abstract: TrainState) -> tuple[TrainState, Ledger] | None:
        """The newest checkpoint that is as it was written, on the shardings of `abstract`; None where there is none at
        all.

        A damaged checkpoint is said in one line on stderr and moved aside as `<step>.damaged`.

        Raises:
          CheckpointsDamaged: there are checkpoints, and none is sound.
        """
        while True:
            step = self._newest_sound()
            if step is None:
                return None
            try:
                return self._restore(step, abstract)
            except Exception as error:  # whatever Orbax, TensorStore or the file system says of damaged files
                if jax.process_count() > 1:
                    raise  # the checksums were right, so the files are not to blame; the others may have read it
                self._set_aside(step, next(iter(str(error).splitlines()), "") or type(error).__name__)

    def _newest_sound(self) -> int | None:
        """The step of the newest checkpoint whose files are right: the leader looks, the others believe it."""
        found = _NONE
        if jax.process_index() == 0:
            steps = saved_steps(self._directory.parent)
            for step in reversed(steps):
                reason = damage(self._directory / str(step))
                if reason is None:
                    found = step
                    break
                self._set_aside(step, reason)
            else:
                found = _ALL_DAMAGED if steps else _NONE
        if jax.process_count() > 1:
            found = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
        if self._store is not None and jax.process_index() > 0 and found >= 0:
            self._store.fetch_checkpoint(found)
        self._manager.reload()
        if found == _ALL_DAMAGED:
            raise CheckpointsDamaged(f"none of the checkpoints in {self._directory} is sound; start a new --workdir")
        return None if found == _NONE else found

    def _set_aside(self, step: int, reason: str) -> None:
        aside = self._directory / f"{step}.damaged"
        print(
            f"warning: checkpoint {self._directory / str(step)} is damaged ({reason[:120]}); "
            f"moved to {aside.name}, taking the one before",
            file=sys.stderr,
        )
        shutil.rmtree(aside, ignore_errors=True)
        (self._directory / str(step)).rename(aside)

    def _restore(self, step: int, abstract: TrainState) -> tuple[TrainState, Ledger]:
        def onto(tree: Any) -> Any:
            return ocp.args.PyTreeRestore(
                item=tree,
                restore_args=jax.tree.map(
                    lambda leaf: ocp.ArrayRestoreArgs(
                        sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype
                    ),
                    tree,
                ),
            )

        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=onto(abstract.params), opt_state=onto(abstract.opt_state), loader=ocp.args.JsonRestore()
            ),
        )
        count = jax.device_put(np.int32(step), abstract.step.sharding)
        return TrainState(step=count, params=restored.params, opt_state=restored.opt_state), Ledger.from_json(
            restored.loader
        )

    def wait(self) -> None:
        """Returns when everything begun is on disk, and in the store if the run lies in one.

        Raises:
          DiskFull: there was no room for it.
          StoreRefused: it is on disk and could not be uploaded.
        """
        if self._upload is not None:
            upload, self._upload = self._upload, None
            return upload.result()  # which waits for the disk
        with _naming_full_disks():
            self._manager.wait_until_finished()

    def discard_unfinished(self) -> None:
        """Removes what a failed save left, so that its room is free. One that is being written may yet succeed, and is
        waited for."""
        with contextlib.suppress(Exception):  # the run ends anyway, and says why
            self.wait()
        for partial in self._directory.glob(f"*{_UNFINISHED}"):
            shutil.rmtree(partial, ignore_errors=True)

    def close(self) -> None:
        """Waits and frees the threads."""
        self._uploads.shutdown()
        self._manager.close()


class _Keeping:
    """Which checkpoints stay, as Orbax asks after every save: a `PreservationPolicy`.

    Step 0, the best, the `keep` newest (without those saved only for being the best), and every `keep_every`th step.
    """

    def __init__(self, settings: CheckpointConfig, directory: Path):
        self._settings = settings
        self.best: int | None = None
        self.only_best: set[int] = set()
        for step in saved_steps(directory.parent):
            with contextlib.suppress(OSError, ValueError):  # a damaged one is dealt with when it is read
                if json.loads((directory / str(step) / "loader" / "metadata").read_text()).get("only_best"):
                    self.only_best.add(step)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """For each checkpoint (with a `step`, ascending), whether it stays."""
        return self.staying([checkpoint.step for checkpoint in checkpoints])

    def staying(self, steps: list[int]) -> list[bool]:
        """For each of these steps, ascending, whether its checkpoint stays."""
        staying = {0, self.best, *[step for step in steps if step not in self.only_best][-self._settings.keep :]}
        every = self._settings.keep_every
        return [step in staying or (every > 0 and step % every == 0) for step in steps]


def _local_bytes(state: TrainState) -> int:
    """Bytes of a state that this process writes: of every shard, one copy."""
    return sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(state)
        for shard in (leaf.addressable_shards if isinstance(leaf, jax.Array) else [])
        if shard.replica_id == 0
    ) + sum(leaf.nbytes for leaf in jax.tree.leaves(state) if isinstance(leaf, np.ndarray))


def _itself(array: jax.Array) -> jax.Array:
    """Has a name so that jax compiles it once for a shape, not at every save."""
    return array


def _gathered(state: TrainState) -> TrainState:
    """The whole state on the leader's host, leaf by leaf, so that no device holds more than one leaf of it at a time.
    All hosts take part; the others get nothing of use."""
    leader = jax.process_index() == 0

    def gather(leaf: jax.Array) -> np.ndarray:
        everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())  # type: ignore[attr-defined]
        whole = jax.jit(_itself, out_shardings=everywhere)(leaf).addressable_data(0)
        # A copy: the array may be the state's own, which the next step is given to write over.
        return np.array(whole) if leader else np.zeros(0)

    return jax.tree.map(gather, state)
