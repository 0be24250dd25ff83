"""The checkpoints of a run: saved in the background, restored onto any mesh."""

import contextlib
import errno
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as managers

from bert_jax.checkpoint import quiet_orbax
from bert_jax.train_state import TrainState

_ITEMS = ("params", "opt_state", "loader", "config")


class CheckpointsDamaged(Exception):
    """No checkpoint of a run can be read."""


class DiskFull(Exception):
    """A checkpoint could not be written for want of room; those before it are untouched."""


@contextlib.contextmanager
def _naming_full_disks() -> Iterator[None]:
    """Turns what Orbax and TensorStore say of a full disk into `DiskFull`: their errors are of many types, not all
    OSErrors."""
    try:
        yield
    except Exception as error:
        full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if getattr(error, "errno", None) in full or any(f"os_error_code='{code}'" in str(error) for code in full):
            raise DiskFull from error
        raise


class Checkpoints:
    """The checkpoints of a run: saved asynchronously, the newest readable one restored onto any mesh.

    Args:
      directory: `RUN/checkpoints`.
      keep: how many of the newest stay; step 0 always does.
    """

    def __init__(self, directory: Path, keep: int):
        self._directory = epath.Path(directory)
        quiet_orbax()
        self._manager = ocp.CheckpointManager(
            self._directory,
            item_names=_ITEMS,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy([managers.LatestN(keep), managers.CustomSteps([0])]),
                cleanup_tmp_directories=True,
            ),
        )

    def save(self, step: int, state: TrainState, loader: dict[str, Any], config: dict[str, Any]) -> None:
        """Begins to save; returns once the arrays are copied, so that the state may be donated.

        Raises:
          DiskFull: there was no room for this checkpoint or the one begun before it.
        """
        items = ocp.args.Composite(
            params=ocp.args.PyTreeSave(state.params),
            opt_state=ocp.args.PyTreeSave(state.opt_state),
            loader=ocp.args.JsonSave(loader),
            config=ocp.args.JsonSave(config),
        )
        self.wait()
        # Looked at beforehand: Orbax survives a disk that fills up while it writes, but buries the reason in
        # tracebacks.
        if shutil.disk_usage(self._directory).free < 1.02 * _local_bytes(state) + 2**20:
            raise DiskFull
        with _naming_full_disks():
            self._manager.save(step, args=items)

    def steps(self) -> list[int]:
        """Steps saved, ascending."""
        return sorted(self._manager.all_steps())

    def restore_newest(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint that can be read, on the shardings of `abstract`; None where there is none at all.

        A checkpoint that cannot be read is said in one line on stderr and moved aside as `<step>.damaged`.

        Raises:
          CheckpointsDamaged: there are checkpoints, and none can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self._restore(step, abstract)
            except Exception as error:  # whatever Orbax, TensorStore or the file system says of damaged files
                reason = next(iter(str(error).splitlines()), "") or type(error).__name__
                aside = self._directory / f"{step}.damaged"
                print(
                    f"warning: checkpoint {self._directory / str(step)} cannot be read ({reason[:120]}); "
                    f"moved to {aside.name}, taking the one before",
                    file=sys.stderr,
                )
                if jax.process_index() == 0:
                    if aside.exists():
                        aside.rmtree()
                    (self._directory / str(step)).rename(aside)
                self._manager.reload()
        if steps:
            raise CheckpointsDamaged(f"none of the checkpoints in {self._directory} can be read; start a new --workdir")
        return None

    def _restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
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
        return TrainState(step=count, params=restored.params, opt_state=restored.opt_state), restored.loader

    def wait(self) -> None:
        """Returns when everything begun is on disk.

        Raises:
          DiskFull: there was no room for it.
        """
        with _naming_full_disks():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and frees the threads."""
        self._manager.close()


def _local_bytes(state: TrainState) -> int:
    """Bytes of a state that this process writes: of every shard, one copy."""
    return sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(state)
        for shard in leaf.addressable_shards
        if shard.replica_id == 0
    )
