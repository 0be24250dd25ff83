"""Heads on tokens give what PyTorch gives: a tagger in transformers' pipeline, spans of a model run by hand."""

import json

import numpy as np
import pytest
import transformers
from byte_level_vocabulary import byte_level
from family_models import make
from saved_models import save
from small_corpora import make_tokenizer

from bert_jax.convert import from_hf, to_hf
from bert_jax.finetune.predict import predict

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
