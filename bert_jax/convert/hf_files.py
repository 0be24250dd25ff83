"""The files of a Hugging Face model directory: config.json, and tensors in a file or several with an index.

Nothing here runs code from the directory: of pickles only weights are read, and remote code is refused.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from bert_jax.checkpoint import read_json
from bert_jax.convert.torch_files import TorchFile
from data_prep.errors import InputError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TORCH_FILE = "pytorch_model.bin"
_KINDS_OF_FILES = (WEIGHTS_FILE, TORCH_FILE)  # in the order in which they are looked for
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def is_hf_directory(directory: Path) -> bool:
    """Whether a directory's config.json is one of transformers'."""
    try:
        fields = json.loads((directory / CONFIG_FILE).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(fields, dict) and ("model_type" in fields or "architectures" in fields)


class Tensors:
    """The tensors of a directory by name; each is read when it is asked for."""

    def __init__(self, files: dict[str, tuple[Any, str, Path]]):
        self._files = files

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the file's header."""
        file, stored, _ = self._files[name]
        return tuple(file.get_slice(stored).get_shape())

    def dtype(self, name: str) -> str:
        """Kind of a tensor's numbers as NumPy calls it, or as the file does where they are no floats."""
        file, stored, _ = self._files[name]
        kind = file.get_slice(stored).get_dtype()
        return FLOATS.get(kind, kind)

    def read(self, name: str) -> np.ndarray:
        """A tensor of floats as float32.

        Raises:
          InputError: it is of another kind, holds NaN or infinity, or cannot be read.
        """
        file, stored, path = self._files[name]
        try:
            kind = file.get_slice(stored).get_dtype()
            if kind not in FLOATS:
                raise InputError(f"{path}: tensor {stored} is of type {kind}; weights must be {', '.join(FLOATS)}")
            tensor = file.get_tensor(stored).astype(np.float32, copy=False)
        except SafetensorError as error:
            raise InputError(f"{path}: tensor {stored} cannot be read ({error}); copy the model again") from None
        if not np.isfinite(tensor).all():
            raise InputError(f"{path}: tensor {stored} holds NaN or infinity; the model is damaged")
        return tensor

    def counts_up(self, name: str) -> bool:
        """Whether an integer tensor is 0, 1, 2, ..."""
        file, stored, _ = self._files[name]
        flat = file.get_tensor(stored).reshape(-1)
        return bool((flat == np.arange(flat.size)).all())


class _SafetensorsFile:
    """A file that is opened for each tensor: what a handle has read stays in memory as long as it is open."""

    def __init__(self, path: Path):
        self._path = path
        with safe_open(path, "np") as file:
            self._headers = {name: _header(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118

    def keys(self) -> list[str]:
        return list(self._headers)

    def get_slice(self, name: str) -> "_Header":
        return self._headers[name]

    def get_tensor(self, name: str) -> np.ndarray:
        with safe_open(self._path, "np") as file:
            return file.get_tensor(name)


@dataclasses.dataclass(frozen=True)
class _Header:
    shape: list[int]
    kind: str

    def get_shape(self) -> list[int]:
        return self.shape

    def get_dtype(self) -> str:
        return self.kind


def _header(part: Any) -> _Header:
    return _Header(part.get_shape(), part.get_dtype())


def open_tensors(directory: Path, prefix: str, heads: tuple[str, ...], renamed: Mapping[str, str]) -> Tensors:
    """The tensors of a directory, under the names of a model with heads.

    Args:
      directory: with model.safetensors or pytorch_model.bin, or an index of either and its shards.
      prefix: put in front of the encoder's names where none has it (a bare encoder's).
      heads: beginnings of names that are not the encoder's.
      renamed: old endings of names to new ones.

    Raises:
      InputError: no such files, damaged ones, or two tensors of one name.
    """
    stored: dict[str, tuple[Any, str, Path]] = {}
    for path in _weight_files(directory):
        try:
            file = TorchFile(path) if path.suffix == ".bin" else _SafetensorsFile(path)
            names = file.keys()
        except FileNotFoundError:
            raise InputError(f"{path} does not exist, though the index names it; copy the model again") from None
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is damaged ({error}); copy the model again") from None
        for name in names:
            if name in stored:
                raise InputError(f"{path} holds {name}, and so does {stored[name][2]}; copy the model again")
            stored[name] = file, name, path
    bare = not any(name.startswith(prefix) for name in stored)
    prefix = prefix if bare else ""
    today: dict[str, tuple[Any, str, Path]] = {}
    for name, value in stored.items():
        now = _today(name, prefix, heads, renamed)
        if now in today:
            both = " and ".join(sorted((name, today[now][1])))
            raise InputError(f"{directory} holds both {both}, which are one tensor; remove one")
        today[now] = value
    return Tensors(today)


def _today(name: str, prefix: str, heads: tuple[str, ...], renamed: Mapping[str, str]) -> str:
    for old, new in renamed.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name if name.startswith(heads) else prefix + name


def _weight_files(directory: Path) -> list[Path]:
    for file in _KINDS_OF_FILES:
        index = directory / f"{file}.index.json"
        if (directory / file).exists():
            return [directory / file]
        if index.exists():
            return _shards(index)
    raise InputError(f"{directory} holds no {WEIGHTS_FILE}; is it a Hugging Face model directory?")


def _shards(index: Path) -> list[Path]:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise InputError(f"{index} has no weight_map; copy the model again")
    names = sorted({str(name) for name in shards.values()})
    for name in names:
        if Path(name).name != name:
            raise InputError(f"{index} names {name!r}, which lies elsewhere; copy the model again")
    return [index.parent / name for name in names]
