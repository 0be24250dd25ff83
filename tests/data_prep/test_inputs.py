"""Names and readings of inputs, and what a build and its audit make of them."""

import json

import pytest
from small_corpora import make_tokenizer, many_texts, tree, write_jsonl

from data_prep.build import build_corpus
from data_prep.errors import InputError
from data_prep.inputs import DEFAULT_READING, Input, Reading, parse_inputs
from data_prep.vocab import train_vocab


def test_names_and_readings():
    found = parse_inputs(
        ["a/*.txt", "novels=b/*.txt", "code=txt:c/*.py", "novels=d.jsonl.gz"],
        language=["en", "novels=de"],
        normalize="code=none",
        documents=["code=file"],
        text_field="body",
    )
    general = Reading(text_field="body")
    novels = Reading(language="de", text_field="body")
    code = Reading(normalize="none", documents="file", text_field="body")
    assert found == [
        Input("unnamed", "a/*.txt", general),
        Input("novels", "b/*.txt", novels),
        Input("code", "txt:c/*.py", code),
        Input("novels", "d.jsonl.gz", novels),
    ]


def test_a_path_may_hold_an_equals_sign():
    assert parse_inputs(["./lang=en/a.txt", "/x=y.txt", "n=lang=en/a.txt"]) == [
        Input("unnamed", "./lang=en/a.txt", DEFAULT_READING),
        Input("unnamed", "/x=y.txt", DEFAULT_READING),
        Input("n", "lang=en/a.txt", DEFAULT_READING),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "nvels=de"}, r"--language nvels=de: no input is named 'nvels' \(names: novels\)"),
        (
            {"language": ["en", "de"]},
            "--language has two values for all inputs, en and de; write VALUE .* or NAME=VALUE",
        ),
        ({"language": ["novels=en", "novels=de"]}, "--language has two values for the input novels, en and de"),
        ({"language": "german"}, "--language is 'german'; it must be a code such as en"),
        ({"normalize": "novels=nfd"}, "--normalize is 'nfd'; it must be nfc or none, or NAME= and one of them"),
        ({"documents": "line"}, "--documents is 'line'; it must be blank-line or file or wrapped-file"),
        ({"documents": "wrapped-file", "normalize": "none"}, "novels has --normalize none, which keeps lines"),
        ({"text_field": ""}, "--text-field is empty"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_inputs(["novels=a.txt"], **options)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_the_audit_counts_by_input(tmp_path, tokenizer):
    texts = many_texts(30)
    write_jsonl(tmp_path / "a.jsonl", texts[:10])
    write_jsonl(tmp_path / "b.jsonl", [*texts[10:20], "", texts[0]])
    (tmp_path / "c.txt").write_text("\n\n".join(text.replace("\n", " ") for text in texts[20:]))
    words = [f"one={tmp_path}/a.jsonl", f"two={tmp_path}/b.jsonl", f"one={tmp_path}/c.txt"]
    audit = build_corpus(words, tokenizer, tmp_path / "out", workers=1)["audit"]
    counted = {
        name: (entry["documents_in"], entry["documents_kept"], entry["dropped"])
        for name, entry in audit["inputs"].items()
    }
    assert counted == {"one": (20, 20, {}), "two": (12, 10, {"duplicate": 1, "empty": 1})}
    for what in ("documents_in", "documents_kept", "tokens", "bytes"):
        by_source = sum(entry[what] for entry in audit["sources"].values())
        assert sum(entry[what] for entry in audit["inputs"].values()) == by_source


def test_another_reading_is_another_corpus(tmp_path, tokenizer):
    write_jsonl(tmp_path / "a.jsonl", many_texts(20))
    words = [f"one={tmp_path}/a.jsonl"]
    first = build_corpus(words, tokenizer, tmp_path / "out", workers=1)
    assert build_corpus(words, tokenizer, tmp_path / "out", workers=1) == first
    assert json.dumps(first["settings"]).count(str(tmp_path)) == 0
    for given, options, message in (
        (words, {"language": "fr"}, "language of one is en there, fr now"),
        (words, {"normalize": "one=none"}, "normalize of one is nfc there, none now"),
        (words, {"id_field": "name"}, "id_field of one is id there, name now"),
        ([str(tmp_path / "a.jsonl")], {}, "the inputs are named one there, unnamed now"),
    ):
        with pytest.raises(InputError, match=message):
            build_corpus(given, tokenizer, tmp_path / "out", workers=1, **options)
    # A general value and the same one by name are the same settings.
    build_corpus(words, tokenizer, tmp_path / "de", workers=1, language="de")
    build_corpus(words, tokenizer, tmp_path / "de", workers=1, language="one=de")
    build_corpus(words, tokenizer, tmp_path / "de2", workers=1, language=["fr", "one=de"])
    assert tree(tmp_path / "de") == tree(tmp_path / "de2")


def test_a_file_in_two_inputs(tmp_path, tokenizer):
    path = write_jsonl(tmp_path / "a.jsonl", many_texts(3))
    with pytest.raises(InputError, match=r"a\.jsonl is in two inputs, one and two; name it in one of them"):
        build_corpus([f"one={path}", f"two={tmp_path}/*.jsonl"], tokenizer, tmp_path / "out")


def test_vocab_takes_the_same(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in many_texts(40)))
    words = [f"x={tmp_path}/a.jsonl"]
    with pytest.raises(InputError, match=r"no field `text` .*--text-field"):
        train_vocab(words, tmp_path / "v", "wordpiece", 90)
    train_vocab(words, tmp_path / "v", "wordpiece", 90, text_field="x=body", language="x=de")
    assert train_vocab(words, tmp_path / "v", "wordpiece", 90, text_field="body", language="de")["existing"]
    with pytest.raises(InputError, match="other settings"):
        train_vocab(words, tmp_path / "v", "wordpiece", 90, text_field="body", language="fr")


def test_a_path_that_begins_like_a_name(tmp_path, tokenizer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lang=en").mkdir()
    (tmp_path / "lang=en" / "a.txt").write_text("the house")
    with pytest.raises(InputError, match=r"lang=en/\*.txt is read as NAME=FILES; .* as \./lang="):
        build_corpus(["lang=en/*.txt"], tokenizer, "out")
    build_corpus(["./lang=en/*.txt"], tokenizer, "out", workers=1)
