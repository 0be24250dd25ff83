"""A model's tables with other numbers of rows: tokens that are new, positions that it never had."""

import dataclasses

import numpy as np

from bert_jax.config import ModelConfig
from bert_jax.convert.families import FAMILIES
from bert_jax.convert.mapping import Params, nest

_POSITIONS = "embeddings/position/embedding"


def extend(params: Params, model: ModelConfig, vocab_size: int, new: np.ndarray, positions: int) -> Params:
    """The parameters with `vocab_size` tokens and `positions` positions; other arrays are passed on as they are.

    A new token gets the mean of the old tokens' rows, in every table of the vocabulary and its biases (Hewitt, 2021,
    "Initializing New Word Embeddings for Pretrained Language Models"): it begins as likely as a usual token, not as a
    random one. Positions are repeated from the first (Beltagy et al., 2020, "Longformer"): locally, attention is what
    it was.

    Args:
      params: of `model`.
      model: its sizes.
      vocab_size: of the result; rows past it are dropped.
      new: int [T], ids below `vocab_size` of tokens without a learned row.
      positions: at least the model's.
    """
    padded = dataclasses.replace(model, vocab_size=vocab_size).padded_vocab_size
    pairs = []
    for row, leaf in FAMILIES[model.family].rows(params):
        array = np.asarray(leaf)
        if row.vocabulary:
            array = _vocabulary(array, vocab_size, padded, new)
        elif row.ours == _POSITIONS:
            array = _positions(array, model.position_offset, positions)
        pairs.append((row.ours, array))
    return nest(pairs)


def _vocabulary(table: np.ndarray, size: int, padded: int, new: np.ndarray) -> np.ndarray:
    grown = np.zeros((padded, *table.shape[1:]), np.float32)
    kept = min(size, len(table))
    grown[:kept] = table[:kept]
    old = np.ones(size, bool)
    old[new] = False
    if len(new):
        grown[new] = grown[:size][old].mean(axis=0, dtype=np.float64)
    return grown


def _positions(table: np.ndarray, offset: int, positions: int) -> np.ndarray:
    learned = table[offset:]
    return np.concatenate([table[:offset], learned[np.arange(positions) % len(learned)]])
