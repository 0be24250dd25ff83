"""Pieces belong to their words, given or found, and rows lose none of them."""

import numpy as np
import pytest
from byte_level_vocabulary import byte_level
from hypothesis import given
from hypothesis import strategies as st
from saved_models import write_tokenizer

from bert_jax.finetune.word_pieces import _pieces_of, given_words, sentence_text, word_rows, words_of_texts
from data_prep.tokenizer import Pieces, load_tokenizer
from data_prep.vocab import train_vocab

KINDS = ("words", "wordpiece", "unigram", "bpe", "char", "bytes")
WORD = st.text("abcdefgTNY.,'é—", min_size=1, max_size=6)
TEXT = "The old river in New York was 12 miles. A naïve café, it's fine; the films"


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "a.txt").write_text("\n".join(f"{TEXT} {i}" for i in range(100)))
    made = {"words": write_tokenizer(folder / "words"), "bytes": byte_level(folder / "bytes")}
    for kind in KINDS[1:-1]:
        train_vocab([str(folder / "a.txt")], folder / kind, kind, 90)
        made[kind] = folder / kind
    return {kind: load_tokenizer(path) for kind, path in made.items()}


@pytest.mark.parametrize("kind", KINDS)
@given(words=st.lists(WORD, min_size=1, max_size=8))
def test_given_words(tokenizers, kind, words):
    tokenizer = tokenizers[kind]
    text = sentence_text(tokenizer, words)
    (found,) = given_words(tokenizer, [words])
    assert [text[word.start : word.end] for word in found] == words
    # Nothing lost and in order: the ids of the text, but for words that the tokenizer reads nothing in.
    flat = [i for word in found for i in word.ids]
    assert [i for i in flat if i != tokenizer.unk_id] == [
        i for i in tokenizer.encode_batch([text])[0] if i != tokenizer.unk_id
    ]
    for word in found:
        assert word.first < 0 if not word.ids else 0 <= word.first < len(word.ids)
    if kind in ("wordpiece", "words"):  # here words are encoded alone
        assert [word.ids for word in found] == tokenizer.encode_batch(words)
        assert {word.first for word in found} == {0}


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text("abcTNY.,'é— \t", max_size=20))
def test_found_words(tokenizers, kind, text):
    tokenizer = tokenizers[kind]
    (found,) = words_of_texts(tokenizer, [text])
    ids = [i for word in found for i in word.ids]
    assert ids == (tokenizer.encode_batch([text])[0] if found else [])
    assert bool(found) == bool(text.strip())
    end = 0
    for word in found:
        assert end <= word.start < word.end and not text[word.start].isspace()
        end = word.end
    # every character that is no space is in a word
    covered = np.zeros(len(text), bool)
    for word in found:
        covered[word.start : word.end] = True
    assert all(covered[i] or character.isspace() for i, character in enumerate(text))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("wordpiece", "The|café|,|it|'|s|fine|."),
        ("unigram", "The|café|,|it|'|s|fine|."),
        ("bytes", "The|café|,|it|'s|fine|."),
        ("char", "T|h|e|c|a|f|é|,|i|t|'|s|f|i|n|e|."),
    ],
)
def test_words_as_people_see_them(tokenizers, kind, expected):
    text = "The  café, it's fine."
    (found,) = words_of_texts(tokenizers[kind], [text])
    assert "|".join(text[word.start : word.end] for word in found) == expected


def test_labels_stand_at_first_pieces(tokenizers):
    """Spaces that are pieces of their own do not count, the mark of a word's beginning does."""
    words = ["York", "was", "old"]
    for kind, joined in (("unigram", None), ("bytes", None), ("char", "York was old")):
        tokenizer = tokenizers[kind]
        (found,) = given_words(tokenizer, [words])
        firsts = [tokenizer.tokens(word.ids)[word.first] for word in found]
        assert all(first.lstrip("▁Ġ")[:1] in (word[0], "") for first, word in zip(firsts, words, strict=True))
        assert joined is None or firsts == ["Y", "w", "o"]
    assert sentence_text(tokenizers["char"], list("MKV")) == "MKV"


def test_a_word_of_nothing_is_unknown(tokenizers):
    tokenizer = tokenizers["words"]
    (found,) = given_words(tokenizer, [["the", "\u200b", "film"]])
    assert tokenizer.tokens([word.ids[0] for word in found]) == ["the", "[UNK]", "film"]
    assert [word.first for word in found] == [0, 0, 0]


def test_a_piece_of_two_words_is_read_for_both(tokenizers):
    """As models have them that were trained across spaces: `New York`, ` x`."""
    pieces = Pieces([7, 8, 9], [(0, 8), (8, 10), (10, 11)], [0, 0, 0])
    found = _pieces_of(["New", "York", "xy"], "New York xy", pieces, 1)
    assert [(word.ids, word.first) for word in found] == [([7], 0), ([], -1), ([8, 9], 0)]
    rows = word_rows(tokenizers["words"], [found], 16)
    assert rows.places[0].tolist() == [[0, 1], [0, 1], [0, 2]]


@given(st.lists(st.lists(WORD, max_size=9), min_size=1, max_size=6), st.integers(8, 24))
def test_rows_hold_every_word(tokenizers, sentences, longest):
    tokenizer = tokenizers["wordpiece"]
    words = given_words(tokenizer, sentences)
    rows = word_rows(tokenizer, words, longest)
    room, expected = longest - 2, 0
    for row in rows.encoded.ids:
        assert len(row) <= longest and row[0] == tokenizer.cls_id and row[-1] == tokenizer.sep_id
    for sentence, places in zip(words, rows.places, strict=True):
        assert [rows.encoded.ids[row][place] for row, place in places] == [word.ids[0] for word in sentence]
        expected += sum(min(len(word.ids), room) for word in sentence)
        fits = sum(len(word.ids) for word in sentence) <= room
        assert not sentence or fits == (len(set(places[:, 0])) == 1) or rows.cut
    assert sum(len(row) - 2 for row in rows.encoded.ids) == expected
    assert rows.cut == sum(len(word.ids) > room for sentence in words for word in sentence)
