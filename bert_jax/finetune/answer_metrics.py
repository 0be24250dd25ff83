"""How well answers agree, as SQuAD's evaluation has it (Rajpurkar et al., 2016; of questions without answers, 2018)."""

import collections
import re
import string
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answer_metrics(truth: Sequence[Sequence[str]], predicted: Sequence[str]) -> dict[str, float]:
    """exact_match and f1, means over questions of the best agreement with any of the right answers, from 0 to 1.

    Answers are compared in lower case, without punctuation, articles and more than one space. Where some questions have
    no answer, also both measures of those that have one, and the share of the others that got none.

    Args:
      truth: the right answers of every question, none where it has none.
      predicted: "" is no answer.
    """
    exact, overlap = [], []
    for answers, guess in zip(truth, predicted, strict=True):
        right = [answer for answer in answers if _normal(answer)] or [""]
        exact.append(float(max(_normal(answer) == _normal(guess) for answer in right)))
        overlap.append(max(_f1(_normal(answer).split(), _normal(guess).split()) for answer in right))
    measured = {"exact_match": _mean(exact), "f1": _mean(overlap)}
    has = [bool(answers) for answers in truth]
    if not all(has):
        measured |= {
            "has_answer_exact_match": _mean([value for value, there in zip(exact, has, strict=True) if there]),
            "has_answer_f1": _mean([value for value, there in zip(overlap, has, strict=True) if there]),
            "no_answer_accuracy": _mean([value for value, there in zip(exact, has, strict=True) if not there]),
        }
    return measured


def _normal(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def _f1(right: list[str], guess: list[str]) -> float:
    if not right or not guess:
        return float(right == guess)
    common = (collections.Counter(right) & collections.Counter(guess)).total()
    return 2 * common / (len(right) + len(guess))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
