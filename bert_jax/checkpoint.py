"""Model directories: what a run, a fine-tuning or an import leaves, read and written.

A model directory, whoever wrote it (a run, a fine-tuning, an import), holds

    config.json           the config, every field, and a format version
    run.json              the run card; for a fine-tuned model also its task and labels (`card`)
    tokenizer/            the tokenizer's own files
    checkpoints/<step>/   params; for a run also opt_state, loader (JSON) and config (JSON); checksums.json
"""

import contextlib
import dataclasses
import json
import logging
import os
import re
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

from bert_jax import checksums
from bert_jax.config import Config, ModelConfig, from_dict, to_dict
from data_prep.errors import InputError
from data_prep.files import whole_file

FORMAT_VERSION = 2  # 2 has checksums and, in runs, the ledger

# Of a model's arrays, what is compressed at once and what is kept back for one file: by default Orbax has a copy of all
# of them, and compressed ones besides, in memory at the same time.
_CHUNK_BYTES, _FILE_BYTES = 64 * 2**20, 64 * 2**20


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A model as it lies in a directory.

    `objective` is `nsp`, `sop` or `mlm`, or the task of a fine-tuned model; `params` a nested dict of float32 arrays on
    the host; `card` the labels and settings of a fine-tuned model, or empty; `dtypes` says of which kind each tensor of
    an imported model was that was not float32 (its Hugging Face name to `float16` or `bfloat16`); `carried` holds what
    an imported model brought and does not use itself (a pooler, say), and `hf_fields` what its config.json says of its
    training, both for the way back.
    """

    config: ModelConfig
    objective: str
    params: dict[str, Any]
    tokenizer_dir: Path
    step: int
    card: dict[str, Any]
    dtypes: dict[str, str] = dataclasses.field(default_factory=dict)
    carried: dict[str, Any] = dataclasses.field(default_factory=dict)
    hf_fields: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def arrays(self) -> dict[str, Any]:
        """All arrays in one tree, the carried ones under `carried`: as they are stored."""
        return self.params | ({"carried": self.carried} if self.carried else {})


def os_error_numbers(error: Exception) -> list[int]:
    """Numbers of the operating system's errors in what TensorStore says: its errors are of many types, not all
    OSErrors."""
    return [int(number) for number in re.findall(r"os_error_code='(\d+)'", str(error))]


def quiet_orbax() -> None:
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
    with whole_file(path) as partial, partial.open("w") as file:
        file.write(json.dumps(fields, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())  # else a power failure may leave its name with nothing in it


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


def damage(checkpoint: Path, below: str = "") -> str | None:
    """What is wrong with the files of `checkpoints/<step>` (those whose path begins with `below`), in a few words, or
    None."""
    reason = checksums.damage(checkpoint, below)
    if reason is not None and not (checkpoint / checksums.FILE).exists():
        # The config inside, of a run, or the model directory's says whether there were checksums yet.
        for path in (checkpoint / "config" / "metadata", checkpoint.parent.parent / "config.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                return None if json.loads(path.read_text())["format_version"] < 2 else reason
    return reason


def load_model(directory: str | Path, step: int | None = None) -> SavedModel:
    """Reads a model from a directory; the newest checkpoint unless a step is given.

    Raises:
      InputError: no model there, no such step, or files that cannot be read.
    """
    directory = Path(directory)
    config = read_config(directory)
    run = read_json(directory / "run.json")
    steps = saved_steps(directory)
    if not steps:
        raise InputError(f"{directory} has no finished checkpoint yet; train it first")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise InputError(f"{directory} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    quiet_orbax()
    with ocp.PyTreeCheckpointer() as reader:
        path = directory.absolute() / "checkpoints" / str(step) / "params"
        try:
            if damaged := damage(path.parent, "params/"):
                raise ValueError(damaged)
            metadata = reader.metadata(epath.Path(path)).item_metadata
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree)
            params = reader.restore(epath.Path(path), restore_args=as_numpy)
        except Exception as error:  # whatever Orbax, TensorStore or the file system says of damaged files
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise InputError(f"{path} cannot be read ({reason[:120]}); choose another with --step") from None
    card, dtypes, carried = run.get("card", {}), run.get("dtypes", {}), params.pop("carried", {})
    # How the run computed is no property of the model: this machine may have other kernels.
    model = dataclasses.replace(config.model, attention="auto", layers="auto")
    tokenizer, objective, hf_fields = directory / "tokenizer", config.data.objective, run.get("hf_fields", {})
    return SavedModel(model, objective, params, tokenizer, step, card, dtypes, carried, hf_fields)


def save_model(directory: str | Path, model: SavedModel) -> None:
    """Writes a model directory, whole or not at all.

    Raises:
      InputError: the directory exists already, or it cannot be written (a full disk, say).
    """
    with whole_directory(Path(directory)) as partial:
        write_model(partial, model)


def write_model(directory: Path, model: SavedModel) -> None:
    """Writes the files of a model into a directory that is there, one that `whole_directory` gave.

    Raises:
      InputError: they cannot be written.
    """
    config = Config(model=model.config)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, objective=model.objective))
    write_json(directory / "config.json", config_json(config))
    imported = {name: value for name in ("dtypes", "hf_fields") if (value := getattr(model, name))}
    write_json(directory / "run.json", {"format_version": FORMAT_VERSION, "card": model.card} | imported)
    shutil.copytree(model.tokenizer_dir, directory / "tokenizer")
    _write_arrays(directory, model.step, model.arrays)
    checksums.write(directory / "checkpoints" / str(model.step))


def _write_arrays(directory: Path, step: int, params: dict[str, Any]) -> None:
    quiet_orbax()
    # The arrays are nobody else's while they are written, so none is copied first.
    handlers = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)),
        (jax.Array, ocp.type_handlers.ArrayHandler()),
    )
    in_chunks = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES), params)
    form = ocp.args.PyTreeSave(params, save_args=in_chunks, ocdbt_target_data_file_size=_FILE_BYTES)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(type_handler_registry=handlers)) as writer:
            writer.save(epath.Path(directory.absolute()) / "checkpoints" / str(step) / "params", args=form)
    except Exception as error:  # whatever Orbax, TensorStore or the file system say
        numbers = os_error_numbers(error)
        reason = os.strerror(numbers[0]) if numbers else next(iter(str(error).splitlines()), "")[:120]
        raise InputError(
            f"no model can be written below {directory.parent} ({reason}); free space or name another output"
        ) from None


@contextlib.contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """A directory beside `directory` that becomes it when the block ends well, and vanishes when it does not, with the
    folders that were made for it.

    Raises:
      InputError: `directory` exists already, or lies below a file.
    """
    refuse_existing(directory)
    new = [parent for parent in directory.parents if not parent.exists()]
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            yield partial
            partial.chmod(0o755)
            partial.rename(directory)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except BaseException as error:
        for parent in new:
            with contextlib.suppress(OSError):  # not made, or others have put something into it
                parent.rmdir()
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise InputError(f"{error.filename} is no directory; name another place for {directory.name}") from None
        raise


def refuse_existing(output: Path) -> None:
    """Raises InputError where there is anything, be it a link to nothing."""
    if os.path.lexists(output):
        raise InputError(f"{output} exists already; remove it or name another output")
