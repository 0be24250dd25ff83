"""Sentence borders in four languages, and that nothing but white space is lost."""

import re
from importlib import metadata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import segment
from data_prep.segment import LONGEST, SEGMENTER, sentences, split

GOLDEN = [
    (
        "en",
        [
            "Dr. Smith lives in Washington, D.C. with his wife.",
            '"Is it true?" she asked.',
            "It costs 3.5 dollars, e.g. today.",
            "He left!",
        ],
    ),
    (
        "de",
        [
            "Das kostet z. B. 3,50 Euro.",
            "Am 3. Oktober feiert man in Berlin.",
            "„Wirklich?“, fragte sie.",
            "Prof. Dr. Müller kam nicht.",
        ],
    ),
    ("fr", ["Mme Durand est partie.", "Il a dit : « Je reviens. »", "Elle a ri !", "C'est-à-dire, p. ex. demain."]),
]


@pytest.mark.parametrize(("language", "expected"), GOLDEN)
def test_golden(language, expected):
    assert sentences(" ".join(expected), language) == expected


@pytest.mark.parametrize("language", ["zh", "en"])
def test_chinese_needs_no_spaces(language):
    expected = ["今天天气很好。", "我们去公园吧！", "你去吗？", "他说：“我不去。”", "然后走了。"]
    assert sentences("".join(expected), language) == expected


def test_paragraphs_end_sentences():
    assert sentences("Title\nFirst one. Second one.\n \n\nNo end") == ["Title", "First one.", "Second one.", "No end"]


@pytest.mark.parametrize("text", ["", " ", "\n \n", "\u3000"])
def test_nothing(text):
    assert sentences(text) == []


@given(st.text(st.sampled_from('aB1 .!?\n"“”)。！中é\u3000')), st.sampled_from(["en", "de", "zh", "xx", ""]))
def test_lossless(text, language):
    found = sentences(text, language)
    assert all(sentence == sentence.strip() and sentence and "\n" not in sentence for sentence in found)
    assert "".join("".join(found).split()) == "".join(text.split())


@pytest.mark.parametrize("space", ["\xa0", "\u3000", " \u2028", "\x85\xa0", "\u202f"])
@pytest.mark.parametrize("language", ["en", "de", "zh", "it", "xx"])
def test_an_initial_with_a_wide_space_before_its_period(space, language):
    """sentencex alone ends with a panic there. Cut is where it cuts with plain spaces, and the space stays."""
    text = "Es kam A{}. Er ging. Nr. B{}.C kam. Sie ging, d\xa0. h. bald."
    expected = sentences(text.format(" " * len(space), " " * len(space)), language)
    assert len(expected) > 1
    found = sentences(text.format(space, space), language)
    assert [re.sub(r"\s", " ", sentence) for sentence in found] == [re.sub(r"\s", " ", each) for each in expected]
    assert f"A{space}." in found[0]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("ein Wort nach dem anderen und nie ein Ende", "de"),
        ("今天天气很好我们去公园", "zh"),
        ("word,word;word-word", "en"),
    ],
)
def test_text_without_any_sentence_end(text, language):
    assert split(text, language) == ([text], 0)


@given(
    text=st.text(st.sampled_from("ab .\n中"), max_size=80),
    limit=st.integers(1, 20),
    normalize=st.sampled_from(["nfc", "none"]),
)
def test_long_sentences_are_cut_at_word_borders_and_counted(text, limit, normalize):
    whole = sentences(text, "en", normalize)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "LONGEST", limit)
        found, cut = split(text, "en", normalize)
    assert cut == sum(len(sentence) > limit for sentence in whole)
    assert all(0 < len(piece) <= limit for piece in found)
    if normalize == "none":
        assert "".join(found) == text
    else:
        assert "".join("".join(found).split()) == "".join(text.split())
        # A word is cut only where it alone is too long.
        for sentence in whole:
            for word in sentence.split():
                if len(word) <= limit:
                    assert any(word in piece.split() for piece in found), (word, found)


def test_long_sentences_in_each_language():
    for text, language in (("Wort " * LONGEST, "de"), ("mot " * LONGEST, "fr"), ("词" * 3 * LONGEST, "zh")):
        found, cut = split(text, language)
        assert cut == 1 and max(map(len, found)) <= LONGEST
        assert "".join("".join(found).split()) == "".join(text.split())
    assert {word for piece in split("Wort " * LONGEST, "de")[0] for word in piece.split()} == {"Wort"}


def test_code_is_cut_into_lines():
    code = "\n\ndef f(x):\n    return e.g. x\n\n\n\tif x:  # Yes. No!\r\n  "
    assert sentences(code, "en", "none") == [
        "\n\ndef f(x):\n",
        "    return e.g. x\n\n\n",
        "\tif x:  # Yes. No!\r\n",
        "  ",
    ]


@given(st.text(max_size=200))
def test_lines_joined_are_the_text(text):
    found = sentences(text, "en", "none")
    assert "".join(found) == text and "" not in found
    assert all("\n" not in sentence.strip("\n") for sentence in found)


def test_segmenter_names_its_version():
    assert metadata.version("sentencex") in SEGMENTER
