"""Words and the pieces that stand for them, and pieces as rows.

A word's label is read at its first piece. Given words are encoded as the text that they make with spaces between, and
the words of a text are found from its pieces; so the same text has the same ids whichever way it comes.
"""

import dataclasses
import unicodedata
from collections.abc import Sequence

import numpy as np

from bert_jax.finetune.encode import Encoded
from data_prep.tokenizer import Pieces, Tokenizer

_SPECIALS = 2  # [CLS] and [SEP]


@dataclasses.dataclass(frozen=True)
class Word:
    """A word: its characters [start, end) in the text, its ids, and the place among them of its first piece.

    Where a piece covers several words, only the first has it; the others have no ids, and -1 for the place: that of the
    last piece before them.
    """

    start: int
    end: int
    ids: list[int]
    first: int


@dataclasses.dataclass(frozen=True)
class WordRows:
    """Sentences as `[CLS] pieces [SEP]`.

    Attributes:
      encoded: the rows; a sentence that is too long takes several, cut between words.
      places: of every sentence int64 [words, 2]: the row, and in it the position of the word's first piece.
      split: sentences that were too long for a row.
      cut: words that were too long for a row, whose last pieces are left out.
    """

    encoded: Encoded
    places: list[np.ndarray]
    split: int
    cut: int


def sentence_text(tokenizer: Tokenizer, words: Sequence[str]) -> str:
    """The text that given words make: spaces between them, but for characters, one a word, of which a vocabulary of
    characters is made (proteins, say): there nothing."""
    characters = tokenizer.kind == "char" and all(len(word) == 1 for word in words)
    return ("" if characters else " ").join(words)


def given_words(tokenizer: Tokenizer, sentences: Sequence[Sequence[str]]) -> list[list[Word]]:
    """The pieces of every given word; a word that the tokenizer reads nothing in is [UNK]."""
    texts = [sentence_text(tokenizer, words) for words in sentences]
    encoded = tokenizer.encode_with_offsets(texts)
    return [
        _pieces_of(words, text, pieces, tokenizer.unk_id)
        for words, text, pieces in zip(sentences, texts, encoded, strict=True)
    ]


def _pieces_of(words: Sequence[str], text: str, pieces: Pieces, unk_id: int) -> list[Word]:
    spaces = _space_stretches(text, pieces)
    gap = 1 if len(text) > sum(map(len, words)) else 0
    found: list[Word] = []
    start = at = covered = 0  # `covered`: where the last piece that was taken ends
    for i, word in enumerate(words):
        end, first = start + len(word), -1
        ids: list[int] = []
        while at < len(pieces.ids) and (pieces.offsets[at][0] < end or i == len(words) - 1):
            if first < 0 and pieces.words[at] not in spaces:
                first = len(ids)
            ids.append(pieces.ids[at])
            covered = max(covered, pieces.offsets[at][1])
            at += 1
        if first < 0 and found and covered > start:
            found[-1].ids.extend(ids)
            ids = []
        elif first < 0:
            first = len(ids)
            ids.append(unk_id)
        found.append(Word(start, end, ids, first))
        start = end + gap
    return found


def words_of_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[Word]]:
    """The words of every text: what the tokenizer takes for one, cut at spaces and around punctuation too where a piece
    begins there. A text of nothing but spaces has none."""
    return [_words_of(text, pieces) for text, pieces in zip(texts, tokenizer.encode_with_offsets(texts), strict=True)]


def _words_of(text: str, pieces: Pieces) -> list[Word]:
    spaces = _space_stretches(text, pieces)
    found: list[Word] = []
    waiting: list[int] = []  # pieces of spaces that stand alone go with the word behind them
    last = None
    for i, (start, end), stretch in zip(pieces.ids, pieces.offsets, pieces.words, strict=True):
        if stretch in spaces:
            waiting.append(i)
            continue
        while start < end and text[start].isspace():
            start += 1
        border = stretch != last
        if found and not border and found[-1].start < found[-1].end <= start:
            border = _parts(text[start - 1]) or (start < end and _parts(text[start]))
        if border or not found:
            found.append(Word(start, end, [*waiting, i], len(waiting)))
        else:
            word = found[-1]
            found[-1] = Word(word.start, max(word.end, end), [*word.ids, *waiting, i], word.first)
        last, waiting = stretch, []
    if found and waiting:
        found[-1] = dataclasses.replace(found[-1], ids=[*found[-1].ids, *waiting])
    return found


def _space_stretches(text: str, pieces: Pieces) -> set[int]:
    """Numbers of the stretches that hold nothing but spaces."""
    spaces = set(pieces.words)
    for (start, end), stretch in zip(pieces.offsets, pieces.words, strict=True):
        if text[start:end].strip():
            spaces.discard(stretch)
    return spaces


def _parts(character: str) -> bool:
    """Whether a character stands between words, or is one: a space or, as BERT has it, punctuation."""
    symbol = character.isascii() and not character.isalnum()
    return character.isspace() or symbol or unicodedata.category(character).startswith("P")


def word_rows(tokenizer: Tokenizer, sentences: Sequence[Sequence[Word]], max_seq_len: int) -> WordRows:
    """Rows of at most `max_seq_len` tokens; no word is left out, and none is cut that fits into a row."""
    room = max_seq_len - _SPECIALS
    rows: list[list[int]] = []
    places, split, cut = [], 0, 0
    for words in sentences:
        first_row = len(rows)
        found = []
        for word in words:
            ids, first = word.ids, word.first
            if len(ids) > room:
                ids, first = ids[first : first + room], 0
                cut += 1
            if len(rows) == first_row or len(rows[-1]) + len(ids) > room:
                rows.append([])
            found.append((len(rows) - 1, 1 + len(rows[-1]) + first))
            rows[-1].extend(ids)
        places.append(np.array(found, np.int64).reshape(-1, 2))
        split += len(rows) > first_row + 1
    whole = [[tokenizer.cls_id, *row, tokenizer.sep_id] for row in rows]
    return WordRows(Encoded(whole, list(map(len, whole)), tokenizer.pad_id), places, split, cut)
