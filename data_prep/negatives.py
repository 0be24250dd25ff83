"""How many random next sentences give themselves away, because another script or another file shows.

The expectation under the sampler's rule: a negative comes from a sentence that is not its document's first, drawn
evenly over all other documents, and documents need negatives in proportion to their tokens.
"""

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

# (tokens, sentences, and source and script of documents, int64 [n, 2]), block after block.
Groups = Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]

_GROUPINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "script": lambda group: group[:, 1],
    "source": lambda group: group[:, 0],
    "script_or_source": lambda group: (group[:, 0] << 16) + group[:, 1],
}


def trivial_negatives(groups: Callable[[], Groups]) -> dict[str, float]:
    """The share of negatives from a text of another main script, or of another source (file), than the A before them,
    or of either. `groups` gives all documents, and is called twice.
    """
    # Sentences that may be drawn, by script, by source and by both.
    gives = {name: Counter[int]() for name in _GROUPINGS}
    total = 0
    for _, sentences, group in groups():
        total += int((sentences - 1).sum())
        for name, of in _GROUPINGS.items():
            values, places = np.unique(of(group), return_inverse=True)
            counts = np.bincount(places, weights=sentences - 1, minlength=len(values)).astype(np.int64)
            gives[name].update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    needed, alike = 0, dict.fromkeys(_GROUPINGS, 0.0)
    for tokens, sentences, group in groups():
        own = sentences - 1
        paired = (own > 0) & (total > own)
        needed += int(tokens[paired].sum())
        for name, of in _GROUPINGS.items():
            values, places = np.unique(of(group), return_inverse=True)
            there = np.array([gives[name][value] for value in values.tolist()], np.int64)[places] - own
            alike[name] += float((tokens[paired] * (there[paired] / (total - own[paired]))).sum())
    return {name: round(1 - alike[name] / needed, 6) if needed else 0.0 for name in _GROUPINGS}
