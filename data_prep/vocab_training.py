"""Trainers of vocabularies: texts in memory to a tokenizer. The same texts give the same bytes in every process."""

import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from data_prep.errors import InputError
from data_prep.inputs import Reading
from data_prep.segment import sentences
from data_prep.tokenizer import Tokenizer
from data_prep.tokenizer_files import (
    SPECIAL_TOKENS,
    from_byte_level,
    from_characters,
    from_sentencepiece,
    from_vocab_txt,
)

# Characters rarer than this share of all, together, get no piece: they are one-off symbols, and would fill the
# vocabulary.
_CHARACTER_COVERAGE = 0.9999
_MAX_SENTENCE = 8192  # characters: SentencePiece leaves out sentences much longer
_THREADS = 4  # fixed: SentencePiece's sums depend on it


def train_wordpiece(texts: list[str], size: int, lowercase: bool) -> Tokenizer:
    """Trained with the tokenizers library, made deterministic.

    Its trainer numbers the single characters in the order of a hash table that differs from run to run, and breaks ties
    between merges by these numbers. Given as special tokens, the characters have the numbers that we choose.
    """
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces = [*SPECIAL_TOKENS.values(), *_alphabet(tokenizer, texts)]
    if len(pieces) > size:
        raise InputError(
            f"--size is {size}, and the text's characters alone take {len(pieces)}; use at least {2 * len(pieces)}"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, min_frequency=2, special_tokens=pieces, limit_alphabet=0, show_progress=False
    )
    tokenizer.train_from_iterator(_paragraphs(texts), trainer)
    vocab = tokenizer.get_vocab(with_added_tokens=False)
    raw = "".join(f"{piece}\n" for piece in sorted(vocab, key=lambda piece: vocab[piece])).encode()
    return Tokenizer(from_vocab_txt(raw, Path("vocab"), config={"do_lower_case": lowercase}))


def train_characters(texts: list[str], size: int, lowercase: bool, line_feeds: bool) -> Tokenizer:
    """The most frequent characters, in Unicode's order; line feeds are one of them if asked for."""
    fold = normalizers.Lowercase().normalize_str if lowercase else str
    counts: Counter[str] = Counter()
    for text in texts if line_feeds else _paragraphs(texts):
        counts.update(text)
    folded: Counter[str] = Counter()
    for character, count in counts.items():
        for part in fold(character):
            folded[part] += count
    kept = sorted(folded, key=lambda character: (-folded[character], character))[: size - len(SPECIAL_TOKENS)]
    return Tokenizer(from_characters(sorted(kept), lowercase))


def train_byte_level(texts: list[str], size: int) -> Tokenizer:
    """BPE over bytes: a piece for every byte, so that no text has an unknown token, and then merges."""
    smallest = len(SPECIAL_TOKENS) + 256
    if size < smallest:
        raise InputError(f"--size is {size}; the 256 bytes and the special tokens alone take {smallest}, use e.g. 8000")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[*SPECIAL_TOKENS.values()],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter(texts), trainer)
    return Tokenizer(from_byte_level(tokenizer))


def _alphabet(tokenizer: tokenizers.Tokenizer, texts: list[str]) -> list[str]:
    """The frequent characters in order, then those of them that stand inside words, with WordPiece's "##"."""
    chunks: Counter[str] = Counter()
    for text in texts:
        chunks.update(text.split())
    characters: Counter[str] = Counter()
    inside: set[str] = set()
    normalize, split = tokenizer.normalizer.normalize_str, tokenizer.pre_tokenizer.pre_tokenize_str
    for chunk, count in chunks.items():
        for word, _ in split(normalize(chunk)):
            for character in word:
                characters[character] += count
            inside.update(word[1:])
    kept: list[str] = []
    covered, wanted = 0, _CHARACTER_COVERAGE * sum(characters.values())
    for character, count in sorted(characters.items(), key=lambda pair: (-pair[1], pair[0])):
        if covered >= wanted:
            break
        kept.append(character)
        covered += count
    kept.sort()
    return [*kept, *(f"##{character}" for character in kept if character in inside)]


def train_sentencepiece(
    texts: list[str], readings: list[Reading], kind: str, size: int, lowercase: bool, seed: int
) -> Tokenizer:
    """SentencePiece's unigram or bpe, trained on the sentences of the texts, each split as its reading says."""
    import sentencepiece

    sentencepiece.set_random_generator_seed(seed % (1 << 32))
    lines = [
        piece
        for text, reading in zip(texts, readings, strict=True)
        for sentence in sentences(text, reading.language, reading.normalize)
        for piece in _pieces(sentence)
    ]
    while True:
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                model_type=kind,
                vocab_size=size,
                normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
                character_coverage=_CHARACTER_COVERAGE,
                max_sentence_length=4 * _MAX_SENTENCE,
                num_threads=_THREADS,
                pad_id=0,
                pad_piece=SPECIAL_TOKENS["pad"],
                unk_id=1,
                unk_piece=SPECIAL_TOKENS["unk"],
                bos_id=2,
                bos_piece=SPECIAL_TOKENS["cls"],
                eos_id=3,
                eos_piece=SPECIAL_TOKENS["sep"],
                control_symbols=[SPECIAL_TOKENS["mask"]],
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            size = _possible_size(str(error), size)
            continue
        return Tokenizer(from_sentencepiece(model.getvalue(), Path("vocab")))


def _possible_size(message: str, size: int) -> int:
    """The size that SentencePiece names where it refuses one as too large; InputError for any other refusal."""
    too_large = re.search(r"too high.*<= (\d+)", message, re.DOTALL)
    if too_large and len(SPECIAL_TOKENS) < int(too_large[1]) < size:
        return int(too_large[1])
    if re.search(r"required_chars|too small|smaller than", message):
        needed = re.search(r"vs\.? (\d+)", message)
        hint = f"more than {needed[1]}" if needed else "more"
        raise InputError(f"--size is {size}, and the text's characters alone take more; use {hint}")
    raise InputError(f"SentencePiece cannot train on this text ({' '.join(message.split())[:200]}); give more text")


def _paragraphs(texts: list[str]) -> Iterator[str]:
    for text in texts:
        yield from text.split("\n")


def _pieces(sentence: str) -> list[str]:
    return [sentence[i : i + _MAX_SENTENCE] for i in range(0, len(sentence), _MAX_SENTENCE)]
