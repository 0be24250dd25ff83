"""Documents in six languages, built with each kind of our own tokenizers, come back from the corpus word for word."""

import itertools
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from languages import LANGUAGES
from property_tests import examples
from small_corpora import write_jsonl

from data_prep.build import build_corpus
from data_prep.corpus import Corpus
from data_prep.documents import clean
from data_prep.segment import sentences
from data_prep.tokenizer import Tokenizer, load_tokenizer
from data_prep.vocab import train_vocab

TEXTS = [text for texts in LANGUAGES.values() for text in texts]
# By the name of a tokenizer, how it is trained and how documents are read for it.
KINDS = {
    "unigram": ("unigram", 800, "nfc"),
    "bpe": ("bpe", 900, "nfc"),
    "bytes": ("bpe", 400, "none"),
    "char": ("char", 1000, "nfc"),
}
WORDS = st.sampled_from(sorted({word for text in TEXTS for word in text.split()} | {"e\u0301té", "A\u030angström"}))
SPACES = st.sampled_from([" ", " ", "  ", ". ", "\n", "\r\n\t", "。", "\u3000"])
DOCUMENTS = st.lists(st.tuples(WORDS, SPACES).map("".join), min_size=1, max_size=25).map("".join)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("vocabularies")
    source = str(write_jsonl(folder / "in.jsonl", [*TEXTS * 30, "A. B\u3000C。 été Ångström\n" * 30]))
    for name, (kind, size, normalize) in KINDS.items():
        train_vocab([source], folder / name, kind, size, normalize=normalize)
    return {name: folder / name for name in KINDS}


def stored(corpus: Path, tokenizer: Tokenizer) -> list[str]:
    split = Corpus.open(corpus).split("train")
    ids, offsets = split.read(np.arange(split.num_records))
    assert tokenizer.unk_id not in ids
    starts = [*np.flatnonzero(split.index(np.arange(split.num_records)).first), split.num_records]
    return [tokenizer.decode(ids[offsets[a] : offsets[b]]) for a, b in itertools.pairwise(starts)]


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=examples(6))
@given(texts=st.lists(DOCUMENTS, min_size=1, max_size=6, unique=True))
def test_documents_come_back(tmp_path_factory, tokenizers, name, texts):
    folder = tmp_path_factory.mktemp("any")
    kind, _, normalize = KINDS[name]
    source = str(write_jsonl(folder / "in.jsonl", texts))
    options = {"workers": 1, "validation_share": 0, "keep_duplicates": True, "normalize": normalize}
    build_corpus([source], tokenizers[name], folder / "out", **options)
    found = stored(folder / "out", load_tokenizer(tokenizers[name]))
    if normalize == "none":
        assert found == texts
        return
    if kind == "char":
        assert found == ["".join(sentences(clean(text))) for text in texts]
        wanted = [unicodedata.normalize("NFC", text) for text in texts]
    else:
        # SentencePiece's own normalisation, and a space between sentences.
        wanted = [unicodedata.normalize("NFKC", text) for text in texts]
        spaced = [unicodedata.normalize("NFKC", " ".join(sentences(clean(text)))) for text in texts]
        assert [text.split() for text in found] == [text.split() for text in spaced]
    assert ["".join(text.split()) for text in found] == ["".join(text.split()) for text in wanted]
