"""Small saved models with a tokenizer of whole words, for tests of what reads and writes model directories."""

from pathlib import Path

import jax
import numpy as np
from small_bert import model_config, random_params

from bert_jax import checkpoint
from bert_jax.checkpoint import SavedModel
from bert_jax.model.bert import init_params
from bert_jax.model.classifier import classifier_shapes
from bert_jax.model.token_heads import HEADS, token_head_shapes
from data_prep.tokenizer import load_tokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GOOD, BAD = ["good", "fine", "great", "lovely"], ["bad", "awful", "poor", "sad"]
WORDS = [
    "the",
    "a",
    "film",
    "book",
    "is",
    "was",
    "very",
    "not",
    "river",
    "house",
    "##s",
    "##ing",
    ".",
    ",",
    *GOOD,
    *BAD,
]


def write_tokenizer(directory: Path, pad_id: int = 0) -> Path:
    """A WordPiece tokenizer of a few words, as `vocab` would write it; with [PAD] elsewhere among the special tokens
    where a model's positions begin after another id.
    """
    specials = SPECIALS[1 : pad_id + 1] + SPECIALS[:1] + SPECIALS[pad_id + 1 :]
    source = directory.with_name(f"{directory.name}_vocab")
    source.mkdir(parents=True)
    (source / "vocab.txt").write_text("\n".join([*specials, *WORDS]) + "\n")
    load_tokenizer(source).save(directory)
    return directory


def saved_model(tmp_path: Path, objective: str = "nsp", fresh: bool = False, seed: int = 0, **changes) -> SavedModel:
    """A model in memory; its parameters all random, or as initialised where `fresh`."""
    tokenizer_dir = tmp_path / "words"
    if not tokenizer_dir.exists():
        write_tokenizer(tokenizer_dir)
    config = model_config(**{"vocab_size": len(SPECIALS) + len(WORDS)} | changes)
    card = {}
    if objective in ("classification", "regression"):
        labels = ["bad", "good", "so so"] if objective == "classification" else []
        card = {"task": objective, "labels": labels, "max_seq_len": 16, "text_columns": ["text"]}
        draw = np.random.default_rng(seed)
        shapes = classifier_shapes(config, max(1, len(labels)))
        params = jax.tree.map(lambda leaf: draw.normal(0.0, 0.3, leaf.shape).astype(np.float32), shapes)
    elif objective in HEADS:
        labels = ["O", "B-PER", "I-PER"] if objective == "tagging" else []
        card = {"task": objective, "labels": labels, "max_seq_len": 16}
        draw = np.random.default_rng(seed)
        shapes = token_head_shapes(config, HEADS[objective], len(labels) or 2)
        params = jax.tree.map(lambda leaf: draw.normal(0.0, 0.3, leaf.shape).astype(np.float32), shapes)
    elif fresh:
        params = jax.tree.map(np.asarray, init_params(config, objective, seed))
    else:
        params = random_params(config, objective, seed)
    return SavedModel(config, objective, params, tokenizer_dir, 0, card)


def save(tmp_path: Path, *arguments, **options) -> Path:
    """The directory of such a model."""
    directory = tmp_path / "model"
    checkpoint.save_model(directory, saved_model(tmp_path, *arguments, **options))
    return directory
