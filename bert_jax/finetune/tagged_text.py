"""Files of sentences whose words have labels: columns as in CoNLL's shared tasks, or lists in JSON lines."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from bert_jax.finetune.tables import read_table, read_text
from data_prep.errors import InputError

COLUMNS = (".conll", ".tsv", ".bio", ".iob", ".iob2")  # endings of files with a word a line
TOKENS_FIELD, TAGS_FIELD = "tokens", "tags"
_DOCUMENT = "-DOCSTART-"  # in CoNLL-2003 a line of this begins a document


@dataclasses.dataclass(frozen=True)
class Tagged:
    """Sentences of a file: their words, as many labels (none where not asked for), and the line of each word."""

    path: Path
    words: list[list[str]]
    labels: list[list[str]]
    lines: list[list[int]]

    def all_labels(self) -> list[str]:
        """Of all words in their order."""
        return [label for labels in self.labels for label in labels]

    def where(self, word: int) -> str:
        """File and line of a word of the file."""
        return f"{self.path}:{[line for lines in self.lines for line in lines][word]}"


def read_tagged(
    path: Path, tokens_field: str = TOKENS_FIELD, tags_field: str = TAGS_FIELD, labelled: bool = True
) -> Tagged:
    """Reads a file of sentences.

    Args:
      path: .jsonl with a list of words and a list of labels in every line; or .conll, .tsv, .bio, .iob, .iob2 with a
        word a line, its label in the last column, columns parted by tabs or spaces, and blank lines between sentences.
      tokens_field, tags_field: names of the two lists.
      labelled: False where there need be no labels, and any are passed over.

    Raises:
      InputError: no such file, nothing in it, or a line that is not so.
    """
    if path.suffix == ".jsonl":
        tagged = _read_jsonl(path, tokens_field, tags_field, labelled)
    elif path.suffix in COLUMNS:
        tagged = _read_columns(path, labelled)
    else:
        known = ", ".join((".jsonl", *COLUMNS))
        raise InputError(f"{path} ends in {path.suffix or 'nothing'!r}; of words with labels known are {known}")
    if labelled and not any(tagged.words):
        raise InputError(f"{path} has no words; give it some")
    return tagged


def _read_columns(path: Path, labelled: bool) -> Tagged:
    sentences: list[list[tuple[str, str, int]]] = [[]]
    for number, line in enumerate(read_text(path).split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip():
            if sentences[-1]:
                sentences.append([])
            continue
        columns = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
        columns = columns[:-1] if columns[-1] == "" else columns
        if columns[0] == _DOCUMENT:
            continue
        if labelled and len(columns) < 2:
            raise InputError(f"{path}:{number}: one column, {line.strip()!r}; give every word a label")
        if not columns[0].strip():
            raise InputError(f"{path}:{number}: the first column is empty; a word must stand there")
        sentences[-1].append((columns[0], columns[-1].strip(), number))
    if not sentences[-1]:
        sentences.pop()
    words = [[word for word, _, _ in sentence] for sentence in sentences]
    labels = [[label for _, label, _ in sentence] for sentence in sentences] if labelled else []
    return Tagged(path, words, labels, [[number for _, _, number in sentence] for sentence in sentences])


def _read_jsonl(path: Path, tokens_field: str, tags_field: str, labelled: bool) -> Tagged:
    table = read_table(path)
    fields = {tokens_field: "--tokens-field"} | ({tags_field: "--tags-field"} if labelled else {})
    for field, option in fields.items():
        if field not in table.columns:
            raise InputError(
                f"{path} has no field {field!r}; it has {', '.join(table.columns)}: name the right one with {option}"
            )
    words, labels, lines = [], [], []
    for i, row in enumerate(table.rows):
        given = dict(zip(table.columns, row, strict=True))
        tokens = given[tokens_field]
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise InputError(f"{table.where(i)}: {tokens_field} is {_short(tokens)}; it must be a list of words")
        words.append(tokens)
        lines.append([table.lines[i]] * len(tokens))
        if not labelled:
            continue
        tags = given[tags_field]
        if not isinstance(tags, list) or not all(isinstance(tag, str | int) and tag != "" for tag in tags):
            raise InputError(f"{table.where(i)}: {tags_field} is {_short(tags)}; it must be a list of labels")
        if len(tags) != len(tokens):
            raise InputError(f"{table.where(i)}: {len(tokens)} {tokens_field} and {len(tags)} {tags_field}; mend it")
        labels.append([tag if isinstance(tag, str) else json.dumps(tag) for tag in tags])
    return Tagged(path, words, labels, lines)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + "..."
