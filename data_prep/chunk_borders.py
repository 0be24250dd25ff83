"""Where a text may be cut so that a tokenizer's work on the pieces, one after another, is its work on the whole."""

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import tokenizers

from data_prep.tokenizer_files import CHARACTERS
from data_prep.word_starts import SPACE

# A subset of the characters that BERT's normaliser puts spaces around.
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df"
_HAN_CHAR = re.compile(f"[{_HAN}]")
_HAN_OR_CHUNK = re.compile(f"[{_HAN}]|[^ {_HAN}]+")
# Some of the signs that BERT's splitter takes for words of their own.
_PUNCTUATION = "!-/:-@\\[-`{-~‘’“”–—…«»"
_PUNCTUATION_OR_WORD = re.compile(f"[{_PUNCTUATION}]|[^{_PUNCTUATION}]+")
# Characters that join what follows to themselves, besides those of the categories below (Unicode's Prepend).
_PREPEND = (0x0D4E, 0x111C2, 0x111C3, 0x113D1, 0x1193F, 0x11941, 0x11A3A, *range(0x11A84, 0x11A8A), 0x11D46, 0x11F02)
_EXTEND = (0xFF9E, 0xFF9F, *range(0x1F3FB, 0x1F400))
# Unicode's, as Rust and Oniguruma have it; Python's own \s has four controls more.
WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_WHITE_THEN_TEXT = re.compile(f"[{WHITE_SPACE}]*[^{WHITE_SPACE}]+|[{WHITE_SPACE}]+")


@dataclass(frozen=True)
class Borders:
    """`splits` cut a text into chunks and these into smaller ones; they may be used on the texts for which `allowed` is
    true.
    """

    splits: tuple[Callable[[str], list[str]], ...]
    allowed: Callable[[str], bool]


def borders(definition: dict[str, Any]) -> Borders | None:
    """The cuts for a tokenizer.json whose way of working is known; None for any other."""
    if any(not token["special"] for token in definition.get("added_tokens") or []):
        return None
    normalizer, pre = definition.get("normalizer") or {}, definition.get("pre_tokenizer") or {}
    model = definition["model"]["type"]
    if (normalizer.get("type"), pre.get("type"), model) == ("BertNormalizer", "BertPreTokenizer", "WordPiece"):
        # This normaliser goes by characters, and a sequence of marks that it reorders never goes across a space.
        first = _at_spaces_and_han if normalizer["handle_chinese_chars"] else _at_spaces
        return Borders((first, _PUNCTUATION_OR_WORD.findall), _always)
    steps = [step["type"] for step in normalizer.get("normalizers", [])]
    words = pre.get("type") == "Metaspace" and pre.get("split") and pre.get("prepend_scheme") == "always"
    if words and model in ("Unigram", "BPE") and steps in (["Precompiled", "Replace", "Strip"], ["Replace", "Strip"]):
        stripped = _white_space_that_stays(normalizer)
        return Borders((_at_spaces,), lambda text: _spaces_stand_alone(text) and not stripped.search(text))
    if not normalizer and model == "BPE" and pre.get("type") == "ByteLevel":
        # No token goes from text to white space, and a token that begins with white space does not look back.
        alone = pre.get("use_regex", True) and not pre.get("add_prefix_space", True)
        return Borders((_WHITE_THEN_TEXT.findall,), _always) if alone else None
    if model == "WordLevel" and pre == CHARACTERS and normalizer.get("type", "Lowercase") == "Lowercase":
        return Borders((list,), _always)
    return None


def _at_spaces(text: str) -> list[str]:
    return text.split(" ")


def _at_spaces_and_han(text: str) -> list[str]:
    if text.isascii() or not _HAN_CHAR.search(text):
        return text.split(" ")
    return _HAN_OR_CHUNK.findall(text)


def _always(text: str) -> bool:
    return True


def _white_space_that_stays(normalizer: dict[str, Any]) -> re.Pattern[str]:
    """Finds white space that a normaliser does not turn into a space: it is stripped at the ends of a text and nowhere
    else.
    """
    # Only a whole tokenizer can be read from JSON.
    empty = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
    found = tokenizers.Tokenizer.from_str(json.dumps({**empty, "normalizer": normalizer})).normalizer
    stays = [char for char in WHITE_SPACE if char != " " and found.normalize_str(f"a{char}a") != "a a"]
    return re.compile(f"[{''.join(stays)}]" if stays else "(?!)")


def _spaces_stand_alone(text: str) -> bool:
    """No space of the text, nor one put before or after it, is part of a grapheme cluster, by which the normaliser
    goes.

    Texts with the space's own sign are left out too: only at a text's beginning it stands for the space that is put
    there.
    """
    if text.isascii():
        return True
    somewhere, at_space = _joining()
    return not somewhere.search(text) or not at_space.search(f" {text} ")


@cache
def _joining() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Finds characters that may join a space: anywhere (quick, for most texts have none), and next to a space."""
    category = {code: unicodedata.category(chr(code)) for code in range(0x80, 0x20000)}
    unknown = {code for code, name in category.items() if name in ("Cc", "Cf", "Cn", "Co", "Cs")}
    marks = {code for code, name in category.items() if name.startswith("M")}
    before, after = unknown | {*_PREPEND}, unknown | marks | {*_EXTEND}
    beyond = "\U00033480-\U0010ffff"  # past the last plane of Han: tags, selectors, private use
    near = re.compile(f"[ {SPACE}](?:(?<={SPACE})|(?<=[{_ranges(before)}{beyond}] )|(?=[{_ranges(after)}{beyond}]))")
    # One range for all that is past 16 bits, because long lists of such ranges are searched one by one.
    low = {code for code in before | after if code < 0x10000}
    return re.compile(f"[{_ranges(low)}{SPACE}\U00010000-\U0010ffff]"), near


def _ranges(codes: set[int]) -> str:
    """The inside of a character class."""
    ordered = sorted(codes)
    parts, first = [], ordered[0]
    for code, following in zip(ordered, [*ordered[1:], -1], strict=True):
        if following != code + 1:
            parts.append(f"\\U{first:08x}-\\U{code:08x}")
            first = following
    return "".join(parts)
