"""Documents to sentences."""

import itertools
import re
from importlib import metadata

import sentencex

from data_prep.sentence_joins import joined

# Characters. What goes on for longer without a sentence end is no sentence but a table, a list or a log, and would be
# held in memory several times over. Equal to the tokens of a record: a piece mostly fits into one.
LONGEST = 16384
# Determines the content of a corpus: part of its manifest.
SEGMENTER = f"sentencex {metadata.version('sentencex')}, joins 1, at most {LONGEST} characters"
_LINES = re.compile(r"\n*[^\n]*\n*")
# sentencex 1.0.32 panics where white space of several bytes stands between a single capital letter and a period.
_WIDE_SPACE = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000](?=\\.)")
_INITIAL = re.compile(rf"(?<![^\s./])[A-Z]\s*{_WIDE_SPACE.pattern}")


def sentences(text: str, language: str = "en", normalize: str = "nfc") -> list[str]:
    """The sentences of a text, none empty, none longer than `LONGEST` characters.

    `language` is an ISO 639-1 code: it decides which abbreviations end no sentence; unknown codes get general rules.
    Sentences are stripped, and nothing but white space is lost; a paragraph ("\\n" ends it) without a sentence end is
    one sentence.

    With `normalize` "none" the text is code or the like: a line with its indentation, its end and the blank lines after
    it is a sentence, so that all of them, joined, are the text.
    """
    return split(text, language, normalize)[0]


def split(text: str, language: str = "en", normalize: str = "nfc") -> tuple[list[str], int]:
    """`sentences`, and how many were too long and cut: at the last white space that fits, or where there is none at
    the limit.
    """
    if normalize == "none":
        return _limited([line for line in _LINES.findall(text) if line], keep=True)
    found: list[str] = []
    for paragraph in text.split("\n"):
        pieces = _pieces(paragraph, language)
        for sentence in joined(pieces, language) if len(pieces) > 1 else pieces:
            sentence = sentence.strip()
            if sentence:
                found.append(sentence)
    return _limited(found, keep=False)


def _pieces(paragraph: str, language: str) -> list[str]:
    """What sentencex cuts a paragraph into; joined they are the paragraph."""
    if paragraph.isascii() or not _WIDE_SPACE.search(paragraph):
        return sentencex.segment(language, paragraph)
    with_spaces = _INITIAL.sub(lambda found: found[0][:-1] + " ", paragraph)
    ends = [0, *itertools.accumulate(map(len, sentencex.segment(language, with_spaces)))]
    return [paragraph[begin:end] for begin, end in itertools.pairwise(ends)]


def _limited(found: list[str], keep: bool) -> tuple[list[str], int]:
    if all(len(sentence) <= LONGEST for sentence in found):
        return found, 0
    pieces: list[str] = []
    cut = 0
    for sentence in found:
        cut += len(sentence) > LONGEST
        begin = 0
        while len(sentence) - begin > LONGEST:
            # White space ends the piece before it, so the character after the limit may be it.
            border = _last_space(sentence, begin, begin + LONGEST)
            piece = sentence[begin:border]
            pieces.append(piece if keep else piece.strip())
            begin = border
        rest = sentence[begin:] if keep else sentence[begin:].strip()
        pieces.append(rest)
    return [piece for piece in pieces if piece], cut


def _last_space(text: str, begin: int, limit: int) -> int:
    """Where to cut text[begin:]: behind the last white space before `limit`, or at the limit in a word of that
    length.
    """
    for place in range(limit, begin, -1):
        if text[place - 1].isspace() or text[place].isspace():
            return place
    return limit
