"""A recipe file and the command line's overrides to a checked `Config` (ml_collections' config_flags does the
parsing)."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from bert_jax.config import Config, nearest
from bert_jax.config_check import parse
from data_prep.errors import InputError


def load(path: str, overrides: Sequence[str]) -> Config:
    """Runs the recipe's `get_config()` and applies overrides.

    Args:
      path: a Python file with `get_config() -> ConfigDict`.
      overrides: command-line words such as `--config.train.num_steps=100`.

    Raises:
      InputError: no such file, no recipe in it, an unknown field (names the nearest), a value of the wrong type.
    """
    if not Path(path).is_file():
        raise InputError(f"--config {path} does not exist; recipes are Python files such as configs/bert_base.py")
    recipe = _read(path, [])
    for word in overrides:
        if not word.startswith("--config."):
            raise InputError(f"{word} is not an option here; fields are given as --config.train.num_steps=100")
        fields, where = recipe, "config"
        for name in word[len("--config.") :].split("=")[0].split("."):
            name = name.split("[")[0]
            if not hasattr(fields, "keys") or name not in fields:
                known = [f"{where}.{key}" for key in fields] if hasattr(fields, "keys") else []
                raise InputError(f"{where}.{name} is not a field; {nearest(f'{where}.{name}', known)}")
            fields, where = fields[name], f"{where}.{name}"
    return parse(_read(path, overrides))


def _read(path: str, overrides: Sequence[str]):
    values = flags.FlagValues()
    words = ["bert-jax", f"--config={path}", *overrides]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
    try:
        values(words)
        recipe = values.config
        recipe.keys()  # a recipe that failed to run answers only here
    except InputError:
        raise
    except flags.Error as error:
        raise InputError(" ".join(str(error).removeprefix("flag ").split())) from None
    except Exception as error:  # whatever the user's own file raises
        raise InputError(f"--config {path} does not give a recipe: {type(error).__name__}: {error}") from None
    return recipe
