"""Labels for words: a linear head on every token, read at a word's first piece (Devlin et al., 2018, section 5.3)."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax.checkpoint import SavedModel
from bert_jax.data.plan import IGNORED
from bert_jax.finetune.entities import entities, entity_metrics, marks_entities
from bert_jax.finetune.labels import known_labels, numbered
from bert_jax.finetune.metrics import classification_metrics
from bert_jax.finetune.tables import read_table, read_text
from bert_jax.finetune.tagged_text import TAGS_FIELD, TOKENS_FIELD, Tagged, read_tagged
from bert_jax.finetune.task import Infer, Logits, Rows, Task, probabilities
from bert_jax.finetune.word_pieces import Word, WordRows, given_words, sentence_text, word_rows, words_of_texts
from bert_jax.model.token_heads import HEADS, token_logits
from data_prep.errors import InputError
from data_prep.tokenizer import Tokenizer

_TEXT_FIELD, _TEXT_SUFFIX = "text", ".txt"


def tagging(
    train: Path,
    dev: Path,
    saved: SavedModel,
    tokenizer: Tokenizer,
    max_seq_len: int,
    tokens_field: str = TOKENS_FIELD,
    tags_field: str = TAGS_FIELD,
) -> Task:
    """Reads and encodes sentences with a label a word.

    Args:
      train, dev: files as `read_tagged` reads them.
      saved: the model to start from; where it tags and has all labels of `train`, its labels stay.
      tokenizer: the model's.
      max_seq_len: tokens of a row; longer sentences take several rows.
      tokens_field, tags_field: names of the lists in .jsonl.

    Raises:
      InputError: wrong files, or labels that do not agree.
    """
    known, held_out = (read_tagged(path, tokens_field, tags_field) for path in (train, dev))
    labels = known_labels("tagging", train, known.all_labels(), saved)
    train_rows, train_truth = _rows(known, labels, train, tokenizer, max_seq_len)
    dev_rows, dev_truth = _rows(held_out, labels, train, tokenizer, max_seq_len)
    named = marks_entities(labels)
    if not named and any(label.startswith(("B-", "I-")) for label in labels):
        odd = next(label for label in labels if not marks_entities([label, "B"]))
        print(f"{train}: label {odd!r} is of no entity, so labels are measured one by one", file=sys.stderr)

    def measure(logits: Logits) -> dict[str, float]:
        guessed = [read.argmax(-1) for read in _at_words(dev_rows, logits)]
        if named:
            return entity_metrics(held_out.labels, [[labels[i] for i in sentence] for sentence in guessed])
        return classification_metrics(np.array(dev_truth), np.concatenate(guessed), len(labels))

    return Task(
        name="tagging",
        head=HEADS["tagging"],
        outputs=len(labels),
        labels=labels,
        card={"tokens_field": tokens_field},
        decides="f1" if named else "accuracy",
        logits=token_logits,
        loss=cross_entropy,
        train=Rows(train_rows.encoded, _truths(train_rows, train_truth)),
        dev=dev_rows.encoded,
        measure=measure,
    )


def _rows(
    tagged: Tagged, labels: list[str], train: Path, tokenizer: Tokenizer, max_seq_len: int
) -> tuple[WordRows, list[int]]:
    """Rows, and the number of the label of every word of the file."""
    numbers = numbered(labels, tagged.all_labels(), tagged.where, train)
    rows = word_rows(tokenizer, given_words(tokenizer, tagged.words), max_seq_len)
    _say_what_is_long(tagged.path, rows, max_seq_len)
    return rows, numbers


def _say_what_is_long(path: Path, rows: WordRows, max_seq_len: int) -> None:
    if rows.split or rows.cut:
        print(
            f"{path}: {rows.split} sentences are longer than {max_seq_len} tokens and cut between words into rows, "
            f"{rows.cut} words are longer and lose their ends",
            file=sys.stderr,
        )


def _truths(rows: WordRows, numbers: Sequence[int]) -> list[np.ndarray]:
    """Of every row int32 [tokens]: the label at the first piece of each word, and IGNORED elsewhere."""
    truths = [np.full(len(ids), IGNORED, np.int32) for ids in rows.encoded.ids]
    for number, (row, place) in zip(numbers, np.concatenate(rows.places), strict=True):
        if truths[row][place] == IGNORED:  # of words with one piece the first counts
            truths[row][place] = number
    return truths


def _at_words(rows: WordRows, logits: Logits) -> list[np.ndarray]:
    """Of every sentence the logits of its words, [words, C]."""
    return [
        np.stack([logits[row][place] for row, place in places]) if len(places) else np.zeros((0, 1))
        for places in rows.places
    ]


def cross_entropy(logits: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Sum over labelled tokens for logits [B,S,C] and a batch with truth [B,S], IGNORED where there is none, and their
    count."""
    labelled = batch["truth"] != IGNORED
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(labelled, batch["truth"], 0))
    return jnp.sum(losses, where=labelled), jnp.sum(labelled).astype(jnp.float32)


def tagging_answers(
    model: SavedModel, tokenizer: Tokenizer, path: Path, max_seq_len: int, infer: Infer
) -> Iterator[dict[str, Any]]:
    """For every sentence or text of a file: its words, their places in the text, labels, and probabilities of these
    (scores); where labels mark entities also these, an entity's score being the mean of its words'.

    Args:
      model: with labels in its card.
      tokenizer: the model's.
      path: as `read_tagged` reads it, with or without labels; .jsonl with a text; or .txt, a text a line.
      max_seq_len: longer sentences take several rows.
      infer: logits of rows.
    """
    texts, sentences = _sentences(model, tokenizer, path)
    rows = word_rows(tokenizer, sentences, max_seq_len)
    _say_what_is_long(path, rows, max_seq_len)
    labels = model.card["labels"]
    named = marks_entities(labels)
    for text, words, read in zip(texts, sentences, _at_words(rows, infer(token_logits, rows.encoded)), strict=True):
        guessed, scores = [labels[i] for i in read.argmax(-1)] if words else [], probabilities(read).max(-1)
        answer: dict[str, Any] = {
            "words": [text[word.start : word.end] for word in words],
            "offsets": [[word.start, word.end] for word in words],
            "labels": guessed,
            "scores": scores.tolist() if words else [],
        }
        if named:
            answer["entities"] = [
                {
                    "label": kind,
                    "score": float(scores[first:behind].mean()),
                    "text": text[words[first].start : words[behind - 1].end],
                    "start": words[first].start,
                    "end": words[behind - 1].end,
                }
                for kind, first, behind in entities(guessed)
            ]
        yield answer


def _sentences(model: SavedModel, tokenizer: Tokenizer, path: Path) -> tuple[list[str], list[list[Word]]]:
    """Texts, and their words."""
    tokens_field = model.card.get("tokens_field", TOKENS_FIELD)
    texts = None
    if path.suffix == _TEXT_SUFFIX:
        texts = read_text(path).removesuffix("\n").split("\n")
    elif path.suffix == ".jsonl" and tokens_field not in (table := read_table(path)).columns:
        if _TEXT_FIELD not in table.columns:
            raise InputError(
                f"{path} has neither {tokens_field!r}, a list of words, nor {_TEXT_FIELD!r}; it has "
                f"{', '.join(table.columns)}"
            )
        texts = [text for (text,) in table.texts([_TEXT_FIELD])]
    if texts is not None:
        return texts, words_of_texts(tokenizer, texts)
    given = read_tagged(path, tokens_field, labelled=False).words
    return [sentence_text(tokenizer, words) for words in given], given_words(tokenizer, given)
