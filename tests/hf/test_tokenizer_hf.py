"""What `vocab` writes is a tokenizer to transformers: the same ids, pairs, masks and special tokens."""

import inspect
import json
from pathlib import Path

import pytest
import transformers
from languages import LANGUAGES
from small_corpora import write_jsonl

from data_prep.fast_encoder import hostile_strings
from data_prep.tokenizer import load_tokenizer
from data_prep.vocab import train_vocab

TEXTS = [
    "Computes the gradient's norm, then clips it.",
    "Über den Wolken — naïve café №5, 3.5%!",
    "今天天气很好。我们去公园吧！",
    "double  spaces\tand\ttabs, emoji 👩\u200d👧 and e\u0301",
    "UPPER lower CamelCase snake_case https://example.org/a?b=c",
    "",
]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "a.jsonl"
    lines = [
        f"{t} {i} the gradient of the {'loss' if i % 3 else 'model'} is clipped by its norm."
        for i in range(60)
        for t in TEXTS
    ]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("model_type", [None, "bert"])
@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe"])
def test_auto_tokenizer_gives_equal_ids(text, tmp_path, kind, lowercase, model_type):
    train_vocab([str(text)], tmp_path / "v", kind, 400, lowercase=lowercase)
    ours = load_tokenizer(tmp_path / "v")
    ours.save(tmp_path / "out")
    if model_type:
        (tmp_path / "out" / "config.json").write_text(json.dumps({"model_type": model_type, "vocab_size": 400}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(theirs) == ours.vocab_size
    for role in ("pad", "unk", "cls", "sep", "mask"):
        assert getattr(theirs, f"{role}_token") == f"[{role.upper()}]"
        assert getattr(theirs, f"{role}_token_id") == getattr(ours, f"{role}_id")
    assert set(theirs.all_special_ids) == set(ours.special_ids.tolist())
    assert theirs(TEXTS, add_special_tokens=False)["input_ids"] == ours.encode_batch(TEXTS)
    masked = "The [MASK] is clipped by its [MASK]."
    assert theirs(masked, add_special_tokens=False)["input_ids"] == ours.encode_with_specials(masked)
    assert theirs.decode(ours.encode_batch(TEXTS[:1])[0]) == ours.decode(ours.encode_batch(TEXTS[:1])[0])
    pair = theirs(TEXTS[0], TEXTS[4])
    a, b = ours.encode_batch([TEXTS[0], TEXTS[4]])
    assert pair["input_ids"] == [ours.cls_id, *a, ours.sep_id, *b, ours.sep_id]
    assert pair["token_type_ids"] == [0] * (len(a) + 2) + [1] * (len(b) + 1)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_what_transformers_saves_loads_here(text, tmp_path, kind):
    train_vocab([str(text)], tmp_path / "v", kind, 400, lowercase=True)
    ours = load_tokenizer(tmp_path / "v")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "v").save_pretrained(tmp_path / "theirs")
    again = load_tokenizer(tmp_path / "theirs")
    assert again.encode_batch(TEXTS) == ours.encode_batch(TEXTS)
    assert (again.kind, again.mask_id, again.lowercase) == (kind, ours.mask_id, True)


@pytest.fixture(scope="module")
def languages(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("languages") / "a.jsonl"
    return write_jsonl(path, [paragraph for texts in LANGUAGES.values() for paragraph in texts] * 4)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("wordpiece", {"lowercase": True}),
        ("wordpiece", {}),
        ("unigram", {}),
        ("bpe", {}),
        ("bpe", {"normalize": "none"}),
        ("char", {}),
        ("char", {"lowercase": True}),
    ],
)
def test_equal_ids_on_real_text_in_six_languages_and_on_hostile_strings(languages, tmp_path, kind, options):
    train_vocab([str(languages)], tmp_path / "v", kind, 1200, **options)
    ours = load_tokenizer(tmp_path / "v")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "v")
    for texts in LANGUAGES.values():
        expected = theirs(texts, add_special_tokens=False)["input_ids"]
        assert ours.encode_batch(texts) == expected and ours.unk_id not in {i for ids in expected for i in ids}
        assert [*map(ours.decode, expected)] == theirs.batch_decode(expected)
        assert expected == [ours.encode_with_specials(text) for text in texts]
    # A text that spells a special token means it in transformers, and never in a corpus.
    texts = [text for text in hostile_strings() if not any(f"[{name}]" in text for name in ("MASK", "CLS", "UNK"))]
    assert ours.encode_batch(texts) == theirs(texts, add_special_tokens=False)["input_ids"]
    if ours.encode_faster():
        assert ours.encode_batch(texts) == theirs(texts, add_special_tokens=False)["input_ids"]


def test_a_protein_of_5000_residues(tmp_path):
    protein = "".join("ACDEFGHIKLMNPQRSTVWY"[(i * i + 3 * i) % 20] for i in range(5000))
    source = write_jsonl(tmp_path / "p.jsonl", [protein[:200], "ACDEFGHIKLMNPQRSTVWY"])
    train_vocab([str(source)], tmp_path / "v", "char", 64)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "v")
    ids = theirs(protein, add_special_tokens=False)["input_ids"]
    assert len(ids) == 5000 and theirs.unk_token_id not in ids and theirs.decode(ids) == protein
    assert load_tokenizer(tmp_path / "v").encode_batch([protein]) == [ids]
    assert theirs("AC", "DE")["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]


def test_code_comes_back_from_transformers(tmp_path):
    code = inspect.getsource(json.decoder)
    source = write_jsonl(tmp_path / "c.jsonl", [code])
    train_vocab([str(source)], tmp_path / "v", "bpe", 500, normalize="none")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "v")
    for text in (code, "\tif x:\r\n\t\treturn  'a'   \n\n", "  ", "x" * 500):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert theirs.decode(ids) == text and load_tokenizer(tmp_path / "v").encode_batch([text]) == [ids]
