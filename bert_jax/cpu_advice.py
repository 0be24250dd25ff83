"""Which dtype of products a CPU is fast in, told by its instructions. docs/performance.md has the measurements."""

from pathlib import Path

from bert_jax.config import ModelConfig

_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # as Linux names them, on x86 and on Arm
_LEAST = 512  # hidden size from which it was measured to matter


def dtype_advice(config: ModelConfig, cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """A line where the other dtype is faster on this CPU; None where it is not, or where nothing is known.

    It changes numbers, so it is the user's to choose.

    Args:
      config: the model's.
      cpuinfo: where Linux lists the instructions of the processor.
    """
    try:
        words = set(cpuinfo.read_text().split())
    except OSError:
        return None
    if config.dtype == "bfloat16" and not words & _BFLOAT16:
        return "this CPU has no instructions for bfloat16: in a new run, config.model.dtype=float32 is faster"
    if config.dtype == "float32" and words & _BFLOAT16 and config.hidden_size >= _LEAST:
        return "this CPU has instructions for bfloat16: in a new run, config.model.dtype=bfloat16 is faster"
    return None
