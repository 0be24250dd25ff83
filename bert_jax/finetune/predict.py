"""Predictions of a fine-tuned model: a JSON line for every row of a file."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax.checkpoint import SavedModel, read_json
from bert_jax.convert.importing import open_model
from bert_jax.finetune.classification import classification_answers, regression_answers
from bert_jax.finetune.encode import Encoded
from bert_jax.finetune.infer import all_logits
from bert_jax.finetune.question_answering import question_answers
from bert_jax.finetune.tagging import tagging_answers
from bert_jax.own_tokenizer import own_tokenizer
from data_prep.errors import InputError
from data_prep.files import whole_file

_BATCH_SIZE = 32
_ANSWERS: dict[str, Callable[..., Iterator[dict[str, Any]]]] = {
    "classification": classification_answers,
    "regression": regression_answers,
    "tagging": tagging_answers,
    "qa": question_answers,
}


def predict(
    model_dir: str | Path, input_path: str | Path, output_path: str | Path, null_threshold: float | None = None
) -> None:
    """Writes one JSON object a line for every row of the input, in its order; the file appears whole or not at all.

    Classification gives `label`, its `score` (probability), and `probabilities` by label; regression gives `score`, a
    probability where an imported model's one label is no regression; of tagging see `tagging_answers`, of qa
    `question_answers`. Products are float32.

    Args:
      model_dir: a fine-tuned model, or a Hugging Face directory with a task head.
      input_path: a file as the model was trained on; labels in it are passed over.
      output_path: replaced if it exists.
      null_threshold: of qa, by how much no answer must beat the best one; as trained unless given.

    Raises:
      InputError: a model without a task head, or a wrong input file.
    """
    model = open_model(model_dir)
    if model.objective not in _ANSWERS:
        raise InputError(f"{model_dir} has no task head; fine-tune it first with bert-jax finetune")
    options: dict[str, Any] = {}
    if null_threshold is not None:
        if model.objective != "qa":
            raise InputError(f"--null-threshold is for question answering; {model_dir} does {model.objective}")
        options["null_threshold"] = null_threshold
    output_path = Path(output_path)
    if not output_path.parent.is_dir():
        raise InputError(f"{output_path.parent} is no directory; make it, or name another --output")
    longest = _longest(model)
    config = dataclasses.replace(model.config, dtype="float32")
    params = jax.tree.map(jax.numpy.asarray, model.params)

    def infer(logits: Callable[..., jax.Array], encoded: Encoded) -> list[np.ndarray]:
        with jax.default_matmul_precision("highest"):
            return all_logits(logits, config, params, encoded, _BATCH_SIZE, longest)

    tokenizer = own_tokenizer(model)
    answers = _ANSWERS[model.objective](model, tokenizer, Path(input_path), longest, infer, **options)
    with whole_file(output_path) as partial, partial.open("w", encoding="utf-8") as file:
        for answer in answers:
            file.write(json.dumps(answer, ensure_ascii=False) + "\n")


def _longest(model: SavedModel) -> int:
    """Tokens a row may have: as trained, or as the tokenizer of a Hugging Face directory says."""
    positions = model.config.max_position_embeddings
    if "max_seq_len" in model.card:
        return min(model.card["max_seq_len"], positions)
    path = model.tokenizer_dir / "tokenizer_config.json"
    said = read_json(path).get("model_max_length", positions) if path.exists() else positions
    return min(int(said), positions) if isinstance(said, int | float) and said > 0 else positions
