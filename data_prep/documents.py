"""What a reader yields: a document, or the reason why there is none; and the cleaning that all readers share."""

import re
import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One document of the corpus: `text` is never empty, its paragraphs are separated by a single "\\n"."""

    id: str
    text: str


@dataclass(frozen=True)
class Dropped:
    """A document that was left out, and why: the audit counts the reasons."""

    id: str
    reason: str


_LINE_END = re.compile(r"\r\n?")
# Everything that is no text: C0 and C1 controls but for the line feed, the byte order mark wherever it stands, and
# lone surrogates.
_SEPARATORS = re.compile("[\t\x0b\x0c\x1c-\x1f\x85\u2028\u2029]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]")
_SURROGATES = re.compile("[\ud800-\udfff]")


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
        text = unicodedata.normalize("NFC", text)
    if "\n" not in text:
        return text.strip()
    return "\n".join(filter(None, map(str.strip, text.split("\n"))))
