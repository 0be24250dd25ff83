"""Every file of a tokenizer's directory says the same: transformers' classes on tokenizer.json, and those that read the
vocabularies; and what a directory says beside its vocabulary is kept.
"""

import json
import shutil
import unicodedata

import pytest
import tokenizers
import transformers
from byte_level_vocabulary import byte_level
from languages import LANGUAGES
from sentencepiece_vocabulary import moved_by_one
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from data_prep.errors import InputError
from data_prep.fast_encoder import hostile_strings
from data_prep.tokenizer import load_tokenizer
from data_prep.vocab import train_vocab

TEXTS = [text for texts in LANGUAGES.values() for text in texts]
ADDED = ["Riverstone", "[E1]", "zwölf"]
WITH_ADDED = ["the Riverstone of [E1] zwölf", "Riverstone[E1]", "riverstone zwölfzwölf,[E1]."]


def bert_vocabulary(directory, lowercase=True):
    """A directory with nothing but vocab.txt, as the oldest published models."""
    directory.mkdir()
    source = directory.with_name("text.txt")
    source.write_text("\n\n".join(TEXTS * 3))
    train_vocab([str(source)], directory.with_name("trained"), "wordpiece", 900, lowercase=lowercase)
    shutil.copy(directory.with_name("trained") / "vocab.txt", directory)
    (directory / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lowercase}))
    return directory


SOURCES = {"bert": bert_vocabulary, "roberta": byte_level, "xlm-roberta": moved_by_one}


def own_ids(tokenizer, texts):
    return [tokenizer.encode_with_specials(text) for text in texts]


@pytest.mark.parametrize("lowercase", [True, False])
def test_classes_without_the_library_read_the_same_vocabulary(tmp_path, lowercase):
    """Also where what came in was tokenizer.json alone, as transformers 5 saves it."""
    theirs = transformers.AutoTokenizer.from_pretrained(bert_vocabulary(tmp_path / "source", lowercase))
    theirs.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "vocab.txt").exists()
    ours = load_tokenizer(tmp_path / "saved")
    ours.save(tmp_path / "out")
    slow = BertTokenizerLegacy.from_pretrained(tmp_path / "out")
    # Left out is what that class does otherwise: special tokens in a text, control characters, and that it composes
    # characters.
    hostile = (text for text in hostile_strings() if "[" not in text and text.isprintable())
    texts = [*TEXTS, *(text for text in hostile if unicodedata.is_normalized("NFC", text))]
    assert len(texts) > 150
    assert [slow.encode(text, add_special_tokens=False) for text in texts] == ours.encode_batch(texts)
    assert slow.encode(TEXTS[0], TEXTS[1]) == theirs(TEXTS[0], TEXTS[1])["input_ids"]


@pytest.mark.parametrize("normalizer", [{"strip_accents": False}, {"tokenize_chinese_chars": False}])
def test_rules_of_the_vocabulary_are_written(tmp_path, normalizer):
    source = bert_vocabulary(tmp_path / "source")
    (source / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True} | normalizer))
    load_tokenizer(source).save(tmp_path / "once")
    config = tmp_path / "once" / "tokenizer_config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps({name: value for name, value in said.items() if name not in normalizer}))
    load_tokenizer(tmp_path / "once").save(tmp_path / "out")
    (tmp_path / "out" / "tokenizer.json").unlink()
    slow = BertTokenizerLegacy.from_pretrained(tmp_path / "out")
    ours = load_tokenizer(tmp_path / "once").encode_batch(TEXTS)
    assert [slow.encode(text, add_special_tokens=False) for text in TEXTS] == ours
    assert ours != load_tokenizer(tmp_path / "trained").encode_batch(TEXTS)


