"""What makes a step on a CPU faster and is read once, before jax is there: a flag of XLA's and a setting of glibc's.

XLA computes several results of one reading of their operands only where it is asked to; the update of a parameter and
of its two moments is otherwise three loops, and copies of both moments before them. And its CPU client takes a step's
temporary arrays from the system and gives them back after it: in small pages that is hundreds of thousands of faults a
step, a sixth of its time. docs/performance.md has the measurements.
"""

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_XLA_OPTIONS = "--xla_backend_extra_options"  # of which an XLA that does not know one says nothing
_FUSION = f"{_XLA_OPTIONS}=xla_cpu_use_multi_output_fusion=true"
_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # glibc 2.35 or newer; others pass it over
_COMMANDS = ("pretrain", "finetune")
_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def wanted(words: Sequence[str], environment: Mapping[str, str], enabled: Path = _ENABLED) -> dict[str, str]:
    """Variables that a command should have beside its own: some where it is long work and jax has nothing but CPUs.

    Args:
      words: of the command line.
      environment: its variables. What the user has set of these two stays.
      enabled: where Linux says who gets huge pages: all, those that ask, or nobody.
    """
    if not words or words[0] not in _COMMANDS or not _on_cpus(environment):
        return {}
    variables = {}
    flags = environment.get("XLA_FLAGS", "")
    if with_fusion(flags) != flags:
        variables["XLA_FLAGS"] = with_fusion(flags)
    if not _HUGE_PAGES.keys() & environment.keys() and _on_advice(enabled):
        variables |= _HUGE_PAGES
    return variables


def with_fusion(flags: str) -> str:
    """XLA_FLAGS with multi-output fusion, or as they are where they name an option of its kind."""
    return flags if _XLA_OPTIONS in flags else f"{flags} {_FUSION}".strip()


def _on_cpus(environment: Mapping[str, str]) -> bool:
    """Whether jax will find nothing but CPUs, told without waiting for jax."""
    if named := environment.get("JAX_PLATFORMS"):
        return named == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and all(importlib.util.find_spec(name) is None for name in ("jax_plugins", "libtpu"))


def _on_advice(enabled: Path) -> bool:
    """Whether Linux gives huge pages to those that ask, and only to them."""
    try:
        return "[madvise]" in enabled.read_text()
    except OSError:
        return False


def take(variables: Mapping[str, str]) -> None:
    """Sets them for this process; does not return where glibc's is among them, which the same command, started again
    in its place, has from its beginning."""
    os.environ.update(variables)
    if _HUGE_PAGES.keys() & variables.keys():
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
