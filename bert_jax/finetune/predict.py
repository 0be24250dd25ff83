"""Predictions of a fine-tuned model: a JSON line for every row of a file."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax.checkpoint import SavedModel, read_json
from bert_jax.config import has_token_types
from bert_jax.convert.importing import open_model
from bert_jax.finetune.encode import encode
from bert_jax.finetune.infer import all_logits
from bert_jax.finetune.tables import Table, read_table
from bert_jax.model.classifier import classifier_logits
from bert_jax.model.token_heads import HEADS
from data_prep.errors import InputError
from data_prep.files import whole_file
from data_prep.tokenizer import load_tokenizer

_BATCH_SIZE = 32


def predict(model_dir: str | Path, input_path: str | Path, output_path: str | Path) -> None:
    """Writes one JSON object a line for every row of the input, in its order; the file appears whole or not at all.

    Classification gives `label`, its `score` (probability), and `probabilities` by label; regression gives `score`.
    Products are float32.

    Args:
      model_dir: a fine-tuned model, or a Hugging Face directory with BertForSequenceClassification.
      input_path: .tsv, .csv or .jsonl with the text columns that the model was trained on (by name, or as many others
        in order); a `label` column is passed over.
      output_path: replaced if it exists.

    Raises:
      InputError: a model without a task head, or a wrong input file.
    """
    model = open_model(model_dir)
    if model.objective in HEADS:
        raise InputError(f"{model_dir} is a {model.objective} model; predict knows classification and regression")
    if "classifier" not in model.params:
        raise InputError(f"{model_dir} has no task head; fine-tune it first with bert-jax finetune")
    table = read_table(input_path)
    columns = _text_columns(table, model)
    output_path = Path(output_path)
    if not output_path.parent.is_dir():
        raise InputError(f"{output_path.parent} is no directory; make it, or name another --output")
    longest = _longest(model)
    config = dataclasses.replace(model.config, dtype="float32")
    encoded = encode(load_tokenizer(model.tokenizer_dir), table.texts(columns), longest, has_token_types(model.config))
    with jax.default_matmul_precision("highest"):
        params = jax.tree.map(jax.numpy.asarray, model.params)
        logits = np.stack(all_logits(classifier_logits, config, params, encoded, _BATCH_SIZE, longest))
    with whole_file(output_path) as partial, partial.open("w", encoding="utf-8") as file:
        for answer in answers(model, logits):
            file.write(json.dumps(answer, ensure_ascii=False) + "\n")


def answers(model: SavedModel, logits: np.ndarray) -> list[dict[str, Any]]:
    """What is written for logits [n, C]."""
    if model.objective == "regression":
        return [{"score": float(row[0])} for row in logits]
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    probabilities = shifted / shifted.sum(-1, keepdims=True)
    labels = model.card["labels"]
    return [
        {
            "label": labels[int(row.argmax())],
            "score": float(row.max()),
            "probabilities": {label: float(value) for label, value in zip(labels, row, strict=True)},
        }
        for row in probabilities
    ]


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


def _longest(model: SavedModel) -> int:
    """Tokens a row may have: as trained, or as the tokenizer of a Hugging Face directory says."""
    positions = model.config.max_position_embeddings
    if "max_seq_len" in model.card:
        return min(model.card["max_seq_len"], positions)
    path = model.tokenizer_dir / "tokenizer_config.json"
    said = read_json(path).get("model_max_length", positions) if path.exists() else positions
    return min(int(said), positions) if isinstance(said, int | float) and said > 0 else positions
