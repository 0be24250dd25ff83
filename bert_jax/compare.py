"""Is my loss normal: a run against another one, or against a curve that comes with the program.

Losses are compared where both runs were: at equal updates, or at equal tokens where their batches differ in size. A
run's losses at a place between two of the reference's are compared with the straight line between these.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax import checkpoint
from bert_jax.config import to_dict
from bert_jax.metrics import METRICS, is_evaluation, read_lines
from data_prep.errors import InputError

CURVES = Path(__file__).parent / "curves"
TOLERANCE = 0.1  # nats; seeds of the small recipes differ by a third of it
_LOSSES = ("mlm_loss", "nsp_loss")
_SAME_BATCH = 0.05  # tokens an update may differ by so much, and updates are still compared
_WINDOW = 0.1  # of the run, at the end of what both have: training losses are averaged over it
_OF_NO_MATTER = ("seed", "init", "data.corpus", "train.log_every", "train.eval_every", "train.checkpoint_every")
_GROUPS_OF_NO_MATTER = ("mesh", "checkpoint", "watchdog", "format_version")
Lines = list[dict[str, Any]]


def names() -> list[str]:
    """The curves that come with the program."""
    return sorted(path.stem for path in CURVES.glob("*.json"))


def curve_of(run: Path) -> dict[str, Any]:
    """What a shipped curve keeps of a run: `config` and `lines` of metrics, without times."""
    config = to_dict(checkpoint.read_config(run))
    lines = read_lines(run / METRICS) if (run / METRICS).exists() else []
    kept = [{name: line[name] for name in ("step", "tokens", *_LOSSES) if name in line} for line in lines]
    held = [{f"eval/{name}": line[f"eval/{name}"] for name in _LOSSES if f"eval/{name}" in line} for line in lines]
    return {"config": config, "lines": [line | of_eval for line, of_eval in zip(kept, held, strict=True)]}


def compare(run: Path, reference: Path, tolerance: float = TOLERANCE) -> tuple[dict[str, Any], str]:
    """Compares a run with a reference.

    Args:
      run: a run directory.
      reference: a run directory, a file that `benchmarks/reference_curve.py` wrote, or the name of a shipped curve.
      tolerance: nats by which the run's masked-word loss may be above the reference's.

    Returns:
      {"axis": "steps" or "tokens", "at": the last place that both reached, "held_out" and "training": a loss to {"run",
      "reference", "difference"} there, "spread": how far apart the reference's seeds are there, "points": [place, run,
      reference] of the held-out masked-word loss, "other_settings": field to [run, reference], "tolerance", "worse"},
      and a sentence.

    Raises:
      InputError: no run or reference there, or the two have no place in common.
    """
    if not 0 <= tolerance < math.inf:
        raise InputError(f"--tolerance {tolerance} must be nats from 0 up")
    ours, curves = curve_of(run), _reference(reference)
    for what, curve in ((run, ours), *((reference, curve) for curve in curves)):
        if not any(not is_evaluation(line) for line in curve["lines"]):
            raise InputError(f"{what} has no logged step yet; let it train a little first")
    axis = "steps" if _alike(ours["lines"], curves[0]["lines"]) else "tokens"
    report: dict[str, Any] = {"axis": axis, "held_out": {}, "training": {}}
    for loss in _LOSSES:
        points = _points(ours, curves, f"eval/{loss}", axis)
        if points:
            report["at"], report["held_out"][loss] = points[-1][0], _difference(*points[-1][1:3])
        if points and loss == "mlm_loss":
            shown = [[value if math.isfinite(value) else None for value in point[:3]] for point in points]
            report |= {"points": shown, "spread": points[-1][3]}
        if last := _last_window(ours, curves, loss, axis):
            report.setdefault("at", last[0])
            report["training"][loss] = _difference(*last[1:])
    decides = "held_out" if "mlm_loss" in report["held_out"] else "training"
    found = report[decides].get("mlm_loss")
    if found is None:
        raise InputError(f"{run} and {reference} have no {axis} in common; let the run train on")
    worse = not (found["difference"] is not None and found["difference"] <= tolerance)
    others = _other_settings(ours["config"], curves[0]["config"])
    report |= {"other_settings": others, "tolerance": tolerance, "worse": worse}
    return report, _sentence(report, decides, found, run, reference)


def _sentence(report: dict[str, Any], decides: str, found: dict[str, Any], run: Path, reference: Path) -> str:
    kind = "held-out" if decides == "held_out" else "training"
    where = f"after {report['at']:,.0f} {'updates' if report['axis'] == 'steps' else 'tokens'}"
    if found["difference"] is None:
        return f"{run} has a {kind} masked-word loss that is no number {where}"
    above = "above" if found["difference"] > 0 else "below"
    text = (
        f"{kind} masked-word loss {found['run']:.4f} {where} is {abs(found['difference']):.4f} {above} that of "
        f"{reference} ({found['reference']:.4f}); "
    )
    text += f"more than the {report['tolerance']:g} allowed" if report["worse"] else "that is normal"
    if report["other_settings"]:
        text += f"; settings differ: {', '.join(list(report['other_settings'])[:4])}"
    return text


def _reference(reference: Path) -> list[dict[str, Any]]:
    if reference.is_dir():
        return [curve_of(reference)]
    file = CURVES / f"{reference}.json" if str(reference) in names() else reference
    if not file.is_file():
        raise InputError(
            f"{reference} is no run, no file, and no curve of this program, which has {', '.join(names())}"
        )
    curves = checkpoint.read_json(file).get("curves")
    if not isinstance(curves, list) or not curves or not all({"config", "lines"} <= curve.keys() for curve in curves):
        raise InputError(f"{file} holds no curves; benchmarks/reference_curve.py writes such files")
    return curves


def _alike(ours: Lines, theirs: Lines) -> bool:
    mine, other = (next(line for line in reversed(lines) if "tokens" in line) for lines in (ours, theirs))
    each = [line["tokens"] / (line["step"] + 1) for line in (mine, other)]
    return abs(each[0] - each[1]) <= _SAME_BATCH * each[1]


def _curve(lines: Lines, name: str, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Places and values of a loss; one that was no number is NaN."""
    found = [line for line in lines if name in line]
    places = np.array([line["step"] for line in found], np.float64)
    if axis == "tokens" and found:
        steps = [line for line in lines if "tokens" in line]
        places = np.interp(places, [0] + [line["step"] + 1 for line in steps], [0] + [line["tokens"] for line in steps])
    values = [math.nan if line[name] is None else line[name] for line in found]
    return places, np.array(values, np.float64)


