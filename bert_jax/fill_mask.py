"""The likeliest words for every [MASK] of a text."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax.convert.importing import open_model
from bert_jax.model.bert import bind
from bert_jax.own_tokenizer import own_tokenizer
from data_prep.errors import InputError

_MULTIPLE = 32  # rows are padded to it, so that few shapes are compiled


def fill_mask(model_dir: str | Path, text: str, top_k: int = 5) -> list[list[dict[str, Any]]]:
    """For every [MASK], in order, its `top_k` likeliest tokens, the likeliest first.

    Each mask is judged with the others masked. Products are float32.

    Args:
      model_dir: a run, what `from-hf` wrote, or a Hugging Face directory, with a masked-word head.
      text: with [MASK] (or whatever the tokenizer calls it) in it.
      top_k: how many; at most the vocabulary's size are given.

    Returns:
      for every mask a list of {"token_str", "token" (its id), "score" (probability), "sequence" (the text with it)}.

    Raises:
      InputError: no mask in the text, a text too long, a model without that head.
    """
    if top_k < 1:
        raise InputError(f"top_k is {top_k}; it must be at least 1")
    model = open_model(model_dir)
    if "mlm" not in model.params:
        raise InputError(f"{model_dir} is a {model.objective} model and predicts no words; name a pretraining run")
    tokenizer = own_tokenizer(model)
    ids = [tokenizer.cls_id, *tokenizer.encode_with_specials(text), tokenizer.sep_id]
    masks = [i for i, token in enumerate(ids) if token == tokenizer.mask_id]
    if not masks:
        name = tokenizer.tokens([tokenizer.mask_id])[0]
        raise InputError(f"there is no {name} in the text {text!r}; put one where a word is to be found")
    if len(ids) > model.config.max_position_embeddings:
        raise InputError(
            f"the text has {len(ids)} tokens, the model {model.config.max_position_embeddings} positions; shorten it"
        )

    config = dataclasses.replace(model.config, dtype="float32")
    length = min(-(-len(ids) // _MULTIPLE) * _MULTIPLE, config.max_position_embeddings)
    padded = np.full((1, length), tokenizer.pad_id, np.int32)
    padded[0, : len(ids)] = ids
    batch = {
        "input_ids": padded,
        "token_type_ids": np.zeros_like(padded),
        "position_ids": np.arange(length, dtype=np.int32)[None],
        "segment_ids": (np.arange(length, dtype=np.int32) < len(ids)).astype(np.int32)[None],
    }

    def logits(params, batch, positions):
        bert = bind(config, model.objective, params)
        return bert.mlm_logits(bert.encode(batch), positions)[0, :, : config.vocab_size]

    with jax.default_matmul_precision("highest"):
        scores = np.asarray(jax.jit(logits)(model.params, batch, np.array([masks], np.int32)), np.float64)
    shifted = np.exp(scores - scores.max(-1, keepdims=True))
    probabilities = shifted / shifted.sum(-1, keepdims=True)
    return [
        [_answer(tokenizer, ids, place, int(token), row[token]) for token in np.argsort(-row, kind="stable")[:top_k]]
        for place, row in zip(masks, probabilities, strict=True)
    ]


def _answer(tokenizer, ids: list[int], place: int, token: int, score: float) -> dict[str, Any]:
    filled = [*ids[1:place], token, *ids[place + 1 : -1]]
    return {
        "token_str": tokenizer.decode([token]),
        "token": token,
        "score": float(score),
        "sequence": tokenizer.decode(filled),
    }
