"""Tokenizer directories: what lies in one, as the dictionary of a tokenizer.json and the names of the special tokens.

Known are a directory with `tokenizer.json`, with a SentencePiece model, or with BERT's `vocab.txt`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from data_prep import unicode_14
from data_prep.errors import InputError
from data_prep.word_starts import SPACE

ROLES = ("pad", "unk", "cls", "sep", "mask")
SPECIAL_TOKENS = {role: f"[{role.upper()}]" for role in ROLES}
# Other names under which published vocabularies carry these tokens, in the order of trust.
_ALIASES = {
    "pad": ("<pad>",),
    "unk": ("<unk>",),
    "cls": ("<s>", "<cls>"),
    "sep": ("</s>", "<sep>"),
    "mask": ("<mask>",),
}
# How a tokenizer.json says that every character is a token of its own, white space too.
CHARACTERS: dict[str, Any] = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
VOCAB_FILE = "vocab.txt"
# Fields of a tokenizer_config.json that decide for transformers' classes of BERT, whatever tokenizer.json says: the
# normaliser's name of each, and what it is where unsaid.
BERT_NORMALIZER = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}
MODEL_FILE = "sentencepiece.model"


@dataclass(frozen=True)
class Definition:
    """Everything that determines a tokenizer: tokenizer.json as a dictionary, special tokens by role, and the own
    model file.
    """

    json: dict[str, Any]
    specials: dict[str, str]
    model_file: tuple[str, bytes] | None = None
    config: dict[str, Any] = field(default_factory=dict)


def read_definition(directory: Path) -> Definition:
    """Raises InputError when the directory holds no tokenizer, a damaged one, or one without a special token BERT
    needs.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such tokenizer directory; make one with `bert-jax vocab`")
    config = json_file(directory / "tokenizer_config.json")
    named = named_specials(config, json_file(directory / "special_tokens_map.json"))
    model_files = sorted(directory.glob("*.model"))
    try:
        if (directory / "tokenizer.json").exists():
            definition = json_file(directory / "tokenizer.json")
            own = directory / VOCAB_FILE if (directory / VOCAB_FILE).exists() else next(iter(model_files), None)
            pieces = [token for token, _ in vocabulary(definition)]
            specials = find_specials(pieces, named, directory)
            _as_bert_classes_read(definition, config, directory)
            checked = tokenizers.Tokenizer.from_str(json.dumps(definition))
            if checked.post_processor is None:
                _set_template(checked, specials)
                definition = json.loads(checked.to_str())
            return Definition(definition, specials, (own.name, own.read_bytes()) if own else None, config)
        if model_files:
            if len(model_files) > 1:
                raise InputError(
                    f"{directory}: several .model files ({', '.join(p.name for p in model_files)}); leave one"
                )
            return from_sentencepiece(model_files[0].read_bytes(), directory, named, config)
        if (directory / VOCAB_FILE).exists():
            return from_vocab_txt((directory / VOCAB_FILE).read_bytes(), directory, named, config)
    except InputError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception for what it cannot parse
        raise InputError(
            f"{directory}: the tokenizer cannot be read ({str(error).splitlines()[0]}); write it again"
        ) from None
    raise InputError(f"{directory}: no tokenizer in it (tokenizer.json, vocab.txt or a SentencePiece .model)")


def _as_bert_classes_read(definition: dict[str, Any], config: dict[str, Any], directory: Path) -> None:
    """Puts into a tokenizer.json what its config says otherwise, where transformers takes the config's word."""
    normalizer = definition.get("normalizer") or {}
    name = str(config.get("tokenizer_class") or json_file(directory / "config.json").get("model_type", ""))
    if normalizer.get("type") == "BertNormalizer" and name.lower().startswith(("bert", "distilbert", "electra")):
        for theirs, (ours, _) in BERT_NORMALIZER.items():
            if theirs in config:
                normalizer[ours] = config[theirs]


