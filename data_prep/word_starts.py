"""Which pieces of a vocabulary begin a word wherever they stand."""

from collections.abc import Sequence

import numpy as np

from data_prep import unicode_14

SPACE = "\u2581"  # how SentencePiece writes the space in front of a word

# Blocks of scripts that are written without spaces between words: there a piece is a word of its own.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x3007),  # iteration mark, zero
    (0x3021, 0x312F),  # numerals, Hiragana, Katakana, Bopomofo
    (0x31A0, 0x31FF),
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xA000, 0xA4CF),  # Yi
    (0xA980, 0xA9DF),  # Javanese
    (0xA9E0, 0xA9FF),  # Myanmar, extended
    (0xAA60, 0xAADF),  # Myanmar, extended; Tai Viet
    (0xF900, 0xFAFF),  # Han, compatibility
    (0xFF66, 0xFF9F),  # Katakana, half width
    (0x1B000, 0x1B16F),  # Kana, supplements
    (0x20000, 0x323AF),  # Han, further extensions
)


def is_unspaced(char: str) -> bool:
    """Whether a character begins a word by itself: a letter of a script without spaces, not a mark on the letter
    before.
    """
    code = ord(char)
    return any(first <= code <= last for first, last in _UNSPACED) and not unicode_14.category(char).startswith("M")


def is_punctuation(char: str) -> bool:
    """Punctuation as BERT has it: Unicode's, and all ASCII symbols."""
    return unicode_14.category(char).startswith("P") or char in "$+<=>^`|~"


def word_start_table(pieces: Sequence[str], kind: str, special: Sequence[int], byte_level: bool = False) -> np.ndarray:
    """bool [vocab_size]: the piece begins a word in any place it can stand.

    True for pieces that carry their kind's sign of a new word (WordPiece: no "##"; SentencePiece: a leading "▁";
    byte-level BPE: a leading space), for those that begin with punctuation or in a script without spaces, for special
    tokens, and for all of a vocabulary of characters, where every one is a word.
    """
    if kind == "char":
        return np.ones(len(pieces), bool)
    table = np.zeros(len(pieces), bool)
    for i, piece in enumerate(pieces):
        if kind == "wordpiece":
            marked, text = not piece.startswith("##"), piece.removeprefix("##")
        elif byte_level:
            text = _from_byte_level(piece)
            marked = text[:1].isspace()
        else:
            marked, text = piece.startswith(SPACE), piece.lstrip(SPACE)
        table[i] = marked or (bool(text) and (is_punctuation(text[0]) or is_unspaced(text[0])))
    table[list(special)] = True
    return table


def _byte_level_alphabet() -> dict[str, int]:
    """The characters that stand for bytes in byte-level BPE: printable ones for themselves, the others from U+0100
    on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTES = _byte_level_alphabet()


def _from_byte_level(piece: str) -> str:
    # A piece may end in the middle of a character: what matters is how it begins.
    return bytes(_BYTES[char] for char in piece if char in _BYTES).decode("utf-8", "ignore")
