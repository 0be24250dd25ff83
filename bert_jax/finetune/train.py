"""Fine-tuning: a linear head on the pooled [CLS], trained with the encoder (Devlin et al., 2018, section 4.1)."""

import dataclasses
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax import checkpoint
from bert_jax.checkpoint import SavedModel
from bert_jax.config import Config, ModelConfig, OptimizerConfig, TrainConfig, has_token_types
from bert_jax.convert.importing import fresh_parts, open_model
from bert_jax.finetune.encode import Encoded, batch, bucket_lengths, encode, epoch_batches
from bert_jax.finetune.infer import all_logits
from bert_jax.finetune.metrics import classification_metrics, regression_metrics
from bert_jax.finetune.tables import Table, read_table
from bert_jax.model.bert import Dropout, Params
from bert_jax.model.classifier import classifier_logits, init_classifier
from bert_jax.optimizer import make_optimizer
from data_prep.errors import InputError
from data_prep.tokenizer import Tokenizer, load_tokenizer

TASKS = ("classification", "regression")
_DECIDES = {"classification": "accuracy", "regression": "pearson"}  # which metric says what the best epoch is
_USUAL_LENGTH, _SHORTEST = 128, 8


def finetune(
    task: str,
    train: str | Path,
    dev: str | Path,
    init: str | Path,
    workdir: str | Path,
    *,
    epochs: int = 3,
    batch_size: int = 32,
    learning_rate: float = 5e-5,
    max_seq_len: int | None = None,
    seed: int = 0,
    warmup_share: float = 0.1,
    weight_decay: float = 0.01,
) -> dict[str, Any]:
    """Trains a head and the encoder under it, and keeps the epoch that is best on `dev` (the first of equals).

    AdamW, warm-up over `warmup_share` of the steps, then linear decay to zero. The result is a function of the
    arguments (and of backend and library versions). Progress goes to stderr. One device is used.

    Args:
      task: "classification" (best: highest accuracy) or "regression" (best: highest pearson).
      train, dev: .tsv, .csv or .jsonl with a `label` column and one or two columns of text (two make pairs).
      init: a run, what `from-hf` wrote, or a Hugging Face directory; its pooler is used where it has one.
      workdir: must not exist; gets the model, and metrics.json with what this function returns. Whole or not at all.
      epochs, batch_size, learning_rate, seed: of the training; the rate is its peak.
      max_seq_len: tokens of a row, specials included; what is longer is cut. Unless given, 128 or what the model has
        positions for.

    Returns:
      {"task", "dev": metrics of the kept epoch, "best_epoch": from 1, "epochs": [metrics and train loss of each]}.

    Raises:
      InputError: a wrong argument, file or model, or a loss that is no longer finite.
    """
    workdir = Path(workdir)
    _check_settings(task, workdir, epochs, batch_size, learning_rate, max_seq_len)
    train_table, dev_table = read_table(train), read_table(dev)
    columns = train_table.text_columns()
    dev_table.texts(columns)
    labels, train_truth, dev_truth = _truths(task, train_table, dev_table)

    saved = open_model(init)
    positions = saved.config.max_position_embeddings
    max_seq_len = max_seq_len or min(_USUAL_LENGTH, positions)
    if max_seq_len > positions:
        raise InputError(f"--max-seq-len {max_seq_len} exceeds the {positions} positions of {init}; lower it")
    if len(columns) > 1 and has_token_types(saved.config) and saved.config.type_vocab_size < 2:
        raise InputError(f"{init} has no token type for a second text; keep one text column in {train}")
    tokenizer = load_tokenizer(saved.tokenizer_dir)
    types = has_token_types(saved.config)
    train_rows = encode(tokenizer, train_table.texts(columns), max_seq_len, types)
    dev_rows = encode(tokenizer, dev_table.texts(columns), max_seq_len, types)
    config = _compute_config(saved.config)
    params = _first_params(saved, max(1, len(labels)), seed, init)

    steps = epochs * math.ceil(len(train_rows.ids) / batch_size)
    optimizer = make_optimizer(
        Config(
            train=TrainConfig(num_steps=steps),
            optimizer=OptimizerConfig(
                learning_rate=learning_rate, warmup_steps=round(warmup_share * steps), weight_decay=weight_decay
            ),
        )
    )
    step_fn = _make_step(task, config, optimizer, seed)
    opt_state = optimizer.init(params)
    best, best_params, history = 0, params, []
    for epoch in range(epochs):
        params, opt_state, loss = _train_epoch(
            step_fn, params, opt_state, train_rows, train_truth, batch_size, max_seq_len, seed, epoch
        )
        if not math.isfinite(loss):
            raise InputError(f"the loss is {loss} in epoch {epoch + 1}; lower --learning-rate ({learning_rate})")
        metrics = _measure(task, all_logits(config, params, dev_rows, batch_size, max_seq_len), dev_truth, len(labels))
        history.append({"train_loss": loss} | metrics)
        decides = _DECIDES[task]
        if epoch == 0 or metrics[decides] > history[best][decides]:
            best, best_params = epoch, jax.tree.map(np.array, params)  # a copy: the step donates
        print(
            f"epoch {epoch + 1}/{epochs}: train loss {loss:.4f}, dev {decides} {metrics[decides]:.4f}", file=sys.stderr
        )

    kept = {name: value for name, value in history[best].items() if name != "train_loss"}
    result = {"task": task, "dev": kept, "best_epoch": best + 1, "epochs": history}
    card = {"task": task, "labels": labels, "max_seq_len": max_seq_len, "text_columns": columns}
    model = SavedModel(saved.config, task, best_params, saved.tokenizer_dir, steps // epochs * (best + 1), card)
    _write(workdir, model, tokenizer, result)
    return result


def _write(workdir: Path, model: SavedModel, tokenizer: Tokenizer, result: dict[str, Any]) -> None:
    """The model's directory with metrics.json in it, whole or not at all."""
    with checkpoint.whole_directory(workdir) as partial, tempfile.TemporaryDirectory() as tokenizer_dir:
        # A Hugging Face directory has its tokenizer beside the weights: only its own files are to be copied.
        tokenizer.save(tokenizer_dir)
        checkpoint.write_model(partial, dataclasses.replace(model, tokenizer_dir=Path(tokenizer_dir)))
        checkpoint.write_json(partial / "metrics.json", result)


def _check_settings(
    task: str, workdir: Path, epochs: int, batch_size: int, learning_rate: float, max_seq_len: int | None
) -> None:
    if task not in TASKS:
        raise InputError(f"--task {task} is not known; known are {', '.join(TASKS)}")
    if workdir.exists():
        raise InputError(f"{workdir} exists already; remove it or name another --workdir")
    if epochs < 1 or batch_size < 1:
        raise InputError(f"--epochs {epochs} and --batch-size {batch_size} must be at least 1")
    if not 0.0 < learning_rate < math.inf:
        raise InputError(f"--learning-rate {learning_rate} must be positive")
    if max_seq_len is not None and max_seq_len < _SHORTEST:
        raise InputError(f"--max-seq-len {max_seq_len} is too short; it must be at least {_SHORTEST}")


def _truths(task: str, train: Table, dev: Table) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the labels (none for regression), and the labels of both files: int32 numbers, or float32 values."""
    if task == "regression":
        return [], np.array(train.numbers(), np.float32), np.array(dev.numbers(), np.float32)
    train_labels, dev_labels = train.labels(), dev.labels()
    labels = _in_order(set(train_labels))
    if len(labels) < 2:
        raise InputError(f"{train.path} has one label only, {labels[0]!r}; classification needs two or more")
    numbers = {label: i for i, label in enumerate(labels)}
    for i, label in enumerate(dev_labels):
        if label not in numbers:
            raise InputError(
                f"{dev.where(i)}: label {label!r} does not occur in {train.path}, which has {_named(labels)}"
            )

    def as_numbers(part: list[str]) -> np.ndarray:
        return np.array([numbers[label] for label in part], np.int32)

    return labels, as_numbers(train_labels), as_numbers(dev_labels)


def _in_order(labels: set[str]) -> list[str]:
    """Sorted, as numbers where all are."""
    try:
        return sorted(labels, key=lambda label: (int(label), label))
    except ValueError:
        return sorted(labels)


def _named(labels: list[str]) -> str:
    return ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")


def _compute_config(config: ModelConfig) -> ModelConfig:
    """CPUs have no fast bfloat16."""
    return dataclasses.replace(config, dtype="float32") if jax.default_backend() == "cpu" else config


def _first_params(saved: SavedModel, num_labels: int, seed: int, init: str | Path) -> Params:
    parts: Params = {name: saved.params[name] for name in ("embeddings", "layers", "pooler") if name in saved.params}
    if "classifier" in saved.params:
        print(f"{init}: its task head is left out, a new one starts fresh", file=sys.stderr)
    if "pooler" not in parts:
        print(f"{init} has no pooler: started fresh", file=sys.stderr)
        parts |= fresh_parts(saved.config, "nsp", ["pooler"], seed)
    parts["classifier"] = init_classifier(saved.config, num_labels, seed)
    return jax.tree.map(jnp.array, parts)


def _make_step(task: str, config: ModelConfig, optimizer: optax.GradientTransformation, seed: int) -> Callable:
    """(params, opt_state, step, batch) to (params, opt_state, sum of losses); params and opt_state are donated.

    The batch also has truth, weights (0 for padding rows) and rows, all [B].
    """

    def loss_fn(params: Params, step, batch: dict[str, jax.Array]):
        logits = classifier_logits(config, params, batch, Dropout(seed, step, batch["rows"]))
        if task == "regression":
            losses = jnp.square(logits[:, 0] - batch["truth"])
        else:
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["truth"])
        total = jnp.sum(losses * batch["weights"])
        return total / jnp.sum(batch["weights"]), total

    def step_fn(params: Params, opt_state, step, batch: dict[str, jax.Array]):
        grads, total = jax.grad(loss_fn, has_aux=True)(params, step, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, total

    return jax.jit(step_fn, donate_argnums=(0, 1))


def _train_epoch(
    step_fn: Callable,
    params: Params,
    opt_state: Any,
    encoded: Encoded,
    truth: np.ndarray,
    batch_size: int,
    max_seq_len: int,
    seed: int,
    epoch: int,
) -> tuple[Params, Any, float]:
    lengths = encoded.lengths()
    buckets = bucket_lengths(lengths, max_seq_len)
    totals = []
    step = epoch * math.ceil(len(lengths) / batch_size)
    for rows in epoch_batches(lengths, batch_size, seed, epoch):
        arrays = batch(encoded, rows, batch_size, buckets)
        padded = np.concatenate([rows, np.zeros(batch_size - len(rows), np.int64)])
        arrays["truth"] = truth[padded]
        arrays["weights"] = (np.arange(batch_size) < len(rows)).astype(np.float32)
        arrays["rows"] = padded.astype(np.int32)
        params, opt_state, total = step_fn(params, opt_state, np.int32(step), arrays)
        totals.append(total)
        step += 1
    return params, opt_state, float(np.sum([np.float64(total) for total in totals]) / len(lengths))


def _measure(task: str, logits: np.ndarray, truth: np.ndarray, num_labels: int) -> dict[str, float]:
    if task == "regression":
        return regression_metrics(truth, logits[:, 0])
    return classification_metrics(truth, logits.argmax(-1).astype(np.int32), num_labels)
