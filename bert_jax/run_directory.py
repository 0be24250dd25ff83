"""What a run directory says about its run, and whether a command goes on with that run or means another one."""

import dataclasses
import importlib.metadata
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
from bert_jax.ledger import Ledger
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
# Of these the last two change numbers by rounding only; fewer devices may need them for want of memory.
CHANGEABLE = (
    "optimizer.learning_rate",
    "optimizer.weight_decay",
    "optimizer.max_grad_norm",
    "train.max_skipped",
    "train.accumulation",
    "model.remat",
)
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
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir} is a file, and a run needs a directory; name a new --workdir")
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
    trained = _read_card(workdir).get("corpora")
    if trained is None:
        return
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


def _read_card(workdir: Path) -> dict[str, Any]:
    """The run card as another start has left it; empty where none has."""
    path = workdir / "run.json"
    if not path.exists():
        return {}
    try:
        return checkpoint.read_json(path)
    except InputError as error:
        raise InputError(
            f"{error}; remove it and run the same command again, which goes on without what it knew (the corpora "
            "that were read, and changes)"
        ) from None


def prepare(config: Config, corpora: list[Corpus], workdir: Path, changes: list[Change]) -> None:
    """Writes what a run directory has from the start: the config and the tokenizer; and what changes now.

    Raises:
      InputError: there can be no directory.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{workdir} cannot be made ({error.strerror}); name another --workdir") from None
    _record(changes, workdir)
    # Of a new run first of all: by this it is known, should the rest not come about.
    checkpoint.write_json(workdir / "config.json", checkpoint.config_json(config))
    if not (workdir / "tokenizer").exists():
        partial = workdir / ".tokenizer"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(corpora[0].tokenizer_dir, partial)
        partial.rename(workdir / "tokenizer")


def _record(changes: list[Change], workdir: Path) -> None:
    """Adds changes to the run card: before the config has them, so that a kill in between loses none. Those that the
    config never got, because of such a kill, have not come about."""
    card = _read_card(workdir)
    recorded: list[Change] = card.get("changes", [])
    if not recorded and not changes:
        return
    previous = to_dict(checkpoint.read_config(workdir))
    last = {change["field"]: change for change in recorded}

    def came_about(change: Change) -> bool:
        group, _, field = change["field"].partition(".")
        return change is not last[change["field"]] or previous[group][field] == change["new"]

    kept = [change for change in recorded if came_about(change)]
    checkpoint.write_json(workdir / "run.json", card | {"changes": kept + changes})


class RunCard:
    """`run.json`: what ran on what, and how it ended. The leader writes it at the start, at checkpoints, at the end."""

    def __init__(self, workdir: Path, config: Config, corpora: list[Corpus]):
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
        if changes := _read_card(workdir).get("changes"):
            self._fields["changes"] = changes
        self._fields["corpora"] = corpora_card(config, corpora, Position(0, (Place(),) * len(corpora)))
        self.end("running")

    def end(self, how: str, ledger: Ledger | None = None) -> None:
        """Writes the card with how the run ended, or `running`, which a killed run keeps, and what it has read, its
        skipped updates and its best evaluation, by the ledger."""
        if ledger is not None:
            self._fields["corpora"] = corpora_card(self._config, self._corpora, ledger.position)
            self._fields["skipped_updates"] = ledger.losses.skipped
            if ledger.best is not None:
                self._fields["best"] = dataclasses.asdict(ledger.best)
        if self._leader:
            checkpoint.write_json(self._path, self._fields | {"ended": how})
