"""Sentence borders in four languages, and that nothing but white space is lost."""

from importlib import metadata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.segment import SEGMENTER, sentences

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


def test_segmenter_names_its_version():
    assert metadata.version("sentencex") in SEGMENTER
