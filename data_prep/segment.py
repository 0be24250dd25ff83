"""Paragraphs to sentences."""

from importlib import metadata

import sentencex

# Determines the content of a corpus: part of its manifest.
SEGMENTER = f"sentencex {metadata.version('sentencex')}"


def sentences(text: str, language: str = "en") -> list[str]:
    """The sentences of a text, stripped, none empty; a paragraph ("\\n" ends it) without a sentence end is one
    sentence.

    `language` is an ISO 639-1 code: it decides which abbreviations end no sentence; unknown codes get general rules.
    Nothing but white space is lost.
    """
    found: list[str] = []
    for paragraph in text.split("\n"):
        for sentence in sentencex.segment(language, paragraph):
            sentence = sentence.strip()
            if sentence:
                found.append(sentence)
    return found
