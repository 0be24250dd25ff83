"""What a reader yields: a document, or the reason why there is none; and the cleaning that all readers share."""

import re
from dataclasses import dataclass

from data_prep import unicode_14
from data_prep.errors import InputError


@dataclass(frozen=True)
class Document:
    """One document of the corpus: `text` is never empty; its paragraphs are separated by a single "\\n", unless its
    form is kept (`keep_form`).
    """

    id: str
    text: str


@dataclass(frozen=True)
class Dropped:
    """A document that was left out, and why: the audit counts the reasons."""

    id: str
    reason: str


class Unreadable(InputError):
    """A whole file of which nothing can be read: the message for whom that ends the command, the reason for the count
    of what is dropped.
    """

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


_LINE_END = re.compile(r"\r\n?")
# Everything that is no text: C0 and C1 controls but for the line feed, the byte order mark wherever it stands, and
# lone surrogates.
_SEPARATORS = re.compile("[\t\x0b\x0c\x1c-\x1f\x85\u2028\u2029]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]")
_SURROGATES = re.compile("[\ud800-\udfff]")
# Blank lines and page ends; and a word broken at the end of a line.
_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n\s*|\f")
_HYPHEN = re.compile(r"(\S)[-\u00ad\u2010][^\S\n]*\n[^\S\n]*(?=(\S))")


def clean(text: str) -> str:
    """Text in Unicode NFC without control characters, "\\n" between its paragraphs, none blank; "" if nothing is left.

    CRLF and CR become line ends; tabs, form feeds and Unicode's line separators become spaces; other control
    characters and byte order marks are removed; a lone surrogate, which JSON can escape but UTF-8 cannot hold,
    becomes U+FFFD.
    """
    if "\r" in text:
        text = _LINE_END.sub("\n", text)
    if not text.replace("\n", "").isprintable():  # a cheap test that most texts pass
        text = _CONTROLS.sub("", _SEPARATORS.sub(" ", text))
        text = _SURROGATES.sub("\ufffd", text)
    if not text.isascii():
        text = unicode_14.nfc(text)
    if "\n" not in text:
        return text.strip()
    return "\n".join(filter(None, map(str.strip, text.split("\n"))))


def keep_form(text: str) -> str:
    """The text as it is, "" if it is all white space: for code, where indentation and blank lines are content.

    Only a lone surrogate, which no tokenizer takes, becomes U+FFFD.
    """
    return "" if text.isspace() else _SURROGATES.sub("\ufffd", text)


def unwrapped(text: str) -> str:
    """Paragraphs, which blank lines and page ends part, in a line each.

    A hyphen at the end of a line before a small letter goes with the line end; the few words that had it anyway
    ("well-known") lose it.
    """
    paragraphs = _PARAGRAPH_END.split(_LINE_END.sub("\n", text))
    whole = (_HYPHEN.sub(_without_hyphen, part) for part in paragraphs)
    return "\n".join(" ".join(map(str.strip, part.split("\n"))) for part in whole)


def _without_hyphen(found: re.Match[str]) -> str:
    is_word = unicode_14.category(found[1]).startswith("L") and unicode_14.category(found[2]) == "Ll"
    return found[1] if is_word else found[0]


def document(name: str, text: str, normalize: str) -> Document | Dropped:
    """A document with its text made ready as `normalize`, "nfc" or "none", says; `Dropped("empty")` for no text."""
    text = keep_form(text) if normalize == "none" else clean(text)
    return Document(name, text) if text else Dropped(name, "empty")
