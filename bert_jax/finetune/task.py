"""What differs from task to task: how rows become tokens and truths, the head, the loss, the measures."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bert_jax.data.plan import IGNORED
from bert_jax.finetune.encode import Encoded

Logits = Sequence[np.ndarray]  # of every row: float32 [C], or [tokens, C]
Loss = Callable[[jax.Array, Mapping[str, jax.Array]], tuple[jax.Array, jax.Array]]
Infer = Callable[[Callable[..., jax.Array], Encoded], list[np.ndarray]]  # the model's function, rows: their logits


def probabilities(logits: np.ndarray) -> np.ndarray:
    """float64 [..., C], which add up to 1, of logits [..., C]."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of tokens and their truth: an array whose first axis is that of the rows, or int32 [tokens] a row."""

    encoded: Encoded
    truth: np.ndarray | list[np.ndarray]

    def truths(self, rows: np.ndarray, batch_size: int, length: int) -> np.ndarray:
        """The truth of these rows, [batch_size, ...] or [batch_size, length]; rows past them repeat the first row, or
        are ignored."""
        if isinstance(self.truth, np.ndarray):
            return self.truth[np.concatenate([rows, np.zeros(batch_size - len(rows), np.int64)])]
        array = np.full((batch_size, length), IGNORED, np.int32)
        for place, row in enumerate(rows):
            array[place, : len(self.truth[row])] = self.truth[row]
        return array


@dataclasses.dataclass(frozen=True)
class Task:
    """A task made ready: its data read, checked and encoded.

    Attributes:
      name: as in `--task`.
      head: its name in the parameters.
      outputs: of the head.
      labels: their names by number; empty where there are none.
      card: what predictions need to know, beside task, labels and the longest row.
      decides: the measure that says which epoch is best.
      logits: (config, params, batch, dropout or None) to float32 [B,C] or [B,S,C].
      loss: (logits, batch with truth and weights [B], 0 for rows that are padding) to the sum of losses and their
        count.
      train: rows, with their truth.
      dev: rows, whose truth `measure` knows.
      measure: logits of the dev rows, in their order, to measures by their usual names.
    """

    name: str
    head: str
    outputs: int
    labels: list[str]
    card: dict[str, Any]
    decides: str
    logits: Callable[..., jax.Array]
    loss: Loss
    train: Rows
    dev: Encoded
    measure: Callable[[Logits], dict[str, float]]