def test_roberta_comes_back_with_its_files_class_and_tokens(tmp_path):
    source = byte_level(tmp_path / "source")
    before = transformers.AutoTokenizer.from_pretrained(source)
    load_tokenizer(source).save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "vocab.json").read_text()) == json.loads((source / "vocab.json").read_text())
    lines = [(folder / "merges.txt").read_text().splitlines()[1:] for folder in (source, tmp_path / "out")]
    assert lines[0] == lines[1]
    for without in ("", "tokenizer.json"):
        if without:
            (tmp_path / "out" / without).unlink()
        after = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
        assert type(after) is type(before)
        assert (after.bos_token, after.eos_token) == (before.bos_token, before.eos_token) == ("<s>", "</s>")
        assert after(TEXTS)["input_ids"] == before(TEXTS)["input_ids"]


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("family", SOURCES)
def test_added_tokens_beside_a_vocabulary(tmp_path, family, special):
    source = SOURCES[family](tmp_path / "source")
    size = load_tokenizer(source).vocab_size
    added = {
        str(size + i): {"content": token, "special": special, "normalized": not special, "single_word": False,
                        "lstrip": False, "rstrip": False}
        for i, token in enumerate(ADDED)
    }  # fmt: skip
    path = source / "tokenizer_config.json"
    said = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(said | {"added_tokens_decoder": added}))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(source), load_tokenizer(source)
    assert len(theirs) == ours.vocab_size == size + len(ADDED)
    assert own_ids(ours, WITH_ADDED) == theirs(WITH_ADDED, add_special_tokens=False)["input_ids"]
    assert set(range(size, size + len(ADDED))).issubset(ours.special_ids.tolist()) == special
    ours.save(tmp_path / "out")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again([*TEXTS, *WITH_ADDED])["input_ids"] == theirs([*TEXTS, *WITH_ADDED])["input_ids"]
    assert load_tokenizer(tmp_path / "out").fingerprint == ours.fingerprint


def test_the_older_file_of_added_tokens(tmp_path):
    source = bert_vocabulary(tmp_path / "source")
    size = load_tokenizer(source).vocab_size
    (source / "added_tokens.json").write_text(json.dumps({token: size + i for i, token in enumerate(ADDED)}))
    special = {"additional_special_tokens": ["[E1]"]}
    (source / "special_tokens_map.json").write_text(json.dumps(special))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(source), load_tokenizer(source)
    assert own_ids(ours, WITH_ADDED) == theirs(WITH_ADDED, add_special_tokens=False)["input_ids"]
    assert size + 1 in ours.special_ids and size not in ours.special_ids
    (source / "added_tokens.json").write_text(json.dumps({"Riverstone": size + 1}))
    with pytest.raises(InputError, match=f"'Riverstone' has id {size + 1}, and the vocabulary's files would give it"):
        load_tokenizer(source)


@pytest.mark.parametrize("said", [True, False])
def test_case_is_folded_as_the_config_says(tmp_path, said):
    load_tokenizer(bert_vocabulary(tmp_path / "source", lowercase=not said)).save(tmp_path / "out")
    path = tmp_path / "out" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_lower_case": said}))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "out"), load_tokenizer(tmp_path / "out")
    assert ours.lowercase == said
    assert ours.encode_batch(TEXTS) == theirs(TEXTS, add_special_tokens=False)["input_ids"]


def test_sides_and_further_special_tokens_come_back(tmp_path):
    theirs = transformers.AutoTokenizer.from_pretrained(
        bert_vocabulary(tmp_path / "source"), padding_side="left", truncation_side="left"
    )
    theirs.add_special_tokens({"extra_special_tokens": [tokenizers.AddedToken("[E1]", special=True)]})
    theirs.save_pretrained(tmp_path / "saved")
    load_tokenizer(tmp_path / "saved").save(tmp_path / "out")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.all_special_ids == theirs.all_special_ids and "[E1]" in again.all_special_tokens
    options = {"padding": True, "truncation": True, "max_length": 12}
    texts = ["the [E1]", *TEXTS]
    assert again(texts, **options)["input_ids"] == theirs(texts, **options)["input_ids"]
