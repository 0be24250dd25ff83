"""Answers that stand in a context: a linear head on every token says where they begin and end (Devlin et al., 2018,
sections 4.2 and 4.3)."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bert_jax.checkpoint import SavedModel
from bert_jax.config import ModelConfig, has_token_types
from bert_jax.finetune.answer_metrics import answer_metrics
from bert_jax.finetune.spans import Span, best_spans
from bert_jax.finetune.squad_files import Question, read_questions
from bert_jax.finetune.task import Infer, Logits, Rows, Task
from bert_jax.finetune.windows import Windows, answer_places, make_windows
from bert_jax.model.token_heads import HEADS, token_logits
from data_prep.errors import InputError
from data_prep.tokenizer import Tokenizer

_NOWHERE = -1e9  # logit of padding


def question_answering(
    train: Path,
    dev: Path,
    saved: SavedModel,
    tokenizer: Tokenizer,
    max_seq_len: int,
    null_threshold: float | None = None,
) -> Task:
    """Reads and encodes questions about contexts.

    Args:
      train, dev: files as `read_questions` reads them.
      saved: the model to start from.
      tokenizer: the model's.
      max_seq_len: tokens of a row; longer contexts take several, which overlap.
      null_threshold: by how much no answer must beat the best span; 0 unless given, where some questions of `train`
        have no answer, and otherwise every question gets one.

    Raises:
      InputError: wrong files, or a model that cannot tell question from context.
    """
    known, held_out = read_questions(train), read_questions(dev)
    if null_threshold is None and not all(question.answers for question in known):
        null_threshold = 0.0
    rows, dev_rows = (
        _windows(questions, path, saved.config, tokenizer, max_seq_len)
        for questions, path in ((known, train), (held_out, dev))
    )
    places, lost = answer_places(rows, known)
    if lost:
        print(f"{train}: {lost} answers have no token of their own and are trained as none", file=sys.stderr)

    def measure(logits: Logits) -> dict[str, float]:
        spans = best_spans(dev_rows, logits, null_threshold)
        guessed = [_text(question, span) for question, span in zip(held_out, spans, strict=True)]
        return answer_metrics([[text for text, _ in question.answers] for question in held_out], guessed)

    return Task(
        name="qa",
        head=HEADS["qa"],
        outputs=2,
        labels=[],
        card={"null_threshold": null_threshold},
        decides="f1",
        logits=token_logits,
        loss=span_cross_entropy,
        train=Rows(rows.encoded, places),
        dev=dev_rows.encoded,
        measure=measure,
    )


def _windows(
    questions: Sequence[Question], path: Path, config: ModelConfig, tokenizer: Tokenizer, max_seq_len: int
) -> Windows:
    types = has_token_types(config)
    if types and config.type_vocab_size < 2:
        raise InputError("the model has no token type for a second text, the context; start from another one")
    windows = make_windows(tokenizer, questions, max_seq_len, types)
    if windows.cut:
        print(f"{path}: {windows.cut} questions are too long and lose their ends", file=sys.stderr)
    return windows


def span_cross_entropy(logits: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Sum over rows of the mean of two cross entropies, of the beginning and of the end, and the sum of the weights.

    Args:
      logits: [B,S,2].
      batch: segment_ids [B,S], 0 for padding, where no answer is; truth [B,2]; weights [B].
    """
    tokens = batch["segment_ids"][..., None] > 0
    by_place = jnp.swapaxes(jnp.where(tokens, logits, _NOWHERE), 1, 2)
    losses = optax.softmax_cross_entropy_with_integer_labels(by_place, batch["truth"]).mean(-1)
    return jnp.sum(losses * batch["weights"]), jnp.sum(batch["weights"])


def question_answers(
    model: SavedModel,
    tokenizer: Tokenizer,
    path: Path,
    max_seq_len: int,
    infer: Infer,
    null_threshold: float | None = None,
) -> Iterator[dict[str, Any]]:
    """For every question its id, where it has one, its answer as it stands in the context, the probability of that
    among all spans (score), and its characters [start, end).

    Where there may be no answer, also `null_margin`, by how much that beats the best span; of no answer the text is
    empty, and start and end are null.

    Args:
      model: its card says whether there may be no answer.
      tokenizer: the model's.
      path: as `read_questions` reads it, with or without answers.
      max_seq_len: longer contexts take several rows.
      infer: logits of rows.
      null_threshold: instead of the card's.
    """
    questions = read_questions(path, answered=False)
    windows = _windows(questions, path, model.config, tokenizer, max_seq_len)
    threshold = model.card.get("null_threshold") if null_threshold is None else null_threshold
    spans = best_spans(windows, infer(token_logits, windows.encoded), threshold)
    for question, span in zip(questions, spans, strict=True):
        answer = {} if question.id is None else {"id": question.id}
        answer |= {"answer": _text(question, span), "score": span.score, "start": span.start, "end": span.end}
        yield answer if span.null_margin is None else answer | {"null_margin": span.null_margin}


def _text(question: Question, span: Span) -> str:
    return "" if span.start is None else question.context[span.start : span.end]
