"""A small SentencePiece vocabulary as XLM-RoBERTa publishes its own."""

import json
from pathlib import Path

import sentencepiece
from languages import LANGUAGES

TEXTS = [text for texts in LANGUAGES.values() for text in texts]


def moved_by_one(directory: Path) -> Path:
    """A directory with a SentencePiece model, whose ids are moved by one in transformers, and a config.json that names
    the family."""
    directory.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 4), model_prefix=str(directory / "sentencepiece.bpe"), model_type="unigram",
        vocab_size=450, character_coverage=0.9995, minloglevel=2,
    )  # fmt: skip
    (directory / "sentencepiece.bpe.vocab").unlink()
    (directory / "config.json").write_text(json.dumps({"model_type": "xlm-roberta"}))
    return directory
