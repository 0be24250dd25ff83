"""How much of each corpus a run has read: what its metrics, its card and its report say of a mixture."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bert_jax.config import Config, corpus_weights
from bert_jax.data.load import Position
from data_prep.corpus import Corpus


def shares(config: Config) -> list[float]:
    """The weights of the corpora of a config, as shares of 1."""
    weights = [weight for _, weight in corpus_weights(config.data.corpus)]
    return [weight / sum(weights) for weight in weights]


def corpus_names(corpora: Sequence[Corpus]) -> list[str]:
    """The directories' names, numbered where two corpora share one."""
    names = [corpus.path.name for corpus in corpora]
    seen = Counter(names)
    return [name if seen[name] == 1 else f"{name}.{i}" for i, name in enumerate(names)]


def corpus_totals(corpora: Sequence[Corpus], position: Position) -> dict[str, int]:
    """Rows and tokens read of each corpus up to a position, by the names they have in metrics.jsonl."""
    totals: dict[str, int] = {}
    for name, place in zip(corpus_names(corpora), position.corpora, strict=True):
        totals |= {f"corpus_rows/{name}": place.rows, f"corpus_tokens/{name}": place.tokens}
    return totals


def corpora_card(config: Config, corpora: Sequence[Corpus], position: Position) -> list[dict[str, Any]]:
    """What run.json says of each corpus: which one it is, its share as asked for, and what has been read of it."""
    asked, names = shares(config), corpus_names(corpora)
    return [
        {
            "name": name,
            "fingerprint": corpus.fingerprint,
            "tokenizer": corpus.tokenizer_fingerprint,
            "audit": _audit(corpus),
            "weight": weight,
            "epoch": place.epoch,
            "rows": place.rows,
            "tokens": place.tokens,
        }
        for name, corpus, weight, place in zip(names, corpora, asked, position.corpora, strict=True)
    ]


_AUDITED = (
    "documents_in", "documents_kept", "dropped", "sentences", "tokens", "unknown_share", "duplicated_lines_share",
    "scripts",
)  # fmt: skip


def _audit(corpus: Corpus) -> dict[str, Any]:
    """What the run's card keeps of the corpus's audit, and the languages that it was cut into sentences for."""
    audit, inputs = corpus.manifest["audit"], corpus.manifest["settings"].get("inputs", {})
    languages = sorted({settings["language"] for settings in inputs.values() if settings.get("language")})
    return {name: audit[name] for name in _AUDITED if name in audit} | {"languages": languages}


def describe(card: Sequence[dict[str, Any]]) -> str:
    """One line about the corpora of a run, with the shares that were reached where there are several."""
    if len(card) == 1:
        return _identified(card[0])
    rows, tokens = (sum(corpus.get(what, 0) for corpus in card) for what in ("rows", "tokens"))
    if not rows:
        return ", ".join(map(_identified, card))
    return "; ".join(
        f"{_identified(corpus)}: weight {corpus['weight']:.1%}, {corpus['rows'] / rows:.1%} of rows, "
        f"{corpus['tokens'] / tokens:.1%} of tokens, epoch {corpus['epoch']}"
        for corpus in card
    )


def _identified(corpus: dict[str, Any]) -> str:
    return f"{corpus['name']} ({corpus['fingerprint'][:12]})"
