"""Fine-tuning: a task head, trained with the encoder (Devlin et al., 2018, section 4.1)."""

import dataclasses
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bert_jax import checkpoint
from bert_jax.checkpoint import SavedModel
from bert_jax.config import Config, ModelConfig, OptimizerConfig, TrainConfig
from bert_jax.convert.importing import open_model
from bert_jax.convert.reading import fresh_parts
from bert_jax.finetune.classification import classification, regression
from bert_jax.finetune.encode import batch, bucket_lengths, epoch_batches
from bert_jax.finetune.infer import all_logits
from bert_jax.finetune.question_answering import question_answering
from bert_jax.finetune.tagging import tagging
from bert_jax.finetune.task import Loss, Task
from bert_jax.model.bert import Dropout, Params
from bert_jax.model.classifier import init_head
from bert_jax.model.token_heads import HEADS
from bert_jax.optimizer import make_optimizer
from bert_jax.own_tokenizer import own_tokenizer
from data_prep.errors import InputError
from data_prep.tokenizer import Tokenizer

TASKS: dict[str, Callable[..., Task]] = {
    "classification": classification,
    "regression": regression,
    "tagging": tagging,
    "qa": question_answering,
}
_OPTIONS = {"tagging": ("tokens_field", "tags_field"), "qa": ("null_threshold",)}  # beside those of all tasks
_HEADS = ("classifier", *HEADS.values())
_USUAL_LENGTHS, _SHORTEST = {"qa": 384}, 8
_USUAL_LENGTH = 128  # of the other tasks
_TELL_EVERY = 60.0  # seconds


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
    **options: Any,
) -> dict[str, Any]:
    """Trains a head and the encoder under it, and keeps the epoch that is best on `dev` (the first of equals).

    AdamW, warm-up over `warmup_share` of the steps, then linear decay to zero. The result is a function of the
    arguments (and of backend and library versions). Progress goes to stderr. One device is used.

    Args:
      task: "classification" (best: highest accuracy), "regression" (highest pearson), "tagging" (highest f1 of
        entities, or accuracy where labels mark none) or "qa" (highest f1).
      train, dev: .tsv, .csv or .jsonl with a `label` column and one or two columns of text (two make pairs); of tagging
        see `read_tagged`, of qa `read_questions`.
      init: a run, what `from-hf` wrote, or a Hugging Face directory; its pooler is used where it has one.
      workdir: must not exist; gets the model, and metrics.json with what this function returns. Whole or not at all.
      epochs, batch_size, learning_rate, seed: of the training; the rate is its peak.
      max_seq_len: tokens of a row, specials included; what is longer is cut, or takes several rows. Unless given,
        128 (of qa 384) or what the model has positions for.
      options: of tagging, `tokens_field` and `tags_field`: the lists in .jsonl; of qa, `null_threshold`: by how much no
        answer must beat the best one.

    Returns:
      {"task", "dev": metrics of the kept epoch, "best_epoch": from 1, "epochs": [metrics and train loss of each]}.

    Raises:
      InputError: a wrong argument, file or model, or a loss that is no longer finite.
    """
    workdir = Path(workdir)
    _check_settings(task, workdir, epochs, batch_size, learning_rate, max_seq_len, options)
    saved = open_model(init)
    positions = saved.config.max_position_embeddings
    max_seq_len = max_seq_len or min(_USUAL_LENGTHS.get(task, _USUAL_LENGTH), positions)
    if max_seq_len > positions:
        raise InputError(f"--max-seq-len {max_seq_len} exceeds the {positions} positions of {init}; lower it")
    tokenizer = own_tokenizer(saved)
    ready = TASKS[task](Path(train), Path(dev), saved, tokenizer, max_seq_len, **options)
    _tell_other_dropout(saved, init)
    config = _compute_config(saved.config)
    params = _first_params(saved, ready, seed, init)

    steps = epochs * math.ceil(len(ready.train.encoded.ids) / batch_size)
    optimizer = make_optimizer(
        Config(
            train=TrainConfig(num_steps=steps),
            optimizer=OptimizerConfig(
                learning_rate=learning_rate, warmup_steps=round(warmup_share * steps), weight_decay=weight_decay
            ),
        )
    )
    step_fn = _make_step(ready.logits, ready.loss, config, optimizer, seed)
    opt_state = optimizer.init(params)
    best, best_params, history = 0, params, []
    for epoch in range(epochs):
        params, opt_state, loss = _train_epoch(step_fn, params, opt_state, ready, batch_size, max_seq_len, seed, epoch)
        if not math.isfinite(loss):
            raise InputError(f"the loss is {loss} in epoch {epoch + 1}; lower --learning-rate ({learning_rate})")
        metrics = ready.measure(all_logits(ready.logits, config, params, ready.dev, batch_size, max_seq_len))
        history.append({"train_loss": loss} | metrics)
        decides = ready.decides
        if epoch == 0 or metrics[decides] > history[best][decides]:
            best, best_params = epoch, jax.tree.map(np.array, params)  # a copy: the step donates
        print(
            f"epoch {epoch + 1}/{epochs}: train loss {loss:.4f}, dev {decides} {metrics[decides]:.4f}", file=sys.stderr
        )

    kept = {name: value for name, value in history[best].items() if name != "train_loss"}
    result = {"task": task, "dev": kept, "best_epoch": best + 1, "epochs": history}
    card = {"task": task, "labels": ready.labels, "max_seq_len": max_seq_len} | ready.card
    model = SavedModel(saved.config, task, best_params, saved.tokenizer_dir, steps // epochs * (best + 1), card)
    model = dataclasses.replace(model, hf_fields=saved.hf_fields)
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
    task: str,
    workdir: Path,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    max_seq_len: int | None,
    options: dict[str, Any],
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
    for name in options:
        if name not in _OPTIONS.get(task, ()):
            raise InputError(f"--{name.replace('_', '-')} is no option of --task {task}; leave it out")


def _compute_config(config: ModelConfig) -> ModelConfig:
    """CPUs have no fast bfloat16."""
    return dataclasses.replace(config, dtype="float32") if jax.default_backend() == "cpu" else config


def _tell_other_dropout(saved: SavedModel, init: str | Path) -> None:
    """Heads here have one rate; an imported model may have been trained with another."""
    rate = saved.config.hidden_dropout_rate
    for name in ("classifier_dropout", "seq_classif_dropout", "qa_dropout"):
        said = saved.hf_fields.get(name)
        if said not in (None, rate):
            print(f"{init}: {name} {said} is not used here: heads drop {rate}, as hidden states do", file=sys.stderr)


def _first_params(saved: SavedModel, task: Task, seed: int, init: str | Path) -> Params:
    parts: Params = {name: saved.params[name] for name in ("embeddings", "layers")}
    if task.head == "classifier":
        if "pooler" in saved.params:
            parts["pooler"] = saved.params["pooler"]
        else:
            print(f"{init} has no pooler: started fresh", file=sys.stderr)
            parts |= fresh_parts(saved.config, "nsp", ["pooler"], seed)
    parts[task.head] = init_head(saved.config, task.outputs, seed)
    if saved.objective == task.name and saved.card["labels"] == task.labels:
        print(f"{init}: its {task.name} head goes on", file=sys.stderr)
        parts[task.head] = saved.params[task.head]
    elif any(head in saved.params for head in _HEADS):
        kind = "of other labels" if saved.objective == task.name else f"for {saved.objective}"
        print(f"{init}: its head, {kind}, is left out, a new one starts fresh", file=sys.stderr)
    return jax.tree.map(jnp.array, parts)


def _make_step(
    logits_fn: Callable, loss_of: Loss, config: ModelConfig, optimizer: optax.GradientTransformation, seed: int
) -> Callable:
    """(params, opt_state, step, batch) to (params, opt_state, sum of losses, their count); params and opt_state are
    donated.

    The batch also has truth, weights (0 for padding rows) and rows, all [B, ...].
    """

    def loss_fn(params: Params, step, batch: dict[str, jax.Array]):
        logits = logits_fn(config, params, batch, Dropout(seed, step, batch["rows"]))
        total, count = loss_of(logits, batch)
        return total / jnp.maximum(count, 1), (total, count)

    def step_fn(params: Params, opt_state, step, batch: dict[str, jax.Array]):
        grads, sums = jax.grad(loss_fn, has_aux=True)(params, step, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, sums

    return jax.jit(step_fn, donate_argnums=(0, 1))


def _train_epoch(
    step_fn: Callable,
    params: Params,
    opt_state: Any,
    task: Task,
    batch_size: int,
    max_seq_len: int,
    seed: int,
    epoch: int,
) -> tuple[Params, Any, float]:
    """Parameters, optimizer state and mean loss after every training row was seen once more."""
    lengths = task.train.encoded.lengths()
    buckets = bucket_lengths(lengths, max_seq_len)
    parts = []
    in_epoch = math.ceil(len(lengths) / batch_size)
    step, told = epoch * in_epoch, time.monotonic()
    for rows in epoch_batches(lengths, batch_size, seed, epoch):
        arrays = batch(task.train.encoded, rows, batch_size, buckets)
        arrays["truth"] = task.train.truths(rows, batch_size, arrays["input_ids"].shape[1])
        arrays["weights"] = (np.arange(batch_size) < len(rows)).astype(np.float32)
        arrays["rows"] = np.concatenate([rows, np.zeros(batch_size - len(rows), np.int64)]).astype(np.int32)
        params, opt_state, sums = step_fn(params, opt_state, np.int32(step), arrays)
        parts.append(sums)
        step += 1
        if len(parts) > 1 and time.monotonic() - told > _TELL_EVERY:
            told = time.monotonic()
            total, count = parts[-2]  # the newest one is still being computed
            print(
                f"epoch {epoch + 1}: {len(parts)} of {in_epoch} batches, loss {total / count:.4f}",
                file=sys.stderr,
            )
    total, count = np.array(jax.device_get(parts), np.float64).sum(0)
    return params, opt_state, float(total / count)