def _points(ours: dict, curves: Sequence[dict], name: str, axis: str) -> list[tuple[float, float, float, float]]:
    """(place, run's, mean of the references', their spread) wherever the run was measured and they have been."""
    places, values = _curve(ours["lines"], name, axis)
    others = [_curve(curve["lines"], name, axis) for curve in curves]
    if any(not len(where) for where, _ in others):
        return []
    first, last = max(where[0] for where, _ in others), min(where[-1] for where, _ in others)
    points = []
    for place, value in zip(places, values, strict=True):
        if first <= place <= last:
            theirs = [float(np.interp(place, *other)) for other in others]
            points.append((float(place), float(value), float(np.mean(theirs)), max(theirs) - min(theirs)))
    return points


def _last_window(ours: dict, curves: Sequence[dict], name: str, axis: str) -> tuple[float, float, float] | None:
    """(place, run's mean, the references' mean) over the last tenth of what all have; a training loss jumps about."""
    all_curves = [_curve(curve["lines"], name, axis) for curve in (ours, *curves)]
    if any(not len(where) for where, _ in all_curves):
        return None
    end = min(where[-1] for where, _ in all_curves)
    means = []
    for where, values in all_curves:
        inside = values[(where <= end) & (where >= (1 - _WINDOW) * end)]
        if not len(inside):
            return None
        means.append(float(np.mean(inside)))
    return float(end), means[0], float(np.mean(means[1:]))


def _difference(run: float, reference: float) -> dict[str, float | None]:
    known = math.isfinite(run)
    return {
        "run": run if known else None,
        "reference": reference,
        "difference": run - reference if known and math.isfinite(reference) else None,
    }


def _other_settings(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, list[Any]]:
    mine, other = (dict(_flat(config)) for config in (ours, theirs))
    return {
        name: [mine.get(name), other.get(name)]
        for name in sorted(mine.keys() | other.keys())
        if mine.get(name) != other.get(name)
        and name not in _OF_NO_MATTER
        and name.split(".")[0] not in _GROUPS_OF_NO_MATTER
        and name in mine.keys() & other.keys()  # a field of a later version says nothing of an earlier run
    }


def _flat(config: dict[str, Any], above: str = ""):
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def write_curves(runs: Sequence[Path], output: Path, what: str) -> None:
    """Writes the curves of several seeds of a recipe as a reference."""
    curves = [curve_of(run) for run in runs]
    for curve in curves:
        curve["config"]["data"]["corpus"] = ""  # a path of one machine
        for line in curve["lines"]:
            line |= {name: round(value, 5) for name, value in line.items() if isinstance(value, float)}
    lines = [json.dumps(curve) for curve in curves]
    output.write_text(f'{{"what": {json.dumps(what)}, "curves": [\n' + ",\n".join(lines) + "\n]}\n")
