"""Scripts and repeated lines against plain counting."""

import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import document_facts
from data_prep.document_facts import NO_SCRIPT, Facts, FactsWriter, count_scripts, duplicated_lines, script_name

TEXT = st.text(st.sampled_from("aZé1 .\nдЖ中文かカαΩא\u0301"), min_size=1, max_size=20)
# Characters of these scripts are named after them.
NAMES = {"LATIN": "Latin", "CYRILLIC": "Cyrillic", "CJK": "Han", "HIRAGANA": "Hiragana", "KATAKANA": "Katakana"}
NAMES |= {"GREEK": "Greek", "HEBREW": "Hebrew"}


def script_of(char):
    return NAMES.get(unicodedata.name(char, "").split(" ")[0])


@pytest.mark.parametrize("at_once", [1 << 20, 7])
@given(texts=st.lists(TEXT, max_size=5))
def test_scripts_of_every_text(at_once, texts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_facts, "_CHARACTERS_AT_ONCE", at_once)
        counted = count_scripts(texts)
    found = {(text, script_name(script)): count for text, script, count in counted.tolist()}
    slow = Counter((i, script_of(char)) for i, text in enumerate(texts) for char in text if script_of(char))
    assert found == slow


@pytest.mark.parametrize("at_once", [1 << 24, 3])
@given(units=st.lists(st.lists(TEXT, max_size=6), min_size=1, max_size=3), data=st.data())
def test_kept_documents_of_units(tmp_path_factory, at_once, units, data):
    folder = tmp_path_factory.mktemp("facts")
    kept, read = [], []
    for i, texts in enumerate(units):
        writer = FactsWriter()
        half = len(texts) // 2
        writer.add(texts[:half])
        writer.add(texts[half:])
        writer.write(folder / str(i))
        kept.append(np.array([data.draw(st.booleans()) for _ in texts], bool))
        read.append(folder / str(i))
        main = [script_name(script) for script in Facts(read[-1]).main_scripts(len(texts)).tolist()]
        for text, script in zip(texts, main, strict=True):
            counts = Counter(filter(None, map(script_of, text)))
            assert (script == "none" and not counts) or counts[script] == max(counts.values())
    texts = [text for mine, unit in zip(kept, units, strict=True) for text, yes in zip(unit, mine, strict=True) if yes]
    lines = [line for text in texts for line in text.split("\n")]
    share = (len(lines) - len(set(lines))) / len(lines) if lines else 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_facts, "_LINES_AT_ONCE", at_once)
        assert duplicated_lines(read, kept) == share
    counts = Counter(script for text in texts for script in map(script_of, text) if script)
    shares = document_facts.script_shares(read, kept)
    assert shares == {script: count / counts.total() for script, count in counts.items()}


def test_no_script():
    assert script_name(NO_SCRIPT) == "none"
