"""A Hugging Face directory as a model of ours."""

import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import checkpoint
from bert_jax.checkpoint import SavedModel, read_json
from bert_jax.config import ModelConfig
from bert_jax.convert.families import FAMILIES
from bert_jax.convert.hf_files import CONFIG_FILE, Tensors, is_hf_directory, open_tensors
from bert_jax.convert.mapping import Family, Params, Row, nest
from bert_jax.model.bert import abstract_params, init_params
from bert_jax.model.classifier import classifier_shapes
from bert_jax.model.token_heads import HEADS, token_head_shapes
from bert_jax.own_tokenizer import own_tokenizer
from data_prep.errors import InputError

_HEADS = ("pooler", "mlm", "nsp", "discriminator")  # may be absent as a whole, and are then started fresh


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
    params = _read_params(family, config, objective, shapes, tensors, directory)
    return SavedModel(config, objective, params, directory, 0, card, _dtypes(family, config, params, tensors))


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
    """Task and labels of a sequence classifier."""
    labels, problem = _labels(fields, where), fields.get("problem_type")
    if problem == "multi_label_classification":
        raise InputError(f"{where}: problem_type {problem} is not supported; each row must have one label")
    if len(labels) == 1 or problem == "regression":
        if len(labels) > 1:
            raise InputError(f"{where}: a regression of {len(labels)} numbers is not supported; there must be one")
        return {"task": "regression", "labels": []}
    return {"task": "classification", "labels": labels}


def _labels(fields: dict[str, Any], where: Path) -> list[str]:
    """Names of the labels, in the order of their numbers."""
    names = fields.get("id2label")
    if names is None:
        names = {str(i): f"LABEL_{i}" for i in range(fields.get("num_labels", 2))}
    try:
        return [names[str(i)] for i in range(len(names))]
    except (KeyError, TypeError):
        raise InputError(f"{where}: id2label is {names!r}; it must map 0, 1, ... to names") from None


def _objective_of(family: Family, objective: str, tensors: Tensors) -> str:
    """Models that call themselves masked only often carry the other head too: then nothing of it is dropped."""
    if "nsp" not in family.architectures.values():
        return objective
    there = set(tensors.names())
    others = {row.theirs for row in family.table if row.ours.split("/")[0] in ("pooler", "nsp")}
    return "nsp" if others <= there else objective


def _read_params(
    family: Family, config: ModelConfig, objective: str, shapes: Params, tensors: Tensors, directory: Path
) -> Params:
    rows = list(family.rows(shapes))
    there, expected = set(tensors.names()), {name for row, _ in rows for name in row.names(config.num_layers)}
    # Of an untied model a copy may differ, and then it is the copy that is in use.
    untied = {} if config.tie_word_embeddings else family.copies(expected)
    source = {original: copy for copy, original in untied.items() if copy in there}
    missing = expected - there - source.keys()
    fresh = [head for head in _HEADS if head in shapes and _names(rows, head, config) <= missing]
    for head in fresh:
        missing -= _names(rows, head, config)
    if missing:
        raise InputError(f"{directory} lacks {_listed(missing)}; the model is incomplete")
    _account_for(family, there - expected, source, tensors, directory)
    for head in fresh:
        print(f"{directory} has no {head} head ({_listed(_names(rows, head, config))}): started fresh", file=sys.stderr)

    pairs = []
    for row, leaf in rows:
        if row.ours.split("/")[0] in fresh:
            continue
        array = np.zeros(leaf.shape, np.float32)
        for part, name in zip(array if row.stacked else [array], row.names(config.num_layers), strict=True):
            name, shape = source.get(name, name), row.shape(part.shape, config.vocab_size)
            if tensors.shape(name) != shape:
                raise InputError(
                    f"{directory}: tensor {name} has shape {tensors.shape(name)}; {CONFIG_FILE} asks for {shape}"
                )
            row.fill_ours(part, tensors.read(name))
        pairs.append((row.ours, array))
    heads, usual = fresh_parts(config, objective, fresh), jnp.dtype(_usual_dtype(tensors))
    heads = jax.tree.map(lambda leaf: leaf.astype(usual).astype(np.float32), heads)  # so that it is written exactly
    return _in_order(nest(pairs) | heads, shapes)


def fresh_parts(config: ModelConfig, objective: str, parts: Sequence[str], seed: int = 0) -> Params:
    """Some parts of the tree of `init_params`, on the host; the other parts are never computed."""
    if not parts:
        return {}

    def draw() -> Params:
        params = init_params(config, objective, seed)
        return {part: params[part] for part in parts}

    return jax.tree.map(np.asarray, jax.jit(draw)())


def _usual_dtype(tensors: Tensors) -> str:
    kinds = [tensors.dtype(name) for name in tensors.names()]
    return max(("float32", "float16", "bfloat16"), key=kinds.count)


def _dtypes(family: Family, config: ModelConfig, params: Params, tensors: Tensors) -> dict[str, str]:
    """Kinds of the tensors that an export will write, those of float32 left out; a fresh head is of the usual kind."""
    there, usual = set(tensors.names()), _usual_dtype(tensors)
    names = [name for row, _ in family.rows(params) for name in row.names(config.num_layers)]
    # Of an untied model some are written twice, and may have been there once.
    twice = family.copies(names)
    others = twice | {original: copy for copy, original in twice.items()}
    found = {}
    for name in (*names, *twice):
        stored = next((each for each in (name, others.get(name)) if each in there), None)
        found[name] = tensors.dtype(stored) if stored else usual
    if "float64" in found.values():
        print("weights of float64 are rounded to float32", file=sys.stderr)
    return {name: kind for name, kind in found.items() if kind in ("float16", "bfloat16")}


def _account_for(family: Family, extra: set[str], source: dict[str, str], tensors: Tensors, directory: Path) -> None:
    """Every tensor without a row is a copy, a counter, or named on stderr.

    Args:
      extra: names of those tensors.
      source: name of a tensor with a row to that of the copy which is read in its place.
    """
    made_anew, again = set(), family.copies(tensors.names()) if source else {}
    for copy, original in family.tied.items():
        if copy not in extra or original not in tensors.names():
            continue
        extra = extra - {copy}
        if np.array_equal(tensors.read(copy), tensors.read(original)):
            made_anew |= {copy} - again.keys()
            continue
        if source.get(original) != copy:
            raise InputError(
                f"{directory}: {copy} differs from {original}, and {CONFIG_FILE} says they are tied; if they are not, "
                "set tie_word_embeddings to false there"
            )
        extra = extra | {original}
    extra = extra - set(source.values())
    if family.position_ids in extra and tensors.counts_up(family.position_ids):
        extra, made_anew = extra - {family.position_ids}, made_anew | {family.position_ids}
    if made_anew:
        print(f"{directory}: left to transformers, which makes it of others: {_listed(made_anew)}", file=sys.stderr)
    if extra:
        print(f"{directory}: left out, since it belongs to nothing here: {_listed(extra)}", file=sys.stderr)


def _names(rows: list[tuple[Row, Any]], head: str, config: ModelConfig) -> set[str]:
    return {name for row, _ in rows if row.ours.split("/")[0] == head for name in row.names(config.num_layers)}


def _in_order(tree: Params, like: Params) -> Params:
    return {name: _in_order(tree[name], part) if isinstance(part, dict) else tree[name] for name, part in like.items()}


def _listed(names: set[str], most: int = 20) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
