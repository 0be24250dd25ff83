"""The best span of a context, from logits of where an answer begins and ends."""

import dataclasses
import itertools

import numpy as np

from bert_jax.finetune.task import Logits
from bert_jax.finetune.windows import Windows

MOST_OF_ANSWER = 30  # tokens (Devlin et al., 2018, in their code)


@dataclasses.dataclass(frozen=True)
class Span:
    """Characters [start, end) of a context, or None twice where it has no answer, and the span's probability among all
    spans (and no answer, where that may be). `null_margin`: by how much no answer beats the best span, or None."""

    start: int | None
    end: int | None
    score: float
    null_margin: float | None


def best_spans(windows: Windows, logits: Logits, null_threshold: float | None) -> list[Span]:
    """The best answer to every question.

    A span of at most 30 tokens of the context, text at both ends, is worth the sum of its two logits, in the window
    where that is most. No answer is worth the sum at [CLS], in the window where that is least (Devlin et al., 2018,
    section 4.3), and is given where it beats the best span by more than a threshold.

    Args:
      windows: rows of the questions.
      logits: of every row, [tokens, 2].
      null_threshold: None where every question has an answer.
    """
    found = []
    rows = zip(windows.windows, logits, strict=True)
    for question, group in itertools.groupby(rows, lambda row: row[0].question):
        offsets = windows.offsets[question]
        no_text = np.where(offsets[:, 0] < offsets[:, 1], 0.0, -np.inf)  # pieces that are a space alone
        worth, null = np.full((len(offsets), MOST_OF_ANSWER), -np.inf), np.inf  # by first token, and how many follow
        for window, values in group:
            values = values.astype(np.float64)
            start, end = values[window.place : window.place + window.last - window.first].T
            part, of_space = worth[window.first : window.last], no_text[window.first : window.last]
            start, end = start + of_space, end + of_space
            for more in range(min(MOST_OF_ANSWER, len(start))):
                sums = start[: len(start) - more] + end[more:]
                part[: len(sums), more] = np.maximum(part[: len(sums), more], sums)
            null = min(null, float(values[0].sum()))
        found.append(_best(worth, offsets, null, null_threshold))
    return found


def _best(table: np.ndarray, offsets: np.ndarray, null: float, null_threshold: float | None) -> Span:
    if not np.isfinite(table).any():
        return Span(None, None, 1.0, None)  # a context without tokens
    first, more = np.unravel_index(int(table.argmax()), table.shape)
    best = float(table[first, more])
    whole = np.exp(table - best).sum()
    if null_threshold is None:
        return Span(int(offsets[first, 0]), int(offsets[first + more, 1]), float(1 / whole), None)
    whole, margin = np.logaddexp(np.log(whole), null - best), null - best
    if margin > null_threshold:
        return Span(None, None, float(np.exp(margin - whole)), margin)
    return Span(int(offsets[first, 0]), int(offsets[first + more, 1]), float(np.exp(-whole)), margin)
