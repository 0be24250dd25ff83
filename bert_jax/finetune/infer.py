"""Logits of many rows."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from bert_jax.config import ModelConfig
from bert_jax.finetune.encode import Encoded, batch, bucket_lengths
from bert_jax.model.bert import Params


@functools.lru_cache(maxsize=8)
def _jitted(logits: Callable[..., jax.Array], config: ModelConfig) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(logits, config))


def all_logits(
    logits: Callable[..., jax.Array],
    config: ModelConfig,
    params: Params,
    encoded: Encoded,
    batch_size: int,
    most: int,
) -> list[np.ndarray]:
    """Float32 logits of every row, in the rows' order: [C], or [tokens of the row, C].

    Args:
      logits: (config, params, batch) to [B,C] or [B,S,C].
      config: its dtype is that of the products.
      params: as `logits` wants them.
      encoded: rows of at most `most` tokens.
      batch_size: rows at a time.
      most: the longest shape.
    """
    lengths = encoded.lengths()
    if not len(lengths):
        return []
    buckets = bucket_lengths(lengths, most)
    order = np.argsort(lengths, kind="stable")
    whole: list[np.ndarray] = [np.zeros(0)] * len(order)

    def keep(rows: np.ndarray, values: jax.Array) -> None:
        for row, value in zip(rows, np.asarray(values), strict=False):  # the last batch has padding rows
            whole[row] = value if value.ndim == 1 else value[: lengths[row]].copy()

    waiting = None
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        values = _jitted(logits, config)(params, batch(encoded, rows, batch_size, buckets))
        if waiting:  # fetched when the next batch is under way
            keep(*waiting)
        waiting = rows, values
    if waiting:
        keep(*waiting)
    return whole
