"""Entities and their measures, against a table written by hand after the rules of CoNLL's evaluation script."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_jax.finetune.entities import entities, entity_metrics, marks_entities

TABLE = [
    ("O O", []),
    ("B-PER", ["PER 0 1"]),
    ("B-PER I-PER O", ["PER 0 2"]),
    ("O B-PER I-PER", ["PER 1 3"]),
    ("B-PER B-PER I-PER", ["PER 0 1", "PER 1 3"]),
    # IOB1: an entity begins without B, and with B only right behind one of its type
    ("I-PER I-PER O I-LOC", ["PER 0 2", "LOC 3 4"]),
    ("I-PER B-PER", ["PER 0 1", "PER 1 2"]),
    # another type begins another entity, whatever the prefix
    ("B-PER I-LOC I-LOC", ["PER 0 1", "LOC 1 3"]),
    ("I-PER I-LOC B-PER", ["PER 0 1", "LOC 1 2", "PER 2 3"]),
    ("B-PER O I-PER", ["PER 0 1", "PER 2 3"]),
    # ends and singles
    ("B-PER I-PER E-PER I-PER", ["PER 0 3", "PER 3 4"]),
    ("S-PER S-PER", ["PER 0 1", "PER 1 2"]),
    ("S-PER I-PER", ["PER 0 1", "PER 1 2"]),
    ("B-PER E-PER E-PER", ["PER 0 2", "PER 2 3"]),
    ("O E-PER O", ["PER 1 2"]),
    ("B-PER L-PER U-LOC", ["PER 0 2", "LOC 2 3"]),
    # types with a hyphen in them; no types
    ("B-work-of-art I-work-of-art B-work", ["work-of-art 0 2", "work 2 3"]),
    ("B I O I", [" 0 2", " 3 4"]),
]


@pytest.mark.parametrize(("labels", "expected"), TABLE)
def test_table(labels, expected):
    assert [f"{kind} {start} {end}" for kind, start, end in entities(labels.split())] == expected


def test_measures_by_hand():
    truth = ["B-PER I-PER O B-LOC", "O B-ORG I-ORG I-ORG O", "O O"]
    guess = ["B-PER I-PER O B-ORG", "O B-ORG I-ORG O O", "B-PER O"]
    # of 3 entities 1 is right; 4 were guessed; of 11 words 8 are right
    measured = entity_metrics([line.split() for line in truth], [line.split() for line in guess])
    assert measured == pytest.approx({"precision": 1 / 4, "recall": 1 / 3, "f1": 2 / 7, "accuracy": 8 / 11})
    nothing = entity_metrics([["O"]], [["O"]])
    assert nothing == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "accuracy": 1.0}


LABELS = st.lists(st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"]), min_size=1, max_size=8), min_size=1)


@given(LABELS, st.randoms(use_true_random=False))
def test_measures_against_borders(truth, draw):
    """Entities as pairs of borders that a regular expression over begun and continued words finds."""

    def spans(labels):
        found, i = set(), 0
        while i < len(labels):
            j = i + 1
            if labels[i] != "O":
                while j < len(labels) and labels[j] == f"I-{labels[i][2:]}":
                    j += 1
                found.add((labels[i][2:], i, j))
            i = j
        return found

    guess = [[draw.choice([label, draw.choice(["O", "B-A", "I-B"])]) for label in labels] for labels in truth]
    pairs = [(spans(a), spans(b)) for a, b in zip(truth, guess, strict=True)]
    right, there, claimed = np.sum([(len(a & b), len(a), len(b)) for a, b in pairs], axis=0)
    measured = entity_metrics(truth, guess)
    assert measured["precision"] == pytest.approx(right / claimed if claimed else 0)
    assert measured["recall"] == pytest.approx(right / there if there else 0)
    p, r = measured["precision"], measured["recall"]
    assert measured["f1"] == pytest.approx(2 * p * r / (p + r) if p + r else 0)
    same = np.concatenate(truth) == np.concatenate(guess)
    assert measured["accuracy"] == pytest.approx(same.mean())


def test_what_marks_entities():
    assert (
        marks_entities(["O", "B-PER", "I-PER"]) and marks_entities(["O", "I-LOC"]) and marks_entities(["B", "I", "O"])
    )
    assert (
        not marks_entities(["NOUN", "VERB"])
        and not marks_entities(["O", "PER"])
        and not marks_entities(["C", "E", "H"])
    )
    assert not marks_entities(["O", "B-PER", "X"])
