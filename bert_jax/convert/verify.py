"""Whether a Hugging Face directory still computes what it did when `to-hf` wrote it: its weights against its probe."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from bert_jax.checkpoint import read_json
from bert_jax.convert.exporting import PROBE_FILE
from bert_jax.convert.gate import allowed
from bert_jax.convert.hf_files import CONFIG_FILE
from bert_jax.convert.reference import InconsistentFiles, forward
from data_prep.errors import InputError

_POOLED, _POOLER = "pooler_output", "pooler.dense."  # of a pooler that PyTorch's class does not use
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
Outputs = Mapping[str, np.ndarray]


class _Refused(Exception):
    """PyTorch's model is not the files': the message says in what."""


def verify(directory: str | Path) -> tuple[dict[str, Any], str | None]:
    """Compares the stored outputs with those of the NumPy forward pass and, where it is installed, of PyTorch.

    Weights are computed with in float32 (float64 in NumPy), whatever their kind; the tolerance is the export's, 2e-5
    and 1e-5 of the largest number of an output.

    Returns:
      {"architecture", "dtype", "numpy": {output: {"largest_difference", "allowed", "largest"}}, "pytorch": the same, or
      None where it is not installed, "agrees"}, and a sentence about the first disagreement, or None.

    Raises:
      InputError: not a directory that `to-hf` wrote, or damaged files.
    """
    directory = Path(directory)
    fields = read_json(directory / CONFIG_FILE)
    if not (directory / PROBE_FILE).exists():
        raise InputError(f"{directory} has no {PROBE_FILE} to compare with; bert-jax convert to-hf writes one")
    try:
        probe = load_file(directory / PROBE_FILE)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{directory / PROBE_FILE} is damaged ({error}); convert the model again") from None
    inputs = {name: probe.pop(name) for name in _INPUTS if name in probe}
    architectures = fields.get("architectures")
    if not isinstance(architectures, list) or not list(map(type, architectures)) == [str]:
        raise InputError(f"{directory / CONFIG_FILE}: architectures is {architectures!r}; it must name one class")
    report: dict[str, Any] = {"architecture": architectures[0], "dtype": fields.get("dtype")}
    programs: dict[str, Callable[[], Outputs]] = {"numpy": lambda: _numpy(directory, inputs)}
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        programs["pytorch"] = lambda: _pytorch(directory, report["architecture"], inputs)
    in_class = {name: value for name, value in probe.items() if name != _POOLED}
    wrong = None
    for program, compute in programs.items():
        try:
            report[program] = _compare(in_class if program == "pytorch" else probe, compute())
        except (InconsistentFiles, _Refused) as error:
            report[program] = {"error": str(error)}
            wrong = wrong or f"{directory}: {program}: {error}"
            continue
        for name, found in report[program].items():
            difference, most = found["largest_difference"], found["allowed"]
            if not difference <= most:  # a NaN is no agreement
                wrong = wrong or (
                    f"{directory}: {program}'s {name} differs from the stored one by {difference:.3g}, and {most:.3g} "
                    "is allowed"
                )
    report.setdefault("pytorch", None)
    return report | {"agrees": wrong is None}, wrong


def _compare(stored: Outputs, computed: Outputs) -> dict[str, dict[str, float]]:
    if stored.keys() != computed.keys():
        raise _Refused(f"it gives {', '.join(computed)}; the probe holds {', '.join(stored)}")
    differences = {}
    for name, expected in stored.items():
        if computed[name].shape != expected.shape:
            raise _Refused(f"{name} has shape {computed[name].shape}; the probe's is {expected.shape}")
        largest = float(np.abs(expected).max())
        differences[name] = {
            "largest_difference": float(np.abs(computed[name] - expected).max()),
            "allowed": allowed(largest),
            "largest": largest,
        }
    return differences


def _numpy(directory: Path, inputs: Outputs) -> Outputs:
    try:
        return forward(directory, inputs)
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, ArithmeticError) as error:
        raise InputError(f"{directory} is damaged ({type(error).__name__}: {error}); convert the model again") from None


def _pytorch(directory: Path, architecture: str, inputs: Outputs) -> Outputs:
    """Outputs of the class that config.json names, in float32; every tensor must have found its place."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    kind = getattr(transformers, architecture, None)
    if kind is None:
        raise _Refused(f"transformers {transformers.__version__} has no class {architecture}")
    try:
        model, info = kind.from_pretrained(
            directory, dtype=torch.float32, output_loading_info=True, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # whatever transformers says of files that do not fit together
        raise _Refused(f"loading failed ({' '.join(str(error).split())[:200]})") from None
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = [name for name in sorted(map(str, info[what])) if what != "unexpected_keys" or _POOLER not in name]
        if names:
            raise _Refused(f"loading found {what.replace('_', ' ')}: {', '.join(names)[:200]}")
    with torch.no_grad():
        outputs = model.eval()(**{name: torch.from_numpy(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items() if torch.is_tensor(value)}
