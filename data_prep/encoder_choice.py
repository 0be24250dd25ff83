"""Whether a build takes the faster encoder: where it gives the ids of the tokenizers library on some of the input."""

import contextlib
from collections.abc import Sequence

from data_prep import sources
from data_prep.tokenizer import Tokenizer

# Where two encoders are compared before the build.
_SAMPLED_GROUPS, _SAMPLED_CHARACTERS = 8, 1 << 14


def takes_fast(tokenizer: Tokenizer, groups: Sequence[Sequence[sources.Unit]]) -> bool:
    """Whether the units of `groups` are to get the faster encoder; then `tokenizer` has it from now on."""
    return tokenizer.encode_faster(sample_texts(groups))


def sample_texts(groups: Sequence[Sequence[sources.Unit]]) -> list[str]:
    """Paragraphs from the beginnings of a few groups all over the input, about 100,000 characters in all."""
    texts: list[str] = []
    for parts in groups[:: -(-len(groups) // _SAMPLED_GROUPS)]:
        size = 0
        # What cannot be read is left out here: the unit itself will say so.
        with contextlib.suppress(OSError):
            for item in sources.read(parts[0], "drop"):
                if isinstance(item, sources.Document):
                    texts += item.text[:_SAMPLED_CHARACTERS].split("\n")
                    size += len(item.text)
                    if size >= _SAMPLED_CHARACTERS:
                        break
    return texts
