"""The tensors of a Hugging Face directory as our parameters: each is read, begun anew, or named on stderr."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config import ModelConfig
from bert_jax.convert.hf_files import CONFIG_FILE, Tensors
from bert_jax.convert.mapping import CARRIED, Family, Params, Row, leaves, nest
from bert_jax.model.bert import abstract_params, init_params
from data_prep.errors import InputError

_HEADS = ("pooler", "mlm", "nsp", "discriminator")  # may be absent as a whole, and are then started fresh


def read_params(
    family: Family, config: ModelConfig, objective: str, shapes: Params, tensors: Tensors, directory: Path
) -> Params:
    """The tensors in the tree of `shapes`, float32 on the host; heads that are absent as a whole are drawn.

    What the files hold beside it, and the family's table calls `carried`, is under `carried`.

    Args:
      family, config, objective: of the model.
      shapes: its tree, as jax.ShapeDtypeStruct.
      tensors: those of `directory`, which is for messages.

    Raises:
      InputError: tensors that are missing or damaged, or of another shape.
    """
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
    carried = _carried(family, config, there - expected, source, tensors)
    made_anew, extra = _without_rows(
        family, there - expected - {row.theirs for row, _ in carried}, source, tensors, directory
    )

    read = [(row, leaf) for row, leaf in rows if row.ours.split("/")[0] not in fresh] + carried
    for row, leaf in read:  # before there is room for any, which a wrong size might ask too much of
        for name in row.names(config.num_layers):
            name = name if row.carried else source.get(name, name)
            shape = row.shape(leaf.shape[1:] if row.stacked else leaf.shape, config.vocab_size)
            if tensors.shape(name) != shape:
                raise InputError(
                    f"{directory}: tensor {name} has shape {tensors.shape(name)}; {CONFIG_FILE} asks for {shape}"
                )
    pairs = []
    for row, leaf in read:
        array = np.zeros(leaf.shape, np.float32)
        for part, name in zip(array if row.stacked else [array], row.names(config.num_layers), strict=True):
            row.fill_ours(part, tensors.read(name if row.carried else source.get(name, name)))
        pairs.append((row.ours, array))

    if made_anew:
        print(f"{directory}: left to transformers, which makes it of others: {_listed(made_anew)}", file=sys.stderr)
    if extra:
        print(f"{directory}: left out, since it belongs to nothing here: {_listed(extra)}", file=sys.stderr)
    for head in fresh:
        print(f"{directory} has no {head} head ({_listed(_names(rows, head, config))}): started fresh", file=sys.stderr)
    heads, usual = fresh_parts(config, objective, fresh), jnp.dtype(_usual_dtype(tensors))
    heads = jax.tree.map(lambda leaf: leaf.astype(usual).astype(np.float32), heads)  # so that it is written exactly
    found = nest(pairs) | heads
    return _in_order(found, shapes) | ({"carried": found["carried"]} if carried else {})


def _carried(
    family: Family, config: ModelConfig, extra: set[str], source: dict[str, str], tensors: Tensors
) -> list[tuple[Row, Any]]:
    """Rows, with their leaves, of the parts that the model does not use, where they are there as a whole.

    Args:
      family, config: of the model.
      extra: names of the tensors that it has no use for.
      source: as of `_without_rows`: where both are there and differ, the first is carried.
      tensors: of the files.
    """
    decoder_bias = jax.ShapeDtypeStruct((config.padded_vocab_size,), jnp.float32)
    parts = {"pooler": abstract_params(config, "nsp")["pooler"], "decoder_bias": decoder_bias}
    shapes = dict(leaves(parts, CARRIED))
    there = tensors.names()
    doubled = {name for name, copy in source.items() if name in there and not _equal(tensors, name, copy)}
    rows = [(row, shapes[row.ours]) for row in family.table if row.carried]
    lost = {
        row.ours.split("/")[1]
        for row, leaf in rows
        if row.theirs not in (doubled if row.vocabulary else extra)
        or tensors.shape(row.theirs) != row.shape(leaf.shape, config.vocab_size)
    }
    return [(row, leaf) for row, leaf in rows if row.ours.split("/")[1] not in lost]


def _equal(tensors: Tensors, name: str, other: str) -> bool:
    return np.array_equal(tensors.read(name), tensors.read(other))


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


def dtypes(family: Family, config: ModelConfig, params: Params, tensors: Tensors) -> dict[str, str]:
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


def _without_rows(
    family: Family, extra: set[str], source: dict[str, str], tensors: Tensors, directory: Path
) -> tuple[set[str], set[str]]:
    """Of tensors without a row, the names of those that transformers makes of others, and of those that are lost.

    Args:
      family: whose copies and counters are known.
      extra: names of those tensors.
      source: name of a tensor with a row to that of the copy which is read in its place.
      tensors: of the files.
      directory: for messages.

    Raises:
      InputError: a copy of a tied model differs.
    """
    made_anew, again = set(), family.copies(tensors.names()) if source else {}
    for copy, original in family.tied.items():
        if copy not in extra or original not in tensors.names():
            continue
        extra = extra - {copy}
        if _equal(tensors, copy, original):
            made_anew |= {copy} - again.keys()
        elif source.get(original) != copy:
            raise InputError(
                f"{directory}: {copy} differs from {original}, and {CONFIG_FILE} says they are tied; if they are not, "
                "set tie_word_embeddings to false there"
            )
    extra = extra - set(source.values())
    if family.position_ids in extra and tensors.counts_up(family.position_ids):
        extra, made_anew = extra - {family.position_ids}, made_anew | {family.position_ids}
    return made_anew, extra


def _names(rows: list[tuple[Row, Any]], head: str, config: ModelConfig) -> set[str]:
    return {name for row, _ in rows if row.ours.split("/")[0] == head for name in row.names(config.num_layers)}


def _in_order(tree: Params, like: Params) -> Params:
    return {name: _in_order(tree[name], part) if isinstance(part, dict) else tree[name] for name, part in like.items()}


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
