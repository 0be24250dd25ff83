"""How the same numbers are computed: the field `auto` of `attention` and `layers` decided by measurement.

Nothing here changes what is computed but for rounding; `docs/performance.md` has the measurements.
"""

import dataclasses

from bert_jax.config import ModelConfig
from bert_jax.model import attention_kernel


def chosen(config: ModelConfig, seq_len: int, platform: str) -> ModelConfig:
    """The config with `auto` replaced.

    Attention is the Pallas kernel on TPUs, where the products are bfloat16 and rows and heads fit it; cuDNN's on GPUs,
    where the products are bfloat16 and no probability is dropped, which it cannot do; else einsum. Layers are unrolled
    on TPUs, where a scan's stacking of what the backward pass needs costs as much as the products, unless that is
    computed anew (`remat`); else scanned, which compiles fast.

    Args:
      config: the model's.
      seq_len: positions a row.
      platform: of the devices, as jax names it.
    """
    attention, layers = _attention(config, seq_len, platform)[0], _layers(config, platform)[0]
    return dataclasses.replace(config, attention=attention, layers=layers)


def explained(config: ModelConfig, seq_len: int, platform: str) -> str:
    """What `chosen` takes and why, in one line; arguments as there."""
    attention, layers = _attention(config, seq_len, platform), _layers(config, platform)
    return f"rows of {seq_len}: attention {attention[0]} ({attention[1]}), layers {layers[0]} ({layers[1]})"


def _attention(config: ModelConfig, seq_len: int, platform: str) -> tuple[str, str]:
    """The choice, and the reason."""
    if config.attention != "auto":
        return config.attention, "as the config says"
    if platform not in ("tpu", "gpu"):
        return "einsum", f"no kernel for {platform}"
    if config.dtype != "bfloat16":
        return "einsum", f"kernels take bfloat16, and config.model.dtype is {config.dtype}"
    if platform == "gpu":
        if config.attention_dropout_rate > 0:
            return "einsum", "cuDNN drops no probabilities, and config.model.attention_dropout_rate is above 0"
        if not _cudnn_takes(config.head_size):
            return "einsum", f"cuDNN takes heads of a multiple of 8 up to 128 features, not {config.head_size}"
        return "cudnn", "bfloat16 and no dropout of probabilities"
    if not attention_kernel.supports(seq_len, config.num_heads, config.head_size):
        wanted = f"rows of a multiple of {attention_kernel.LANES} up to {attention_kernel.MAX_LENGTH}"
        return "einsum", f"the kernel takes {wanted} and heads that fill registers"
    return "pallas", "bfloat16, and rows and heads that fit the kernel"


def _cudnn_takes(head_size: int) -> bool:
    return head_size % 8 == 0 and head_size <= 128


def _layers(config: ModelConfig, platform: str) -> tuple[str, str]:
    if config.layers != "auto":
        return config.layers, "as the config says"
    if platform != "tpu":
        return "scan", "compiles fast"
    if config.remat != "none":
        return "scan", f"remat {config.remat} leaves little to be stacked"
    return "unroll", "a scan would stack what the backward pass needs"
