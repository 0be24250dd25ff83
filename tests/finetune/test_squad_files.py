"""Files of questions are read as SQuAD and JSON lines have them, and broken ones end in one line."""

import json

import pytest

from bert_jax.finetune.squad_files import read_questions
from data_prep.errors import InputError

CONTEXT = "The old river runs to York."


def squad(*entries):
    return {"version": "v2.0", "data": [{"title": "x", "paragraphs": [{"context": CONTEXT, "qas": list(entries)}]}]}


def entry(question="Where to?", text="York", start=22, **more):
    return {"id": "q1", "question": question, "answers": [{"text": text, "answer_start": start}]} | more


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_squad_of_both_versions(tmp_path):
    none = {"id": "q2", "question": "Why?", "answers": [], "plausible_answers": [{"text": "x", "answer_start": 0}]}
    questions = read_questions(write(tmp_path / "x.json", squad(entry(), none | {"is_impossible": True})))
    assert [(q.question, q.context, q.answers, q.id) for q in questions] == [
        ("Where to?", CONTEXT, [("York", 22)], "q1"),
        ("Why?", CONTEXT, [], "q2"),
    ]


def test_lines_with_lists_or_objects(tmp_path):
    common = {"question": "Where to?", "context": CONTEXT}
    lines = [
        common | {"answers": {"text": ["York", "to York"], "answer_start": [22, 19]}},
        common | {"answers": [{"text": "York", "answer_start": 22}]},
        common | {"answers": {"text": [], "answer_start": []}},
    ]
    path = write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, lines)))
    assert [q.answers for q in read_questions(path)] == [[("York", 22), ("to York", 19)], [("York", 22)], []]
    assert {q.id for q in read_questions(path)} == {None}
    bare = write(tmp_path / "y.jsonl", json.dumps(common))
    assert read_questions(bare, answered=False)[0].answers == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", squad(entry(start=21)), "x.json, question 'q1': at answer_start 21 the context has ' Yor', not"),
        ("x.json", squad(entry(start=-5)), "at answer_start -5"),
        ("x.json", squad(entry(text="york")), "at answer_start 22 the context has 'York', not the answer 'york'"),
        ("x.json", squad(entry(question="")), "question is ''; it must be text"),
        ("x.json", squad(entry(answers="York")), "answers is York; it must be a list"),
        ("x.json", squad(entry(answers=[{"text": "York"}])), "it must be a list of text and answer_start"),
        ("x.json", {"data": [{"paragraphs": [{"context": "a"}]}]}, "not of SQuAD's form.*no 'qas'"),
        ("x.json", [1], "not of SQuAD's form"),
        ("x.json", {"data": []}, "has no questions"),
        ("x.json", "{", "broken JSON"),
        ("x.json", "", "is empty"),
        ("x.tsv", "question\tcontext", "of questions known are .json, .jsonl"),
        ("x.jsonl", '{"question": "a", "context": "b"}', "x.jsonl:1: answers is None"),
        ("x.jsonl", '{"question": "a", "answers": []}', "x.jsonl:1: context is None; it must be text"),
        ("x.jsonl", '{"question": "a", "context": "b", "answers": {"text": ["b"], "answer_start": []}}', "answers is"),
    ],
)  # fmt: skip
def test_broken_files(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message) as error:
        read_questions(write(tmp_path / name, content))
    assert "\n" not in str(error.value)
