"""Limits that a user sets to the figures of an audit: `check CORPUS --max-unknown 0.01` fails where they are passed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from data_prep.errors import InputError

Audit = Mapping[str, Any]


@dataclass(frozen=True)
class Gate:
    """A figure that must not be above ("max-...") or below ("min-...") a limit."""

    name: str  # the option's, without "--"
    what: str
    value: Callable[[Audit], float]

    def passes(self, value: float, limit: float) -> bool:
        """Whether the figure keeps the limit."""
        return value <= limit if self.name.startswith("max") else value >= limit


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _duplicates(audit: Audit) -> float:
    dropped = audit["dropped"]
    return _share(dropped.get("duplicate", 0) + dropped.get("near duplicate", 0), audit["documents_in"])


GATES = (
    Gate("max-unknown", "share of unknown tokens", lambda audit: audit["unknown_share"]),
    Gate("max-duplicates", "share of documents dropped as duplicates or near duplicates", _duplicates),
    Gate(
        "max-dropped",
        "share of documents dropped, for whatever reason",
        lambda audit: _share(sum(audit["dropped"].values()), audit["documents_in"]),
    ),
    Gate("max-duplicated-lines", "share of lines that occur before", lambda audit: audit["duplicated_lines_share"]),
    Gate(
        "max-one-sentence",
        "share of documents with a single sentence, which make no pair",
        lambda audit: _share(audit["one_sentence_documents"], audit["documents_kept"]),
    ),
    Gate(
        "max-trivial-negatives",
        "share of random next sentences of another script or source",
        lambda audit: audit["trivial_negatives"]["script_or_source"],
    ),
    Gate(
        "max-foreign-script",
        "share of letters outside the commonest script",
        lambda audit: 1 - max(audit["scripts"].values(), default=1.0),
    ),
    Gate("min-documents", "documents kept", lambda audit: audit["documents_kept"]),
    Gate("min-tokens", "tokens kept", lambda audit: audit["tokens"]),
)


def failure(audit: Audit, limits: Mapping[str, float]) -> str | None:
    """What fails, in one line with name, value and limit of each gate, or None.

    Args:
        audit: of a corpus, as the manifest has it.
        limits: by the name of a gate.

    Raises InputError for a limit that no figure can be held against, and for a figure that the corpus, of an older
    version, does not have.
    """
    failed = []
    for gate in GATES:
        if gate.name not in limits:
            continue
        limit = limits[gate.name]
        if not 0 <= limit <= (1 if gate.name.startswith("max") else math.inf):
            bounds = "from 0 to 1, a share" if gate.name.startswith("max") else "0 or more"
            raise InputError(f"--{gate.name} is {limit:g}; it must be {bounds}")
        try:
            value = gate.value(audit)
        except KeyError as error:
            raise InputError(
                f"--{gate.name} needs {error} of the audit, which an older version did not count; "
                "build the corpus again"
            ) from None
        if not gate.passes(value, limit):
            failed.append(f"--{gate.name}: {gate.what} is {value:.6g}, the limit is {limit:.6g}")
    return "; ".join(failed) or None
