"""Files of labelled words are read as they are written, and broken ones end in one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_jax.finetune.tagged_text import read_tagged
from data_prep.errors import InputError

WORD = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=5).filter(str.strip)
SENTENCES = st.lists(st.lists(st.tuples(WORD, st.sampled_from(["O", "B-X", "I-X"])), min_size=1), min_size=1)


def write(path, content: str):
    path.write_bytes(content.encode())
    return path


@given(SENTENCES, st.sampled_from(["\n", "\r\n"]), st.integers(1, 3))
def test_columns_and_lists(tmp_path_factory, sentences, newline, blank):
    folder = tmp_path_factory.mktemp("x")
    text = (newline * (blank + 1)).join(newline.join("\t".join(pair) for pair in sentence) for sentence in sentences)
    lists = [{"words": [word for word, _ in pairs], "ner": [label for _, label in pairs]} for pairs in sentences]
    columns = read_tagged(write(folder / "x.conll", text))
    lines = read_tagged(write(folder / "x.jsonl", "\n".join(map(json.dumps, lists))), "words", "ner")
    for tagged in (columns, lines):
        assert tagged.words == [line["words"] for line in lists]
        assert tagged.labels == [line["ner"] for line in lists]
    assert lines.lines[-1][-1] == len(sentences)
    assert columns.where(0) == f"{folder / 'x.conll'}:1"


def test_four_columns_and_documents(tmp_path):
    text = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects  VBZ B-VP O\n\n\n-DOCSTART- -X- O O\n\n. . O O\n"
    tagged = read_tagged(write(tmp_path / "x.conll", text))
    assert tagged.words == [["EU", "rejects"], ["."]] and tagged.labels == [["B-ORG", "O"], ["O"]]
    assert tagged.lines == [[3, 4], [9]]


def test_labels_as_numbers_and_without(tmp_path):
    path = write(tmp_path / "x.jsonl", '{"tokens": ["a", "b"], "tags": [0, 7]}\n{"tokens": [], "tags": []}')
    assert read_tagged(path).labels == [["0", "7"], []]
    assert read_tagged(path, labelled=False).labels == []
    assert read_tagged(write(tmp_path / "x.conll", "a\nb\n\nc\n"), labelled=False).words == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.conll", "a\tO\nb\n", "x.conll:2: one column, 'b'"),
        ("x.conll", "a\tO\nb\t\n", "x.conll:2: one column, 'b'"),
        ("x.conll", "a\tO\n\tO\n", "x.conll:2: the first column is empty"),
        ("x.conll", "\n\n", "is empty"),
        ("x.conll", "-DOCSTART- O\n", "has no words"),
        ("x.txt", "a O", "known are .jsonl, .conll"),
        ("x.jsonl", '{"tokens": ["a"], "ner": ["O"]}', "no field 'tags'.*tokens, ner.*--tags-field"),
        ("x.jsonl", '{"words": ["a"], "tags": ["O"]}', "no field 'tokens'.*--tokens-field"),
        ("x.jsonl", '{"tokens": ["a"', "x.jsonl:1: broken JSON"),
        ("x.jsonl", '{"tokens": [], "tags": []}\n\n{"tokens": ["a"], "tags": []}', "x.jsonl:3: 1 tokens and 0 tags"),
        ("x.jsonl", '{"tokens": "a b", "tags": ["O"]}', "x.jsonl:1: tokens is \"a b\"; it must be a list of words"),
        ("x.jsonl", '{"tokens": ["a"], "tags": [null]}', "x.jsonl:1: tags is .null.; it must be a list of labels"),
        ("x.jsonl", '{"tokens": [], "tags": []}', "has no words"),
    ],
)  # fmt: skip
def test_broken_files(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message) as error:
        read_tagged(write(tmp_path / name, content))
    assert "\n" not in str(error.value)
