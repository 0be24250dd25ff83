"""Which build a build is: the same input, tokenizer and settings make the same corpus."""

from collections.abc import Sequence
from typing import Any

from data_prep import sources
from data_prep.build_settings import Settings
from data_prep.corpus import FORMAT_VERSION
from data_prep.input_samples import source_samples
from data_prep.inputs import reading_difference
from data_prep.tokenizer import Tokenizer


def identity_of(found: Sequence[sources.Source], tokenizer: Tokenizer, settings: Settings) -> dict[str, Any]:
    """What a corpus is made from, as its manifest has it: without paths, equal on every machine.

    Of its files it holds a hash over samples (data_prep.input_samples). Raises InputError for one that cannot be read.
    """
    samples = source_samples(found)
    return {
        "format_version": FORMAT_VERSION,
        "settings": settings.describe(),
        "sources": [
            {"input": source.input, "kind": source.kind, "name": source.name, "bytes": source.size, "sample": sample}
            for source, sample in zip(found, samples, strict=True)
        ],
        "tokenizer": {
            "fingerprint": tokenizer.fingerprint,
            "kind": tokenizer.kind,
            "lowercase": tokenizer.lowercase,
            "vocab_size": tokenizer.vocab_size,
        },
    }


def difference(there: dict[str, Any], here: dict[str, Any]) -> str | None:
    """The first thing in which two identities differ, in words."""
    if there.get("format_version") != here["format_version"]:
        return f"format version {there.get('format_version')}, now {here['format_version']}"
    for section in ("settings", "tokenizer"):
        for name, value in here[section].items():
            if name == "inputs":
                reading = reading_difference(there[section].get(name), value)
                if reading:
                    return reading
            elif there[section].get(name) != value:
                label = name if section == "settings" else f"the tokenizer's {name}"
                return f"{label} is {there[section].get(name)} there, {value} now"
    old, new = ([(s.get("input"), s["kind"], s["name"], s["bytes"]) for s in side["sources"]] for side in (there, here))
    for before, now in zip(old, new, strict=False):
        if before != now:
            (input_there, kind_there, *file_there), (input_now, kind_now, *file_now) = before, now
            words = "input {} ({} bytes) there, {} ({} bytes) now".format(*file_there, *file_now)
            if file_there == file_now:
                words = f"{file_now[0]} is of input {input_there} there ({kind_there}), of {input_now} now ({kind_now})"
            return words
    if len(old) != len(new):
        return f"{len(old)} input files there, {len(new)} now"
    for before, now in zip(there["sources"], here["sources"], strict=True):
        # Corpora of older versions have no samples.
        if before.get("sample", now["sample"]) != now["sample"]:
            return f"{now['name']} has other text now, of the same size"
    return None
