"""Whether a tokenizer is another one with tokens added to it, so that a model of the old one can go on with it."""

from typing import Any

import numpy as np

from data_prep.tokenizer import Tokenizer, is_unused


def difference(old: Tokenizer, new: Tokenizer) -> str | None:
    """The first thing in which `new` is more than `old` with tokens added; None where there is none.

    Tokens may be added behind the old ones (to vocab.txt, as merges behind the old merges, or as added tokens), or take
    slots that were left for later use, such as BERT's [unused7]. Every other id, and every rule, must be the old one.
    """
    before, after = old.content(), new.content()
    if old.vocab_size > new.vocab_size:
        return f"it has {old.vocab_size} entries, the corpus's {new.vocab_size}"
    for i, (piece, now) in enumerate(zip(before["pieces"], after["pieces"], strict=False)):
        if piece != now and not is_unused(piece):
            return f"id {i} is {piece!r} in it, {now!r} in the corpus's"
    grows = {"pieces", "scores", "merges", "added"}
    for name in before.keys() | after.keys():
        if name not in grows and before.get(name) != after.get(name):
            return f"its {name} is {before.get(name)}, the corpus's {after.get(name)}"
    for name in ("scores", "merges"):
        if after.get(name, [])[: len(before.get(name, []))] != before.get(name, []):
            return f"its {name} are not the first of the corpus's"
    lost = [token for token in _added(before) if token not in _added(after) and not is_unused(token[0])]
    return f"the corpus's has no added token {lost[0][0]!r}" if lost else None


def new_ids(old: Tokenizer, new: Tokenizer) -> np.ndarray:
    """int32, sorted: the ids of the tokens that `new` has and `old` has not; `difference` must have found none."""
    before, after = old.content()["pieces"], new.content()["pieces"]
    taken = [i for i, piece in enumerate(before) if piece != after[i]]
    return np.array([*taken, *range(len(before), len(after))], np.int32)


def _added(content: dict[str, Any]) -> list[list[Any]]:
    return content["added"]
