"""Task files are read as they are written, and broken ones end in one line."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_jax.finetune.tables import read_table
from data_prep.errors import InputError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)


def write(path, content: str):
    path.write_bytes(content.encode())
    return path


@given(st.lists(st.tuples(TEXT.filter(str.strip), TEXT, TEXT), min_size=1, max_size=5))
def test_csv_as_the_standard_writer_writes_it(tmp_path_factory, rows):
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([("label", "a", "b"), *rows])
    table = read_table(write(tmp_path_factory.mktemp("csv") / "x.csv", buffer.getvalue()))
    assert table.texts(["a", "b"]) == [row[1:] for row in rows]
    assert table.labels() == [row[0].strip() for row in rows]


@given(st.lists(st.tuples(st.sampled_from([0, 1, "x", True]), TEXT), min_size=1, max_size=5))
def test_jsonl(tmp_path_factory, rows):
    lines = [json.dumps({"label": label, "text": text}) for label, text in rows]
    table = read_table(write(tmp_path_factory.mktemp("jsonl") / "x.jsonl", "\n".join(lines)))
    assert table.text_columns() == ["text"]
    assert table.texts(["text"]) == [(text,) for _, text in rows]
    assert table.labels() == [label if isinstance(label, str) else json.dumps(label) for label, _ in rows]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_tsv_takes_quotes_as_they_are(tmp_path, newline):
    lines = ["sentence1\tsentence2\tlabel", 'say "no\tand\x85 go\t1', "\tempty\t0", ""]
    table = read_table(write(tmp_path / "x.tsv", "\ufeff" + newline.join(lines)))
    assert table.text_columns() == ["sentence1", "sentence2"]
    assert table.texts(table.text_columns()) == [('say "no', "and\x85 go"), ("", "empty")]
    assert table.labels() == ["1", "0"]


def test_numbers(tmp_path):
    assert read_table(write(tmp_path / "x.tsv", "text\tlabel\na\t1.5\nb\t-2e3\n")).numbers() == [1.5, -2000.0]
    for bad, message in (("x", "no number"), ("nan", "not finite"), ("inf", "not finite")):
        with pytest.raises(InputError, match=rf"x.tsv:2.*{message}"):
            read_table(write(tmp_path / "x.tsv", f"text\tlabel\na\t{bad}\n")).numbers()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", "text", "known are .tsv, .csv, .jsonl"),
        ("x.tsv", "", "is empty"),
        ("x.tsv", "text\tlabel\n", "no rows"),
        ("x.tsv", "text\tlabel\na\t1\nb\n", r"x.tsv:3: 1 fields where the header has 2"),
        ("x.tsv", "text\tlabel\n\na\t1\n", r"x.tsv:2: 1 fields"),
        ("x.tsv", "text\ttext\na\t1\n", "same name"),
        ("x.csv", 'text,label\n"a,1\n', r"x.csv:2: broken quoting"),
        ("x.csv", 'text,label\n"a\nb",1\nc\n', r"x.csv:4: 1 fields"),
        ("x.jsonl", '{"text": "a", "label": 1}\n{"text"', r"x.jsonl:2: broken JSON"),
        ("x.jsonl", "[1]", "no JSON object"),
        ("x.jsonl", '{"text": "a"}\n{"words": "a"}', r"x.jsonl:2.*text, words"),
    ],
)
def test_broken_files(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message) as error:
        read_table(write(tmp_path / name, content))
    assert "\n" not in str(error.value)


def test_wrong_columns(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "absent.tsv")
    (tmp_path / "x.tsv").write_bytes(b"text\tlabel\n\xff\t1\n")
    with pytest.raises(InputError, match="not UTF-8 at byte 11"):
        read_table(tmp_path / "x.tsv")
    with pytest.raises(InputError, match="no column 'label'; it has text"):
        read_table(write(tmp_path / "x.tsv", "text\na\n")).labels()
    with pytest.raises(InputError, match="no column 'text'"):
        read_table(write(tmp_path / "x.tsv", "label\na\n")).texts(["text"])
    for header, count in (("label", 0), ("label\ta\tb\tc", 3)):
        row = "\t".join("x" * (header.count("\t") + 1))
        with pytest.raises(InputError, match=f"has {count} columns beside"):
            read_table(write(tmp_path / "x.tsv", f"{header}\n{row}\n")).text_columns()
    with pytest.raises(InputError, match=r"x.jsonl:1: text is 3; it must be text"):
        read_table(write(tmp_path / "x.jsonl", '{"text": 3, "label": 0}')).texts(["text"])
    for label in ("null", '""', "[1]"):
        with pytest.raises(InputError, match=r"x.jsonl:1: the label is"):
            read_table(write(tmp_path / "x.jsonl", f'{{"text": "a", "label": {label}}}')).labels()
