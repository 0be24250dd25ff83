"""A small byte-level BPE vocabulary as RoBERTa publishes its own."""

import json
from pathlib import Path

import tokenizers
from languages import LANGUAGES
from tokenizers import models, pre_tokenizers, trainers

TEXTS = [text for texts in LANGUAGES.values() for text in texts]
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def byte_level(directory: Path) -> Path:
    """A directory with vocab.json, merges.txt and a config.json that names the family."""
    directory.mkdir()
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    tokenizer.model.save(str(directory))
    (directory / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    return directory
