"""The same documents come back from every format and every compression, whole or in any cut; damage by name."""

import bz2
import gzip
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples
from pyarrow import parquet
from small_corpora import make_tokenizer

from data_prep import byte_streams
from data_prep.documents import Document, Dropped, clean
from data_prep.errors import InputError
from data_prep.inputs import parse_inputs
from data_prep.sources import expand, read, units


def zstd(raw: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(raw)
    return sink.getvalue().to_pybytes()


PACK = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstd}


def items(word: object, on_error: str = "fail", unit_bytes: int = 1 << 20, **reading) -> list[Document | Dropped]:
    found = expand(parse_inputs([str(word)], **reading))
    return [item for source in found for unit in units(source, unit_bytes) for item in read(unit, on_error)]


def texts(*arguments, **options) -> list[str]:
    return [item.text for item in items(*arguments, **options) if isinstance(item, Document)]


def write_parquet(path: Path, columns: dict, group: int = 3) -> Path:
    parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
    return path


# Letters of one to four bytes, controls, line ends, marks that NFC joins.
TEXT = st.text(
    st.sampled_from([*"ab .\n\r\t", "é", "\u0301", "中", "👩", "\x00", "\x85", "\u2028", "\ufeff"]), max_size=12
)


@settings(max_examples=examples(60))
@given(
    wanted=st.lists(TEXT, min_size=1, max_size=8),
    unit_bytes=st.integers(1, 200),
    normalize=st.sampled_from(["nfc", "none"]),
)
def test_the_same_documents_from_every_format(tmp_path_factory, wanted, unit_bytes, normalize):
    """The truth is the list itself, cleaned or left alone."""
    folder = tmp_path_factory.mktemp("formats")
    lines = "".join(
        json.dumps({"body": text, "name": f"n{i}"}, ensure_ascii=i % 2 == 0) + "\n" for i, text in enumerate(wanted)
    )
    write_parquet(folder / "a.parquet", {"name": [f"n{i}" for i in range(len(wanted))], "body": wanted})
    whole = [text if normalize == "none" else clean(text) for text in wanted]
    want = [Document(f"n{i}", text) if text.strip() else Dropped(f"n{i}", "empty") for i, text in enumerate(whole)]
    options = {"text_field": "body", "id_field": "name", "normalize": normalize, "unit_bytes": unit_bytes}
    assert items(folder / "a.parquet", **options) == want
    for suffix, pack in PACK.items():
        path = folder / f"a.jsonl{suffix}"
        path.write_bytes(pack(lines.encode()))
        assert items(path, **options) == want, suffix
    # A text file a document; an empty file is an error of its own.
    for suffix, pack in PACK.items():
        for i, text in enumerate(wanted):
            (folder / f"{i}.txt{suffix}").write_bytes(pack(b"x" + text.encode()))
        found = items(folder / f"*.txt{suffix}", normalize=normalize, documents="file", unit_bytes=unit_bytes)
        assert [item.text for item in found] == [
            "x" + text if normalize == "none" else clean("x" + text) for text in wanted
        ]
    # A paragraph a line, a blank line between documents: what has no blank line inside.
    plain = [text for text in whole if text.strip() and not any(not line.strip() for line in clean(text).split("\n"))]
    plain = [clean(text) for text in plain]
    if plain:
        for suffix, pack in PACK.items():
            path = folder / f"lines.txt{suffix}"
            path.write_bytes(pack("\n\n".join(plain).encode()))
            assert texts(path, unit_bytes=unit_bytes) == plain


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst"])
def test_packed_files_of_several_streams(tmp_path, name, suffix):
    rows = [f"document {i}" for i in range(7)]
    raw = [(f"{row}\n\n" if name == "a.txt" else json.dumps({"text": row}) + "\n").encode() for row in rows]
    path = tmp_path / (name + suffix)
    path.write_bytes(b"".join(PACK[suffix](row) for row in raw))
    assert texts(path) == rows
    assert len(expand([str(path)])) == 1 == len(units(expand([str(path)])[0], 8))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
