"""Masked language modelling, on the device: clean tokens in, masked inputs, positions and labels out.

Every draw is a hash of (seed, step, row, position): the same masks on any mesh, host count and accumulation. A row has
a fixed number of slots P for predictions, so the vocabulary projection runs on masked positions only (Devlin et al.,
2019: of the chosen tokens 80 % become [MASK], 10 % a random token, 10 % stay). Spans are SpanBERT's (Joshi et al.,
2020): geometric numbers of whole words, and one fate for all tokens of a span.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from bert_jax.config import DataConfig, max_predictions
from bert_jax.data.plan import IGNORED
from bert_jax.random_bits import Purpose, row_bits, stream
from data_prep.tokenizer import Tokenizer

Batch = Mapping[str, Array]

SPAN_P, SPAN_MAX = 0.2, 10  # of the geometric distribution of a span's words, cut off and made to sum to 1


@dataclasses.dataclass(frozen=True)
class MaskSettings:
    """What is masked, and by what it is replaced. `special_ids` and `ordinary_ids` split the vocabulary, int32."""

    masking: str
    mask_prob: float
    max_predictions: int
    mask_id: int
    special_ids: np.ndarray
    ordinary_ids: np.ndarray

    @classmethod
    def of(cls, data: DataConfig, seq_len: int, tokenizer: Tokenizer) -> "MaskSettings":
        """The settings of a phase with rows of `seq_len` tokens."""
        ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), tokenizer.special_ids).astype(np.int32)
        return cls(
            data.masking,
            data.mask_prob,
            max_predictions(data, seq_len),
            tokenizer.mask_id,
            np.asarray(tokenizer.special_ids, np.int32),
            ordinary,
        )


def make_mask_fn(settings: MaskSettings) -> Callable[[Batch, Any, Any], dict[str, Array]]:
    """`mask_fn(batch, seed, step)`: the batch with `input_ids` masked, `masked_lm_positions` and `masked_lm_labels`."""

    def mask_fn(batch: Batch, seed, step) -> dict[str, Array]:
        masked, positions, labels = mask_tokens(
            batch["input_ids"], batch["segment_ids"], batch["word_starts"], batch["rows"], seed, step, settings
        )
        return {**batch, "input_ids": masked, "masked_lm_positions": positions, "masked_lm_labels": labels}

    return mask_fn


def mask_tokens(
    input_ids: Int[Array, "B S"],
    segment_ids: Int[Array, "B S"],
    word_starts: Int[Array, "B S"],
    rows: Int[Array, "B"],
    seed,
    step,
    settings: MaskSettings,
) -> tuple[Int[Array, "B S"], Int[Array, "B P"], Int[Array, "B P"]]:
    """Masks every row.

    Args:
      input_ids, segment_ids, word_starts: clean rows; segment 0 is padding; word_starts 1 where a word or a special
      begins.
      rows: the rows' global numbers.
      seed, step: integers; with the row and the position they determine every draw.
      settings: see `MaskSettings`.

    Returns:
      The masked ids [B, S]; positions [B, P] in order, 0 in unused slots; labels [B, P], -100 in unused slots.
    """
    _, seq_len = input_ids.shape
    maskable = (segment_ids > 0) & ~_is_in(input_ids, settings.special_ids)
    total = maskable.sum(1)
    budget = jnp.minimum(
        jnp.maximum(jnp.round(total * settings.mask_prob).astype(jnp.int32), 1), settings.max_predictions
    )
    order = row_bits(stream(seed, step, Purpose.MASK_ORDER), rows, (seq_len,))
    kind = row_bits(stream(seed, step, Purpose.MASK_KIND), rows, (seq_len,))
    if settings.masking == "token":
        chosen = maskable & (_rank(jnp.where(maskable, order >> 1, jnp.uint32(2**31))) < budget[:, None])
    elif settings.masking == "whole_word":
        chosen = _choose_words(maskable, word_starts, order, budget, settings.max_predictions)
    else:
        words = span_words(row_bits(stream(seed, step, Purpose.SPAN_LENGTH), rows, (seq_len,)))
        span = _choose_spans(maskable, word_starts, order, words, budget, settings.max_predictions)
        chosen = span >= 0
        kind = jnp.take_along_axis(kind, jnp.maximum(span, 0), axis=1)

    other = row_bits(stream(seed, step, Purpose.MASK_TOKEN), rows, (seq_len,))
    ordinary = jnp.asarray(settings.ordinary_ids)
    random_ids = ordinary[(other % jnp.uint32(len(settings.ordinary_ids))).astype(jnp.int32)]
    replaced = jnp.where(kind < jnp.uint32(0.8 * 2**32), settings.mask_id, input_ids)
    replaced = jnp.where(kind >= jnp.uint32(0.9 * 2**32), random_ids, replaced)
    masked = jnp.where(chosen, replaced, input_ids)

    # Chosen positions first, in order of position: a sort by (not chosen, position).
    places = jnp.arange(seq_len, dtype=jnp.int32)
    slots = jnp.sort(jnp.where(chosen, places, places + seq_len), axis=1)[:, : settings.max_predictions]
    missing = settings.max_predictions - slots.shape[1]  # more slots than positions
    slots = jnp.pad(slots, ((0, 0), (0, max(0, missing))), constant_values=seq_len)
    used = slots < seq_len
    positions = jnp.where(used, slots, 0)
    labels = jnp.where(used, jnp.take_along_axis(input_ids, positions, axis=1), IGNORED)
    return masked, positions, labels


def _is_in(ids: Int[Array, "B S"], few: np.ndarray) -> Bool[Array, "B S"]:
    return (ids[..., None] == jnp.asarray(few)).any(-1)


def _rank(values: Array) -> Int[Array, "B S"]:
    """The place of each value in its row's ascending order (ties by position)."""
    return jnp.argsort(jnp.argsort(values, axis=1, stable=True), axis=1)


