"""`pytorch_model.bin`, a pickle: read by PyTorch's loader of weights only, which runs no code of the file."""

import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import InputError

_KINDS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclasses.dataclass(frozen=True)
class _Header:
    """What safetensors' slices say of a tensor."""

    tensor: Any

    def get_shape(self) -> list[int]:
        return list(self.tensor.shape)

    def get_dtype(self) -> str:
        kind = str(self.tensor.dtype).removeprefix("torch.")
        return _KINDS.get(kind, kind)


class TorchFile:
    """The tensors of a file, under the methods that a handle of safetensors has."""

    def __init__(self, path: Path):
        """Opens a file; the tensors stay on disk until they are asked for.

        Raises:
          InputError: PyTorch is not installed, or the file is damaged or holds anything but tensors.
        """
        if importlib.util.find_spec("torch") is None:
            raise InputError(
                f"{path} is read by PyTorch, which is not installed: pip install 'bert-jax[hf]', or save the model as "
                "safetensors with transformers"
            )
        import torch

        try:
            with path.open("rb") as file:
                zipped = file.read(2) == b"PK"  # since 2020; older files cannot be mapped
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except Exception as error:  # whatever PyTorch, pickle or zip say of damaged or hostile files
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise InputError(
                f"{path} is damaged, or holds more than weights ({reason[:120]}); copy the model again"
            ) from None
        if not isinstance(tensors, Mapping) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
            raise InputError(f"{path} holds more than named tensors; save the model as safetensors with transformers")
        self._tensors = {str(name): tensor for name, tensor in tensors.items()}

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return list(self._tensors)

    def get_slice(self, name: str) -> _Header:
        """Shape and kind of a tensor."""
        return _Header(self._tensors[name])

    def get_tensor(self, name: str) -> np.ndarray:
        """A tensor; halves, which NumPy has no kind for, as float32."""
        tensor = self._tensors[name]
        return (tensor.float() if _Header(tensor).get_dtype() == "BF16" else tensor).detach().numpy()
