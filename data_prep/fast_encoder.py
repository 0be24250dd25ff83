"""A second encoder for WordPiece, ten to fifty times as fast as the tokenizers library: nanotoken, if it is installed.

It is young, so it is never trusted: a tokenizer takes it only where it gives the ids of the tokenizers library on the
strings below and on text of the corpus that is to be built.
"""

import itertools
from collections.abc import Callable, Sequence
from importlib import metadata

import numpy as np

from data_prep.chunk_cache import Encoded

_PACKAGE = "nanotoken"
# Words that it remembers, in each of two tables, at 130 bytes: beyond these come words that hardly return.
_CACHE_ENTRIES = 1 << 18

# What normalisers and splitters of words have got wrong before: white space of every kind, marks that combine or join,
# letters whose case or width changes their number, scripts without spaces, signs of the vocabulary itself, the limit
# of a hundred characters a word.
_FRAGMENTS = (
    *(" ", "\t", "\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\xa0", "\u1680", "\u2003", "\u2028", "\u3000"),
    *("\x00", "\x07", "\x7f", "\xad", "\u200b", "\u200d", "\u2060", "\ufe0f", "\ufeff", "\ufffd", "\ue000", "\u0378"),
    *("\u0301", "\u0323\u0301", "\u0e31", "\u093f", "\u0600", "\u0d4e", "\uff9e", "\U000e0061", "\U0001f3fd"),
    *("é", "e\u0301", "Å", "\u212b", "İ", "ı", "ß", "ẞ", "Σς", "ſ", "ŉ", "ǅ", "½", "ﬁ", "\ufdfa", "Ⅷ", "①", "Ａｂ"),
    *("中", "天气", "〇", "\U00020000", "かな", "カタ", "ｶﾞ", "가", "\u1100\u1161", "ไทย", "កខ", "བོད", "မြန်"),
    *("हिन्दी", "العربية", "עִבְרִית", "Ελλάδα", "Жизнь", "Ђ", "ქართ", "հայ", "አማ", "\U0001f469\u200d\U0001f467"),
    *("[MASK]", "[CLS]", "[UNK]", "[unused1]", "##s", "##", "▁a", "x" * 100, "y" * 101, "don't", "3.5", "U.S.", "_a"),
    *("$", "^", "`", "|", "~", "…", "—", "“a”", "§", "€", "№", "´", "¨", "·", "¿", "،", "。", "《", "\u2044", "\u20e3"),
)


def fast_encoder(definition: str) -> tuple[str, Callable[[list[str]], Encoded]] | None:
    """Its name with version, and texts to ids, for a tokenizer.json; None where it is not installed or does not know
    this kind.
    """
    try:
        import nanotoken
    except ImportError:
        return None
    try:
        tokenizer = nanotoken.WordPieceTokenizer.from_json(definition)
    except ValueError:
        return None
    nanotoken.set_cache_entries(_CACHE_ENTRIES)

    def encode(texts: list[str]) -> Encoded:
        # The processes of a build are the parallelism.
        ids, offsets = tokenizer.encode_batch(texts, add_special_tokens=False, parallel=False)
        return ids.view(np.int32), np.diff(offsets).astype(np.int32)

    return f"{_PACKAGE} {metadata.version(_PACKAGE)}", encode


def agree(one: Callable[[list[str]], Encoded], other: Callable[[list[str]], Encoded], texts: Sequence[str]) -> bool:
    """Whether two encoders give the same ids for `texts` and for the hostile strings."""
    strings = [*texts, *hostile_strings()]
    return all(np.array_equal(a, b) for a, b in zip(one(strings), other(strings), strict=True))


def hostile_strings() -> list[str]:
    """Every fragment alone, inside a word, between words, and beside others: about 700 strings, always the same."""
    neighbours = itertools.pairwise([*_FRAGMENTS, *_FRAGMENTS[::3], *_FRAGMENTS[::7]])
    return [
        *_FRAGMENTS,
        *(f"The{fragment}norm" for fragment in _FRAGMENTS),
        *(f"of {fragment} it, {fragment}" for fragment in _FRAGMENTS),
        *(f"{a}{b}{a}" for a, b in neighbours),
        "".join(_FRAGMENTS),
        " ".join(_FRAGMENTS),
        "",
    ]
