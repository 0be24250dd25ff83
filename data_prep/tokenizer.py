"""One interface over WordPiece, SentencePiece, byte-level BPE and characters: ids, word starts, special ids, decoding,
and the files of the directory.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from data_prep.added_tokens import with_added_tokens
from data_prep.chunk_borders import borders
from data_prep.chunk_cache import ChunkCache, Encoded
from data_prep.errors import InputError
from data_prep.fast_encoder import agree, fast_encoder
from data_prep.roberta_files import read_roberta_files
from data_prep.tokenizer_files import CHARACTERS, Definition, read_definition, vocabulary
from data_prep.tokenizer_writing import tokenizer_files
from data_prep.word_starts import word_start_table

_UNUSED = re.compile(r"\[unused\d+\]|madeupword\d{4}")  # BERT's, RoBERTa's
_KINDS = {"WordPiece": "wordpiece", "Unigram": "unigram", "BPE": "bpe", "WordLevel": "char"}


def is_unused(piece: str) -> bool:
    """Whether a piece is a slot that was left for later use."""
    return not piece or _UNUSED.fullmatch(piece) is not None


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Ids of a text; the characters [start, end) that each stands for, spaces before a word perhaps among them; and the
    number of the stretch, often a word, that the tokenizer cut the text into before it looked for pieces."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    words: list[int]


class Tokenizer:
    """A trained tokenizer; `load_tokenizer` makes one from a directory.

    Attributes:
        kind: "wordpiece", "unigram", "bpe" (SentencePiece's or byte-level) or "char".
        vocab_size: ids are in [0, vocab_size).
        lowercase: the normaliser folds case.
        fingerprint: SHA-256 (hex) over what determines ids: pieces, scores, merges, normalisation, special tokens.
        pad_id, unk_id, cls_id, sep_id, mask_id: ids of the five special tokens.
        special_ids: int32, sorted: those five, and any other id that stands for no text of its own.
        word_start_table: bool [vocab_size], True where a piece begins a word wherever it stands.
        encoder: name and version of the library that encodes; the ids are the same whichever it is.
    """

    def __init__(self, definition: Definition):
        self._definition = definition
        model = definition.json["model"]
        self.kind = _KINDS[model["type"]]
        pairs = vocabulary(definition.json)
        self.vocab_size = pairs[-1][1] + 1
        self._pieces = [""] * self.vocab_size
        for piece, i in pairs:
            self._pieces[i] = piece
        ids = dict(pairs)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            ids[definition.specials[role]] for role in ("pad", "unk", "cls", "sep", "mask")
        )
        added = definition.json.get("added_tokens") or []
        special = {ids[name] for name in definition.specials.values()} | {t["id"] for t in added if t["special"]}
        # Slots that were left for later use: no text has them.
        special |= {i for i, piece in enumerate(self._pieces) if is_unused(piece)}
        self.special_ids = np.array(sorted(special), np.int32)
        byte_level = "ByteLevel" in json.dumps([definition.json["pre_tokenizer"], definition.json["decoder"]])
        self.word_start_table = word_start_table(self._pieces, self.kind, sorted(special), byte_level)
        self.fingerprint = hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()
        self._plain = _without_specials(definition, special)
        self.lowercase = self._plain.normalizer is not None and self._plain.normalizer.normalize_str("A") == "a"
        self._borders = borders(definition.json)
        # A chunk that is new is cut once more and looked up in parts before the library is asked.
        self._cached: Callable[[list[str]], Encoded] = self._encode_whole
        for split in reversed(self._borders.splits if self._borders else ()):
            self._cached = ChunkCache(split, self._cached)
        self._fast: Callable[[list[str]], Encoded] | None = None
        self.encoder = f"tokenizers {tokenizers.__version__}"

    @functools.cached_property
    def _full(self) -> tokenizers.Tokenizer:
        """With special tokens: a build never needs it."""
        return tokenizers.Tokenizer.from_str(json.dumps({**self._definition.json, "truncation": None, "padding": None}))

    @functools.cached_property
    def pair_separators(self) -> int:
        """How many [SEP] its template puts between the two texts of a pair: RoBERTa's have two, BERT's one."""
        return max(1, self._full.encode("", "").ids.count(self.sep_id) - 1)

    def encode_faster(self, sample: Sequence[str] = ()) -> bool:
        """Encodes with a faster library from now on, if there is one for this kind that gives the same ids on `sample`
        and on a list of hostile strings; whether there is.
        """
        found = fast_encoder(self._plain.to_str())
        if found and agree(found[1], self._encode_whole, sample):
            self.encoder, self._fast = found
        return self._fast is not None

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without [CLS] and [SEP]. A literal "[MASK]" in it is text like any other."""
        ids, lengths = self.encode_flat(texts)
        ends = np.cumsum(lengths).tolist()
        flat = ids.tolist()
        return [flat[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=False)]

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """The same ids in one array: ids int32 [total] and lengths int32 [len(texts)]. Thousands of sentences a call
        are fastest.
        """
        texts = list(texts)
        if self._fast:
            return self._fast(texts)
        allowed = list(map(self._borders.allowed, texts)) if self._borders else []
        if all(allowed):
            return self._cached(texts)
        parts = [self._cached([t]) if ok else self._encode_whole([t]) for t, ok in zip(texts, allowed, strict=True)]
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([lengths for _, lengths in parts])

    def encode_with_specials(self, text: str) -> list[int]:
        """Ids of a text in which "[MASK]" and the other special tokens mean themselves; adds no [CLS] and [SEP]."""
        return self._full.encode(text, add_special_tokens=False).ids

    def encode_with_offsets(self, texts: Sequence[str]) -> list[Pieces]:
        """The ids of `encode_batch`, and where in its text each of them comes from; slower than that."""
        encodings = self._plain.encode_batch(list(texts), add_special_tokens=False)
        return [Pieces(e.ids, e.offsets, [-1 if word is None else word for word in e.word_ids]) for e in encodings]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Readable text; special tokens are kept."""
        return self._full.decode([int(i) for i in ids], skip_special_tokens=False)

    def tokens(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The pieces as they stand in the vocabulary."""
        return [self._pieces[int(i)] for i in ids]

    def content(self) -> dict[str, Any]:
        """What determines ids, as plain lists and dicts: `pieces` by id, `kind`, `specials`, `normalizer` and so on.

        Fields that the library may add to its files later are left out where they are known.
        """
        definition = self._definition.json
        model, normalizer = definition["model"], definition["normalizer"] or {}
        what: dict[str, Any] = {"pieces": self._pieces, "kind": model["type"], "specials": self._definition.specials}
        if model["type"] == "WordPiece":
            what["word"] = [model.get("max_input_chars_per_word", 100), model.get("continuing_subword_prefix", "##")]
        elif model["type"] == "Unigram":
            what["scores"] = [score for _, score in model["vocab"]]
        elif model["type"] == "BPE":
            what["merges"] = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        what["byte_fallback"] = bool(model.get("byte_fallback"))
        if normalizer.get("type") == "BertNormalizer":
            fields = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
            normalizer = {name: normalizer.get(name) for name in fields}
        what["normalizer"], what["pre_tokenizer"] = normalizer, definition["pre_tokenizer"]
        what["added"] = [[token["content"], token["id"]] for token in definition.get("added_tokens") or []]
        return what

    def files(self) -> dict[str, bytes]:
        """Name and content of every file of the tokenizer's directory; equal tokenizers have equal bytes."""
        return tokenizer_files(self._definition, self.kind, self.lowercase)

    def save(self, directory: str | Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json, and the vocabulary in a file of its
        own, if its kind has one.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, raw in self.files().items():
            (directory / name).write_bytes(raw)

    def _encode_whole(self, texts: list[str]) -> Encoded:
        rows = [encoding.ids for encoding in self._plain.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.fromiter(map(len, rows), np.int32, len(rows))
        return np.fromiter(itertools.chain.from_iterable(rows), np.int32, int(lengths.sum())), lengths


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a directory that `vocab` or transformers wrote, or that holds a vocab.txt or a SentencePiece
    model.

    Raises InputError when there is none, it is damaged, lacks a special token, or is of a kind without word starts.
    """
    directory = Path(directory)
    definition = read_roberta_files(directory) or read_definition(directory)
    if not (directory / "tokenizer.json").exists():
        definition = with_added_tokens(definition, directory)
    model = definition.json.get("model") or {}
    if model.get("type") not in _KINDS:
        raise InputError(f"{directory}: tokenizer of type {model.get('type')}; known are {', '.join(_KINDS.values())}")
    if model["type"] == "WordLevel" and definition.json.get("pre_tokenizer") != CHARACTERS:
        raise InputError(f"{directory}: a vocabulary of whole words; only one of characters is supported")
    if model.get("end_of_word_suffix"):
        raise InputError(
            f"{directory}: pieces marked at the end of words do not tell where words start; train another one"
        )
    return Tokenizer(definition)


def _without_specials(definition: Definition, special: set[int]) -> tokenizers.Tokenizer:
    """The tokenizer to which special tokens are no words: their slots get names with a space in them, which no word
    has.
    """
    content = {**definition.json, "truncation": None, "padding": None}
    if any(not token["special"] for token in content.get("added_tokens") or []):
        # Tokens that a user added to the text keep their meaning, and with it the whole list.
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
        tokenizer.encode_special_tokens = True
        return tokenizer
    model = content["model"] = dict(content["model"])
    content["added_tokens"], content["post_processor"] = [], None
    size = len(model["vocab"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {f" {piece}" if i in special else piece: i for piece, i in model["vocab"].items()}
        if model.get("unk_token") is not None:
            model["unk_token"] = f" {model['unk_token']}"
    else:
        model["vocab"] = [
            [f" {piece}" if i in special else piece, score] for i, (piece, score) in enumerate(model["vocab"])
        ]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    assert tokenizer.get_vocab_size() == size
    return tokenizer
