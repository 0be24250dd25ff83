"""Tokenizers as RoBERTa and XLM-RoBERTa publish them: ids as in transformers, before and after a round trip."""

import itertools
import json

import pytest
import sentencepiece
import tokenizers
import transformers
from byte_level_vocabulary import byte_level
from languages import LANGUAGES
from sentencepiece_vocabulary import moved_by_one

from data_prep.errors import InputError
from data_prep.fast_encoder import hostile_strings
from data_prep.tokenizer import load_tokenizer

TEXTS = [text for texts in LANGUAGES.values() for text in texts]
ALL = [*TEXTS, *hostile_strings(), "<s", "▁", "  two  spaces ", "madeupword0000"]
MASKED = ["the <mask> of <mask>.", " <mask>", "a<mask>b"]


SOURCES = {"roberta": byte_level, "xlm-roberta": moved_by_one}


def same_ids(ours, theirs):
    assert len(theirs) == ours.vocab_size
    assert ours.encode_batch(ALL) == theirs(ALL, add_special_tokens=False)["input_ids"]
    for role in ("pad", "unk", "cls", "sep", "mask"):
        assert getattr(theirs, f"{role}_token_id") == getattr(ours, f"{role}_id")


@pytest.mark.parametrize("family", SOURCES)
def test_own_files(tmp_path, family):
    source = SOURCES[family](tmp_path / "source")
    ours = load_tokenizer(source)
    same_ids(ours, transformers.AutoTokenizer.from_pretrained(source))
    assert ours.pair_separators == 2 and ours.pad_id == 1 and set(ours.special_ids) == {0, 1, 2, 3, ours.mask_id}
    if family == "xlm-roberta":
        raw = sentencepiece.SentencePieceProcessor(str(source / "sentencepiece.bpe.model"))
        expected = [[i + 1 if i else 3 for i in raw.encode(text)] for text in TEXTS]
        assert ours.encode_batch(TEXTS) == expected
        assert ours.mask_id == ours.vocab_size - 1


OPTIONS = {"usual": {}, "prefix": {"add_prefix_space": True}, "mask takes the space": None}


# SentencePiece always puts a space in front, so there is no such option.
@pytest.mark.parametrize(
    ("family", "options"), [case for case in itertools.product(SOURCES, OPTIONS) if case != ("xlm-roberta", "prefix")]
)
def test_what_transformers_saves_comes_back(tmp_path, family, options):
    source = SOURCES[family](tmp_path / "source")
    mask = tokenizers.AddedToken("<mask>", lstrip=True, special=True)
    changes = {"mask_token": mask} if OPTIONS[options] is None else OPTIONS[options]
    theirs = transformers.AutoTokenizer.from_pretrained(source, **changes)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_tokenizer(tmp_path / "theirs")
    same_ids(ours, theirs)
    assert [ours.encode_with_specials(text) for text in MASKED] == theirs(MASKED, add_special_tokens=False)["input_ids"]
    ours.save(tmp_path / "again")
    (tmp_path / "again" / "config.json").write_text(json.dumps({"model_type": family}))
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert type(again) is type(theirs)
    for texts in (ALL, MASKED):
        assert again(texts)["input_ids"] == theirs(texts)["input_ids"]
    assert again(TEXTS, TEXTS[::-1])["input_ids"] == theirs(TEXTS, TEXTS[::-1])["input_ids"]
    assert load_tokenizer(tmp_path / "again").fingerprint == ours.fingerprint


@pytest.mark.parametrize("family", SOURCES)
def test_damaged_files(tmp_path, family):
    source = SOURCES[family](tmp_path / "source")
    name = {"roberta": "merges.txt", "xlm-roberta": "sentencepiece.bpe.model"}[family]
    (source / name).write_bytes(b"#version: 0.2\n\xff\xfe junk of no use\n")
    with pytest.raises(InputError) as error:
        load_tokenizer(source)
    assert str(source) in str(error.value) and "\n" not in str(error.value)
