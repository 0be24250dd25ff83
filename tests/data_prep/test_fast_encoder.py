"""The fast encoder gives the ids of the tokenizers library, and is not taken where it would give others."""

import json
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples
from small_corpora import SPECIALS, make_tokenizer, many_texts, tree, write_jsonl

from data_prep import tokenizer as tokenizer_module
from data_prep.build import build_corpus
from data_prep.fast_encoder import agree, fast_encoder, hostile_strings
from data_prep.tokenizer import Tokenizer, load_tokenizer
from data_prep.vocab import train_vocab

pytest.importorskip("nanotoken")

CONFIGS = {
    "uncased": {"do_lower_case": True},
    "cased": {"do_lower_case": False},
    "accents": {"do_lower_case": True, "strip_accents": False},
    "plain": {"do_lower_case": False, "strip_accents": True},
    "han": {"do_lower_case": False, "tokenize_chinese_chars": False},
}
SINGLE = sorted({char for text in hostile_strings() for char in text if not char.isspace() and char > " "})


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wordpiece")
    pieces = [
        *SPECIALS,
        *SINGLE,
        *(f"##{c}" for c in SINGLE),
        "the",
        "##ing",
        "中文",
        "##e\u0301",
        "[unused1]",
        "x" * 100,
    ]
    for name, config in CONFIGS.items():
        (folder / name).mkdir()
        (folder / name / "vocab.txt").write_text("\n".join(dict.fromkeys(pieces)) + "\n")
        (folder / name / "tokenizer_config.json").write_text(json.dumps(config))
    return {name: folder / name for name in CONFIGS}


@pytest.fixture(scope="module")
def pairs(directories) -> dict[str, tuple[Tokenizer, Tokenizer]]:
    """The library, and the fast encoder."""
    found = {name: (load_tokenizer(path), load_tokenizer(path)) for name, path in directories.items()}
    assert all(fast.encode_faster() for _, fast in found.values())
    return found


TEXTS = st.lists(st.sampled_from(hostile_strings()[:-3]) | st.characters(exclude_categories=["Cs"]), max_size=8)
TEXTS = TEXTS.map("".join) | st.text(max_size=40) | st.sampled_from(["a" * 100, "a" * 101, "ab " * 400])


@settings(max_examples=examples(400))
@pytest.mark.parametrize("name", CONFIGS)
@given(texts=st.lists(TEXTS, max_size=4))
def test_ids_are_those_of_the_library(pairs, name, texts):
    reference, fast = pairs[name]
    expected, found = reference.encode_flat(texts), fast.encode_flat(texts)
    for a, b in zip(expected, found, strict=True):
        assert a.dtype == b.dtype == np.int32 and a.tolist() == b.tolist()


def test_every_character(pairs):
    chars = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Co", "Cs", "Lo")]
    chars += [chr(c) for c in range(0x80, 0x110000, 53) if not 0xD800 <= c < 0xE000]
    texts = [f"a{char}b {char}" for char in chars]
    for name in ("uncased", "cased"):
        reference, fast = pairs[name]
        assert agree(fast.encode_flat, reference.encode_flat, texts)


def test_the_hostile_strings_tell_tokenizers_apart(directories):
    """Each pair of settings differs somewhere in the list, as does a limit of a word's length that is off by one."""
    assert len(set(hostile_strings())) > 400
    tokenizers_ = {name: load_tokenizer(path) for name, path in directories.items()}
    for name, one in tokenizers_.items():
        for other_name, other in tokenizers_.items():
            assert agree(one.encode_flat, other.encode_flat, []) == (name == other_name)
    content = json.loads(tokenizers_["cased"].files()["tokenizer.json"])
    for limit in (99, 101):
        content["model"]["max_input_chars_per_word"] = limit
        _, encode = fast_encoder(json.dumps(content))
        assert not agree(encode, tokenizers_["cased"].encode_flat, [])


def test_it_is_not_taken_where_it_differs(directories, monkeypatch):
    tokenizer = load_tokenizer(directories["uncased"])
    before, ids = tokenizer.encoder, tokenizer.encode_batch(["the old one"])
    name, right = fast_encoder(tokenizer._plain.to_str())

    def wrong(texts):
        return right([text.replace("old", "") for text in texts])

    monkeypatch.setattr(tokenizer_module, "fast_encoder", lambda _: (name, wrong))
    assert not tokenizer.encode_faster(["the old one"])
    assert tokenizer.encoder == before and tokenizer.encode_batch(["the old one"]) == ids
    assert tokenizer.encode_faster(["the new one"])  # what it does wrong is not in this sample
    assert tokenizer.encoder == name


def test_it_is_not_taken_for_other_kinds_nor_where_it_is_not_installed(tmp_path, directories, monkeypatch):
    source = write_jsonl(tmp_path / "a.jsonl", many_texts(50))
    for kind in ("unigram", "bpe", "char"):
        train_vocab([str(source)], tmp_path / kind, kind, 60)
        tokenizer = load_tokenizer(tmp_path / kind)
        assert not tokenizer.encode_faster() and tokenizer.encoder.startswith("tokenizers ")
    monkeypatch.setitem(sys.modules, "nanotoken", None)
    tokenizer = load_tokenizer(directories["cased"])
    assert not tokenizer.encode_faster() and tokenizer.encoder.startswith("tokenizers ")


def test_the_corpus_is_the_same_and_the_report_says_how_it_was_made(tmp_path, monkeypatch):
    directory = make_tokenizer(tmp_path / "tokenizer")
    texts = [*many_texts(100), *hostile_strings()]
    source = write_jsonl(tmp_path / "a.jsonl", texts)
    built, named = {}, {}
    for encoder in ("auto", "tokenizers"):
        out = tmp_path / encoder
        build_corpus([str(source)], directory, out, workers=1, encoder=encoder)
        built[encoder] = tree(out)
        named[encoder] = json.loads(out.with_name(f"{encoder}.report.json").read_bytes())["encoder"].split()[0]
    assert built["auto"] == built["tokenizers"] and len(built["auto"]) > 8
    assert named == {"auto": "nanotoken", "tokenizers": "tokenizers"}
    # One document in which they differ is enough to do without.
    name, right = fast_encoder(load_tokenizer(directory)._plain.to_str())

    def wrong(texts):
        return right([text.replace("house", "river") for text in texts])

    monkeypatch.setattr(tokenizer_module, "fast_encoder", lambda _: (name, wrong))
    build_corpus([str(source)], directory, tmp_path / "wrong", workers=1)
    assert tree(tmp_path / "wrong") == built["auto"]
    assert json.loads((tmp_path / "wrong.report.json").read_bytes())["encoder"].startswith("tokenizers ")
