"""What decides about bytes is the same on every Python, whatever Unicode it knows: constants, over all code points."""

import hashlib

import numpy as np
import pytest
from small_corpora import tree, write_jsonl

from data_prep.build import build_corpus
from data_prep.documents import clean, unwrapped
from data_prep.vocab import train_vocab
from data_prep.word_starts import is_punctuation, is_unspaced
from data_prep.words import spans, word_hashes

# All that is assigned but for private characters, of which Unicode says nothing.
CHARACTERS = [chr(code) for code in [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE0200)]]
# Letters, marks and digits that came with Unicode 15, 16 and 17, alone, in words and among marks of old ones.
NEWER = ["\U0001e030", "\U0001e08f", "\u0ece", "\U00010d50", "\ua7cb", "\U000113ce", "\u1acf", "\ua7d2", "\U00011de0"]


def digest(*parts: object) -> str:
    text = "".join(part if isinstance(part, str) else repr(part) for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def test_cleaned_text():
    marked = clean("\n".join(f"a{c}\u0323\u0301{c}e {c}\u0344\u0323" for c in CHARACTERS))
    assert (len(marked), digest(marked)) == CLEANED


def test_words():
    text = " ".join(f"{c}a{c}{c}" for c in CHARACTERS)
    folded, where = spans(text)
    hashes = word_hashes([text]).hashes
    assert (len(where), digest(folded), digest(np.array(where).tobytes().hex(), hashes.tobytes().hex())) == WORDS


def test_word_starts():
    assert digest([(is_unspaced(c), is_punctuation(c)) for c in CHARACTERS]) == WORD_STARTS


def test_broken_words():
    assert digest(unwrapped("\n".join(f"a-\n{c}{c}-\nb" for c in CHARACTERS))) == BROKEN


@pytest.mark.parametrize("new", NEWER)
def test_newer_characters_stay_as_they_are(new):
    """Whatever a newer Unicode makes of them: a base that composes, a mark that changes places, a capital."""
    assert clean(f"a{new}\u0323\u0301 e\u0301{new}") == f"a{new}\u0323\u0301 é{new}"
    assert spans(f"A{new}B") == (f"a{new}b", [(0, 1), (2, 3)])
    assert not is_punctuation(new)


def test_a_corpus(tmp_path):
    texts = [f"{new}x Äpfel\u0323 {new}\u0323\u0301é 中文{new} а{new}б. A{new}" for new in NEWER]
    texts += [" ".join(f"слово{i} كلمة 词{chr(0x4E00 + i)}{new} e\u0323\u0302" for i in range(20)) for new in NEWER]
    source = str(write_jsonl(tmp_path / "in.jsonl", texts))
    train_vocab([source], tmp_path / "v", "char", 300)
    options = {"workers": 1, "validation_share": 0, "near_duplicates": 0.9}
    build_corpus([source], tmp_path / "v", tmp_path / "out", **options)
    files = tree(tmp_path / "out")
    assert {name: hashlib.sha256(files[name]).hexdigest()[:16] for name in CORPUS} == CORPUS


CLEANED = (3126301, "3e2e14bede04f26a")
WORDS = (550063, "39d4dd03b3bdeec5", "023cd1f6d6cb3655")
WORD_STARTS = "c396cd42d75e53a3"
BROKEN = "bbe34caa24c2c815"
CORPUS = {
    "bert_corpus-train.array_record-00000-of-00001": "335ca632d079097e",
    "index/train-00000-of-00001.safetensors": "b2c4a5eb61442e89",
    "tokenizer/tokenizer.json": "e0c04675bb115f42",
}
