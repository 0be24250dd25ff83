"""Names of labels and their numbers."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bert_jax.checkpoint import SavedModel
from data_prep.errors import InputError

OUTSIDE = "O"  # the label of a word that is in no entity; number 0 where it occurs


def known_labels(task: str, train: Path, found: Iterable[str], saved: SavedModel) -> list[str]:
    """The labels by number: those of a model of this task that has all that were found, or the found ones, sorted.

    Raises:
      InputError: fewer than two.
    """
    labels = _in_order(set(found))
    if len(labels) < 2:
        raise InputError(f"{train} has one label only, {labels[0]!r}; {task} needs two or more")
    if saved.objective == task and set(labels) <= set(saved.card["labels"]):
        return list(saved.card["labels"])
    return labels


def numbered(labels: Sequence[str], given: Sequence[str], where: Callable[[int], str], train: Path) -> list[int]:
    """The number of each of the given labels.

    Args:
      labels: by number.
      given: of rows or words, say.
      where: file and line of one of them.
      train: the file that knows all labels.

    Raises:
      InputError: a label that `labels` lacks.
    """
    numbers = {label: i for i, label in enumerate(labels)}
    for i, label in enumerate(given):
        if label not in numbers:
            raise InputError(f"{where(i)}: label {label!r} does not occur in {train}, which has {_named(labels)}")
    return [numbers[label] for label in given]


def _in_order(labels: set[str]) -> list[str]:
    """Sorted, as numbers where all are; `O` first."""
    try:
        return sorted(labels, key=lambda label: (int(label), label))
    except ValueError:
        return sorted(labels, key=lambda label: (label != OUTSIDE, label))


def _named(labels: Sequence[str]) -> str:
    return ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")
