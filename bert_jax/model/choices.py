"""How the same numbers are computed: the field `auto` of `attention` and `layers` decided by measurement.

Nothing here changes what is computed but for rounding; `docs/performance.md` has the measurements.
"""

import dataclasses

from bert_jax.config import ModelConfig
from bert_jax.model import attention_kernel


def chosen(config: ModelConfig, seq_len: int, platform: str) -> ModelConfig:
    """The config with `auto` replaced.

    Attention is the Pallas kernel on TPUs, where the products are bfloat16 and rows and heads fit it; else einsum.
    Layers are unrolled on TPUs, where a scan's stacking of what the backward pass needs costs as much as the products,
    unless that is computed anew (`remat`); else scanned, which compiles fast.

    Args:
      config: the model's.
      seq_len: positions a row.
      platform: of the devices, as jax names it.
    """
    attention, layers = config.attention, config.layers
    if attention == "auto":
        fits = attention_kernel.supports(seq_len, config.num_heads, config.head_size) and config.dtype == "bfloat16"
        attention = "pallas" if platform == "tpu" and fits else "einsum"
    if layers == "auto":
        layers = "unroll" if platform == "tpu" and config.remat == "none" else "scan"
    return dataclasses.replace(config, attention=attention, layers=layers)
