"""Entities in a sequence of labels, and how well they are found.

The rules are those of the evaluation script of CoNLL's shared tasks (Tjong Kim Sang and De Meulder, 2003): a label is a
prefix and a type, as B-PER; an entity begins at B, or where a type begins without one, so IOB1 and IOB2 are read alike.
E and S (or L and U) of other schemes end an entity, and are one.
"""

import re
from collections.abc import Sequence

from bert_jax.finetune.labels import OUTSIDE

Entity = tuple[str, int, int]  # type, first word, word behind the last

_LABEL = re.compile(r"[BIESLU](-.+)?")
_BEGINS, _ENDS = ("B", "S", "U"), ("E", "L", "S", "U")


def marks_entities(labels: Sequence[str]) -> bool:
    """Whether labels are such: `O` and prefixes with types, B or I among them."""
    others = [label for label in labels if label != OUTSIDE]
    return all(_LABEL.fullmatch(label) for label in others) and any(label[0] in "BI" for label in others)


def entities(labels: Sequence[str]) -> list[Entity]:
    """The entities of a sentence, in order."""
    found: list[Entity] = []
    goes_on = False  # whether the last entity may take in the word
    for i, label in enumerate(labels):
        if label == OUTSIDE:
            goes_on = False
            continue
        prefix, _, kind = label.partition("-")
        if goes_on and prefix not in _BEGINS and found[-1][0] == kind:
            found[-1] = (kind, found[-1][1], i + 1)
        else:
            found.append((kind, i, i + 1))
        goes_on = prefix not in _ENDS
    return found


def entity_metrics(truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """precision, recall and f1 over the entities of all sentences, an entity being right where type and both ends are;
    and accuracy over words. What would be 0 / 0 is 0.
    """
    right = there = guessed = same = words = 0
    for expected, given in zip(truth, predicted, strict=True):
        known, claimed = set(entities(expected)), set(entities(given))
        right, there, guessed = right + len(known & claimed), there + len(known), guessed + len(claimed)
        same += sum(a == b for a, b in zip(expected, given, strict=True))
        words += len(expected)
    return {
        "precision": right / max(guessed, 1),
        "recall": right / max(there, 1),
        "f1": 2 * right / max(there + guessed, 1),
        "accuracy": same / max(words, 1),
    }
