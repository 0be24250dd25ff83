"""What a run directory says about its run, and whether a command goes on with that run or means another one."""

import importlib.metadata
import json
import math
import platform
import shutil
from pathlib import Path
from typing import Any

import jax

import bert_jax
from bert_jax import checkpoint
from bert_jax.config import Config, to_dict
from bert_jax.data.load import Position
from bert_jax.train_state import abstract_state
from data_prep.corpus import Corpus
from data_prep.errors import InputError

# What another start of the same run may change: nothing here enters a number that the run computes.
_FREE_FIELDS = (
    "mesh",
    "train.log_every",
    "train.eval_every",
    "train.checkpoint_every",
    "checkpoint.keep",
    "data.corpus",
)


def check_same_run(config: Config, corpora: list[Corpus], workdir: Path) -> None:
    """Raises InputError where `workdir` holds another run than this one, with the first difference."""
    if not (workdir / "config.json").exists():
        if workdir.exists() and any(workdir.iterdir()):
            raise InputError(f"{workdir} is not empty and holds no run; name a new --workdir")
        return
    before, now = to_dict(checkpoint.read_config(workdir)), to_dict(config)
    for name, old, new in _differences(before, now):
        if not any(name == free or name.startswith(f"{free}.") for free in _FREE_FIELDS):
            raise InputError(
                f"{workdir} was started with config.{name}={old!r}, and this command has {new!r}; "
                "give the old value, or a new --workdir"
            )
    trained = json.loads((workdir / "run.json").read_text())["corpora"] if (workdir / "run.json").exists() else []
    for old, corpus in zip(trained, corpora, strict=False):
        if old["tokenizer"] != corpus.tokenizer_fingerprint:
            raise InputError(f"{corpus.path} was built with another tokenizer than {workdir} was trained with")
        if old["fingerprint"] != corpus.fingerprint:
            raise InputError(
                f"{corpus.path} is another corpus than {workdir} was started with (fingerprints differ); "
                "give the old one, or a new --workdir"
            )
    if trained and len(trained) != len(corpora):
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
    if not (workdir / "tokenizer").exists():
        partial = workdir / ".tokenizer"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(corpora[0].tokenizer_dir, partial)
        partial.rename(workdir / "tokenizer")
    checkpoint.write_json(workdir / "config.json", checkpoint.config_json(config))


def log_position(workdir: Path, updates: int, position: Position, leader: bool) -> None:
    """Appends to `positions.jsonl`, from which `inspect` reaches any step at the cost of a plan or two."""
    if leader:
        with (workdir / "positions.jsonl").open("a") as file:
            file.write(json.dumps({"step": updates, "position": position.to_json()}) + "\n")


class RunCard:
    """`run.json`: what ran on what, and how it ended. The leader writes it at the start and at the end."""

    def __init__(self, workdir: Path, config: Config, corpora: list[Corpus], leader: bool):
        self._path, self._leader = workdir / "run.json", leader
        packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers")
        self._fields: dict[str, Any] = {
            "format_version": checkpoint.FORMAT_VERSION,
            "card": {},
            "bert_jax": bert_jax.__version__,
            "corpora": [
                {"name": corpus.path.name, "fingerprint": corpus.fingerprint, "tokenizer": corpus.tokenizer_fingerprint}
                for corpus in corpora
            ],
            "versions": {"python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in packages},
            "devices": {"kind": jax.devices()[0].device_kind, "count": jax.device_count()},
            "processes": jax.process_count(),
            "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract_state(config).params)),
        }
        self.end("running")

    def end(self, how: str) -> None:
        """Writes the card with how the run ended, or `running`, which a killed run keeps."""
        if self._leader:
            checkpoint.write_json(self._path, self._fields | {"ended": how})
