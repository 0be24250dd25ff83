"""Inputs to documents: every file kind, every cut into units, every bad input by name."""

import gzip
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples

from data_prep import byte_streams
from data_prep.documents import Document, Dropped, clean
from data_prep.errors import InputError
from data_prep.sources import Unit, expand, read, units


def write(path: Path, content: str | bytes) -> Path:
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def documents(path: Path, on_error: str = "fail", unit_bytes: int = 1 << 20) -> list[Document | Dropped]:
    return [
        item for source in expand([str(path)]) for unit in units(source, unit_bytes) for item in read(unit, on_error)
    ]


def texts(path: Path, **options) -> list[str]:
    return [item.text for item in documents(path, **options) if isinstance(item, Document)]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_text_documents_and_paragraphs(tmp_path, name):
    path = write(tmp_path / name, "One.\nTwo.\n\n \t\n\nThree.\n")
    assert documents(path) == [Document(f"{name}:0", "One.\nTwo."), Document(f"{name}:15", "Three.")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_jsonl_documents_and_ids(tmp_path, name):
    lines = ['{"text": "One.\\nTwo.", "id": "x"}', "", '{"id": 7, "text": "Three."}', '{"text": "Four.", "id": null}']
    path = write(tmp_path / name, "\n".join(lines))
    offset = len("\n".join(lines[:3]).encode()) + 1
    assert documents(path) == [
        Document("x", "One.\nTwo."),
        Document("7", "Three."),
        Document(f"{name}:{offset}", "Four."),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends(tmp_path, end):
    assert texts(write(tmp_path / "a.txt", end.join(["", "One.", "Two.", "", "Three."]))) == ["One.\nTwo.", "Three."]


def test_cleaning(tmp_path):
    raw = "\ufeffA\x00B\tC\x07 cafe\u0301\u2028D\x85E\x0c\n  \u00a0 \nlast\ufeff one  \n"
    assert texts(write(tmp_path / "a.txt", raw)) == ["AB C café D E\nlast one"]
    assert clean("\ud800x\r\n\r\ny") == "\ufffdx\ny"
    assert clean("emoji 👩\u200d👧 stays") == "emoji 👩\u200d👧 stays"


def test_empty_documents_are_counted(tmp_path):
    first = '{"text": " \\n\\u0000 "}\n'
    path = write(tmp_path / "a.jsonl", first + '{"text": "x"}\n')
    assert documents(path) == [Dropped("a.jsonl:0", "empty"), Document(f"a.jsonl:{len(first)}", "x")]


line = st.text(st.sampled_from("ab é中\t\x00"), max_size=6)
END = st.sampled_from(["\n", "\n", "\r\n", "\r"])


@settings(max_examples=examples(150), deadline=None)
@given(lines=st.lists(st.tuples(line, END), min_size=1, max_size=14), unit_bytes=st.integers(1, 40), bom=st.booleans())
def test_any_cut_gives_the_same_text_documents(tmp_path_factory, lines, unit_bytes, bom):
    content = "".join(text + end for text, end in lines)
    path = write(tmp_path_factory.mktemp("cut") / "a.txt", ("\ufeff" if bom else "") + content + "x")
    whole = documents(path)
    assert documents(path, unit_bytes=unit_bytes) == whole
    # The truth by the definition: lines, a blank one ends a document.
    expected, current = [], []
    for text in [*(content + "x").replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""]:
        if text.strip(" \t"):
            current.append(text.replace("\x00", "").replace("\t", " ").strip())
        elif current:
            expected.append("\n".join(filter(None, current)))
            current = []
    assert [item.text if isinstance(item, Document) else "" for item in whole] == expected


@settings(max_examples=examples(100), deadline=None)
@given(
    lines=st.lists(st.tuples(st.sampled_from(["", "a", "éé", "long " * 9]), END), min_size=1, max_size=12),
    unit_bytes=st.integers(1, 60),
)
def test_any_cut_gives_the_same_json_documents(tmp_path_factory, lines, unit_bytes):
    content = "".join(json.dumps({"text": text}, ensure_ascii=False) + end for text, end in lines)
    path = write(tmp_path_factory.mktemp("cut") / "a.jsonl", content)
    whole = documents(path)
    assert documents(path, unit_bytes=unit_bytes) == whole
    assert [item.text if isinstance(item, Document) else "" for item in whole] == [t.strip() for t, _ in lines]


def test_cuts_across_block_borders(tmp_path, monkeypatch):
    monkeypatch.setattr(byte_streams, "BLOCK", 3)
    path = write(tmp_path / "a.txt", "ab\r\ncd\r\n\r\nefgh\r\r\nij")
    for unit_bytes in (1, 2, 3, 4, 5, 7, 100):
        assert texts(path, unit_bytes=unit_bytes) == ["ab\ncd", "efgh", "ij"], unit_bytes


def test_line_numbers_across_block_borders(tmp_path, monkeypatch):
    for size in range(1, 9):
        monkeypatch.setattr(byte_streams, "BLOCK", size)
        path = write(tmp_path / "a.jsonl", b'\xef\xbb\xbf\r\n{"text": "a"}\r\n\r\r\n{"text": "b"}\n{\n')
        with pytest.raises(InputError, match=r"a\.jsonl:6: "):
            documents(path)


def test_huge_lines_take_linear_time(tmp_path):
    path = write(tmp_path / "a.txt", b"word " * 6_000_000 + b"\n\nnext\n")  # 30 MB in one line
    seen = documents(path, unit_bytes=1 << 18)
    assert [len(item.text) for item in seen] == [29_999_999, 4]


def test_units_are_portable(tmp_path):
    contents = []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.txt", "x\n\n" * 50)
        contents.append([u for s in expand([str(tmp_path / folder / "*.txt")]) for u in units(s, 40)])
    assert contents[0] == contents[1] and len(contents[0]) == 4
    assert [u.describe() for u in contents[0]] == [u.describe() for u in contents[1]]
    assert str(tmp_path) not in json.dumps([u.describe() for u in contents[0]])
    assert pickle.loads(pickle.dumps(contents[0][0])) == contents[0][0]
    assert [(u.start, u.end) for u in contents[0]] == [(0, 37), (37, 75), (75, 112), (112, 150)]


def test_files_of_one_name_are_told_apart_and_none_is_read_twice(tmp_path):
    for folder in ("p", "q"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.txt", folder)
    write(tmp_path / "b.txt", "b")
    found = expand([str(tmp_path / "b.txt"), str(tmp_path / "*" / "*.txt"), str(tmp_path / "q" / "a.txt")])
    assert [source.name for source in found] == ["b.txt", "p/a.txt", "q/a.txt"]


def test_globs_are_sorted_and_recursive(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("c.txt", "a.txt", "sub/b.txt"):
        write(tmp_path / name, "x")
    assert [s.name for s in expand([str(tmp_path / "**" / "*.txt")])] == ["a.txt", "c.txt", "b.txt"]
    assert [s.name for s in expand([str(write(tmp_path / "odd[1].txt", "x"))])] == ["odd[1].txt"]


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ("missing.txt", "missing.txt: no such file"),
        ("*.nothing", "no file matches"),
        ("", "is a folder; name its files"),
        ("empty.txt", "empty.txt: the file is empty"),
        ("empty.txt.gz", "empty.txt.gz: the file is empty"),
        ("text.csv", r"text.csv: unknown kind of input; known are .txt, .jsonl, .parquet .*say it: txt:text.csv"),
    ],
)
def test_bad_inputs(tmp_path, given_, message):
    write(tmp_path / "empty.txt", "")
    write(tmp_path / "empty.txt.gz", "")
    write(tmp_path / "text.csv", "x")
    with pytest.raises(InputError, match=message) as caught:
        expand([f"{tmp_path}/{given_}"])
    assert "\n" not in str(caught.value)


def test_no_input():
    with pytest.raises(InputError, match="no input given"):
        expand([])


BAD_LINES = [
    (b'{"text": "x"', "broken json", "broken JSON"),
    (b"[" * 100_000, "broken json", "broken JSON"),
    (b'{"text": "x"} {}', "broken json", "Extra data"),
    (b'["text"]', "broken json", "no JSON object"),
    (b'{"txt": "x"}', "missing text", "no field `text`"),
    (b'{"text": 3}', "text not a string", "a number, not a string"),
    (b'{"text": null}', "text not a string", "null, not a string"),
    (b'{"text": "caf\xe9"}', "invalid utf-8", "byte 0xe9 at column 14"),
    (b'{"text": "x", "n": ' + b"1" * 5000 + b"}", "broken json", "broken JSON"),
]


@pytest.mark.parametrize(("bad", "reason", "message"), BAD_LINES)
@pytest.mark.parametrize("unit_bytes", [1 << 20, 16])
def test_bad_json_lines(tmp_path, bad, reason, message, unit_bytes):
    content = b'{"text": "one"}\r\n\r\n' + b'{"text": "two"}\n' + bad + b'\n{"text": "three"}\n'
    path = write(tmp_path / "a.jsonl", content)
    with pytest.raises(InputError, match=r"a\.jsonl:4: ") as caught:
        documents(path, unit_bytes=unit_bytes)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert "--on-error drop" in str(caught.value)
    kept = documents(path, "drop", unit_bytes)
    assert [item.text if isinstance(item, Document) else item.reason for item in kept] == [
        "one",
        "two",
        reason,
        "three",
    ]


@pytest.mark.parametrize("unit_bytes", [1 << 20, 5])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_invalid_utf8_in_text(tmp_path, unit_bytes, name):
    path = write(tmp_path / name, b"one\r\n\r\ntwo\r\ntw\xffo\r\n\r\nthree\r\n")
    with pytest.raises(InputError, match=rf"{name}:4: invalid UTF-8 \(byte 0xff\)"):
        documents(path, unit_bytes=unit_bytes)
    kept = documents(path, "drop", unit_bytes)
    assert [getattr(i, "text", None) or i.reason for i in kept] == ["one", "invalid utf-8", "three"]


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz"])
def test_truncated_and_damaged_gzip(tmp_path, name):
    rows = [json.dumps({"text": f"document {i} {i * i}"}) + "\n\n" for i in range(5000)]
    whole = gzip.compress("".join(rows).encode())
    path = tmp_path / name
    for raw, message in ((whole[:-2000], "truncated"), (b"no gzip at all", "damaged")):
        path.write_bytes(raw)
        with pytest.raises(InputError, match=f"{name}: the gzip file is {message}"):
            documents(path)
        kept = documents(path, "drop")
        assert isinstance(kept[-1], Dropped) and kept[-1].reason == "truncated gzip"
        assert all(isinstance(item, Document) for item in kept[:-1])
    path.write_bytes(whole[:-2000])
    assert len(documents(path, "drop")) > 1000


def test_nul_bytes_and_no_sentence_end(tmp_path):
    assert texts(write(tmp_path / "a.txt", b"no\x00 end \x00")) == ["no end"]


def test_unknown_on_error(tmp_path):
    with pytest.raises(InputError, match="--on-error"):
        read(Unit("txt", "a", 0, 1, 1, "a"), "ignore")
