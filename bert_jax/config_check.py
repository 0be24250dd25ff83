"""What a config must fulfil on any device: a wrong field ends in one line that says what, where and what to do."""

import math
from typing import Any

from bert_jax.config import (
    ATTENTIONS,
    DTYPES,
    FAMILIES,
    LAYERS,
    MASKINGS,
    MLM_DOCUMENTS,
    OBJECTIVES,
    OFFSET_FAMILIES,
    OPTIMIZERS,
    REMATS,
    SCHEDULES,
    Config,
    ModelConfig,
    from_dict,
    nearest,
)
from data_prep.errors import InputError


def parse(config_dict: Any) -> Config:
    """A ConfigDict (or plain dict) as a checked `Config`.

    Raises:
      InputError: the first field that is wrong, with its value and what to do.
    """
    config = from_dict(Config, config_dict)
    check(config)
    return config


def check(config: Config) -> None:
    """Raises InputError for the first value that cannot work, whatever the devices."""
    model, data, train, optimizer = config.model, config.data, config.train, config.optimizer
    _one_of("config.model.family", model.family, FAMILIES)
    _one_of("config.model.dtype", model.dtype, DTYPES)
    _one_of("config.model.attention", model.attention, ATTENTIONS)
    _one_of("config.model.layers", model.layers, LAYERS)
    _one_of("config.model.remat", model.remat, REMATS)
    _one_of("config.data.objective", data.objective, OBJECTIVES)
    _one_of("config.data.masking", data.masking, MASKINGS)
    _one_of("config.data.mlm_documents", data.mlm_documents, MLM_DOCUMENTS)
    _one_of("config.optimizer.name", optimizer.name, OPTIMIZERS)
    _one_of("config.optimizer.schedule", optimizer.schedule, SCHEDULES)
    for name in ("vocabulary", "positions"):
        if getattr(config.extend, name) and not config.init:
            raise InputError(f"config.extend.{name} is for a model to start from; give config.init, or leave it False")
    for name in ("hidden_size", "num_layers", "num_heads", "intermediate_size"):
        _at_least(f"config.model.{name}", getattr(model, name), 1)
    _check_family(model, data.objective)
    if model.hidden_size % model.num_heads:
        raise InputError(
            f"config.model.hidden_size={model.hidden_size} is not divisible by num_heads={model.num_heads}; "
            f"choose heads that divide it, say {math.gcd(model.hidden_size, 2 * model.num_heads)}"
        )
    if data.objective != "mlm" and model.type_vocab_size < 2:
        raise InputError(f"config.model.type_vocab_size=1 has no id for a second part; {data.objective} needs 2")
    if refusal := kernel_refusal(model.attention, model):
        raise InputError(f"config.model.attention={model.attention!r}: {refusal}; change that, or take 'auto'")
    for name, rate in (
        ("model.hidden_dropout_rate", model.hidden_dropout_rate),
        ("model.attention_dropout_rate", model.attention_dropout_rate),
        ("data.short_seq_prob", data.short_seq_prob),
        ("data.mask_prob", data.mask_prob),
    ):
        if not 0.0 <= rate < 1.0:
            raise InputError(f"config.{name}={rate} is no probability below 1; give one from 0 to 1")
    if data.mask_prob == 0.0:
        raise InputError("config.data.mask_prob=0 leaves nothing to predict; the paper's value is 0.15")
    if data.mlm_documents == "across" and data.objective != "mlm":
        raise InputError(
            f"config.data.mlm_documents='across' is for objective mlm, and config.data.objective={data.objective!r}; "
            "change one of them"
        )
    if not 0.0 < optimizer.decay_share <= 1.0:
        raise InputError(f"config.optimizer.decay_share={optimizer.decay_share} is no share; give one above 0, up to 1")
    _at_least("config.optimizer.warmup_steps", optimizer.warmup_steps, 0)
    _at_least("config.data.max_predictions", data.max_predictions, 0)
    _at_least("config.data.block_tokens", data.block_tokens, 1024)
    _at_least("config.train.accumulation", train.accumulation, 1)
    _at_least("config.train.log_every", train.log_every, 1)
    _at_least("config.train.eval_every", train.eval_every, 0)
    _at_least("config.train.checkpoint_every", train.checkpoint_every, 1)
    _at_least("config.train.max_skipped", train.max_skipped, 1)
    _at_least("config.checkpoint.keep", config.checkpoint.keep, 1)
    _at_least("config.checkpoint.keep_every", config.checkpoint.keep_every, 0)
    _at_least("config.watchdog.peer_seconds", config.watchdog.peer_seconds, 1)
    _at_least("config.mesh.dcn", config.mesh.dcn, 1)
    for name, seconds in (
        ("warn_seconds", config.watchdog.warn_seconds),
        ("stop_seconds", config.watchdog.stop_seconds),
    ):
        if not 0 <= seconds < math.inf or (name == "warn_seconds" and seconds == 0):
            raise InputError(f"config.watchdog.{name}={seconds} is no time to wait; give seconds")
    if not 0 <= config.seed < 2**32:
        raise InputError(f"config.seed={config.seed} does not fit; give a number from 0 to 2**32 - 1")
    for i, phase in enumerate(config.phases()):
        where = f"config.train.phases[{i}]" if train.phases else "config.train"
        _at_least(f"{where}.num_steps", phase.num_steps, 1)
        _at_least(f"{where}.global_batch_size", phase.global_batch_size, 1)
        if phase.warmup_steps and not phase.learning_rate > 0:
            raise InputError(
                f"{where}.warmup_steps={phase.warmup_steps} warms up to no learning_rate; give the phase one, or leave "
                "both out to follow the run's schedule"
            )
        name = f"{where}.seq_len" if train.phases else "config.data.seq_len"
        _at_least(name, phase.seq_len, 8)
        if phase.seq_len > model.max_position_embeddings:
            raise InputError(
                f"{name}={phase.seq_len} exceeds config.model.max_position_embeddings={model.max_position_embeddings}; "
                "raise that or shorten the rows"
            )
        if phase.global_batch_size % train.accumulation:
            raise InputError(
                f"{where}.global_batch_size={phase.global_batch_size} is not divisible by "
                f"accumulation={train.accumulation}; use a multiple of it"
            )