@pytest.mark.parametrize(("suffix", "word"), [(".gz", "gzip"), (".bz2", "bzip2"), (".zst", "zstandard")])
def test_truncated_and_damaged(tmp_path, name, suffix, word):
    import random

    letters = random.Random(0)
    rows = [json.dumps({"text": f"document {i} {letters.random()}"}) + "\n\n" for i in range(60_000)]
    whole = PACK[suffix]("".join(rows).encode())
    path = tmp_path / (name + suffix)
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 64] = bytes(64)
    for raw, message in (
        (whole[: -len(whole) // 4], "truncated"),
        # Of the three, bzip2 alone has checksums all along.
        *([(bytes(damaged), "damaged")] if suffix == ".bz2" else []),
        (b"nothing of the kind", "damaged"),
        (whole + b"something else behind it", "damaged"),
    ):
        path.write_bytes(raw)
        with pytest.raises(
            InputError, match=rf"{name}{suffix}: the {word} file is {message}.*--on-error drop"
        ) as caught:
            items(path)
        assert "\n" not in str(caught.value)
        kept = items(path, "drop")
        assert isinstance(kept[-1], Dropped) and kept[-1].reason == f"truncated {word}"
        good = [item for item in kept[:-1] if isinstance(item, Document)]
        # No document is made up. The last may be cut short by the break; it is then no JSON, or no whole text.
        assert len(good) >= len(kept) - 2
        want = [json.loads(row)["text"] if name == "a.jsonl" else row.strip() for row in rows[: len(good)]]
        assert [item.text for item in good] == want
        if raw != b"nothing of the kind":
            assert len(good) > 5000


def test_bz2_streams_tell_where_they_begin(tmp_path):
    parts = [b"one" * 1000, b"", b"two", b"three" * 200_000]
    packed = [bz2.compress(part) for part in parts]
    (tmp_path / "a.bz2").write_bytes(b"".join(packed))
    starts = [0, *itertools.accumulate(map(len, packed))]
    with open(tmp_path / "a.bz2", "rb") as stream:
        for first in range(len(parts)):
            found: dict[int, bytes] = {}
            for begin, block in byte_streams.bz2_streams(stream, starts[first]):
                found[begin] = found.get(begin, b"") + block
            assert found == {starts[i]: parts[i] for i in range(first, len(parts)) if parts[i]}


def test_parquet_row_groups_are_units(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", {"text": [f"text {i} " * 50 for i in range(40)]}, group=4)
    (source,) = expand([str(path)])
    assert [(u.start, u.end) for u in units(source, 1)] == [(i, i + 1) for i in range(10)]
    assert len(units(source, 1 << 30)) == 1
    assert [item.id for item in items(path, unit_bytes=1)] == [f"a.parquet:{i + 1}" for i in range(40)]


@pytest.mark.parametrize(
    "kind",
    [pyarrow.string(), pyarrow.large_string(), pyarrow.binary(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())],
)
def test_parquet_columns_of_text(tmp_path, kind):
    column = pyarrow.array(["One é.", "Two.", "One é."])
    column = column.dictionary_encode() if pyarrow.types.is_dictionary(kind) else column.cast(kind)
    assert texts(write_parquet(tmp_path / "a.parquet", {"text": column, "id": [3, 4, 5]})) == [
        "One é.",
        "Two.",
        "One é.",
    ]
    assert [item.id for item in items(tmp_path / "a.parquet")] == ["3", "4", "5"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": ["x"], "id": [1]}, r"no column `text` \(there are: body, id\); name another with --text-field"),
        ({"text": [1, 2]}, "the column `text` is int64, no text"),
        ({"text": [["x"]]}, "the column `text` is list.*, no text"),
        ({"text": pyarrow.array([], pyarrow.string())}, "the file has no rows"),
    ],
)
@pytest.mark.parametrize("on_error", ["fail", "drop"])
def test_wrong_parquet(tmp_path, columns, message, on_error):
    path = write_parquet(tmp_path / "a.parquet", columns)
    with pytest.raises(InputError, match=f"a.parquet: {message}") as caught:
        items(path, on_error)
    assert "\n" not in str(caught.value)


def test_parquet_rows_that_are_no_text(tmp_path):
    column = pyarrow.array([b"one", None, b"caf\xe9", b"", b"two"], pyarrow.binary())
    path = write_parquet(tmp_path / "a.parquet", {"text": column}, group=2)
    with pytest.raises(InputError, match=r"a\.parquet: row 2: `text` is null, not a string; .*--on-error drop"):
        items(path)
    found = [getattr(i, "text", None) or i.reason for i in items(path, "drop", 1)]
    assert found == ["one", "text not a string", "invalid utf-8", "empty", "two"]


def test_damaged_parquet(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", {"text": [f"text {i * i}" for i in range(3000)]}, group=1000)
    raw = path.read_bytes()
    middle = bytearray(raw)
    start = parquet.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    middle[start : start + 400] = b"\xff" * 400
    path.write_bytes(bytes(middle))
    with pytest.raises(InputError, match=r"a\.parquet: row 1001 or one soon after: the parquet file is damaged"):
        items(path)
    kept = items(path, "drop", 1)
    assert [item.reason for item in kept if isinstance(item, Dropped)] == ["damaged parquet"]
    assert [item.text for item in kept if isinstance(item, Document)] == [
        f"text {i * i}" for i in range(3000) if not 1000 <= i < 2000
    ]
    for bad in (raw[: len(raw) // 2], b"no parquet", raw[:4] + bytes(100) + raw[-8:]):
        path.write_bytes(bad)
        with pytest.raises(InputError, match=r"a\.parquet: no parquet file, or a damaged one"):
            items(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.parquet.gz", "a parquet file is compressed inside"),
        ("a.txt.xz", "unknown kind of input.*txt:a.txt.xz"),
        ("a.py", "unknown kind of input.*txt:a.py"),
    ],
)
def test_wrong_kinds(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=message):
        items(tmp_path / name)


def test_a_kind_that_the_suffix_does_not_tell(tmp_path):
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b'{"text": "one"}\n'))
    (tmp_path / "b.py").write_text("two\n")
    assert texts(f"jsonl:{tmp_path}/*.json.gz") == ["one"]
    assert texts(f"txt:{tmp_path}/*.py") == ["two"]


def test_mixed_encodings(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n\n" + "zwei ü".encode("latin-1") + b"\n\n" + "drei ü".encode() + b"\n\nfour\x00\x00\n")
    with pytest.raises(InputError, match=r"a\.txt:3: invalid UTF-8 \(byte 0xfc\)"):
        items(path)
    assert [getattr(i, "text", None) or i.reason for i in items(path, "drop")] == [
        "one",
        "invalid utf-8",
        "drei ü",
        "four",
    ]
    path.write_bytes("one\n\ntwo".encode("utf-16"))
    for documents in ("blank-line", "file"):
        with pytest.raises(InputError, match=r"a\.txt:1: UTF-16, not UTF-8; convert it with: iconv"):
            items(path, documents=documents)


# Not getrusage: there a process begins with the peak of the one that started it, the tests' own.
MEMORY = r"""
import re, sys
from pathlib import Path
from data_prep.build import build_corpus
if __name__ == "__main__":
    build_corpus([sys.argv[1]], sys.argv[2], sys.argv[3], workers=1)
    print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024)
"""


@pytest.mark.parametrize("kind", ["txt.zst", "jsonl"])
def test_fifty_megabytes_in_one_line(tmp_path, kind):
    size = 50 << 20
    line = b"the house river " * (size // 16)
    path = tmp_path / f"a.{kind}"
    path.write_bytes(b'{"text": "' + line + b'"}\n' if kind == "jsonl" else zstd(line))
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", MEMORY, path, tokenizer, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120)
    assert done.returncode == 0, done.stderr
    # Bytes, text, cleaned text, sentences, tokens, and 100 MB of libraries.
    assert int(done.stdout.split()[-1]) < 7 * size + (100 << 20)
    audit = json.loads((tmp_path / "out" / "manifest.json").read_text())["audit"]
    assert (audit["documents_kept"], audit["tokens"], audit["long_sentences_cut"]) == (1, 3 * (size // 16), 1)


def test_lines_broken_to_a_width(tmp_path):
    """As pdftotext writes them: blank lines between paragraphs, a form feed between pages, hyphens."""
    raw = "Title\n\nThe court exam-\nined the 1-\n2 cases of Smith-\nJones.\r\nIt   was\n"
    raw += "  Überra\u00ad\nschend, Bad-\nÖl.\n \t\n\nNext\nend.\fNew page\n"
    (tmp_path / "a.txt").write_text(raw, newline="")
    want = (
        "Title\nThe court examined the 1- 2 cases of Smith- Jones. It   was Überraschend, Bad- Öl.\nNext end.\nNew page"
    )
    assert texts(tmp_path / "a.txt", documents="wrapped-file", unit_bytes=5) == [want]


@pytest.mark.parametrize("words", [["vocab", "--kind", "bpe", "--size", "300"], ["build", "--tokenizer", "tokenizer"]])
def test_the_command_line_passes_every_option(tmp_path, monkeypatch, words):
    from bert_jax.cli import main

    make_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "a.txt").write_text("the river\n\nthe old house")
    (tmp_path / "b.jsonl").write_text('{"body": "the house", "key": "k"}\n{"body": 3}\n')
    monkeypatch.chdir(tmp_path)
    command = [*words, "--output", "out", "--input", "text=a.txt", "rows=b.jsonl", "--language", "de", "rows=fr"]
    command += [
        "--normalize",
        "text=none",
        "--text-field",
        "body",
        "--id-field",
        "rows=key",
        "--documents",
        "text=file",
    ]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--on-error", "drop"])
    assert ended.value.code == 0
    file = {"vocab": "vocab_settings.json", "build": "manifest.json"}[words[0]]
    found = json.loads((tmp_path / "out" / file).read_text())["settings"]
    rows = {"language": "fr", "normalize": "nfc", "text_field": "body", "id_field": "key", "documents": "blank-line"}
    text = {"language": "de", "normalize": "none", "text_field": "body", "id_field": "id", "documents": "file"}
    assert found["readings" if words[0] == "vocab" else "inputs"] == {"text": text, "rows": rows}
    with pytest.raises(SystemExit) as ended:
        main([*command, "--on-error", "fail"])
    assert ended.value.code == 2


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl.bz2"])
@pytest.mark.parametrize("documents", ["blank-line", "file"])
@pytest.mark.parametrize("normalize", ["nfc", "none"])
def test_a_byte_order_mark_is_no_text(tmp_path, name, documents, normalize):
    raw = b'{"text": "one"}' if ".jsonl" in name else b"one"
    (tmp_path / name).write_bytes(PACK[Path(name).suffix if name.count(".") > 1 else ""](b"\xef\xbb\xbf" + raw))
    assert texts(tmp_path / name, documents=documents, normalize=normalize) == ["one"]


@pytest.mark.parametrize("on_error", ["fail", "drop"])
def test_zstandard_of_a_large_window(tmp_path, on_error):
    """A frame as `zstd --long=31` writes it, of one raw block: whole, and not to be dropped as damaged."""
    header = b"\x28\xb5\x2f\xfd" + bytes([0, (31 - 10) << 3])
    path = tmp_path / "a.txt.zst"
    path.write_bytes(header + (5 << 3 | 1).to_bytes(3, "little") + b"hello")
    with pytest.raises(InputError, match=r"a\.txt\.zst: packed with a window of more than 128 MB \(zstd --long\)"):
        items(path, on_error)
