"""Heads on tokens give what PyTorch gives: a tagger in transformers' pipeline, spans of a model run by hand."""

import json

import numpy as np
import pytest
import torch
import transformers
from byte_level_vocabulary import byte_level
from family_models import make
from saved_models import save
from small_corpora import make_tokenizer

from bert_jax.convert import from_hf, to_hf
from bert_jax.finetune.predict import predict

QUESTIONS = [
    ("the river is old ?", "the film is very good, a book's house " * 6 + "The end"),
    ("which house was lovely " * 4, "The sad river was not lovely , the house is poor"),
    ("a", "films"),
]
TEXTS = ["the film is very good, a book's house", "films", "The sad river was not lovely , the house is poor"]


def answers(model, path, **options):
    predict(model, path, path.with_name("out.jsonl"), **options)
    return [json.loads(line) for line in path.with_name("out.jsonl").read_text().splitlines()]


def write_jsonl(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def theirs(tmp_path, family, kind):
    """A random model that transformers wrote, with labels and a tokenizer."""
    if family == "bert":
        vocabulary = make_tokenizer(tmp_path / "vocabulary") / "vocab.txt"
        tokenizer = transformers.BertTokenizerFast(str(vocabulary), do_lower_case=False)
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(byte_level(tmp_path / "vocabulary"))
    labels = ["O", "B-LOC", "I-LOC", "B-PER"]
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    model = make(family, kind, vocab_size=len(tokenizer), scale=0.3, **(names if "Token" in kind else {}))
    model.save_pretrained(tmp_path / "theirs")
    tokenizer.model_max_length = 40
    tokenizer.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs", tokenizer, model


@pytest.mark.parametrize("kind", ["BertForTokenClassification", "RobertaForTokenClassification"])
def test_token_classification_pipeline_gives_what_predict_gives(tmp_path, kind):
    """Through from-hf and to-hf: label names, every piece's label and score, and whole entities."""
    source, _, _ = theirs(tmp_path, kind.split("For")[0].lower(), kind)
    from_hf(source, tmp_path / "ours")
    to_hf(tmp_path / "ours", tmp_path / "hf")
    ours = answers(tmp_path / "ours", write_jsonl(tmp_path / "x.jsonl", [{"text": text} for text in TEXTS]))
    assert ours == answers(source, tmp_path / "x.jsonl")
    for directory in (source, tmp_path / "hf"):
        pipeline = transformers.pipeline("token-classification", model=str(directory), ignore_labels=[])
        for text, mine in zip(TEXTS, ours, strict=True):
            pieces = {piece["start"]: piece for piece in reversed(pipeline(text))}
            assert mine["words"] and {start for start, _ in mine["offsets"]} <= pieces.keys()
            for (start, _), label, score in zip(mine["offsets"], mine["labels"], mine["scores"], strict=True):
                assert label == pieces[start]["entity"]
                assert score == pytest.approx(pieces[start]["score"], abs=1e-5)
            if kind.startswith("Bert"):  # here the pipeline knows which pieces begin a word
                grouped = pipeline(text, aggregation_strategy="first", ignore_labels=["O"])
                assert [(entity["start"], entity["end"], entity["entity_group"]) for entity in grouped] == [
                    (entity["start"], entity["end"], entity["label"]) for entity in mine["entities"]
                ]
                np.testing.assert_allclose(
                    [entity["score"] for entity in grouped], [entity["score"] for entity in mine["entities"]], atol=1e-5
                )
    assert len({label for answer in ours for label in answer["labels"]}) > 1


def test_given_words_are_those_of_the_pipeline(tmp_path):
    to_hf(save(tmp_path, "tagging"), tmp_path / "hf")
    words = ["the", "films", "houses", "is", "good", "zzz", "."]
    (mine,) = answers(tmp_path / "hf", write_jsonl(tmp_path / "x.jsonl", [{"tokens": words}]))
    pipeline = transformers.pipeline("token-classification", model=str(tmp_path / "hf"), ignore_labels=[])
    pieces = pipeline(words, is_split_into_words=True, delimiter=" ")
    pieces = pieces[0] if isinstance(pieces[0], list) else pieces
    first = {piece["start"]: piece for piece in reversed(pieces)}
    for (start, _), label, score in zip(mine["offsets"], mine["labels"], mine["scores"], strict=True):
        assert label == first[start]["entity"] and score == pytest.approx(first[start]["score"], abs=1e-5)


@pytest.mark.parametrize("kind", ["BertForQuestionAnswering", "RobertaForQuestionAnswering"])
@pytest.mark.parametrize("null_threshold", [None, 0.0])
def test_the_best_span_is_that_of_pytorchs_logits(tmp_path, kind, null_threshold):
    """Windows by transformers' tokenizer, logits by its model, and every span of every window tried."""
    source, tokenizer, _ = theirs(tmp_path, kind.split("For")[0].lower(), kind)
    from_hf(source, tmp_path / "ours")
    to_hf(tmp_path / "ours", tmp_path / "hf")
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "hf").eval()
    rows = [{"question": question, "context": context} for question, context in QUESTIONS]
    ours = answers(tmp_path / "hf", write_jsonl(tmp_path / "x.jsonl", rows), null_threshold=null_threshold)
    assert ours == answers(source, tmp_path / "x.jsonl", null_threshold=null_threshold)
    room = 40 - tokenizer.num_special_tokens_to_add(pair=True)
    windows = 0
    for (question, context), mine in zip(QUESTIONS, ours, strict=True):
        asked = tokenizer(question, add_special_tokens=False)
        kept = asked["input_ids"][: room // 2]
        encoded = tokenizer(
            question[: asked.token_to_chars(len(kept) - 1).end], context, max_length=40, truncation="only_second",
            stride=(room - len(kept)) // 2, return_overflowing_tokens=True, return_offsets_mapping=True, padding=True,
            return_tensors="pt",
        )  # fmt: skip
        offsets = encoded.pop("offset_mapping").tolist()
        encoded.pop("overflow_to_sample_mapping")
        windows += len(offsets)
        with torch.no_grad():
            output = model(**encoded)
        begin, end = output.start_logits.double().numpy(), output.end_logits.double().numpy()
        spans = {}
        for row in range(len(offsets)):
            places = [place for place, part in enumerate(encoded.sequence_ids(row)) if part == 1]
            for i in places:
                for j in places:
                    if i <= j < i + 30:
                        first, last = offsets[row][i][0], offsets[row][j][1]
                        if (
                            not context[first : offsets[row][i][1]].strip()
                            or not context[offsets[row][j][0] : last].strip()
                        ):
                            continue  # a piece that is a space alone
                        key = (first + len(context[first:last]) - len(context[first:last].lstrip()), last)
                        spans[key] = max(spans.get(key, -np.inf), begin[row, i] + end[row, j])
        null = min(begin[:, 0] + end[:, 0])
        best = max(spans, key=spans.get)
        total = np.exp(list(spans.values())).sum() + (np.exp(null) if null_threshold is not None else 0)
        if null_threshold is not None and null - spans[best] > null_threshold:
            assert mine["answer"] == "" and mine["start"] is None
            assert mine["score"] == pytest.approx(np.exp(null) / total, rel=1e-3)
        else:
            assert (mine["start"], mine["end"]) == best and mine["answer"] == context[slice(*best)]
            assert mine["score"] == pytest.approx(np.exp(spans[best]) / total, rel=1e-3)
        if null_threshold is not None:
            assert mine["null_margin"] == pytest.approx(null - spans[best], abs=1e-4)
    assert windows > len(QUESTIONS)
