"""Writes the tensors of a Hugging Face directory, one at a time: in one safetensors file, or in shards with an index.

The format: 8 bytes, little-endian, with the length of a JSON header; the header, which says of every tensor its kind,
shape and place; the tensors' bytes, row by row (https://github.com/huggingface/safetensors). The library's own writer
wants all of them in memory, twice.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from bert_jax.convert.hf_files import CONFIG_FILE, WEIGHTS_FILE
from bert_jax.convert.mapping import Tensor
from data_prep.errors import InputError

DTYPES = ("float32", "bfloat16", "float16")
_KINDS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Bytes of a size such as `2GB` (10**9) or `500MiB` (2**20).

    Raises:
      InputError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?B)", text.strip().upper())
    size = round(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size < 1:
        raise InputError(f"--max-shard-size {text} is no size; give one such as 2GB or 500MB")
    return size


def write_directory(
    directory: Path,
    fields: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    max_shard_size: int | None = None,
) -> None:
    """Writes config.json, and model.safetensors, or shards and their index where it would be larger than
    `max_shard_size` bytes (a tensor that is larger gets a shard of its own).

    Raises:
      InputError: a file cannot be written (a full disk, say).
    """
    (directory / CONFIG_FILE).write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    shards = _shards(tensors, max_shard_size)
    if len(shards) == 1:
        write_tensors(directory / WEIGHTS_FILE, tensors)
        return
    stem = Path(WEIGHTS_FILE).stem
    weight_map: dict[str, str] = {}
    for i, names in enumerate(shards, 1):
        file = f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(directory / file, {name: tensors[name] for name in names})
        weight_map |= dict.fromkeys(names, file)
    total = sum(map(_size, tensors.values()))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / f"{WEIGHTS_FILE}.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _shards(tensors: Mapping[str, Tensor], most: int | None) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        size = _size(tensor)
        if most is not None and shards[-1] and filled + size > most:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _size(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * _numpy(tensor.dtype).itemsize


def _numpy(dtype: str) -> np.dtype:
    return np.dtype(jnp.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file, marked as transformers expects it; numbers are rounded to the nearest of a tensor's dtype.

    Raises:
      InputError: it cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + _size(tensor)
        header[name] = {"dtype": _KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)  # so that the numbers are aligned
    try:
        with path.open("wb") as file:
            file.write(len(content).to_bytes(8, "little") + content)
            for tensor in tensors.values():
                file.write(np.ascontiguousarray(tensor.make(), _numpy(tensor.dtype)).reshape(-1).view(np.uint8).data)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error}); free space or name another output") from None


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A small safetensors file of arrays of any kind; InputError where it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(dict(arrays), path, metadata={"format": "pt"})
        path.chmod(0o644)  # the library leaves it readable by its owner only
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be written ({error}); free space or name another output") from None
