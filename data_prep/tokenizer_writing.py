"""The files of a tokenizer's directory: in the forms that transformers' classes read, those on the tokenizers library
from tokenizer.json and the others from vocabularies of their own.
"""

import json
from typing import Any

from data_prep.added_tokens import EXTRA
from data_prep.tokenizer_files import BERT_NORMALIZER, ROLES, VOCAB_FILE, Definition

# Fields of a tokenizer_config.json that classes of transformers read beside tokenizer.json.
_KEPT = (
    "tokenizer_class", "strip_accents", "tokenize_chinese_chars", "model_max_length", "add_prefix_space",
    "trim_offsets", "bos_token", "eos_token", "padding_side", "truncation_side", *EXTRA,
)  # fmt: skip


def tokenizer_files(definition: Definition, kind: str, lowercase: bool) -> dict[str, bytes]:
    """Name and content of every file, by name; equal tokenizers have equal bytes."""
    contents = _config_files(definition, kind, lowercase)
    contents["tokenizer.json"] = json.dumps(definition.json, indent=2, ensure_ascii=False) + "\n"
    contents |= _vocabulary_files(definition, kind)
    files = {name: text.encode() for name, text in contents.items()}
    if definition.model_file:
        name, raw = definition.model_file
        files[name] = raw
    return dict(sorted(files.items()))


def _config_files(definition: Definition, kind: str, lowercase: bool) -> dict[str, str]:
    """tokenizer_config.json and special_tokens_map.json."""
    named = {f"{role}_token": _as_said(definition, f"{role}_token", definition.specials[role]) for role in ROLES}
    config: dict[str, Any] = {
        # The generic class reads tokenizer.json as it is; BertTokenizer builds the same from the vocabulary.
        "tokenizer_class": "BertTokenizer" if kind == "wordpiece" else "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "do_lower_case": lowercase,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    }
    normalizer = definition.json.get("normalizer") or {}
    for theirs, (ours, usual) in BERT_NORMALIZER.items():
        if theirs != "do_lower_case" and normalizer.get(ours, usual) != usual:
            config[theirs] = normalizer[ours]
    for key in _KEPT:
        if key in definition.config:
            config[key] = definition.config[key]
    dump = {"tokenizer_config.json": config | named, "special_tokens_map.json": named}
    return {
        name: json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n" for name, content in dump.items()
    }


def _vocabulary_files(definition: Definition, kind: str) -> dict[str, str]:
    """BERT's vocab.txt, RoBERTa's vocab.json and merges.txt: for classes that build their rules themselves.

    Ids that are not numbered through, or pieces that break a line, have no vocab.txt.
    """
    model = definition.json["model"]
    if kind == "wordpiece":
        pieces = [piece for piece, _ in sorted(model["vocab"].items(), key=lambda pair: pair[1])]
        through = [model["vocab"][piece] for piece in pieces] == list(range(len(pieces)))
        if through and not any(set(piece) & {"\n", "\r"} for piece in pieces):
            return {VOCAB_FILE: "".join(f"{piece}\n" for piece in pieces)}
    if str(definition.config.get("tokenizer_class", "")).startswith("RobertaTokenizer"):
        merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
        return {
            "vocab.json": json.dumps(model["vocab"], ensure_ascii=False) + "\n",
            "merges.txt": "".join(f"{line}\n" for line in ("#version: 0.2", *merges)),
        }
    return {}


def _as_said(definition: Definition, key: str, token: str) -> Any:
    """The token, with what else its config says of it (that it takes the space before it, say)."""
    said = definition.config.get(key)
    return said if isinstance(said, dict) and said.get("content") == token else token
