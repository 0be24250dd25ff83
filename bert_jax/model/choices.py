"""How the same numbers are computed: the field `auto` of `attention` and `layers` decided by measurement.

Nothing here changes what is computed but for rounding; `docs/performance.md` has the measurements.
"""

import dataclasses

from bert_jax.config import ModelConfig
from bert_jax.config_check import kernel_refusal
from bert_jax.model import attention, attention_kernel
from data_prep.errors import InputError

_PLATFORMS = {"pallas": "tpu", "cudnn": "gpu"}  # that have a kernel of attention


def chosen(config: ModelConfig, seq_len: int, platform: str, tensor: int = 1) -> ModelConfig:
    """The config with `auto` replaced.

    Attention is the Pallas kernel on TPUs, where the products are bfloat16 and rows and heads fit it; cuDNN's on GPUs,
    where the products are bfloat16 and no probability is dropped, which it cannot do; else einsum. Layers are unrolled
    on TPUs, where a scan's stacking of what the backward pass needs costs as much as the products, and on CPUs in
    bfloat16, where it costs a seventh of a step, unless that is computed anew (`remat`); else scanned, which compiles
    fast.

    Args:
      config: the model's.
      seq_len: positions a row.
      platform: of the devices, as jax names it.
      tensor: devices that share the heads.

    Raises:
      InputError: the config names a kernel that cannot be had.
    """
    kind, layers = _attention(config, seq_len, platform, tensor)[0], _layers(config, platform)[0]
    return dataclasses.replace(config, attention=kind, layers=layers)


def explained(config: ModelConfig, seq_len: int, platform: str, tensor: int = 1) -> str:
    """What `chosen` takes and why, in one line; arguments and errors as there."""
    kind, layers = _attention(config, seq_len, platform, tensor), _layers(config, platform)
    return f"rows of {seq_len}: attention {kind[0]} ({kind[1]}), layers {layers[0]} ({layers[1]})"


def check_attention(config: ModelConfig, seq_len: int, platform: str | None = None, tensor: int = 1) -> None:
    """Raises InputError where the config names a kernel that cannot be had; arguments as of `chosen`.

    Without a platform the kernel's own is assumed.
    """
    if config.attention not in _PLATFORMS:
        return
    refusal, wanted = _refusal(config.attention, config, seq_len, tensor), _PLATFORMS[config.attention]
    if platform is not None and _acting(platform) != wanted:
        refusal = f"it is for {wanted} devices, and these are {platform}"
    if refusal:
        raise InputError(f"config.model.attention={config.attention!r}: {refusal}; change that, or take 'auto'")


def _attention(config: ModelConfig, seq_len: int, platform: str, tensor: int) -> tuple[str, str]:
    """The choice, and the reason."""
    if config.attention != "auto":
        check_attention(config, seq_len, platform, tensor)
        return config.attention, "as the config says"
    kernel = next((kernel for kernel, wanted in _PLATFORMS.items() if wanted == _acting(platform)), None)
    if kernel is None:
        return "einsum", f"no kernel for {platform}"
    refusal = _refusal(kernel, config, seq_len, tensor)
    return ("einsum", refusal) if refusal else (kernel, "bfloat16, and shapes that fit the kernel")


def _acting(platform: str) -> str:
    """The platform whose kernels are run."""
    return "tpu" if attention.INTERPRET else platform


def _refusal(kernel: str, config: ModelConfig, seq_len: int, tensor: int) -> str | None:
    """Why a kernel cannot be had on the devices that it is for."""
    refusal = kernel_refusal(kernel, config)
    if refusal or kernel != "pallas":
        return refusal
    refusal = attention_kernel.unsupported(seq_len, config.num_heads // tensor, config.head_size)
    if refusal and not attention_kernel.unsupported(seq_len, config.num_heads, config.head_size):
        return f"{refusal}, as config.mesh.tensor={tensor} leaves a device"
    return refusal


def _layers(config: ModelConfig, platform: str) -> tuple[str, str]:
    if config.layers != "auto":
        return config.layers, "as the config says"
    if config.remat != "none":
        return "scan", f"remat {config.remat} leaves little to be stacked"
    if platform == "tpu":
        return "unroll", "a scan would stack what the backward pass needs"
    if platform == "cpu" and config.dtype == "bfloat16":
        return "unroll", "a scan would stack what the backward pass needs, and XLA widens that to float32 on a CPU"
    return "scan", "compiles fast"
