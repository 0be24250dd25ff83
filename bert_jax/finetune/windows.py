"""Questions and their contexts as rows: a long context in windows that overlap, so that no token of it is left out."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from bert_jax.finetune.encode import Encoded
from bert_jax.finetune.squad_files import Question
from data_prep.tokenizer import Tokenizer

MOST_OF_QUESTION = 64  # tokens (Devlin et al., 2018, in their code)
_OVERLAP = 128  # tokens that two windows share at most


@dataclasses.dataclass(frozen=True)
class Window:
    """A row's part of a context: tokens [first, last) of question number `question`, at position `place` and on."""

    question: int
    first: int
    last: int
    place: int


@dataclasses.dataclass(frozen=True)
class Windows:
    """Rows `[CLS] question [SEP] part of the context [SEP]`.

    Attributes:
      encoded: the rows.
      windows: of every row.
      offsets: of every question int64 [tokens, 2]: the characters [start, end) of its context's tokens, no spaces at
        their ends.
      cut: questions that lost their ends.
    """

    encoded: Encoded
    windows: list[Window]
    offsets: list[np.ndarray]
    cut: int


def make_windows(tokenizer: Tokenizer, questions: Sequence[Question], max_seq_len: int, token_types: bool) -> Windows:
    """Rows of at most `max_seq_len` tokens.

    Questions are cut to 64 tokens, or half of the room where that is less; windows share 128 tokens, or half of theirs.
    Without `token_types` all tokens are of type 0.
    """
    separators = tokenizer.pair_separators
    room = max_seq_len - 2 - separators
    most = min(MOST_OF_QUESTION, room // 2)
    asked = tokenizer.encode_batch([question.question for question in questions])
    texts = list(dict.fromkeys(question.context for question in questions))  # many questions share one
    contexts = {
        text: (pieces.ids, _trimmed(text, pieces.offsets))
        for text, pieces in zip(texts, tokenizer.encode_with_offsets(texts), strict=True)
    }
    ids, types, windows, offsets, cut = [], [], [], [], 0
    for number, (question, tokens) in enumerate(zip(questions, asked, strict=True)):
        context, places = contexts[question.context]
        cut += len(tokens) > most
        head = [tokenizer.cls_id, *tokens[:most], *[tokenizer.sep_id] * separators]
        size = room - len(head) + 1 + separators
        step = size - min(_OVERLAP, size // 2)
        for first in range(0, max(1, len(context) - size + step), step):
            part = context[first : first + size]
            ids.append([*head, *part, tokenizer.sep_id])
            types.append(len(head) if token_types else len(ids[-1]))
            windows.append(Window(number, first, first + len(part), len(head)))
        offsets.append(places)
    return Windows(Encoded(ids, types, tokenizer.pad_id), windows, offsets, cut)


def _trimmed(text: str, offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    """Offsets without the spaces that some tokens hold at their beginning."""
    trimmed = np.array(offsets, np.int64).reshape(-1, 2)
    for place, (start, end) in enumerate(offsets):
        while start < end and text[start].isspace():
            start += 1
        trimmed[place, 0] = start
    return trimmed


def answer_places(windows: Windows, questions: Sequence[Question]) -> tuple[np.ndarray, int]:
    """Where each row's answer begins and ends, int32 [rows, 2]: positions of its first and last token, or 0, that of
    [CLS], where the window does not hold all of it; of several answers the first. And how many questions have an answer
    that no token covers."""
    tokens = []
    for question, offsets in zip(questions, windows.offsets, strict=True):
        start = question.answers[0][1] if question.answers else 0
        end = start + len(question.answers[0][0]) if question.answers else 0
        inside = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start))
        tokens.append((inside[0], inside[-1]) if len(inside) else None)
    places = np.zeros((len(windows.windows), 2), np.int32)
    for row, window in enumerate(windows.windows):
        span = tokens[window.question]
        if span and window.first <= span[0] and span[1] < window.last:
            places[row] = np.array(span) - window.first + window.place
    lost = sum(span is None and bool(question.answers) for span, question in zip(tokens, questions, strict=True))
    return places, lost
