"""A model of ours as a Hugging Face directory, which appears only when it has proven itself."""

import json
import shutil
from pathlib import Path
from typing import Any

from bert_jax.checkpoint import SavedModel, whole_directory
from bert_jax.convert import gate
from bert_jax.convert.families import FAMILIES
from bert_jax.convert.hf_files import save_tensors, write_directory
from bert_jax.convert.importing import open_model
from bert_jax.convert.mapping import to_tensors
from data_prep.errors import InputError
from data_prep.tokenizer import Tokenizer, load_tokenizer

PROBE_FILE = "probe.safetensors"


def to_hf(source: str | Path, output: str | Path, step: int | None = None) -> None:
    """Writes config.json, model.safetensors (float32), the tokenizer and probe.safetensors, whole or not at all.

    The probe holds inputs and the model's outputs under transformers' names, so that anybody can check with PyTorch.

    Args:
      source: a run, a fine-tuned model, or what `from-hf` wrote.
      output: must not exist yet.
      step: checkpoint of a run; the newest where None.

    Raises:
      InputError: no model there, or the output exists.
      ConversionMismatch: the written files do not compute what the model computes.
    """
    output = Path(output)
    if output.exists():
        raise InputError(f"{output} exists already; remove it or name another output")
    model = open_model(source, step)
    tokenizer = load_tokenizer(model.tokenizer_dir)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise InputError(
            f"{source}: the tokenizer has {tokenizer.vocab_size} entries, the embeddings {model.config.vocab_size}; "
            "use the tokenizer that belongs to the model"
        )
    with whole_directory(output) as partial:
        _write_tokenizer(partial, tokenizer, model)
        _write_model(partial, model, tokenizer.pad_id)
        inputs = gate.probe_inputs(model.config)
        outputs = gate.check(partial, model, inputs)
        save_tensors(partial / PROBE_FILE, inputs | outputs)

        trial = partial / "trial"
        trial.mkdir()
        for narrow in (False, True):
            stand_in = gate.stand_in(model, narrow)
            _write_model(trial, stand_in, tokenizer.pad_id)
            gate.check_nothing_lost(trial, stand_in)
            gate.check(trial, stand_in, gate.stand_in_inputs(model.config))
        shutil.rmtree(trial)


def _write_model(directory: Path, model: SavedModel, pad_id: int) -> None:
    family = FAMILIES[model.config.family]
    pretraining = model.objective in ("nsp", "sop", "mlm")
    objective = {"sop": "nsp"}.get(model.objective, model.objective) if pretraining else "classification"
    fields: dict[str, Any] = family.config_to_hf(model.config) | {
        "architectures": [family.architecture(objective)],
        "pad_token_id": pad_id,
        "dtype": "float32",
        "torch_dtype": "float32",
    }
    if not pretraining:
        labels = [str(label) for label in model.card["labels"]] or ["LABEL_0"]
        problem = "regression" if model.objective == "regression" else "single_label_classification"
        fields["id2label"] = {str(i): label for i, label in enumerate(labels)}
        fields["label2id"] = {label: i for i, label in enumerate(labels)}
        fields["problem_type"] = problem
    write_directory(directory, fields, to_tensors(family, model.config, model.params))


def _write_tokenizer(directory: Path, tokenizer: Tokenizer, model: SavedModel) -> None:
    """The tokenizer's files; how long a text may be is the model's matter, so it is said here."""
    tokenizer.save(directory)
    longest = min(
        model.config.max_position_embeddings, model.card.get("max_seq_len", model.config.max_position_embeddings)
    )
    path = directory / "tokenizer_config.json"
    fields = json.loads(path.read_text()) | {"model_max_length": longest}
    path.write_text(json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
