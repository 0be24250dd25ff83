"""A model of ours as a Hugging Face directory, which appears only when it has proven itself."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.checkpoint import SavedModel, refuse_existing, whole_directory
from bert_jax.config import has_token_types
from bert_jax.convert import gate
from bert_jax.convert.families import FAMILIES
from bert_jax.convert.hf_writing import DTYPES, write_arrays, write_directory
from bert_jax.convert.importing import open_model
from bert_jax.convert.mapping import Params, to_tensors
from bert_jax.convert.model_card import model_card
from bert_jax.own_tokenizer import own_tokenizer
from data_prep.errors import InputError
from data_prep.tokenizer import Tokenizer

PROBE_FILE = "probe.safetensors"
AUTO = "auto"
_HALVES = ("bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Form:
    """How an export is written.

    Attributes:
      dtype: float32, bfloat16, float16, or auto: what each tensor of an imported model was, float32 once trained here.
      max_shard_size: most bytes of a file; one file where None.
    """

    dtype: str = AUTO
    max_shard_size: int | None = None


def to_hf(
    source: str | Path,
    output: str | Path,
    step: int | None = None,
    form: Form = Form(),
    license: str | None = None,
) -> None:
    """Writes config.json, the weights, the tokenizer, README.md and probe.safetensors, whole or not at all.

    The probe holds inputs and the model's outputs under transformers' names, so that anybody can check with PyTorch
    (`bert-jax verify` does). In halves the outputs are those of the rounded weights, computed in float32.

    Args:
      source: a run, a fine-tuned model, or what `from-hf` wrote.
      output: must not exist yet.
      step: checkpoint of a run; the newest where None.
      form: kind of numbers and size of files.
      license: Hugging Face's name of the licence for the model card; a place to fill in where None.

    Raises:
      InputError: no model there, numbers too large for the dtype, or the output exists or cannot be written.
      ConversionMismatch: the written files do not compute what the model computes.
    """
    output = Path(output)
    refuse_existing(output)
    if form.dtype not in (AUTO, *DTYPES):
        raise InputError(f"--dtype {form.dtype} is not known; known are {', '.join((AUTO, *DTYPES))}")
    model = open_model(source, step)
    tokenizer = own_tokenizer(model)
    with whole_directory(output) as partial:
        _write_tokenizer(partial, tokenizer, model)
        inputs = gate.probe_inputs(model.config)
        model = _on_device(model)
        exact = gate.model_outputs(model, inputs) if form.dtype in _HALVES else None
        _round(model.arrays, [form.dtype])
        dtype = _write_model(partial, model, tokenizer.pad_id, form)
        outputs = gate.check(partial, model, inputs)
        write_arrays(partial / PROBE_FILE, inputs | outputs)
        rounding = _rounding(exact, outputs, inputs) if exact else None
        if rounding:
            print(f"rounding to {form.dtype} moves {rounding} on the probe", file=sys.stderr)
        card = model_card(Path(source), output.name, model, dtype, rounding, license)
        (partial / "README.md").write_text(card)

        # Of the model only shapes are needed now: two of a large one do not fit where one does.
        params, carried = (
            jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, np.float32), tree)
            for tree in (model.params, model.carried)
        )
        model = dataclasses.replace(model, params=params, carried=carried)
        for narrow in (False, True):
            trial = partial / "trial"
            trial.mkdir()
            stand_in = gate.stand_in(model, narrow)
            # What is exact in bfloat16, and in float16 after that, is so in whatever kinds an imported model mixes.
            _round(stand_in.arrays, _HALVES if form.dtype == AUTO and model.dtypes else [form.dtype])
            _write_model(trial, stand_in, tokenizer.pad_id, form)
            gate.check_nothing_lost(trial, stand_in)
            gate.check(trial, stand_in, gate.stand_in_inputs(model.config))
            shutil.rmtree(trial)
            del stand_in


def _on_device(model: SavedModel) -> SavedModel:
    """The model with its arrays on the device; each leaves the host as it comes there."""

    def move(tree: Params) -> Params:
        return {name: move(part) if isinstance(part, dict) else gate.on_device(part) for name, part in _emptied(tree)}

    return dataclasses.replace(model, params=move(model.params), carried=move(model.carried))


def _emptied(tree: Params):
    for name in list(tree):
        yield name, tree.pop(name)


def _round(params: Params, dtypes: Sequence[str]) -> None:
    """Rounds the arrays of a tree, in place, to the nearest numbers of a half, or one after the other; they stay
    float32."""
    for name, part in params.items():
        if isinstance(part, dict):
            _round(part, dtypes)
            continue
        for dtype in (each for each in dtypes if each in _HALVES):
            params[name] = params[name].astype(dtype).astype(jnp.float32)
            if not jnp.isfinite(params[name]).all():
                raise InputError(
                    f"--dtype {dtype} ends at {float(jnp.finfo(dtype).max):.5g}, and a {name} of the model has "
                    f"{jnp.abs(part).max():.5g}; write bfloat16 or float32"
                )


def _rounding(exact: gate.Probe, rounded: gate.Probe, inputs: gate.Probe) -> str:
    """How far the outputs moved, in words."""
    facts = []
    for name, before in exact.items():
        of_tokens = before.shape[:2] == inputs["attention_mask"].shape
        counted = inputs["attention_mask"] > 0 if of_tokens else slice(None)
        moved = np.abs(rounded[name][counted] - before[counted]).max()
        facts.append(f"{name} by at most {moved:.2g} (the largest is {np.abs(before[counted]).max():.3g})")
    return " and ".join(facts)


def _write_model(directory: Path, model: SavedModel, pad_id: int, form: Form) -> str:
    """Writes config.json and the weights; returns the kind of most of their numbers, as config.json says it."""
    family = FAMILIES[model.config.family]
    objective = {"sop": "nsp", "regression": "classification"}.get(model.objective, model.objective)
    tensors = {
        name: dataclasses.replace(tensor, dtype=model.dtypes.get(name, "float32") if form.dtype == AUTO else form.dtype)
        for name, tensor in to_tensors(family, model.config, model.arrays).items()
    }
    kinds = [tensor.dtype for tensor in tensors.values()]
    usual = max(DTYPES, key=kinds.count)
    fields: dict[str, Any] = {"pad_token_id": pad_id} | family.config_to_hf(model.config) | model.hf_fields
    fields |= {
        "architectures": [family.architecture(objective)],
        "dtype": usual,
        "torch_dtype": usual,
    }
    if model.objective in ("classification", "regression", "tagging"):
        labels = [str(label) for label in model.card["labels"]] or [model.card.get("output", "LABEL_0")]
        fields["id2label"] = {str(i): label for i, label in enumerate(labels)}
        fields["label2id"] = {label: i for i, label in enumerate(labels)}
    if model.objective in ("classification", "regression"):
        usual_problem = "regression" if model.objective == "regression" else "single_label_classification"
        problem = model.card.get("problem_type", usual_problem)  # an imported one's may be unsaid
        fields |= {"problem_type": problem} if problem else {}
    write_directory(directory, fields, tensors, form.max_shard_size)
    return usual


def _write_tokenizer(directory: Path, tokenizer: Tokenizer, model: SavedModel) -> None:
    """The tokenizer's files; how long a text may be is the model's matter, so it is said here."""
    tokenizer.save(directory)
    longest = min(
        model.config.max_position_embeddings, model.card.get("max_seq_len", model.config.max_position_embeddings)
    )
    path = directory / "tokenizer_config.json"
    fields = json.loads(path.read_text()) | {"model_max_length": longest}
    if not has_token_types(model.config):
        fields["model_input_names"] = ["input_ids", "attention_mask"]
    path.write_text(json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
