"""Checkpoints: the only file that knows Orbax.

A model directory, whoever wrote it (a run, a fine-tuning, an import), holds

    config.json           the config, every field, and a format version
    run.json              the run card; for a fine-tuned model also its task and labels (`card`)
    tokenizer/            the tokenizer's own files
    checkpoints/<step>/   params; for a run also opt_state, loader (JSON) and config (JSON)
"""

import contextlib
import dataclasses
import errno
import json
import logging
import shutil
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as managers

from bert_jax.config import Config, ModelConfig, from_dict, to_dict
from bert_jax.train_state import TrainState
from data_prep.errors import InputError
from data_prep.files import whole_file

FORMAT_VERSION = 1
_ITEMS = ("params", "opt_state", "loader", "config")


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A model as it lies in a directory.

    `objective` is `nsp`, `sop` or `mlm`, or the task of a fine-tuned model; `params` a nested dict of float32 arrays on
    the host; `card` the labels and settings of a fine-tuned model, or empty.
    """

    config: ModelConfig
    objective: str
    params: dict[str, Any]
    tokenizer_dir: Path
    step: int
    card: dict[str, Any]


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
        _quiet_orbax()
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


def _quiet_orbax() -> None:
    """Keeps Orbax from speaking where we speak.

    It warns at every restore onto another topology, which is what we ask for, and its saving threads print tracebacks
    of errors that `save` and `wait` then raise.
    After an error TensorStore still calls back, for every other array it was reading, into an event loop that is gone.
    """
    for name in ("absl", "orbax", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = lambda args: None if _is_of_orbax(args.exc_traceback) else threading.__excepthook__(args)
        sys.unraisablehook = lambda args: (
            None
            if str(args.exc_value) == "Event loop is closed" or _is_of_orbax(args.exc_traceback)
            else sys.__unraisablehook__(args)
        )


def _is_of_orbax(trace: types.TracebackType | None) -> bool:
    return any("orbax" in frame.filename for frame in traceback.extract_tb(trace))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      InputError: no such file, or no JSON object in it.
    """
    try:
        fields = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; is {path.parent} a model or run directory?") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InputError(f"{path} holds no JSON object")
    return fields


def write_json(path: Path, fields: dict[str, Any]) -> None:
    """Writes a JSON object whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(fields, indent=2) + "\n")


def config_json(config: Config) -> dict[str, Any]:
    """What `config.json` holds."""
    return {"format_version": FORMAT_VERSION} | to_dict(config)


def read_config(directory: Path) -> Config:
    """The config of a model directory; not checked, since a fine-tuned model's objective is a task.

    Raises:
      InputError: no such directory, or one written by a newer version.
    """
    fields = read_json(Path(directory) / "config.json")
    version = fields.pop("format_version", None)
    if version is None:
        raise InputError(f"{directory} is no directory of this program (its config.json has no format_version)")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{directory} has format version {version}; this program reads up to {FORMAT_VERSION}: update bert-jax"
        )
    return from_dict(Config, fields, str(Path(directory) / "config.json"))


def saved_steps(directory: Path) -> list[int]:
    """Steps of the whole checkpoints in a model directory, ascending."""
    folder = Path(directory) / "checkpoints"
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()) if folder.is_dir() else []


def load_model(directory: str | Path, step: int | None = None) -> SavedModel:
    """Reads a model from a directory; the newest checkpoint unless a step is given.

    Raises:
      InputError: no model there, no such step, or files that cannot be read.
    """
    directory = Path(directory)
    config = read_config(directory)
    card = read_json(directory / "run.json").get("card", {})
    steps = saved_steps(directory)
    if not steps:
        raise InputError(f"{directory} has no finished checkpoint yet; train it first")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise InputError(f"{directory} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    _quiet_orbax()
    with ocp.PyTreeCheckpointer() as reader:
        path = epath.Path(directory.absolute()) / "checkpoints" / str(step) / "params"
        try:
            metadata = reader.metadata(path).item_metadata
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree)
            params = reader.restore(path, restore_args=as_numpy)
        except Exception as error:  # whatever Orbax, TensorStore or the file system says of damaged files
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise InputError(f"{path} cannot be read ({reason[:120]}); choose another with --step") from None
    return SavedModel(config.model, config.data.objective, params, directory / "tokenizer", step, card)


def save_model(directory: str | Path, model: SavedModel) -> None:
    """Writes a model directory, whole or not at all.

    Raises:
      InputError: the directory exists already.
    """
    with whole_directory(Path(directory)) as partial:
        write_model(partial, model)


def write_model(directory: Path, model: SavedModel) -> None:
    """Writes the files of a model into a directory that is there, one that `whole_directory` gave."""
    config = Config(model=model.config)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, objective=model.objective))
    write_json(directory / "config.json", config_json(config))
    write_json(directory / "run.json", {"format_version": FORMAT_VERSION, "card": model.card})
    shutil.copytree(model.tokenizer_dir, directory / "tokenizer")
    _quiet_orbax()
    with ocp.PyTreeCheckpointer() as writer:
        writer.save(epath.Path(directory.absolute()) / "checkpoints" / str(model.step) / "params", model.params)


@contextlib.contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """A directory beside `directory` that becomes it when the block ends well, and vanishes when it does not.

    Raises:
      InputError: `directory` exists already.
    """
    if directory.exists():
        raise InputError(f"{directory} exists already; remove it or name another output")
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
