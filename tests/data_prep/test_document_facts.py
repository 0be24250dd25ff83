"""Scripts and repeated lines against plain counting."""

import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import document_facts, hash_groups, kept_facts
from data_prep.document_facts import NO_SCRIPT, FactsWriter, count_scripts, script_name
from data_prep.kept_facts import KeptFacts

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


@pytest.mark.parametrize("at_once", [1 << 18, 3])
@given(units=st.lists(st.lists(TEXT, max_size=6), min_size=1, max_size=3), data=st.data())
def test_kept_documents_of_units(tmp_path_factory, at_once, units, data):
    folder = tmp_path_factory.mktemp("facts")
    kept, read = [], []
    for i, texts in enumerate(units):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(document_facts, "_LINES_AT_ONCE", at_once)
            writer = FactsWriter(folder / str(i))
            half = len(texts) // 2
            writer.add(texts[:half])
            writer.add(texts[half:])
            writer.finish()
        kept.append([data.draw(st.booleans()) for _ in texts])
        read.append(folder / str(i))
    facts = KeptFacts(read, np.array([len(texts) for texts in units]), folder)
    chosen = [
        ((unit << 32) + place, text)
        for unit, texts in enumerate(units)
        for place, text in enumerate(texts)
        if kept[unit][place]
    ]
    numbers = np.array([number for number, _ in chosen], np.int64)
    texts = [text for _, text in chosen]
    half = data.draw(st.integers(0, len(chosen)))
    facts.keep(numbers[:half])
    facts.keep(numbers[half:])
    for text, script in zip(texts, map(script_name, facts.main_scripts(numbers).tolist()), strict=True):
        counts = Counter(filter(None, map(script_of, text)))
        assert (script == "none" and not counts) or counts[script] == max(counts.values())
    lines = [line for text in texts for line in text.split("\n")]
    share = (len(lines) - len(set(lines))) / len(lines) if lines else 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_facts, "_LINES_AT_ONCE", at_once)
        patch.setattr(kept_facts, "first_entries", lambda *found: hash_groups.first_entries(*found, at_once=at_once))
        assert facts.duplicated_lines() == share
    counts = Counter(script for text in texts for script in map(script_of, text) if script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_facts, "_SCRIPTS_AT_ONCE", at_once)
        shares = facts.script_shares()
    assert shares == {script: count / counts.total() for script, count in counts.items()}


def test_no_script():
    assert script_name(NO_SCRIPT) == "none"
