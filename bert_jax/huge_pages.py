"""Huge pages for what a step on a CPU needs, by a setting of glibc that is read when a process starts.

XLA's CPU client takes a step's temporary arrays from the system and gives them back after it. In small pages that is
hundreds of thousands of faults a step, a sixth of its time (docs/performance.md).
"""

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

SETTING = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # glibc 2.35 or newer; others pass it over
_COMMANDS = ("pretrain", "finetune")
_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def wanted(words: Sequence[str], environment: Mapping[str, str], enabled: Path = _ENABLED) -> bool:
    """Whether a command is long work on CPUs, on a system that gives huge pages to those that ask for them.

    Args:
      words: of the command line.
      environment: its variables; GLIBC_TUNABLES is the user's where it is set.
      enabled: where Linux says who gets huge pages: all, those that ask, or nobody.
    """
    if not words or words[0] not in _COMMANDS or SETTING.keys() & environment.keys():
        return False
    try:
        return "[madvise]" in enabled.read_text() and _on_cpus(environment)
    except OSError:
        return False


def _on_cpus(environment: Mapping[str, str]) -> bool:
    """Whether jax will find nothing but CPUs, told without waiting for jax."""
    if named := environment.get("JAX_PLATFORMS"):
        return named == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and all(importlib.util.find_spec(name) is None for name in ("jax_plugins", "libtpu"))


def start_again() -> NoReturn:
    """Replaces this process by the same command with the setting."""
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | SETTING)
