"""Logits of many rows."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float

from bert_jax.config import ModelConfig
from bert_jax.finetune.encode import Encoded, batch, bucket_lengths
from bert_jax.model.bert import Params
from bert_jax.model.classifier import classifier_logits


@functools.lru_cache(maxsize=8)
def _jitted(config: ModelConfig) -> Callable:
    return jax.jit(functools.partial(classifier_logits, config))


def all_logits(
    config: ModelConfig, params: Params, encoded: Encoded, batch_size: int, most: int
) -> Float[np.ndarray, "n C"]:
    """Float32 logits of every row, in the rows' order.

    Args:
      config: its dtype is that of the products.
      params: as `classifier_shapes` says.
      encoded: rows of at most `most` tokens.
      batch_size: rows at a time.
      most: the longest shape.
    """
    lengths = encoded.lengths()
    buckets = bucket_lengths(lengths, most)
    order = np.argsort(lengths, kind="stable")
    parts = []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        parts.append((rows, _jitted(config)(params, batch(encoded, rows, batch_size, buckets))))
    logits = np.empty((len(order), parts[0][1].shape[1]), np.float32)
    for rows, values in parts:
        logits[rows] = np.asarray(values)[: len(rows)]
    return logits
