"""Classification and regression of texts and pairs: a linear head on the pooled [CLS] (Devlin et al., 2018, section
4.1)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax.checkpoint import SavedModel
from bert_jax.config import has_token_types
from bert_jax.finetune.encode import encode
from bert_jax.finetune.labels import known_labels, numbered
from bert_jax.finetune.metrics import classification_metrics, regression_metrics
from bert_jax.finetune.tables import Table, read_table
from bert_jax.finetune.task import Infer, Logits, Rows, Task, probabilities
from bert_jax.model.classifier import classifier_logits
from data_prep.errors import InputError
from data_prep.tokenizer import Tokenizer


def classification(train: Path, dev: Path, saved: SavedModel, tokenizer: Tokenizer, max_seq_len: int) -> Task:
    """Reads and encodes tables with a label and one or two texts.

    Args:
      train, dev: files as `read_table` reads them.
      saved: the model to start from; where it classifies and has all labels of `train`, its labels stay.
      tokenizer: the model's.
      max_seq_len: tokens of a row; what is longer is cut.

    Raises:
      InputError: wrong files, or labels that do not agree.
    """
    train_table, dev_table, columns = _tables(train, dev, saved)
    labels = known_labels("classification", train, train_table.labels(), saved)

    def truths(table: Table) -> np.ndarray:
        return np.array(numbered(labels, table.labels(), table.where, train), np.int32)

    def measure(logits: Logits) -> dict[str, float]:
        return classification_metrics(dev_truth, np.stack(logits).argmax(-1).astype(np.int32), len(labels))

    train_truth, dev_truth = truths(train_table), truths(dev_table)
    return Task(
        name="classification",
        head="classifier",
        outputs=len(labels),
        labels=labels,
        card={"text_columns": columns},
        decides="accuracy",
        logits=classifier_logits,
        loss=cross_entropy,
        train=Rows(_encoded(train_table, columns, saved, tokenizer, max_seq_len), train_truth),
        dev=_encoded(dev_table, columns, saved, tokenizer, max_seq_len),
        measure=measure,
    )


def regression(train: Path, dev: Path, saved: SavedModel, tokenizer: Tokenizer, max_seq_len: int) -> Task:
    """As `classification`, with numbers for labels."""
    train_table, dev_table, columns = _tables(train, dev, saved)
    train_truth, dev_truth = (np.array(table.numbers(), np.float32) for table in (train_table, dev_table))
    return Task(
        name="regression",
        head="classifier",
        outputs=1,
        labels=[],
        card={"text_columns": columns},
        decides="pearson",
        logits=classifier_logits,
        loss=_squared_error,
        train=Rows(_encoded(train_table, columns, saved, tokenizer, max_seq_len), train_truth),
        dev=_encoded(dev_table, columns, saved, tokenizer, max_seq_len),
        measure=lambda logits: regression_metrics(dev_truth, np.stack(logits)[:, 0]),
    )


def _tables(train: Path, dev: Path, saved: SavedModel) -> tuple[Table, Table, list[str]]:
    train_table, dev_table = read_table(train), read_table(dev)
    columns = train_table.text_columns()
    dev_table.texts(columns)
    if len(columns) > 1 and has_token_types(saved.config) and saved.config.type_vocab_size < 2:
        raise InputError(f"the model has no token type for a second text; keep one text column in {train}")
    return train_table, dev_table, columns


def _encoded(table: Table, columns: Sequence[str], saved: SavedModel, tokenizer: Tokenizer, max_seq_len: int):
    return encode(tokenizer, table.texts(columns), max_seq_len, has_token_types(saved.config))


def cross_entropy(logits: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Sum over rows for logits [B,C] and a batch with truth [B] and weights [B], and the sum of the weights."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["truth"])
    return jnp.sum(losses * batch["weights"]), jnp.sum(batch["weights"])


def _squared_error(logits: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    losses = jnp.square(logits[:, 0] - batch["truth"])
    return jnp.sum(losses * batch["weights"]), jnp.sum(batch["weights"])


def classification_answers(
    model: SavedModel, tokenizer: Tokenizer, path: Path, max_seq_len: int, infer: Infer
) -> Iterator[dict[str, Any]]:
    """For every row of a table: its label, the label's probability (score), and all probabilities.

    Args:
      model: with labels in its card.
      tokenizer: the model's.
      path: with the text columns that the model was trained on (by name, or as many others in order).
      max_seq_len: what is longer is cut.
      infer: logits of rows.
    """
    logits = _logits(model, tokenizer, path, max_seq_len, infer)
    labels = model.card["labels"]
    for row in probabilities(logits):
        yield {
            "label": labels[int(row.argmax())],
            "score": float(row.max()),
            "probabilities": {label: float(value) for label, value in zip(labels, row, strict=True)},
        }


def regression_answers(
    model: SavedModel, tokenizer: Tokenizer, path: Path, max_seq_len: int, infer: Infer
) -> Iterator[dict[str, Any]]:
    """For every row of a table its number, called score; as `classification_answers`.

    An imported model with one label that does not call itself a regression gives a logit: the score is its probability,
    as in transformers' pipeline.
    """
    is_logit = model.card.get("problem_type", "regression") != "regression"
    for (number,) in _logits(model, tokenizer, path, max_seq_len, infer):
        yield {"score": float(probabilities(np.array([0.0, number]))[1] if is_logit else number)}


def _logits(model: SavedModel, tokenizer: Tokenizer, path: Path, max_seq_len: int, infer: Infer) -> np.ndarray:
    table = read_table(path)
    encoded = _encoded(table, _text_columns(table, model), model, tokenizer, max_seq_len)
    return np.stack(infer(classifier_logits, encoded))


def _text_columns(table: Table, model: SavedModel) -> list[str]:
    trained = model.card.get("text_columns")
    if trained is not None and all(name in table.columns for name in trained):
        return trained
    columns = table.text_columns()
    if trained is not None and len(columns) != len(trained):
        raise InputError(
            f"{table.path} has text columns {', '.join(columns)}; the model was trained on {', '.join(trained)}: "
            "give it these"
        )
    if len(columns) > 1 and has_token_types(model.config) and model.config.type_vocab_size < 2:
        raise InputError(f"{table.path} has two text columns, and the model has no token type for the second; keep one")
    return columns
