"""Tokenizers that give a text back as it was: byte-level BPE for code, single characters for proteins and DNA."""

import json
import unicodedata
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples
from small_corpora import write_jsonl

from data_prep.errors import InputError
from data_prep.tokenizer import Tokenizer, load_tokenizer
from data_prep.vocab import train_vocab

CODE = Path(__file__).read_text()
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
WHITE = st.sampled_from([*" \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u180e\u2003\u2028\u3000\u200b\ufeff"])
PARTS = st.sampled_from(
    ["def f(x):", "    return", "it's", "'ll", "!\x1c!", "[MASK]", "[UNK]", "12x", "中文", "é", "👩\u200d👧"]
)
TEXTS = st.one_of(st.lists(WHITE | PARTS | st.sampled_from([*"a1'!"]), max_size=14).map("".join), st.text(max_size=30))


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("bytes")
    source = write_jsonl(folder / "code.jsonl", [CODE] * 2)
    train_vocab([str(source)], folder / "v", "bpe", 600, normalize="none")
    return load_tokenizer(folder / "v")


@pytest.fixture(scope="module")
def proteins(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("proteins")
    source = write_jsonl(folder / "p.jsonl", [RESIDUES[i:] + RESIDUES[:i] for i in range(20)])
    train_vocab([str(source)], folder / "v", "char", 30)
    return load_tokenizer(folder / "v")


def bare(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The library alone, to which special tokens are text."""
    content = json.loads(tokenizer.files()["tokenizer.json"])
    content["added_tokens"], content["post_processor"] = [], None
    model = content["model"]
    model["vocab"] = {f" {piece}" if i < 5 else piece: i for piece, i in model["vocab"].items()}
    if model["unk_token"]:
        model["unk_token"] = f" {model['unk_token']}"
    return tokenizers.Tokenizer.from_str(json.dumps(content))


@pytest.fixture(scope="module")
def bare_bytes(byte_level) -> tokenizers.Tokenizer:
    return bare(byte_level)


@settings(max_examples=examples(300))
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_bytes_come_back(byte_level, bare_bytes, texts):
    expected = [encoding.ids for encoding in bare_bytes.encode_batch(texts, add_special_tokens=False)]
    for _ in range(2):  # the second time from the cache
        encoded = byte_level.encode_batch(texts)
        assert encoded == expected
    assert [byte_level.decode(ids) for ids in encoded] == texts
    # Sentences one after another are the document, whatever stands at their ends.
    assert byte_level.decode([i for ids in encoded for i in ids]) == "".join(texts)


def test_code_keeps_its_form_in_few_tokens(byte_level):
    assert (byte_level.kind, byte_level.lowercase, byte_level.vocab_size) == ("bpe", False, 600)
    ids = byte_level.encode_batch([CODE])[0]
    assert byte_level.decode(ids) == CODE and len(ids) < len(CODE) / 2
    assert not {*ids} & {*byte_level.special_ids.tolist()}
    starts = byte_level.word_start_table
    ids = byte_level.encode_batch([" for texts in, encoded"])[0]
    words = "".join(f"|{byte_level.decode([i])}" if starts[i] else byte_level.decode([i]) for i in ids)
    assert words == "| for| texts| in|,| encoded"
    assert byte_level.word_start_table[byte_level.encode_batch(["\n\n        \t"])[0]].all()


def test_a_protein_is_as_many_tokens_as_residues(proteins):
    protein = "".join(RESIDUES[(i * i + 3 * i) % 20] for i in range(5000))
    assert (proteins.kind, proteins.vocab_size) == ("char", 25)
    ids = proteins.encode_batch([protein])[0]
    assert len(ids) == 5000 and proteins.unk_id not in ids and proteins.decode(ids) == protein
    assert proteins.tokens(ids) == [*protein] and proteins.word_start_table.all()
    assert proteins.encode_batch(["AB[C"]) == [
        [*proteins.encode_with_specials("A"), 1, 1, *proteins.encode_with_specials("C")]
    ]
    assert proteins.encode_with_specials("A[MASK]C")[1] == proteins.mask_id


@settings(max_examples=examples(200))
@pytest.mark.parametrize("lowercase", [False, True])
@given(texts=st.lists(st.text(max_size=20) | TEXTS, min_size=1, max_size=3))
def test_characters_are_those_of_the_library(tmp_path_factory, texts, lowercase):
    folder = tmp_path_factory.mktemp("char")
    source = write_jsonl(folder / "a.jsonl", ["ABC abc iσς\u0307ß " + CODE[:100], *texts])
    train_vocab([str(source)], folder / "v", "char", 100_000, lowercase=lowercase)
    tokenizer = load_tokenizer(folder / "v")
    expected = [encoding.ids for encoding in bare(tokenizer).encode_batch(texts, add_special_tokens=False)]
    assert tokenizer.encode_batch(texts) == expected == tokenizer.encode_batch(texts)
    if not lowercase:
        assert [*map(len, expected)] == [*map(len, texts)]


def test_the_frequent_characters_are_kept(tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", ["aaa bbb Bb c", "cc d\na"])
    train_vocab([str(source)], tmp_path / "few", "char", 8)
    assert load_tokenizer(tmp_path / "few").tokens(range(5, 8)) == [" ", "a", "b"]
    train_vocab([str(source)], tmp_path / "folded", "char", 100, lowercase=True)
    assert load_tokenizer(tmp_path / "folded").tokens(range(5, 10)) == [" ", "a", "b", "c", "d"]


def test_a_vocabulary_of_words_is_refused(tmp_path):
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({f"[{n}]": i for i, n in enumerate(["PAD", "UNK", "CLS", "SEP", "MASK"])}, "[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="whole words; only one of characters"):
        load_tokenizer(tmp_path)


def test_every_character_beside_white_space(byte_level, bare_bytes):
    """Where chunks are cut: Python, Rust and the regular expressions of both differ in what is white space."""
    chars = [chr(c) for c in range(0x3100) if unicodedata.category(chr(c)) != "Cs"]
    texts = [text for c in chars for text in (f"a {c}b", f"!{c}!", f" {c} ")]
    expected = [encoding.ids for encoding in bare_bytes.encode_batch(texts, add_special_tokens=False)]
    assert byte_level.encode_batch(texts) == expected
