"""What the user says of the inputs: their names, and how the documents of each are read.

An input is `[NAME=]WHAT`. An option on reading is a value for all inputs, or `NAME=VALUE` for one of them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from data_prep.errors import InputError

__all__ = [
    "DEFAULT_READING",
    "DOCUMENTS",
    "NORMALIZATIONS",
    "UNNAMED",
    "Input",
    "Reading",
    "parse_inputs",
    "reading_difference",
]

UNNAMED = "unnamed"
NORMALIZATIONS = ("nfc", "none")
DOCUMENTS = ("blank-line", "file", "wrapped-file")
_NAMED = re.compile(r"([A-Za-z0-9_.-]+)=(.*)", re.DOTALL)
_LANGUAGE = re.compile(r"[a-z]{2,3}")


@dataclass(frozen=True)
class Reading:
    """How the documents of an input are read; it determines the content of a corpus, so its manifest has it."""

    language: str = "en"  # ISO 639-1 (or -3), for the sentence splitter
    normalize: str = "nfc"  # or "none": white space and form are kept, and a sentence is a line (data_prep.segment)
    text_field: str = "text"  # of .jsonl, .parquet and tfds
    id_field: str = "id"  # where there is one
    # What a document is in .txt: what a blank line ends, a line being a paragraph; a file; or a file of lines broken to
    # a width, in which a blank line ends a paragraph (text taken out of PDFs).
    documents: str = "blank-line"


DEFAULT_READING = Reading()


@dataclass(frozen=True)
class Input:
    """One `--input`: `what` is a glob, `KIND:GLOB`, `tfds:NAME/SPLIT` or `python-docs`."""

    name: str
    what: str
    reading: Reading = DEFAULT_READING


def parse_inputs(words: Iterable[str], **options: str | Sequence[str]) -> list[Input]:
    """The inputs that the words `[NAME=]WHAT` name, with their readings.

    Args:
        options: by the fields of `Reading`, each one or several of VALUE and NAME=VALUE.

    Raises InputError for an option of an input that is not there, given twice, or of an unknown value.
    """
    pairs = [_named(str(word)) for word in words]
    own = {name: DEFAULT_READING for name, _ in pairs}
    known = {field.name for field in fields(Reading)}
    for field, given in options.items():
        if field not in known:
            raise TypeError(f"{field} is no option of an input")
        values = _values(field, [given] if isinstance(given, str) else given, set(own))
        for value in values.values():
            _check(field, value)
        general = values.get("", getattr(DEFAULT_READING, field))
        own = {name: replace(reading, **{field: values.get(name, general)}) for name, reading in own.items()}
    for name, reading in own.items():
        if reading.normalize == "none" and reading.documents == "wrapped-file":
            raise InputError(f"the input {name} has --normalize none, which keeps lines; use --documents file with it")
    return [Input(name, what, own[name]) for name, what in pairs]


def reading_difference(there: dict[str, dict[str, str]] | None, here: dict[str, dict[str, str]]) -> str | None:
    """The first thing in which the readings of two builds' inputs differ, in words."""
    if there is None or set(there) != set(here):
        return f"the inputs are named {', '.join(there or ['nothing'])} there, {', '.join(here)} now"
    for name, reading in here.items():
        for field, value in reading.items():
            before = there[name].get(field)
            if before != value:
                of = "" if name == UNNAMED else f" of {name}"
                return f"{field}{of} is {before} there, {value} now"
    return None


def _named(word: str) -> tuple[str, str]:
    found = _NAMED.fullmatch(word)
    return (found[1], found[2]) if found else (UNNAMED, word)


def _values(field: str, words: Sequence[str], names: set[str]) -> dict[str, str]:
    """Values by the name of the input, "" for that of all others."""
    values: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            name, value = "", word
        elif name not in names:
            there = ", ".join(sorted(names - {UNNAMED})) or "none has a name; give one as --input NAME=FILES"
            raise InputError(f"{_flag(field)} {word}: no input is named {name!r} (names: {there})")
        if values.setdefault(name, value) != value:
            what = f"for the input {name}" if name else "for all inputs"
            raise InputError(
                f"{_flag(field)} has two values {what}, {values[name]} and {value}; "
                "write VALUE for all inputs or NAME=VALUE for the input of that name"
            )
    return values


def _check(field: str, value: str) -> None:
    choices = {"normalize": NORMALIZATIONS, "documents": DOCUMENTS}.get(field)
    if choices and value not in choices:
        raise InputError(f"{_flag(field)} is {value!r}; it must be {' or '.join(choices)}, or NAME= and one of them")
    if field == "language" and not _LANGUAGE.fullmatch(value):
        raise InputError(f"--language is {value!r}; it must be a code such as en, de, fr, zh, or NAME=CODE")
    if not value:
        raise InputError(f"{_flag(field)} is empty; give the name of a field, or NAME=FIELD")


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"
