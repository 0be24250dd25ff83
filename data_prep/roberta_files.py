"""RoBERTa's own vocabulary files, where there is no tokenizer.json (Liu et al., 2019; Conneau et al., 2019).

They are `vocab.json` with `merges.txt`, and XLM-RoBERTa's SentencePiece model, whose ids are moved by one because <pad>
was put in.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from data_prep.errors import InputError
from data_prep.tokenizer_files import ROLES, Definition, find_specials, json_file, named_specials
from data_prep.word_starts import SPACE

_VOCAB, _MERGES, _MODEL = "vocab.json", "merges.txt", "sentencepiece.bpe.model"
_FIRST, _LAST = ("<s>", "<pad>", "</s>", "<unk>"), "<mask>"
_CONTROLS = ("<unk>", "<s>", "</s>")  # what the SentencePiece model begins with


def read_roberta_files(directory: Path) -> Definition | None:
    """The tokenizer of a directory that holds these files and no tokenizer.json; None for any other.

    Raises:
      InputError: the files are damaged, or lack a special token.
    """
    if (directory / "tokenizer.json").exists():
        return None
    config = json_file(directory / "tokenizer_config.json")
    named = named_specials(config, json_file(directory / "special_tokens_map.json"))
    kind = str(config.get("tokenizer_class", "")) or str(json_file(directory / "config.json").get("model_type", ""))
    try:
        if (directory / _VOCAB).exists() and (directory / _MERGES).exists():
            return _byte_level(directory, named, config)
        if (directory / _MODEL).exists() and kind.lower().replace("-", "").startswith("xlmroberta"):
            return _moved_by_one(directory, config)
    except InputError:
        raise
    except Exception as error:  # the tokenizers and protobuf libraries raise their own for what they cannot parse
        raise InputError(
            f"{directory}: the tokenizer cannot be read ({str(error).splitlines()[0]}); copy it again"
        ) from None
    return None


def _byte_level(directory: Path, named: dict[str, str], config: dict[str, Any]) -> Definition:
    vocab = json.loads((directory / _VOCAB).read_bytes())
    lines = (directory / _MERGES).read_text(encoding="utf-8").split("\n")
    merges: Any = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    specials = find_specials(list(vocab), named, directory)
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix=""))
    prefix = bool(config.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    # A space before the mask is the mask's, as in the published files.
    tokenizer = _with_specials(tokenizer, specials, lstrip_mask=True)
    sep, cls = specials["sep"], specials["cls"]
    tokenizer.post_processor = processors.RobertaProcessing(
        (sep, vocab[sep]), (cls, vocab[cls]), trim_offsets=True, add_prefix_space=prefix
    )
    if specials["cls"] == "<s>":
        config = {"tokenizer_class": "RobertaTokenizer", "bos_token": "<s>", "eos_token": "</s>"} | config
    return Definition(json.loads(tokenizer.to_str()), specials, None, config)


def _moved_by_one(directory: Path, config: dict[str, Any]) -> Definition:
    from sentencepiece import sentencepiece_model_pb2

    raw = (directory / _MODEL).read_bytes()
    proto = sentencepiece_model_pb2.ModelProto.FromString(raw)  # type: ignore[attr-defined]
    if tuple(piece.piece for piece in proto.pieces[:3]) != _CONTROLS:
        raise InputError(f"{directory / _MODEL} does not begin with {', '.join(_CONTROLS)}; is it XLM-RoBERTa's?")
    pieces = [(piece.piece, piece.score) for piece in proto.pieces[3:]]
    vocab = [*((piece, 0.0) for piece in _FIRST), *pieces, (_LAST, 0.0)]
    tokenizer = tokenizers.Tokenizer(models.Unigram(vocab, unk_id=3, byte_fallback=False))
    if proto.normalizer_spec.precompiled_charsmap:
        tokenizer.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    words = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    specials = dict(zip(ROLES, ("<pad>", "<unk>", "<s>", "</s>", "<mask>"), strict=True))
    tokenizer = _with_specials(tokenizer, specials, lstrip_mask=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return Definition(
        json.loads(tokenizer.to_str()), specials, (_MODEL, raw), {"tokenizer_class": "XLMRobertaTokenizer"} | config
    )


def _with_specials(
    tokenizer: tokenizers.Tokenizer, specials: dict[str, str], lstrip_mask: bool
) -> tokenizers.Tokenizer:
    ids = tokenizer.get_vocab()
    ordered = sorted(specials.items(), key=lambda pair: ids[pair[1]])
    tokenizer.add_special_tokens(
        [
            AddedToken(name, special=True, normalized=False, lstrip=lstrip_mask and role == "mask")
            for role, name in ordered
        ]
    )
    return tokenizer
