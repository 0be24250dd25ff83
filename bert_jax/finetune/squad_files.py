"""Questions about texts with answers in them: SQuAD's JSON (Rajpurkar et al., 2016 and 2018), or JSON lines."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from bert_jax.finetune.tables import read_table, read_text
from data_prep.errors import InputError

_FIELDS = ("question", "context")
_ANSWERS = "answers"


@dataclasses.dataclass(frozen=True)
class Question:
    """A question; its answers as (text, first character in the context), none where the context has none; and where it
    stands, for messages."""

    question: str
    context: str
    answers: list[tuple[str, int]]
    id: Any
    where: str


def read_questions(path: Path, answered: bool = True) -> list[Question]:
    """Reads a file of questions.

    Args:
      path: SQuAD's .json, version 1.1 or 2.0; or .jsonl with question, context, answers (a list of {"text",
        "answer_start"}, or an object with two such lists; empty where there is no answer) and perhaps an id.
      answered: False where there need be no answers, and any are passed over.

    Raises:
      InputError: no such file, no questions, a missing field, or an answer that does not stand where it is said to.
    """
    readers = {".json": _read_json, ".jsonl": _read_jsonl}
    if path.suffix not in readers:
        raise InputError(f"{path} ends in {path.suffix or 'nothing'!r}; of questions known are {', '.join(readers)}")
    questions = [_question(fields, where, answered) for fields, where in readers[path.suffix](path)]
    if not questions:
        raise InputError(f"{path} has no questions; give it some")
    return questions


def _read_jsonl(path: Path) -> list[tuple[dict[str, Any], str]]:
    table = read_table(path)
    return [(dict(zip(table.columns, row, strict=True)), table.where(i)) for i, row in enumerate(table.rows)]


def _read_json(path: Path) -> list[tuple[dict[str, Any], str]]:
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: broken JSON ({error}); mend it") from None
    found = []
    try:
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                for number, entry in enumerate(paragraph["qas"], 1):
                    where = f"{path}, question {entry.get('id', number)!r}"
                    answers = {} if entry.get("is_impossible") else {_ANSWERS: entry.get(_ANSWERS)}
                    fields = {_ANSWERS: []} | answers | {"question": entry.get("question"), "id": entry.get("id")}
                    found.append((fields | {"context": paragraph.get("context")}, where))
    except (KeyError, TypeError, AttributeError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path} is not of SQuAD's form: data, paragraphs, qas ({said}); mend it") from None
    return found


def _question(fields: dict[str, Any], where: str, answered: bool) -> Question:
    for name in _FIELDS:
        if not isinstance(fields.get(name), str) or not fields[name].strip():
            raise InputError(f"{where}: {name} is {fields.get(name)!r}; it must be text")
    answers = _answers(fields.get(_ANSWERS), where) if answered else []
    for text, start in answers:
        there = fields["context"][start : start + len(text)]
        if start < 0 or there != text:
            raise InputError(f"{where}: at answer_start {start} the context has {there!r}, not the answer {text!r}")
    return Question(fields["question"], fields["context"], answers, fields.get("id"), where)


def _answers(given: Any, where: str) -> list[tuple[str, int]]:
    if isinstance(given, dict) and all(isinstance(given.get(name), list) for name in ("text", "answer_start")):
        pairs = list(zip(given["text"], given["answer_start"], strict=False))
        whole = len(given["text"]) == len(given["answer_start"])
    else:
        whole = isinstance(given, list) and all(isinstance(answer, dict) for answer in given)
        pairs = [(answer.get("text"), answer.get("answer_start")) for answer in given] if whole else []
    if not whole or not all(isinstance(text, str) and text and type(start) is int for text, start in pairs):
        raise InputError(f"{where}: answers is {str(given)[:60]}; it must be a list of text and answer_start")
    return pairs
