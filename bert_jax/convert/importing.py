"""A Hugging Face directory as a model of ours."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from bert_jax import checkpoint
from bert_jax.checkpoint import SavedModel, read_json
from bert_jax.convert.config_fields import OF_TRAINING
from bert_jax.convert.families import FAMILIES
from bert_jax.convert.hf_files import CONFIG_FILE, Tensors, is_hf_directory, open_tensors
from bert_jax.convert.mapping import Family
from bert_jax.convert.reading import dtypes, read_params
from bert_jax.model.bert import abstract_params
from bert_jax.model.classifier import classifier_shapes
from bert_jax.model.token_heads import HEADS, token_head_shapes
from bert_jax.own_tokenizer import own_tokenizer
from data_prep.errors import InputError

_MOST_LABELS = 10**6


def from_hf(directory: str | Path, output: str | Path) -> None:
    """Imports a Hugging Face directory (config.json, safetensors, tokenizer) and writes a model directory of ours.

    Heads that the model lacks are started fresh, tensors that belong to nothing are left out: both are said on stderr.

    Args:
      directory: of an architecture that `families` knows.
      output: must not exist yet; it appears whole or not at all.

    Raises:
      InputError: an unknown architecture, wrong or damaged files, a tokenizer that does not fit.
    """
    directory, output = Path(directory), Path(output)
    if output.exists():
        raise InputError(f"{output} exists already; remove it or name another output")
    model = read_hf(directory)
    tokenizer = own_tokenizer(model)
    with tempfile.TemporaryDirectory() as tokenizer_dir:
        tokenizer.save(tokenizer_dir)
        checkpoint.save_model(output, dataclasses.replace(model, tokenizer_dir=Path(tokenizer_dir)))


def open_model(directory: str | Path, step: int | None = None) -> SavedModel:
    """A model from any directory: a run, a fine-tuned model, what `from-hf` wrote, or a Hugging Face directory.

    Raises:
      InputError: it is none of these, or a step is asked of a Hugging Face directory.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory} does not exist; name a run or a Hugging Face model directory")
    if not is_hf_directory(directory):
        return checkpoint.load_model(directory, step)
    if step is not None:
        raise InputError(f"{directory} is a Hugging Face directory and has no steps; leave out --step")
    return read_hf(directory)


def read_hf(directory: Path) -> SavedModel:
    """The model of a Hugging Face directory, in memory; its tokenizer stays where it is.

    Raises:
      InputError: as `from_hf`.
    """
    where = directory / CONFIG_FILE
    fields = read_json(where)
    family, architecture = _architecture(fields, where)
    config = family.config_from_hf(fields, str(where))
    objective = family.architectures[architecture]
    card: dict[str, Any] = {}
    if objective == "classification":
        card = _card(fields, where)
        objective = card["task"]
        shapes = classifier_shapes(config, max(1, len(card["labels"])))
    elif objective in HEADS:
        card = {"task": objective, "labels": _labels(fields, where) if objective == "tagging" else []}
        shapes = token_head_shapes(config, HEADS[objective], len(card["labels"]) or 2)
    tensors = open_tensors(directory, family.prefix, family.heads, family.renamed)
    if not card:
        objective = _objective_of(family, objective, tensors)
        shapes = abstract_params(config, objective)
    params = read_params(family, config, objective, shapes, tensors, directory)
    kinds, carried = dtypes(family, config, params, tensors), params.pop("carried", {})
    of_training = {name: fields[name] for name in OF_TRAINING if name in fields}
    return SavedModel(config, objective, params, directory, 0, card, kinds, carried, of_training)


def _architecture(fields: dict[str, Any], where: Path) -> tuple[Family, str]:
    known = {name: family for family in FAMILIES.values() for name in family.architectures}
    if "auto_map" in fields:
        raise InputError(f"{where}: the model brings code of its own (auto_map), which is never run here")
    family = FAMILIES.get(str(fields.get("model_type")))
    architectures = fields.get("architectures") or ([family.bare] if family else [])
    if not isinstance(architectures, list) or len(architectures) != 1 or not isinstance(architectures[0], str):
        raise InputError(f"{where}: architectures is {architectures!r}; it must name one of {', '.join(known)}")
    name = architectures[0]
    if name not in known:
        raise InputError(f"{where}: architecture {name} is not known; known are {', '.join(known)}")
    if fields.get("model_type", known[name].model_type) != known[name].model_type:
        raise InputError(
            f"{where}: model_type {fields['model_type']!r} does not belong to {name}; copy the model again"
        )
    return known[name], name


def _card(fields: dict[str, Any], where: Path) -> dict[str, Any]:
    """Task and labels of a sequence classifier, and what it says of its outputs."""
    labels, problem = _labels(fields, where), fields.get("problem_type")
    if problem == "multi_label_classification":
        raise InputError(f"{where}: problem_type {problem} is not supported; each row must have one label")
    if problem not in (None, "regression", "single_label_classification"):
        raise InputError(f"{where}: problem_type is {problem!r}; it must be regression or single_label_classification")
    if len(labels) > 1 and problem == "regression":
        raise InputError(f"{where}: a regression of {len(labels)} numbers is not supported; there must be one")
    if len(labels) > 1:
        return {"task": "classification", "labels": labels, "problem_type": problem}
    return {"task": "regression", "labels": [], "output": labels[0], "problem_type": problem}


def _labels(fields: dict[str, Any], where: Path) -> list[str]:
    """Names of the labels, in the order of their numbers; at least one."""
    names, count = fields.get("id2label"), fields.get("num_labels", 2)
    if names is None:
        if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= _MOST_LABELS:
            raise InputError(f"{where}: num_labels is {count!r}; it must be a number of labels")
        return [f"LABEL_{i}" for i in range(count)]
    given = isinstance(names, dict) and [names.get(str(i)) for i in range(len(names))]
    if not given or not all(isinstance(name, str | int | float) for name in given):
        raise InputError(f"{where}: id2label is {names!r}; it must map 0, 1, ... to names")
    return [str(name) for name in given]


def _objective_of(family: Family, objective: str, tensors: Tensors) -> str:
    """Models that call themselves masked only often carry the other head too: then nothing of it is dropped."""
    if "nsp" not in family.architectures.values():
        return objective
    there = set(tensors.names())
    others = {row.theirs for row in family.table if row.ours.split("/")[0] in ("pooler", "nsp")}
    return "nsp" if others <= there else objective
