"""Held-out loss: the whole validation split exactly once, with the same pairs and masks at every visit."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax import checkpoint, cluster
from bert_jax.config import Config, MeshConfig, corpus_weights
from bert_jax.data.plan import RowSettings
from bert_jax.data.read import validation_batches
from bert_jax.masking import MaskSettings, make_mask_fn
from bert_jax.own_tokenizer import own_tokenizer
from bert_jax.sharding import batch_sharding, make_mesh, state_shardings
from bert_jax.train_step import make_eval_step
from data_prep.corpus import Corpus
from data_prep.errors import InputError
from data_prep.tokenizer import Tokenizer

Evaluate = Callable[..., dict[str, float]]


def batch_rows(config: Config, phase: int) -> int:
    """Rows of an evaluation batch: as many as a training step puts through the model at once."""
    return config.phases()[phase].global_batch_size // config.train.accumulation


def make_evaluate(config: Config, phase: int, mesh: Mesh, corpora: list[Corpus], tokenizer: Tokenizer) -> Evaluate:
    """`evaluate(params)` over the validation splits, or splits of several corpora one after another.

    Returns:
      A function of placed params (and of something to call before each batch) that returns mlm_loss, mlm_accuracy,
      nsp_loss and nsp_accuracy (the last two where the objective has them) as means over all predictions, and tokens
      and examples, counted.
    """
    seq_len = config.phases()[phase].seq_len
    mask_fn = make_mask_fn(MaskSettings.of(config.data, seq_len, tokenizer))
    eval_step = make_eval_step(config, mesh, mask_fn)

    def evaluate(params: Any, going_on: Callable[[], None] = lambda: None) -> dict[str, float]:
        sums: dict[str, float] = {}
        for batch in _batches(config, phase, mesh, corpora, tokenizer):
            going_on()
            for name, value in jax.device_get(eval_step(params, batch)).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return _means(sums)

    return evaluate


def _batches(
    config: Config, phase: int, mesh: Mesh, corpora: list[Corpus], tokenizer: Tokenizer
) -> Iterator[dict[str, jax.Array]]:
    settings = RowSettings.of(config.data, config.phases()[phase].seq_len)
    sharding, size = batch_sharding(mesh), batch_rows(config, phase)
    rows_of = functools.partial(cluster.local_rows, sharding)
    for corpus in corpora:
        split = corpus.split("validation")
        if split.num_kept == 0:
            continue  # a corpus built without one, or a tiny one
        for arrays in validation_batches(split, settings, config.seed, tokenizer, size, rows_of):
            yield cluster.to_devices(arrays, size, sharding)


def _means(sums: dict[str, float]) -> dict[str, float]:
    means = {}
    for task in ("mlm", "nsp"):
        if f"{task}_count" in sums:
            count = max(sums[f"{task}_count"], 1.0)
            means[f"{task}_loss"] = sums[f"{task}_sum"] / count
            means[f"{task}_accuracy"] = sums[f"{task}_correct"] / count
    return means | {name: int(sums.get(name, 0)) for name in ("tokens", "examples")}


def open_corpora(config: Config) -> list[Corpus]:
    """Opens the corpora of a config.

    Raises:
      InputError: no corpus there, or corpora of different tokenizers.
    """
    corpora = [Corpus.open(path) for path, _ in corpus_weights(config.data.corpus)]
    for corpus in corpora[1:]:
        if corpus.tokenizer_fingerprint != corpora[0].tokenizer_fingerprint:
            raise InputError(
                f"{corpus.path} was built with another tokenizer than {corpora[0].path}; "
                "build both with the same --tokenizer"
            )
    return corpora


def evaluate_run(run: Path, step: int | None, corpus: str | None) -> dict[str, float]:
    """Evaluates a checkpoint of a run: what `bert-jax evaluate` prints.

    Beside the means of `make_evaluate` it gives `unigram_mlm_loss`, the loss on the very same predictions of a model
    that knows how often each token occurs in the training split (add-one smoothed) and nothing else: what a model must
    beat to have learned anything.

    Of a mixture, those corpora are evaluated that have a validation split; a line on stderr names the others.

    Raises:
      InputError: no model or corpus there, another tokenizer than the model's, or no validation split at all.
    """
    model = checkpoint.load_model(run, step)
    config = dataclasses.replace(checkpoint.read_config(run), model=model.config)
    if corpus is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, corpus=corpus))
    corpora = open_corpora(config)
    tokenizer = own_tokenizer(model)
    for opened in corpora:
        if opened.tokenizer_fingerprint != tokenizer.fingerprint:
            raise InputError(f"{opened.path} was built with another tokenizer than {run} was trained with; rebuild it")
    paths = [path for path, _ in corpus_weights(config.data.corpus)]
    without = [path for path, opened in zip(paths, corpora, strict=True) if not opened.split("validation").num_kept]
    if without:
        which = f"{' and '.join(without)} {'has' if len(without) == 1 else 'have'} no validation split"
        if len(without) == len(corpora):
            raise InputError(f"{which}; build with a larger --validation-share")
        print(f"evaluate: {which}; what is held out of the other corpora is evaluated", file=sys.stderr)
    phase = len(config.phases()) - 1
    # The mesh of the machine at hand, as wide as divides the batch.
    devices = jax.devices()
    usable = max(n for n in range(1, len(devices) + 1) if batch_rows(config, phase) % n == 0)
    mesh = make_mesh(MeshConfig(), devices[:usable])
    params = jax.device_put(model.params, state_shardings(mesh, model.params))
    result = make_evaluate(config, phase, mesh, corpora, tokenizer)(params)
    return result | {"unigram_mlm_loss": _unigram_loss(config, phase, mesh, corpora, tokenizer), "step": model.step}


def _unigram_loss(config: Config, phase: int, mesh: Mesh, corpora: list[Corpus], tokenizer: Tokenizer) -> float:
    counts = np.sum([corpus.split("train").token_counts() for corpus in corpora], axis=0) + 1.0
    counts[tokenizer.special_ids] = 0.0
    logs = np.log(np.maximum(counts, 1e-300) / counts.sum())
    seq_len = config.phases()[phase].seq_len
    mask_fn = make_mask_fn(MaskSettings.of(config.data, seq_len, tokenizer))
    labels_of = jax.jit(lambda batch: mask_fn(batch, config.seed, 0)["masked_lm_labels"])
    total, count = 0.0, 0
    for batch in _batches(config, phase, mesh, corpora, tokenizer):
        labels = np.asarray(labels_of(batch))
        labels = labels[labels >= 0]
        total, count = total - logs[labels].sum(), count + len(labels)
    return float(total / max(count, 1))
