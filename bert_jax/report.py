"""One page about one or several runs: what ran, how the losses went, how fast; plots as pictures inside, no network
needed."""

import base64
import html
import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from bert_jax import checkpoint
from bert_jax.metrics import is_evaluation, read_lines
from bert_jax.mixture import describe
from data_prep.errors import InputError
from data_prep.files import whole_file

matplotlib.use("Agg")  # no screen

from matplotlib import pyplot

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem 1rem .2rem 0; text-align: left; border-bottom: 1px solid
#ddd; } td.number { text-align: right; font-variant-numeric: tabular-nums; } img { max-width: 100%; }
"""


def write_report(runs: Sequence[Path], output: Path) -> None:
    """Writes the page, whole or not at all.

    Args:
      runs: run directories; curves of several are drawn together, named by their directories.
      output: the HTML file.

    Raises:
      InputError: a directory that holds no run, or no logged step yet.
    """
    read = {}
    for run in runs:
        config, card = checkpoint.read_config(run), checkpoint.read_json(run / "run.json")
        lines = read_lines(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else []
        if not any(not is_evaluation(line) for line in lines):
            raise InputError(f"{run} has no logged step yet; let it train a little first")
        name = run.name if [other.name for other in runs].count(run.name) == 1 else str(run)
        read[name] = (config, card, lines)
    page = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{html.escape(', '.join(read))}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(', '.join(read))}</h1>",
        _table(["", *read], _facts(read)),
    ]
    curves = {
        "mlm_loss": "Masked language modelling loss (nats)",
        "nsp_loss": "Next sentence loss (nats)",
        "mlm_accuracy": "Masked language modelling accuracy",
        "tokens_per_second": "Tokens a second",
        "learning_rate": "Learning rate",
        "grad_norm": "Gradient norm",
    }
    for name, title in curves.items():
        picture = _plot({run: lines for run, (_, _, lines) in read.items()}, name)
        if picture:
            page.append(f"<h2>{title}</h2><img alt='{title}' src='data:image/png;base64,{picture}'>")
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(output) as partial:
        partial.write_text("\n".join(page) + "</html>\n")


def _facts(read: dict[str, Any]) -> list[list[str]]:
    rows: dict[str, list[str]] = {}

    def add(name: str, value: Any) -> None:
        rows.setdefault(name, []).append(
            "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
        )

    for config, card, lines in read.values():
        steps = [line for line in lines if not is_evaluation(line)]
        held_out = [line for line in lines if is_evaluation(line)]
        last = steps[-1]
        speeds = sorted(line["tokens_per_second"] for line in steps)
        model = config.model
        add("ended", card.get("ended"))
        add("model", f"{model.num_layers} layers, {model.hidden_size} wide, {model.num_heads} heads")
        add("parameters", card.get("parameters"))
        add("objective", config.data.objective)
        add("seed", str(config.seed))
        add("devices", f"{card['devices']['count']} {card['devices']['kind']}")
        add("corpus", describe(card.get("corpora", [])))
        add("steps", f"{last['step'] + 1:,} of {config.num_steps():,}")
        add("tokens", last["tokens"])
        add("padding", f"{last['padding']:.1%}")
        add("tokens a second (median)", f"{speeds[len(speeds) // 2]:,.0f}")
        add("loss at the last step", None if last["loss"] is None else f"{last['loss']:.4f}")
        for name in ("mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy"):
            value = held_out[-1].get(f"eval/{name}") if held_out else None
            add(f"held-out {name.replace('_', ' ')}", None if value is None else f"{value:.4f}")
        versions = card.get("versions", {})
        add("versions", ", ".join(f"{name} {versions[name]}" for name in ("jax", "flax", "python") if name in versions))
    return [[name, *values] for name, values in rows.items()]


def _table(head: list[str], rows: list[list[str]]) -> str:
    header = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{header}</tr>{body}</table>"


def _plot(runs: dict[str, list[dict[str, Any]]], name: str) -> str | None:
    """A PNG in base64, or None where no run has such a number."""
    figure, axes = pyplot.subplots(figsize=(9, 3.6), dpi=110)
    drawn = False
    for color, (run, lines) in zip(itertools.cycle(f"C{i}" for i in range(10)), runs.items(), strict=False):
        points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        if points:
            drawn = True
            axes.plot(*zip(*points, strict=True), color=color, linewidth=1.2, alpha=0.8, label=f"{run} training")
        held = [(line["step"], line[f"eval/{name}"]) for line in lines if f"eval/{name}" in line]
        if held:
            axes.plot(*zip(*held, strict=True), "o--", color=color, markersize=6, label=f"{run} held out")
    if drawn:
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    pyplot.close(figure)
    return base64.b64encode(buffer.getvalue()).decode() if drawn else None
