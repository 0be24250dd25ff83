"""README.md of an exported model: what it is, what it was trained on and how, and how to load it.

Everything in it is read from the model's directory: its config, the run card with the corpus's fingerprint and audit,
and the logged losses. What the directory does not know is left out, or named as yours to fill in.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bert_jax import __version__
from bert_jax.checkpoint import SavedModel, read_config, read_json
from bert_jax.config import Config
from bert_jax.convert.hf_files import is_hf_directory
from bert_jax.ledger import Ledger
from bert_jax.metrics import METRICS, is_evaluation, read_lines

_LOADERS = {
    "nsp": ("AutoModelForPreTraining", "fill-mask"),
    "sop": ("AutoModelForPreTraining", "fill-mask"),
    "mlm": ("AutoModelForMaskedLM", "fill-mask"),
    "rtd": ("AutoModelForPreTraining", "feature-extraction"),
    "classification": ("AutoModelForSequenceClassification", "text-classification"),
    "regression": ("AutoModelForSequenceClassification", "text-classification"),
    "tagging": ("AutoModelForTokenClassification", "token-classification"),
    "qa": ("AutoModelForQuestionAnswering", "question-answering"),
}
_OBJECTIVES = {
    "nsp": "masked language modelling and next sentence prediction",
    "sop": "masked language modelling and sentence order prediction",
    "mlm": "masked language modelling",
    "rtd": "replaced token detection",
}
_HELD_OUT = ("mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy")
_SETTINGS = (
    "data.seq_len", "data.packing", "data.masking", "data.mask_prob", "train.num_steps", "train.global_batch_size",
    "train.phases", "optimizer.name", "optimizer.learning_rate", "optimizer.warmup_steps", "optimizer.schedule",
    "optimizer.weight_decay", "optimizer.b1", "optimizer.b2", "model.hidden_dropout_rate", "model.dtype", "seed",
)  # fmt: skip


def model_card(
    source: Path, name: str, model: SavedModel, dtype: str, rounding: str | None, license: str | None
) -> str:
    """The text of README.md, with the front matter that Hugging Face's hub reads.

    Args:
      source: the directory that the model comes from.
      name: of the exported model.
      model: only sizes, objective, card and step are used.
      dtype: of the exported weights.
      rounding: how far rounding to it moved the outputs, in words; None for none.
      license: its name, or None for a line to fill in.
    """
    run = read_json(source / "run.json") if (source / "run.json").exists() else {}
    config = read_config(source) if run and not is_hf_directory(source) else None
    trained = config if run.get("corpora") else None
    parts = [_front_matter(model, run, license), f"# {name}", _summary(model, run, trained, dtype)]
    parts += [f"Rounding the weights to {dtype} moved {rounding} on the stored probe."] if rounding else []
    parts += [_how_to_load(name, model)]
    if trained:
        ledger = _ledger(source, model.step)
        parts += [_data(run["corpora"], ledger), _training(trained, model, ledger, source)]
    if (source / "metrics.json").exists():
        parts.append(_task(read_json(source / "metrics.json")))
    parts.append(_checks(name))
    parts.append(
        "## Licence\n\n"
        + (f"{license}." if license else "Not stated yet: name it here and in the first lines of this file.")
        + ("" if not trained else " Mind the licences of the texts named above.")
    )
    return "\n\n".join(parts) + "\n"


def _front_matter(model: SavedModel, run: dict[str, Any], license: str | None) -> str:
    languages = sorted(
        {each for corpus in run.get("corpora", []) for each in corpus.get("audit", {}).get("languages", [])}
    )
    lines = ["---"]
    lines.append(f"license: {json.dumps(license)}" if license else "# license: name it here, for example apache-2.0")
    lines += ["language:", *(f"- {json.dumps(language)}" for language in languages)] if languages else []
    lines += ["library_name: transformers", f"pipeline_tag: {_LOADERS[model.objective][1]}", "tags:"]
    lines += [f"- {tag}" for tag in (model.config.family, "bert-jax", model.objective)]
    return "\n".join([*lines, "---"])


def _summary(model: SavedModel, run: dict[str, Any], trained: Config | None, dtype: str) -> str:
    config = model.config
    sizes = (
        f"{config.num_layers} layers, {config.hidden_size} wide, {config.num_heads} heads, vocabulary of "
        f"{config.vocab_size:,}, up to {config.max_position_embeddings} tokens"
    )
    if model.objective in _OBJECTIVES:
        how = f"pretrained by {_OBJECTIVES[model.objective]}" if trained else "with pretraining heads"
    else:
        how = f"fine-tuned for {model.objective}"
    if trained and trained.init:
        how += f", starting from `{Path(trained.init).name}`"
    count = f" {run['parameters']:,} parameters:" if "parameters" in run else ""
    version = run.get("bert_jax", __version__)
    return f"A {config.family.upper()} encoder {how} with bert-jax {version}.{count} {sizes}; {dtype}."


def _how_to_load(name: str, model: SavedModel) -> str:
    loader, task = _LOADERS[model.objective]
    code = [
        f"from transformers import AutoTokenizer, {loader}, pipeline",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        f'model = {loader}.from_pretrained("{name}")',
        f'pipeline("{task}", model="{name}")',
    ]
    if model.objective == "qa":  # transformers 5 has no pipeline for it any more
        code = [code[0].removesuffix(", pipeline"), *code[1:-1]]
    return "\n".join(["## How to load it", "", "```python", *code, "```"])


def _ledger(source: Path, step: int) -> Ledger | None:
    """What the run had read at a checkpoint; None where it cannot be known."""
    try:
        path = source / "checkpoints" / str(step) / "loader" / "metadata"
        return Ledger.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _data(corpora: list[dict[str, Any]], ledger: Ledger | None) -> str:
    lines = ["## Data", ""]
    places = ledger.position.corpora if ledger else (None,) * len(corpora)
    for corpus, place in zip(corpora, places, strict=True):
        lines.append(f"- `{corpus['name']}`, fingerprint `{corpus['fingerprint']}`")
        audit = corpus.get("audit", {})
        if audit:
            lines.append(
                f"  - {audit['documents_kept']:,} of {audit['documents_in']:,} documents kept"
                + _listed(" (dropped: ", audit["dropped"], ")")
                + f", {audit['sentences']:,} sentences, {audit['tokens']:,} tokens"
            )
            shares = {script: f"{share:.1%}" for script, share in audit.get("scripts", {}).items() if share >= 0.001}
            lines.append(
                f"  - unknown tokens {audit['unknown_share']:.2%}, lines that occur more than once "
                f"{audit.get('duplicated_lines_share', 0.0):.1%}" + _listed("; scripts: ", shares, "")
            )
        if place:
            lines.append(f"  - read: {place.tokens:,} tokens in {place.rows:,} rows, {place.epoch} whole epochs")
    return "\n".join(lines)


def _listed(before: str, values: dict[str, Any], after: str) -> str:
    return before + ", ".join(f"{name} {value}" for name, value in values.items()) + after if values else ""


def _training(config: Config, model: SavedModel, ledger: Ledger | None, source: Path) -> str:
    lines = read_lines(source / METRICS) if (source / METRICS).exists() else []
    steps = [line for line in lines if not is_evaluation(line) and line["step"] < max(model.step, 1)]
    held_out = [line for line in lines if is_evaluation(line) and line["step"] <= model.step]
    facts = [f"{model.step:,} of {config.num_steps():,} steps"]
    facts += [f"{ledger.tokens:,} tokens", f"{ledger.examples:,} examples"] if ledger else []
    text = ["## Training", "", ", ".join(facts) + ".", ""]
    if steps:
        text.append(f"- training loss at step {steps[-1]['step']:,}: {_number(steps[-1]['loss'])}")
    if held_out:
        last = held_out[-1]
        values = {name: _number(last[f"eval/{name}"]) for name in _HELD_OUT if f"eval/{name}" in last}
        text.append(_listed(f"- held out, after {last['step']:,} steps: ", values, ""))
    settings = {name: _field(config, name) for name in _SETTINGS}
    if not config.train.phases:
        del settings["train.phases"]
    text += ["", "| setting | value |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in settings.items())]
    return "\n".join(text)


def _field(config: Config, name: str) -> Any:
    group, _, field = name.rpartition(".")
    value = getattr(getattr(config, group) if group else config, field)
    if field != "phases":
        return value
    return "; ".join(f"{p.num_steps} steps of {p.global_batch_size} rows of {p.seq_len}" for p in value)


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.4f}"


def _task(metrics: dict[str, Any]) -> str:
    values: Iterable[tuple[str, float]] = metrics["dev"].items()
    return "\n".join(
        [
            "## Results",
            "",
            f"On the development set, after epoch {metrics['best_epoch']} of {len(metrics['epochs'])}:",
            "",
        ]
        + [f"- {name}: {json.dumps(value) if isinstance(value, int) else f'{value:.4f}'}" for name, value in values]
    )


def _checks(name: str) -> str:
    return f"""## Checks

Before these files appeared, an independent forward pass over them gave the logits of the model they come from, within
2e-5 + 1e-5 of the largest. `probe.safetensors` holds inputs and outputs; `bert-jax verify {name}` checks them again,
with PyTorch where it is installed."""
