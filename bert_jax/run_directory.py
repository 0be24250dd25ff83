"""What a run directory says about its run, and whether a command goes on with that run or means another one."""

import importlib.metadata
import json
import math
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import bert_jax
from bert_jax import checkpoint
from bert_jax.config import Config, to_dict
from bert_jax.data.load import Position
from bert_jax.data.read import Place
from bert_jax.mixture import corpora_card, shares
from bert_jax.optimizer import learning_rate
from bert_jax.train_state import abstract_state
from data_prep.corpus import Corpus
from data_prep.errors import InputError

# What another start of the same run may change: nothing here enters a number that the run computes, but for rounding.
_FREE_FIELDS = (
    "mesh",
    "model.attention",
    "model.layers",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "checkpoint",
    "watchdog",
    "data.corpus",
)
# What it may change when the command says so by `--change`: the run goes on, and is no longer what it was started as.
CHANGEABLE = ("optimizer.learning_rate", "optimizer.weight_decay", "optimizer.max_grad_norm", "train.max_skipped")
Change = dict[str, Any]  # step, field, old, new


def check_same_run(config: Config, corpora: list[Corpus], workdir: Path, change: Sequence[str] = ()) -> list[Change]:
    """Compares a command with the run that `workdir` holds, if any.

    Args:
      config: the command's, with the vocabulary's size in it.
      corpora: the command's.
      workdir: may be new.
      change: fields among `CHANGEABLE` that the user lets change.

    Returns:
      the changes that the user asked for.

    Raises:
      InputError: `workdir` holds another run, or something else; names the first difference.
    """
    for name in change:
        if name not in CHANGEABLE:
            raise InputError(f"--change {name} is not possible; fields that may change: {', '.join(CHANGEABLE)}")
    if not (workdir / "config.json").exists():
        # Hidden files are what a kill left of our own that were being written.
        if workdir.exists() and any(not path.name.startswith(".") for path in workdir.iterdir()):
            raise InputError(f"{workdir} is not empty and holds no run; name a new --workdir")
        return []
    previous = checkpoint.read_config(workdir)
    done = max(checkpoint.saved_steps(workdir), default=0)
    changes = []
    for name, old, new in _differences(to_dict(previous), to_dict(config)):
        if any(name == free or name.startswith(f"{free}.") for free in _FREE_FIELDS):
            continue
        if name in change:
            changes.append({"step": done, "field": name, "old": old, "new": new})
            continue
        if name == "train.num_steps" and _same_rates(previous, config, done):
            continue
        raise InputError(
            f"{workdir} was started with config.{name}={old!r}, and this command has {new!r}; give the old value, or "
            + (f"--change {name} to go on with the new one, or " if name in CHANGEABLE else "")
            + "a new --workdir"
        )
    _check_corpora(config, corpora, workdir)
    return changes


def _same_rates(previous: Config, config: Config, done: int) -> bool:
    """Whether another number of steps leaves the run as it is so far: more to come, and no used rate differs."""
    steps = np.arange(done)
    before, now = (np.asarray(learning_rate(either)(steps)) for either in (previous, config))
    return config.num_steps() > done and not config.train.phases and np.array_equal(before, now)


def _check_corpora(config: Config, corpora: list[Corpus], workdir: Path) -> None:
    if not (workdir / "run.json").exists():
        return
    trained = json.loads((workdir / "run.json").read_text())["corpora"]
    for old, corpus, share in zip(trained, corpora, shares(config), strict=False):
        if old["tokenizer"] != corpus.tokenizer_fingerprint:
            raise InputError(
                f"{corpus.path} was built with another tokenizer than {workdir} was trained with (fingerprints "
                f"{corpus.tokenizer_fingerprint[:12]} and {old['tokenizer'][:12]}); give the old one or a new --workdir"
            )
        if old["fingerprint"] != corpus.fingerprint:
            raise InputError(
                f"{corpus.path} is another corpus than {workdir} was started with (fingerprints "
                f"{corpus.fingerprint[:12]} and {old['fingerprint'][:12]}); give the old one, or a new --workdir"
            )
        if not math.isclose(old.get("weight", share), share):
            raise InputError(
                f"{workdir} was started with {old['weight']:.6g} of its rows from {corpus.path}, and this command has "
                f"{share:.6g}; give the old weights, or a new --workdir"
            )
    if len(trained) != len(corpora):
        raise InputError(f"{workdir} was started with {len(trained)} corpora, and this command has {len(corpora)}")


def _differences(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = []
        for key in sorted(old.keys() | new.keys()):
            pairs += _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        return pairs
    return [] if old == new else [(name, old, new)]


def prepare(config: Config, corpora: list[Corpus], workdir: Path) -> None:
    """Writes what a run directory has from the start: the config and the tokenizer."""
    workdir.mkdir(parents=True, exist_ok=True)
    # First of all: by this a run is known, should the rest not come about.
    checkpoint.write_json(workdir / "config.json", checkpoint.config_json(config))
    if not (workdir / "tokenizer").exists():
        partial = workdir / ".tokenizer"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(corpora[0].tokenizer_dir, partial)
        partial.rename(workdir / "tokenizer")


class RunCard:
    """`run.json`: what ran on what, and how it ended. The leader writes it at the start and at the end."""

    def __init__(self, workdir: Path, config: Config, corpora: list[Corpus], changes: list[Change]):
        self._path, self._leader = workdir / "run.json", jax.process_index() == 0
        self._config, self._corpora = config, corpora
        packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers")
        self._fields: dict[str, Any] = {
            "format_version": checkpoint.FORMAT_VERSION,
            "card": {},
            "bert_jax": bert_jax.__version__,
            "versions": {"python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in packages},
            "devices": {"kind": jax.devices()[0].device_kind, "count": jax.device_count()},
            "processes": jax.process_count(),
            "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_state(config).params)),
        }
        if self._path.exists():
            changes = checkpoint.read_json(self._path).get("changes", []) + changes
        if changes:
            self._fields["changes"] = changes
        self.end("running", Position(0, (Place(),) * len(corpora)))

    def end(self, how: str, position: Position | None = None, **facts: Any) -> None:
        """Writes the card with how the run ended, or `running`, which a killed run keeps, and what it has read."""
        self._fields |= facts
        if position is not None:
            self._fields["corpora"] = corpora_card(self._config, self._corpora, position)
        if self._leader:
            checkpoint.write_json(self._path, self._fields | {"ended": how})
