"""Ids equal to those of the libraries underneath, whatever the text; word starts, specials, files."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples

from data_prep.chunk_borders import borders
from data_prep.chunk_cache import ChunkCache
from data_prep.documents import Document
from data_prep.errors import InputError
from data_prep.sources import expand, read, units
from data_prep.tokenizer import Tokenizer, load_tokenizer
from data_prep.vocab import train_vocab

KINDS = ["wordpiece", "unigram", "bpe"]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OTHER_LANGUAGES = [
    "Der schnelle braune Fuchs springt über den faulen Hund, sagte er zu „Müller“ für 3,50 €.",
    "L'été dernier, où étiez-vous ? Ça va très bien, merci : « voilà » !",
    "今天天气很好，我们去公园吧！他说：“不去。”",
    "日本語の文章です。カタカナも。",
    "Быстрая лиса прыгает через ленивую собаку.",
    "ภาษาไทยไม่มีช่องว่าง",
]


@pytest.fixture(scope="session")
def real_text() -> list[str]:
    """Paragraphs of the documentation of optax and absl."""
    found = [s for s in expand(["python-docs"]) if s.name.startswith(("python-docs/optax-", "python-docs/absl-"))]
    documents = [d for s in found for u in units(s, 1 << 24) for d in read(u) if isinstance(d, Document)]
    return [line for d in documents for line in d.text.split("\n")]


@pytest.fixture(scope="session")
def directories(tmp_path_factory, real_text) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("vocabularies")
    (folder / "text.txt").write_text("\n".join(real_text + OTHER_LANGUAGES * 3))
    for kind in KINDS:
        train_vocab([str(folder / "text.txt")], folder / kind, kind, 1500, lowercase=kind != "unigram")
    return {kind: folder / kind for kind in KINDS}


@pytest.fixture(scope="session")
def loaded(directories) -> dict[str, Tokenizer]:
    return {kind: load_tokenizer(path) for kind, path in directories.items()}


@pytest.fixture(scope="session")
def bare(directories) -> dict[str, tokenizers.Tokenizer]:
    """The library alone, on whole texts, with special tokens that no text can spell."""
    found = {}
    for kind, path in directories.items():
        content = json.loads((path / "tokenizer.json").read_text())
        content["added_tokens"], content["post_processor"] = [], None
        text = json.dumps(content)
        for special in SPECIALS:
            text = text.replace(json.dumps(special), json.dumps(f"{special} x"))
        found[kind] = tokenizers.Tokenizer.from_str(text)
    return found


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_ids_are_those_of_sentencepiece(loaded, directories, real_text, kind):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(directories[kind] / "sentencepiece.model"))
    texts = real_text + OTHER_LANGUAGES + ["a literal [MASK] and [CLS] in it", "", " two  spaces ", "½ ﬁ Å ①"]
    assert loaded[kind].encode_batch(texts) == processor.encode(texts)


def test_wordpiece_ids_by_the_definition(loaded):
    """Greedy longest match over BERT's basic tokens, written down once more for plain text."""
    tokenizer = loaded["wordpiece"]
    vocab = {piece: i for i, piece in enumerate(tokenizer.tokens(range(tokenizer.vocab_size)))}

    def word_ids(word: str) -> list[int]:
        ids, start = [], 0
        while start < len(word):
            ends = [e for e in range(len(word), start, -1) if ("##" if start else "") + word[start:e] in vocab]
            if not ends:
                return [vocab["[UNK]"]]
            ids.append(vocab[("##" if start else "") + word[start : ends[0]]])
            start = ends[0]
        return ids

    def words(text: str) -> list[str]:
        text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn").lower()
        spaced = "".join(c if c.isalnum() and not "\u4e00" <= c <= "\u9fff" else f" {c} " for c in text)
        return spaced.split()

    text = "Computes the gradient's (squared) norm, über-fast: e.g. 今天天气很好 — Zzyzx?!"
    assert tokenizer.encode_batch([text]) == [[i for word in words(text) for i in word_ids(word)]]
    assert tokenizer.unk_id in tokenizer.encode_batch(["unk \u13a0"])[0]


