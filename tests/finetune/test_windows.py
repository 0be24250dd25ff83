"""Windows hold every token of a context and its answer's place; spans are the best of all, counted one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from saved_models import write_tokenizer

from bert_jax.finetune.answer_metrics import answer_metrics
from bert_jax.finetune.spans import MOST_OF_ANSWER, best_spans
from bert_jax.finetune.squad_files import Question
from bert_jax.finetune.windows import answer_places, make_windows
from data_prep.tokenizer import load_tokenizer

WORDS = st.lists(st.sampled_from(["the", "films", "river", "good", "bad", ".", "houses"]), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("windows") / "words"))


def asked(question, context, answer=None):
    text = " ".join(context)
    answers = []
    if answer:
        first, last = sorted(answer)
        start = len(" ".join([*context[:first], ""])) if first else 0
        answers = [(" ".join(context[first : last + 1]), start)]
    return Question(" ".join(question), text, answers, None, "x")


@given(WORDS, WORDS, st.integers(8, 40), st.booleans(), st.data())
def test_windows_lose_nothing(tokenizer, question, context, longest, types, data):
    answer = data.draw(st.tuples(*[st.integers(0, len(context) - 1)] * 2))
    questions = [asked(question, context, answer), asked(["the"], context)]
    windows = make_windows(tokenizer, questions, longest, types)
    whole, head = tokenizer.encode_batch([questions[0].context])[0], tokenizer.encode_batch([questions[0].question])[0]
    seen = {0: set(), 1: set()}
    places, lost = answer_places(windows, questions)
    assert lost == 0 and windows.cut == (len(head) > min(64, (longest - 3) // 2))
    text, start = questions[0].answers[0]
    for row, window in enumerate(windows.windows):
        ids = windows.encoded.ids[row]
        assert len(ids) <= longest and ids[0] == tokenizer.cls_id and ids[-1] == tokenizer.sep_id
        assert ids[window.place - 1] == tokenizer.sep_id
        assert ids[window.place : -1] == whole[window.first : window.last]
        assert windows.encoded.first[row] == (window.place if types else len(ids))
        seen[window.question] |= set(range(window.first, window.last))
        first, last = places[row]
        if window.question == 1:
            assert first == last == 0
        elif first:
            assert window.place <= first <= last < len(ids) - 1
            offsets = windows.offsets[0][first - window.place + window.first : last - window.place + window.first + 1]
            assert (offsets[0, 0], offsets[-1, 1]) == (start, start + len(text))
    assert seen[0] == seen[1] == set(range(len(whole)))
    tokens = len(tokenizer.encode_batch([text])[0])
    if tokens <= (longest - 3 - min(len(head), (longest - 3) // 2)) // 2 and longest < 40:  # fits into the overlap
        assert places[:, 0].any()


@given(WORDS, st.integers(9, 24), st.sampled_from([None, -1.0, 0.0, 2.0]), st.integers(0, 2**32 - 1))
def test_the_best_span_of_all(tokenizer, context, longest, threshold, seed):
    windows = make_windows(tokenizer, [asked(["the"], context), asked(["bad"], context[:1])], longest, True)
    draw = np.random.default_rng(seed)
    logits = [draw.normal(0, 2, (len(ids), 2)).astype(np.float32) for ids in windows.encoded.ids]
    (span, other) = best_spans(windows, logits, threshold)
    worth, nulls = {}, []
    for window, values in zip(windows.windows, logits, strict=True):
        if window.question:
            continue
        nulls.append(float(values[0, 0]) + float(values[0, 1]))
        for first in range(window.first, window.last):
            for last in range(first, min(window.last, first + MOST_OF_ANSWER)):
                at = (first - window.first + window.place, last - window.first + window.place)
                value = float(values[at[0], 0]) + float(values[at[1], 1])
                worth[first, last] = max(worth.get((first, last), -np.inf), value)
    best = max(worth, key=worth.get)
    total = sum(np.exp(value) for value in worth.values()) + (np.exp(min(nulls)) if threshold is not None else 0)
    offsets = windows.offsets[0]
    expected = (offsets[best[0], 0], offsets[best[1], 1], np.exp(worth[best]) / total)
    if threshold is None:
        assert span.null_margin is None
    else:
        assert span.null_margin == pytest.approx(min(nulls) - worth[best])
        if min(nulls) - worth[best] > threshold:
            expected = (None, None, np.exp(min(nulls)) / total)
    assert (span.start, span.end) == expected[:2] and span.score == pytest.approx(expected[2])
    assert other.end is None or other.end <= len(context[0])


def test_measures_by_hand():
    truth = [["the Old York", "York"], ["in 1999"], [], []]
    guess = ["York!", "year 1999 or so", "", "York"]
    measured = answer_metrics(truth, guess)
    # second: of {in, 1999} and {year, 1999, or, so} one is common
    assert measured == pytest.approx(
        {
            "exact_match": 2 / 4,
            "f1": (1 + 2 / 6 + 1 + 0) / 4,
            "has_answer_exact_match": 1 / 2,
            "has_answer_f1": (1 + 2 / 6) / 2,
            "no_answer_accuracy": 1 / 2,
        }
    )
    assert answer_metrics([["a  dog, an apple"]], ["Dog Apple"]) == {"exact_match": 1.0, "f1": 1.0}
    assert answer_metrics([["York York old"]], ["York new"])["f1"] == pytest.approx(2 * 1 / 5)