def _word_starts(maskable: Bool[Array, "B S"], word_starts: Int[Array, "B S"]) -> Bool[Array, "B S"]:
    """Where a word begins among maskable tokens: one that is not maskable ends a word too."""
    after_hole = jnp.pad(~maskable, ((0, 0), (1, 0)), constant_values=True)[:, :-1]
    return maskable & ((word_starts > 0) | after_hole)


def span_words(bits: UInt32[Array, "..."]) -> Int[Array, "..."]:
    """Random bits as words a span: 1 to SPAN_MAX, n with a probability in proportion to SPAN_P (1 - SPAN_P)^(n - 1)."""
    reached = 1.0 - (1.0 - SPAN_P) ** np.arange(1, SPAN_MAX)
    borders = np.round(reached / (1.0 - (1.0 - SPAN_P) ** SPAN_MAX) * 2.0**32).astype(np.uint32)
    return 1 + jnp.sum(bits[..., None] >= borders, axis=-1, dtype=jnp.int32)


def _choose_spans(
    maskable: Bool[Array, "B S"],
    word_starts: Int[Array, "B S"],
    order: UInt32[Array, "B S"],
    words: Int[Array, "B S"],
    budget: Int[Array, "B"],
    slots: int,
) -> Int[Array, "B S"]:
    """Spans of whole words until the budget is spent; gives each chosen token the place where its span begins, others
    -1.

    A span begins at a word that is not taken, in random order, and has as many words as were drawn for that place, or
    as many as come before a token that is never masked (so no example's border is crossed), a word that is taken, or
    the end of the budget. Words that would overshoot the budget begin no span; a row none of whose words fits it gets
    one of its shortest, as far as the slots reach.
    """
    seq_len = maskable.shape[1]
    places = jnp.arange(seq_len, dtype=jnp.int32)
    starts = _word_starts(maskable, word_starts)
    word = jnp.cumsum(starts, axis=1)
    hole = jnp.cumsum(~maskable, axis=1)  # the same for all tokens between two that are never masked
    breaks = jnp.where(starts | ~maskable, places, seq_len)
    following = jnp.pad(breaks, ((0, 0), (0, 1)), constant_values=seq_len)[:, 1:]
    word_end = jax.lax.cummin(following, axis=1, reverse=True)
    size = jnp.where(starts, word_end - places, seq_len + 1)
    scores = order >> 1

    def take(carry, _):
        span, left = carry
        free = starts & (span < 0) & (size <= left[:, None])
        at = jnp.argmin(jnp.where(free, scores, jnp.uint32(2**31)), axis=1).astype(jnp.int32)[:, None]
        here = places == at

        def there(values):
            return jnp.sum(jnp.where(here, values, 0), axis=1, keepdims=True)

        taken = jnp.min(jnp.where((span >= 0) & (places > at), places, seq_len), axis=1, keepdims=True)
        inside = (
            free.any(axis=1, keepdims=True)
            & maskable
            & (places >= at)
            & (places < taken)
            & (hole == there(hole))
            & (word < there(word) + there(words))
            & (word_end <= at + left[:, None])
        )
        return (jnp.where(inside, at, span), left - inside.sum(1, dtype=jnp.int32)), None

    first = jnp.full(maskable.shape, -1, jnp.int32), jnp.maximum(budget, size.min(1))
    (span, _), _ = jax.lax.scan(take, first, length=min(slots, seq_len))
    return jnp.where(jnp.cumsum(span >= 0, axis=1) <= slots, span, -1)


def _choose_words(
    maskable: Bool[Array, "B S"], word_starts: Int[Array, "B S"], order: Array, budget: Int[Array, "B"], slots: int
) -> Bool[Array, "B S"]:
    """Whole words in random order, those that would overshoot the budget passed over.

    A row none of whose words fits the budget gets its shortest word, as far as the slots reach.
    """
    seq_len = maskable.shape[1]
    starts = _word_starts(maskable, word_starts)
    word = jnp.cumsum(starts, axis=1) - 1  # of maskable tokens; [B, S] below seq_len
    word = jnp.where(maskable, word, seq_len)
    lengths = jax.vmap(lambda ids: jnp.zeros(seq_len + 1, jnp.int32).at[ids].add(1))(word)[:, :seq_len]
    scores = jnp.where(jnp.arange(seq_len) < starts.sum(1)[:, None], order >> 1, jnp.uint32(2**31))
    by_score = jnp.argsort(scores, axis=1, stable=True)  # words in random order, those that do not exist last
    sizes = jnp.take_along_axis(lengths, by_score, axis=1)

    def take(used: Int[Array, "B"], size: Int[Array, "B"]) -> tuple[Int[Array, "B"], Bool[Array, "B"]]:
        fits = (size > 0) & (used + size <= budget)
        return used + jnp.where(fits, size, 0), fits

    used, taken = jax.lax.scan(take, jnp.zeros_like(budget), sizes.T)
    shortest = jnp.argmin(jnp.where(sizes > 0, sizes, seq_len + 1), axis=1)
    fallback = (used == 0)[:, None] & (jnp.arange(seq_len) == shortest[:, None]) & (sizes > 0)
    taken_words = jax.vmap(lambda words, flags: jnp.zeros(seq_len + 1, bool).at[words].set(flags))(
        by_score, taken.T | fallback
    )
    chosen = maskable & jnp.take_along_axis(taken_words, word, axis=1)
    return chosen & (jnp.cumsum(chosen, axis=1) <= slots)