FRAGMENTS = st.sampled_from(
    [
        *(" ", "  ", "\t", "\n", "\r", "\u00a0", "\u2003", "\u3000", "\u200b", "\u2028", "\u0085", "\x1c", "\x00"),
        *(
            "\u0301",
            "\u0300\u0323",
            "\u200d",
            "\ufe0f",
            "\u0e31",
            "\u093f",
            "\u0600",
            "\u0d4e",
            "\uff9e",
            "\u00ad",
            "\ufeff",
        ),
        *("👩\u200d👧", "👍🏽", "🇩🇪", "🏽", "e\u0301", "´", "¨x", "\ufdfa", "½", "ﬁ", "İ", "ß", "Σς", "ſ", "Å"),
        *(
            "中",
            "天气",
            "日本",
            "ｶﾞ",
            "가",
            "\u1100\u1161",
            "ไทย",
            "[MASK]",
            "[UNK]",
            "MASK",
            "▁",
            "▁a",
            "##s",
            "a▁b",
            "\ufffd",
        ),
        *(
            "the",
            "gradient",
            "Norm,",
            "x" * 130,
            "don't",
            "3.5",
            "$5",
            "(a)",
            "U.S.",
            "_",
            "\U000e0061",
            "\ue000",
            "\u0378",
        ),
    ]
)
HOSTILE = st.one_of(st.lists(FRAGMENTS | st.just(" "), max_size=12).map("".join), st.text(max_size=30))


@settings(max_examples=examples(400))
@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(HOSTILE, max_size=4))
def test_the_cache_changes_no_id(loaded, bare, kind, texts):
    expected = [encoding.ids for encoding in bare[kind].encode_batch(texts, add_special_tokens=False)]
    assert loaded[kind].encode_batch(texts) == expected
    assert loaded[kind].encode_batch(texts) == expected  # and from the cache