def from_vocab_txt(
    raw: bytes, directory: Path, named: dict[str, str] | None = None, config: dict[str, Any] | None = None
) -> Definition:
    """A BERT vocabulary: a piece a line, its number the id. Without `do_lower_case` in the config, capitals in it
    decide (transformers would fold case then, also of a vocabulary that has capitals).
    """
    config = config or {}
    pieces = [line.rstrip("\r") for line in raw.decode("utf-8").split("\n")]
    while pieces and not pieces[-1]:
        pieces.pop()
    specials = find_specials(pieces, named or {}, directory)
    lowercase = config.get("do_lower_case")
    if lowercase is None:
        lowercase = not any(piece != unicode_14.lower(piece) for piece in pieces if not piece.startswith("["))
    model = models.WordPiece(
        {piece: i for i, piece in enumerate(pieces)}, unk_token=specials["unk"], max_input_chars_per_word=100
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=bool(lowercase),
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return _finish(tokenizer, specials, (VOCAB_FILE, raw), config)


def from_sentencepiece(
    raw: bytes, directory: Path, named: dict[str, str] | None = None, config: dict[str, Any] | None = None
) -> Definition:
    """A SentencePiece model as the same model of the tokenizers library: its ids on ordinary text are
    SentencePiece's.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(raw)  # type: ignore[attr-defined]
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    pieces = [piece.piece for piece in proto.pieces]
    specials = find_specials(pieces, named or {}, directory)
    if trainer.treat_whitespace_as_suffix or not normalizer.add_dummy_prefix or not normalizer.escape_whitespaces:
        raise InputError(f"{directory}: a SentencePiece model that puts no space in front of words is not supported")
    if trainer.model_type == trainer.UNIGRAM:
        scores = [(piece.piece, piece.score) for piece in proto.pieces]
        unk_id = pieces.index(specials["unk"])
        model: Any = models.Unigram(scores, unk_id=unk_id, byte_fallback=trainer.byte_fallback)
    elif trainer.model_type == trainer.BPE:
        model = models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            _merges(proto),
            unk_token=specials["unk"],
            fuse_unk=True,
            byte_fallback=trainer.byte_fallback,
        )
    else:
        raise InputError(
            f"{directory}: a SentencePiece model of words or characters; only unigram and bpe are supported"
        )
    steps: list[Any] = []
    if normalizer.precompiled_charsmap:
        steps.append(normalizers.Precompiled(normalizer.precompiled_charsmap))
    if normalizer.remove_extra_whitespaces:
        steps += [normalizers.Replace(tokenizers.Regex(" {2,}"), " "), normalizers.Strip()]
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(steps)
    # Pieces that span words exist only in models trained across spaces: those see the whole text at once.
    split = not any(SPACE in piece.lstrip(SPACE) or piece.startswith(SPACE * 2) for piece in pieces)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=split)
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always", split=split)
    control = [piece.piece for piece in proto.pieces if piece.type == piece.CONTROL]
    return _finish(tokenizer, specials, (MODEL_FILE, raw), config or {}, control)


def from_characters(characters: Sequence[str], lowercase: bool) -> Definition:
    """A vocabulary of single characters, the five special tokens first. A text has as many tokens as characters."""
    pieces = [*SPECIAL_TOKENS.values(), *characters]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token=SPECIAL_TOKENS["unk"]))
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    pattern = tokenizers.Regex(CHARACTERS["pattern"]["Regex"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return _finish(tokenizer, SPECIAL_TOKENS, None, {})


def from_byte_level(trained: tokenizers.Tokenizer) -> Definition:
    """A byte-level BPE, whose vocabulary holds the five special tokens: any text comes back from its ids as it was."""
    return _finish(trained, SPECIAL_TOKENS, None, {})


def vocabulary(definition: dict[str, Any]) -> list[tuple[str, int]]:
    """(piece, id) of the model's vocabulary and of the added tokens that are not in it, ordered by id."""
    vocab = definition["model"]["vocab"]
    pairs = dict(vocab.items() if isinstance(vocab, dict) else ((piece, i) for i, (piece, _) in enumerate(vocab)))
    for token in definition.get("added_tokens", []):
        pairs.setdefault(token["content"], token["id"])
    return sorted(pairs.items(), key=lambda pair: pair[1])


def _finish(
    tokenizer: tokenizers.Tokenizer,
    specials: dict[str, str],
    model_file: tuple[str, bytes] | None,
    config: dict[str, Any],
    control: list[str] | None = None,
) -> Definition:
    names = [*dict.fromkeys([*specials.values(), *(control or [])])]
    ids = tokenizer.get_vocab()
    names.sort(key=lambda name: ids[name])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    _set_template(tokenizer, specials)
    return Definition(json.loads(tokenizer.to_str()), specials, model_file, config)


def _set_template(tokenizer: tokenizers.Tokenizer, specials: dict[str, str]) -> None:
    cls, sep = specials["cls"], specials["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, tokenizer.token_to_id(cls)), (sep, tokenizer.token_to_id(sep))],
    )


def _merges(proto: Any) -> list[tuple[str, str]]:
    """BPE merges in the order of SentencePiece: by the score of what they make, then by the ids of their parts."""
    ids = {piece.piece: i for i, piece in enumerate(proto.pieces) if piece.type == piece.NORMAL}
    merges: list[tuple[str, str]] = []
    for piece in sorted(ids, key=lambda piece: (-proto.pieces[ids[piece]].score, ids[piece])):
        parts = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += sorted((p for p in parts if p[0] in ids and p[1] in ids), key=lambda p: (ids[p[0]], ids[p[1]]))
    return merges


def find_specials(pieces: list[str], named: dict[str, str], directory: Path) -> dict[str, str]:
    """The special token of every role among the pieces; InputError where one is missing."""
    there = set(pieces)
    specials = {}
    for role in ROLES:
        names = [named.get(role), SPECIAL_TOKENS[role], *_ALIASES[role]]
        specials[role] = next((name for name in names if name in there), None)
    missing = [SPECIAL_TOKENS[role] for role in ROLES if specials[role] is None]
    if missing:
        raise InputError(f"{directory}: the vocabulary lacks {', '.join(missing)}; BERT needs all five special tokens")
    return {role: name for role, name in specials.items() if name is not None}


def named_specials(*files: dict[str, Any]) -> dict[str, str]:
    """The special tokens that config files name, by role."""
    named = {}
    for content in files:
        for role in ROLES:
            token = content.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                named[role] = token
    return named


def json_file(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty where there is no file; InputError for anything else."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: broken JSON ({error}); write the tokenizer again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a JSON object; write the tokenizer again")
    return content