def kernel_refusal(attention: str, model: ModelConfig) -> str | None:
    """Why a kind of attention cannot compute this model on any device; None where it can on some."""
    if attention in ("pallas", "cudnn") and model.dtype != "bfloat16":
        return f"kernels take bfloat16, and config.model.dtype is {model.dtype}"
    if attention == "cudnn" and model.attention_dropout_rate > 0:
        return "cuDNN drops no probabilities, and config.model.attention_dropout_rate is above 0"
    if attention == "cudnn" and (model.head_size % 8 or model.head_size > 128):
        return f"cuDNN takes heads of a multiple of 8 up to 128 features, not {model.head_size}"
    return None


def _check_family(model: ModelConfig, objective: str) -> None:
    """What a family has no tensor for, transformers could not load."""
    family = model.family
    for name in ("embedding_size", "position_offset", "type_vocab_size"):
        _at_least(f"config.model.{name}", getattr(model, name), 0)
    if family != "bert" and objective != "mlm":
        raise InputError(f"config.data.objective={objective!r} has no head in family {family!r}; set it to 'mlm'")
    if family != "electra" and model.embedding_size not in (0, model.hidden_size):
        raise InputError(
            f"config.model.embedding_size={model.embedding_size} is for family 'electra'; leave it 0 in {family!r}"
        )
    if family not in OFFSET_FAMILIES and model.position_offset:
        raise InputError(
            f"config.model.position_offset={model.position_offset} is for roberta's families; leave it 0 in {family!r}"
        )
    if (family == "distilbert") != (model.type_vocab_size == 0):
        wanted = (
            "has no token types; set it to 0" if family == "distilbert" else "has a table of them; set it to 1 or 2"
        )
        raise InputError(f"config.model.type_vocab_size={model.type_vocab_size}, but family {family!r} {wanted}")


def _one_of(where: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{where}={value!r} is not known; {nearest(str(value), known)}")


def _at_least(where: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{where}={value} is too small; it must be at least {least}")
