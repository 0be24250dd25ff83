"""Code, kept as it is (`--normalize none`): what went into a corpus comes out of it."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples
from small_corpora import SPECIALS, write_jsonl

from data_prep.build import build_corpus
from data_prep.corpus import Corpus
from data_prep.tokenizer import load_tokenizer
from data_prep.vocab import train_vocab

CODE = """\
class A:

\t\x0cdef f(self,  x: int = 3):  # Yes. No! e.g. this
        '''Doc: cafe\u0301, \u2028 \x00 end.'''
        return {"a": [MASK], 'b' : x**2}   \r


if __name__ == "__main__":
    print( A( ).f( 1 ) )
"""


@pytest.fixture(scope="module")
def exact(tmp_path_factory) -> Path:
    """A tokenizer that loses nothing: byte-level BPE without a space put before a text."""
    folder = tmp_path_factory.mktemp("exact")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([CODE], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def stored(corpus: Path, tokenizer: Path) -> list[str]:
    """Texts of the documents of a corpus without a validation split."""
    split = Corpus.open(corpus).split("train")
    numbers = np.arange(split.num_records)
    ids, offsets = split.read(numbers)
    starts = [*np.flatnonzero(split.index(numbers).first), split.num_records]
    decode = load_tokenizer(tokenizer).decode
    return [decode(ids[offsets[a] : offsets[b]]) for a, b in itertools.pairwise(starts)]


def test_a_folder_of_code(tmp_path, exact):
    (tmp_path / "a.py").write_text(CODE, newline="")
    (tmp_path / "b.py").write_text("\n\n  x = 1", newline="")
    options = {"workers": 1, "validation_share": 0, "normalize": "none", "documents": "file"}
    audit = build_corpus([f"txt:{tmp_path}/*.py"], exact, tmp_path / "out", **options)["audit"]
    assert stored(tmp_path / "out", exact) == [CODE, "\n\n  x = 1"]
    assert (audit["documents_kept"], audit["sentences"]) == (2, 6 + 1)


def test_blank_lines_part_documents_unless_a_file_is_one(tmp_path, exact):
    """Code in .txt keeps its form only where a file is a document."""
    (tmp_path / "a.txt").write_text("if x:\r\n    y\r\n\r\n\tz  \r\n", newline="")
    words, options = [str(tmp_path / "a.txt")], {"workers": 1, "validation_share": 0, "normalize": "none"}
    build_corpus(words, exact, tmp_path / "parts", **options)
    assert stored(tmp_path / "parts", exact) == ["if x:\n    y", "\tz  "]
    build_corpus(words, exact, tmp_path / "whole", **options, documents="file")
    assert stored(tmp_path / "whole", exact) == ["if x:\r\n    y\r\n\r\n\tz  \r\n"]


@settings(max_examples=examples(25))
@given(
    st.lists(st.text(st.sampled_from([*"ab.(# \n\r\t", "\u0301", "\x00", "中"]), max_size=30), min_size=1, max_size=5)
)
def test_any_text_comes_back(tmp_path_factory, exact, wanted):
    folder = tmp_path_factory.mktemp("any")
    write_jsonl(folder / "a.jsonl", [CODE, *wanted])
    options = {"workers": 1, "validation_share": 0, "keep_duplicates": True, "normalize": "none"}
    manifest = build_corpus([str(folder / "a.jsonl")], exact, folder / "out", **options)
    assert stored(folder / "out", exact) == [text for text in [CODE, *wanted] if text.strip()]
    assert manifest["audit"]["dropped"].get("empty", 0) == sum(not text.strip() for text in wanted)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_our_own_tokenizers_keep_every_word(tmp_path, kind):
    """They lose white space, as they do in any text, and nothing else."""
    lines = [f"def f{i}(x, y_{i % 7}):\n    return [x * {i}, 'text {i % 5}']\n\n\n" for i in range(300)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    words = [str(tmp_path / "a.jsonl")]
    train_vocab(words, tmp_path / "v", kind, 150)
    build_corpus(words, tmp_path / "v", tmp_path / "out", workers=1, validation_share=0, normalize="none")
    found = stored(tmp_path / "out", tmp_path / "v")
    assert ["".join(text.split()) for text in found] == ["".join(line.split()) for line in lines]
