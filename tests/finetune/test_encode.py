"""Rows of token ids, how they are cut, and how they are batched."""

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from saved_models import write_tokenizer

from bert_jax.finetune.encode import Encoded, batch, bucket_lengths, encode, epoch_batches
from data_prep.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("encode") / "words"))


@pytest.mark.parametrize(
    ("texts", "longest", "expected"),
    [
        (("the film",), 16, "[CLS] the film [SEP]"),
        (("",), 16, "[CLS] [SEP]"),
        (("the film is very good",), 5, "[CLS] the film is [SEP]"),
        (("the film", ""), 16, "[CLS] the film [SEP]"),
        (("", "is good"), 16, "[CLS] [SEP] is good [SEP]"),
        (("the film", "is good"), 16, "[CLS] the film [SEP] is good [SEP]"),
        (("the film is very good", "bad"), 8, "[CLS] the film is very [SEP] bad [SEP]"),
        (("bad", "the film is very good"), 8, "[CLS] bad [SEP] the film is very [SEP]"),
        (("a film is not good .", "the river was very sad"), 8, "[CLS] a film is [SEP] the river [SEP]"),
        (("the river was very sad", "a film is not"), 8, "[CLS] the river was [SEP] a film [SEP]"),
        (("a [MASK] book",), 16, "[CLS] a [UNK] [UNK] [UNK] book [SEP]"),
    ],
)
def test_rows(tokenizer, texts, longest, expected):
    encoded = encode(tokenizer, [texts], longest)
    assert " ".join(tokenizer.tokens(encoded.ids[0])) == expected
    assert encoded.first[0] == expected.split().index("[SEP]") + 1


@given(st.integers(0, 12), st.integers(1, 12), st.integers(8, 30))
def test_pairs_are_cut_as_tokenizers_cuts_them(tokenizer, first, second, longest):
    """What `pipeline` and others do with a pair that is too long, by the library that they use."""
    full = tokenizers.Tokenizer.from_str(tokenizer.files()["tokenizer.json"].decode())
    full.enable_truncation(longest, strategy="longest_first")
    texts = (" ".join(["film"] * first), " ".join(["book"] * second))
    expected = full.encode(*texts)
    encoded = encode(tokenizer, [texts], longest)
    assert encoded.ids[0] == expected.ids
    assert encoded.first[0] == expected.type_ids.count(0)


@given(st.lists(st.integers(2, 64), min_size=1, max_size=80), st.integers(64, 70))
def test_buckets_hold_every_row(lengths, most):
    buckets = bucket_lengths(np.array(lengths), most)
    assert 1 <= len(buckets) <= 4
    assert buckets == sorted(buckets)
    assert max(lengths) <= buckets[-1] <= most


def rows_of(lengths, pad=9):
    return Encoded([[1] * length for length in lengths], [max(1, length // 2) for length in lengths], pad)


def test_batch():
    arrays = batch(rows_of([4, 2, 6]), np.array([1, 0]), 3, [4, 8])
    assert {name: array.shape for name, array in arrays.items()} == dict.fromkeys(arrays, (3, 4))
    np.testing.assert_array_equal(arrays["input_ids"], [[1, 1, 9, 9], [1, 1, 1, 1], [9, 9, 9, 9]])
    np.testing.assert_array_equal(arrays["token_type_ids"], [[0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
    np.testing.assert_array_equal(arrays["segment_ids"], [[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])


@given(st.lists(st.integers(2, 64), min_size=1, max_size=200), st.integers(1, 7), st.integers(0, 3))
def test_epoch_visits_every_row_once(lengths, batch_size, seed):
    lengths = np.array(lengths)
    batches = list(epoch_batches(lengths, batch_size, seed, 0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert sum(len(rows) < batch_size for rows in batches) <= 1
    again = list(epoch_batches(lengths, batch_size, seed, 0))
    assert [rows.tolist() for rows in batches] == [rows.tolist() for rows in again]


def test_epochs_and_seeds_differ_and_lengths_are_alike():
    lengths = np.random.default_rng(0).integers(2, 100, 400)
    order = [
        np.concatenate(list(epoch_batches(lengths, 8, seed, epoch))).tolist()
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert order[0] != order[1] != order[2] != order[0]
    spread = np.mean([np.ptp(lengths[rows]) for rows in epoch_batches(lengths, 8, 0, 0)])
    assert spread < 15