@pytest.mark.parametrize("kind", KINDS)
def test_every_character_next_to_a_space(loaded, bare, kind):
    """Each assigned character once behind, before and between spaces: the places where chunks are cut."""
    chars = [chr(c) for c in range(0x20, 0x3100) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
    chars += [chr(c) for c in (*range(0xFE00, 0x10000), *range(0x11000, 0x11D60, 3), *range(0x1F000, 0x20000, 7))]
    texts = [text for c in chars for text in (f"a {c}b", f"a{c} b", f" {c} ")]
    assert loaded[kind].encode_batch(texts) == [e.ids for e in bare[kind].encode_batch(texts, add_special_tokens=False)]


@pytest.mark.parametrize("kind", KINDS)
def test_real_text_with_the_cache(loaded, bare, real_text, kind):
    texts = real_text + OTHER_LANGUAGES
    ids, lengths = loaded[kind].encode_flat(texts)
    expected = [e.ids for e in bare[kind].encode_batch(texts, add_special_tokens=False)]
    assert ids.dtype == np.int32 and lengths.dtype == np.int32
    assert lengths.tolist() == list(map(len, expected)) and ids.tolist() == [i for row in expected for i in row]


@pytest.mark.parametrize("kind", KINDS)
def test_no_texts_and_empty_texts(loaded, kind):
    for texts in ([], [""], ["", " ", ""]):
        ids, lengths = loaded[kind].encode_flat(texts)
        assert ids.tolist() == [] and lengths.tolist() == [0] * len(texts)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_spaces_that_are_part_of_a_cluster_are_no_borders(loaded, kind):
    """SentencePiece's normaliser goes by grapheme clusters; a table of its own could replace one that holds a space."""
    content = json.loads(loaded[kind].files()["tokenizer.json"])
    allowed = borders(content).allowed
    assert all(map(allowed, ["plain", "é e\u0301 x", "中 文", "हिन्दी में", "emoji 👍 👩\u200d👧 x", "", " a  b "]))
    joined = [
        "a \u0301b",
        "\u0301b",
        "\u0e31",
        "a \u200dx",
        "x\u0600 y",
        "x\u0d4e",
        "a \uff9e",
        "a 🏽",
        "a▁b",
        "\U000e0061",
        "a \x85",  # stripped at the end of a text, and nowhere else
    ]
    assert not any(map(allowed, joined))
    content["added_tokens"].append({**content["added_tokens"][0], "content": "a b", "special": False})
    assert borders(content) is None  # a token that spans a space


def test_the_cache_is_bounded_and_forgets_long_chunks():
    asked: list[str] = []

    def encode(chunks):
        asked.extend(chunks)
        ids = [ord(char) for chunk in chunks for char in chunk]
        return np.array(ids, np.int32), np.array([len(chunk) for chunk in chunks], np.int32)

    cache = ChunkCache(str.split, encode, max_chunks=50, max_chunk_chars=4)
    for i in range(200):
        texts = [f"{i % 70} {i * i} longer{i % 3} longer{i % 3} a", "", f"a {i}"]
        ids, lengths = cache(texts)
        assert "".join(map(chr, ids)) == "".join("".join(texts).split())
        assert lengths.tolist() == [len("".join(text.split())) for text in texts]
        assert len(cache) <= 50 + 6
    assert 1 < asked.count("a") < 20  # asked again after the cache was emptied, and only then
    assert asked.count("longer0") > 60


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens(loaded, kind):
    tokenizer = loaded[kind]
    ids = [tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id]
    assert tokenizer.tokens(ids) == SPECIALS and ids == [0, 1, 2, 3, 4]
    assert tokenizer.special_ids.dtype == np.int32 and tokenizer.special_ids.tolist() == ids
    text = "the [MASK] of [CLS]"
    assert not set(tokenizer.encode_batch([text])[0]) & {tokenizer.mask_id, tokenizer.cls_id}
    with_specials = tokenizer.encode_with_specials(text)
    assert [i for i in with_specials if i in (tokenizer.mask_id, tokenizer.cls_id)] == [4, 2]
    assert with_specials[0] != tokenizer.cls_id and tokenizer.tokens(with_specials)[1] == "[MASK]"
    assert tokenizer.encode_with_specials("the norm") == tokenizer.encode_batch(["the norm"])[0]


@pytest.mark.parametrize("kind", KINDS)
def test_decode(loaded, kind):
    tokenizer = loaded[kind]
    assert (
        tokenizer.decode(np.array(tokenizer.encode_batch(["the gradient of a function"])[0]))
        == "the gradient of a function"
    )
    assert "[MASK]" in tokenizer.decode(tokenizer.encode_with_specials("the [MASK] of"))
    assert tokenizer.lowercase == (kind != "unigram")


@pytest.mark.parametrize("kind", KINDS)
def test_word_starts(loaded, kind):
    tokenizer = loaded[kind]
    table = tokenizer.word_start_table
    assert table.shape == (tokenizer.vocab_size,) and table.dtype == bool and table[tokenizer.special_ids].all()
    # After an opening bracket SentencePiece has no sign of a new word: there only WordPiece sees one.
    text = "normalization, of the gradients" + (" (internal)" if kind == "wordpiece" else ", internal)")
    ids = tokenizer.encode_batch([text])[0]
    pieces = [piece.removeprefix("##").strip("▁") for piece in tokenizer.tokens(ids)]
    words: list[str] = []
    for piece, start in zip(pieces, table[ids], strict=True):
        if start:
            words.append("")
        words[-1] += piece
    assert [w for w in words if w] == [
        "normalization",
        ",",
        "of",
        "the",
        "gradients",
        "(" if kind == "wordpiece" else ",",
        "internal",
        ")",
    ]


def test_word_starts_by_piece(tmp_path):
    pieces = [
        "a",
        "##a",
        "##中",
        "##。",
        "##ก",
        "##ั",
        "##あ",
        "##ー",
        "##가",
        "中",
        "##-",
        "##1",
        "##€",
        "##ကa",
        "[unused3]",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIALS, *pieces]) + "\n")
    tokenizer = load_tokenizer(tmp_path)
    found = dict(zip(pieces, tokenizer.word_start_table[5:].tolist(), strict=True))
    assert [piece for piece, start in found.items() if not start] == ["##a", "##ั", "##가", "##1", "##€"]
    assert tokenizer.special_ids.tolist() == [0, 1, 2, 3, 4, 5 + pieces.index("[unused3]")]


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load_again(loaded, directories, tmp_path, kind):
    tokenizer = loaded[kind]
    tokenizer.save(tmp_path / "copy")
    again = load_tokenizer(tmp_path / "copy")
    own = "vocab.txt" if kind == "wordpiece" else "sentencepiece.model"
    names = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", own}
    assert {path.name for path in (tmp_path / "copy").iterdir()} == names
    assert again.files() == tokenizer.files() and again.fingerprint == tokenizer.fingerprint
    # The own model file alone makes the same tokenizer.
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / own).write_bytes((directories[kind] / own).read_bytes())
    (tmp_path / "alone" / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": kind != "unigram"}))
    alone = load_tokenizer(tmp_path / "alone")
    assert alone.fingerprint == tokenizer.fingerprint and alone.encode_batch(["The Norm"]) == tokenizer.encode_batch(
        ["The Norm"]
    )


def test_fingerprint_depends_on_what_determines_ids(tmp_path):
    def fingerprint(pieces: list[str], **config) -> str:
        (tmp_path / "vocab.txt").write_text("\n".join([*SPECIALS, *pieces]) + "\n")
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        return load_tokenizer(tmp_path).fingerprint

    first = fingerprint(["a", "b"], do_lower_case=True)
    others = [
        fingerprint(["b", "a"], do_lower_case=True),
        fingerprint(["a", "b", "c"], do_lower_case=True),
        fingerprint(["a", "b"], do_lower_case=False),
        fingerprint(["a", "b"], do_lower_case=True, strip_accents=False),
    ]
    assert len({first, *others}) == 5 and len(first) == 64
    assert fingerprint(["a", "b"], do_lower_case=True, model_max_length=512) == first


def test_case_of_a_bare_vocabulary(tmp_path):
    for pieces, lowercase in ((["a", "A"], False), (["a", "b"], True)):
        (tmp_path / "vocab.txt").write_text("\n".join([*SPECIALS, *pieces]) + "\n")
        assert load_tokenizer(tmp_path).lowercase is lowercase


def test_foreign_tokenizer_json(tmp_path):
    """A byte-level BPE: another normaliser, so no cache, other names of special tokens, and a token that a user
    added.
    """
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the norm of the gradient, and the other norm"] * 5, trainer)
    tokenizer.add_tokens(["<code>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = load_tokenizer(tmp_path)
    assert (found.cls_id, found.pad_id, found.sep_id, found.unk_id, found.mask_id) == (0, 1, 2, 3, 4)
    ids, lengths = found.encode_flat(["the  norm <code>", "", "<mask>"])
    assert ids[: lengths[0]].tolist() == tokenizer.encode("the  norm <code>").ids and lengths[1] == 0
    assert 4 not in ids and found.vocab_size - 1 in ids
    start = found.word_start_table
    vocab = tokenizer.get_vocab()
    assert start[vocab["Ġthe"]] and start[vocab["Ġ"]] and start[vocab[","]] and not start[vocab["n"]]
    single = tokenizers.Tokenizer.from_str(found.files()["tokenizer.json"].decode()).encode("the")
    assert single.ids[0] == 0 and single.ids[-1] == 2  # it got BERT's template


def test_pair_template(loaded):
    for tokenizer in loaded.values():
        full = tokenizers.Tokenizer.from_str(tokenizer.files()["tokenizer.json"].decode())
        pair = full.encode("the norm", "of it")
        a, b = tokenizer.encode_batch(["the norm", "of it"])
        assert pair.ids == [2, *a, 3, *b, 3] and pair.type_ids == [0] * (len(a) + 2) + [1] * (len(b) + 1)


def test_bad_directories(tmp_path, directories):
    def message(name: str, files: dict[str, bytes]) -> str:
        folder = tmp_path / name
        folder.mkdir()
        for file, raw in files.items():
            (folder / file).write_bytes(raw)
        with pytest.raises(InputError) as caught:
            load_tokenizer(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    with pytest.raises(InputError, match="no such tokenizer directory"):
        load_tokenizer(tmp_path / "missing")
    assert "no tokenizer in it" in message("empty", {})
    assert "lacks [CLS], [MASK]" in message("lacks", {"vocab.txt": b"[PAD]\n[UNK]\n[SEP]\na\n"})
    assert "broken JSON" in message("json", {"tokenizer.json": b"{"})
    assert "cannot be read" in message("no_model", {"tokenizer.json": b"{}"})
    assert "cannot be read" in message("spm", {"x.model": b"no model at all"})
    assert "cannot be read" in message("utf8", {"vocab.txt": b"\xff\xfe\n"})
    model = (directories["bpe"] / "sentencepiece.model").read_bytes()
    assert "several .model files" in message("two", {"a.model": model, "b.model": model})
    suffixed = json.loads((directories["bpe"] / "tokenizer.json").read_text())
    suffixed["model"]["end_of_word_suffix"] = "</w>"
    assert "end of words" in message("suffix", {"tokenizer.json": json.dumps(suffixed).encode()})
