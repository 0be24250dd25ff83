"""Masked words: probabilities of the model itself, for any of its directories."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saved_models import save, saved_model

from bert_jax.convert import to_hf
from bert_jax.fill_mask import fill_mask
from bert_jax.model.bert import bind
from data_prep.errors import InputError
from data_prep.tokenizer import load_tokenizer

TEXT = "the [MASK] is very [MASK] ."


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fill")
    return folder, save(folder, "nsp")


def test_probabilities(model):
    folder, directory = model
    saved = saved_model(folder, "nsp")
    tokenizer = load_tokenizer(saved.tokenizer_dir)
    words = ["[CLS]", "the", "[MASK]", "is", "very", "[MASK]", ".", "[SEP]"]
    ids = np.array([[tokenizer.encode_with_specials(word)[0] for word in words]])
    batch = {
        "input_ids": ids,
        "token_type_ids": 0 * ids,
        "position_ids": np.arange(8)[None],
        "segment_ids": 0 * ids + 1,
    }
    bert = bind(saved.config, "nsp", saved.params)
    logits = bert.mlm_logits(bert.encode(batch), jnp.array([[2, 5]]))[0, :, :27]
    expected = np.asarray(jax.nn.softmax(logits))

    masks = fill_mask(directory, TEXT, top_k=27)
    assert len(masks) == 2
    for answers, row in zip(masks, expected, strict=True):
        assert [answer["token"] for answer in answers] == np.argsort(-row).tolist()
        np.testing.assert_allclose([answer["score"] for answer in answers], np.sort(row)[::-1], rtol=1e-4)
        assert [tokenizer.tokens([answer["token"]])[0] for answer in answers] == [a["token_str"] for a in answers]
    assert masks[0][0]["sequence"].split()[1] == masks[0][0]["token_str"]
    assert "[MASK]" in masks[0][0]["sequence"]


def test_an_export_gives_the_same(model, tmp_path):
    _, directory = model
    to_hf(directory, tmp_path / "hf")
    ours, theirs = fill_mask(directory, TEXT, 3), fill_mask(tmp_path / "hf", TEXT, 3)
    assert ours == theirs
    assert [len(answers) for answers in ours] == [3, 3]


def test_bad_input(model, tmp_path):
    _, directory = model
    with pytest.raises(InputError, match=r"no \[MASK\] in the text"):
        fill_mask(directory, "the film is good")
    with pytest.raises(InputError, match="20 positions; shorten"):
        fill_mask(directory, "very " * 30 + "[MASK]")
    with pytest.raises(InputError, match="at least 1"):
        fill_mask(directory, TEXT, 0)
    with pytest.raises(InputError, match="predicts no words"):
        fill_mask(save(tmp_path, "classification"), TEXT)
