"""Tokens that were added to a vocabulary with transformers, where its files name them: `added_tokens_decoder` in
tokenizer_config.json, or the older added_tokens.json. A tokenizer.json has them in itself.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from data_prep.errors import InputError
from data_prep.tokenizer_files import Definition, json_file, named_specials, vocabulary

DECODER, OLD_FILE = "added_tokens_decoder", "added_tokens.json"
# Names of a list of special tokens that have none of the roles: transformers 5's, and the one before it.
EXTRA = ("extra_special_tokens", "additional_special_tokens")


def with_added_tokens(definition: Definition, directory: Path) -> Definition:
    """The tokenizer of vocabulary files, and the tokens that the directory says were added to it.

    Raises:
      InputError: a token has another id in the vocabulary, or its id does not follow on it.
    """
    known = {token["content"] for token in definition.json.get("added_tokens", [])}
    named = _named(definition.config, directory).items()
    added = sorted((pair for pair in named if pair[1].content not in known), key=lambda pair: pair[0])
    if not added:
        return definition
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(definition.json))
    ids = dict(vocabulary(definition.json))
    for i, token in added:
        expected = ids.get(token.content, tokenizer.get_vocab_size())
        if i != expected:
            raise InputError(
                f"{directory}: the added token {token.content!r} has id {i}, and the vocabulary's files would give it "
                f"{expected}; copy the tokenizer again"
            )
        add = tokenizer.add_special_tokens if token.special else tokenizer.add_tokens
        add([token])
    return dataclasses.replace(definition, json=json.loads(tokenizer.to_str()))


def _named(config: dict[str, Any], directory: Path) -> dict[int, AddedToken]:
    said = config.get(DECODER)
    try:
        if said is not None:
            return {int(i): AddedToken(**token) for i, token in said.items()}
        also = json_file(directory / "special_tokens_map.json")
        special = set(named_specials(config, also).values())
        for content in (config, also):
            special |= {_content(token) for name in EXTRA for token in content.get(name) or []}
        # What transformers makes of the names in the older file.
        return {
            int(i): AddedToken(name, normalized=name not in special, special=name in special)
            for name, i in json_file(directory / OLD_FILE).items()
        }
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{directory}: its added tokens cannot be read ({error}); copy the tokenizer again") from None


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)
