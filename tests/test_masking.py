"""Masks against what the paper and DESIGN say of them, row by row."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from property_tests import LONG

from bert_jax.masking import IGNORED, MaskSettings, mask_tokens, span_words
from bert_jax.random_bits import Purpose, row_bits, stream

SPECIALS = np.array([0, 2, 5, 6, 9], np.int32)
PAD, UNK, CLS, SEP, MASK = 0, 2, 5, 6, 9


def settings(masking="token", prob=0.15, slots=8, vocab=50):
    ordinary = np.setdiff1d(np.arange(vocab), SPECIALS).astype(np.int32)
    return MaskSettings(masking, prob, slots, MASK, SPECIALS, ordinary)


def random_rows(seed, rows, seq_len, vocab=50, word=0.6):
    """Rows of a few examples with specials, unknown words and padding in them."""
    rng = np.random.default_rng(seed)
    ids = rng.choice(np.setdiff1d(np.arange(vocab), SPECIALS), (rows, seq_len)).astype(np.int32)
    ids[rng.random(ids.shape) < 0.05] = UNK
    segments = np.zeros((rows, seq_len), np.int32)
    starts = (rng.random(ids.shape) < word).astype(np.int32)
    for row in range(rows):
        place, example = 0, 1
        while place < seq_len - 4 and (example == 1 or rng.random() < 0.7):
            stop = int(rng.integers(place + 3, seq_len + 1))
            segments[row, place:stop] = example
            ids[row, place], ids[row, stop - 1] = CLS, SEP
            starts[row, [place, place + 1, stop - 1]] = 1
            place, example = stop, example + 1
        ids[row, place:], starts[row, place:] = PAD, 0
    return ids, segments, starts


def mask(rows, how, seed=1, step=0, numbers=None):
    ids, segments, starts = rows
    numbers = np.arange(len(ids), dtype=np.int32) if numbers is None else numbers
    run = compiled(how.masking, how.max_predictions, len(how.ordinary_ids) + len(SPECIALS))
    return [np.asarray(array) for array in run(ids, segments, starts, numbers, seed, step, how.mask_prob)]


@functools.cache
def compiled(masking, slots, vocab):
    """Jitted once for every example that differs in numbers only."""
    how = settings(masking, 0.15, slots, vocab)

    def run(ids, segments, starts, numbers, seed, step, prob):
        traced = copy.copy(how)
        object.__setattr__(traced, "mask_prob", prob)
        return mask_tokens(ids, segments, starts, numbers, seed, step, traced)

    return jax.jit(run)


def maskable(ids, segments):
    return (segments > 0) & ~np.isin(ids, SPECIALS)


@given(
    st.integers(0, 10**6),
    st.sampled_from([5, 16, 40] if LONG else [5, 40]),  # each is compiled
    st.sampled_from([0.05, 0.15, 0.5]),
    st.sampled_from([1, 3, 8, 50] if LONG else [1, 8, 50]),
    st.sampled_from(["token", "whole_word", "span"]),
)
def test_slots_positions_and_labels_belong_together(seed, seq_len, prob, slots, masking):
    ids, segments, starts = rows = random_rows(seed, 6, seq_len)
    how = settings(masking, prob, slots)
    masked, positions, labels = mask(rows, how, seed=seed % 1000)
    assert positions.shape == labels.shape == (6, slots)
    for row in range(6):
        used = labels[row] != IGNORED
        chosen = positions[row][used]
        assert (np.diff(chosen) > 0).all()
        assert (positions[row][~used] == 0).all() and not used[used.sum() :].any()
        np.testing.assert_array_equal(labels[row][used], ids[row][chosen])
        assert maskable(ids, segments)[row][chosen].all()
        others = np.setdiff1d(np.arange(seq_len), chosen)
        np.testing.assert_array_equal(masked[row][others], ids[row][others])
        replaced = masked[row][chosen]
        assert (~np.isin(replaced, SPECIALS) | (replaced == MASK)).all()
        total = maskable(ids, segments)[row].sum()
        budget = min(max(1, int(np.round(np.float32(total) * np.float32(prob)))), slots)
        if masking == "token":
            assert used.sum() == min(budget, total)
        elif total:
            words = whole_words(ids, segments, starts, row)
            taken = [word for word in words if set(word) & set(chosen)]
            if used.sum() > budget:  # no word fitted: the shortest stands alone
                assert len(taken) == 1 and len(taken[0]) == min(map(len, words))
            assert all(set(word) <= set(chosen) for word in taken) or used.sum() == slots


def whole_words(ids, segments, starts, row):
    words, open_word = [], False
    for place in range(ids.shape[1]):
        if not maskable(ids, segments)[row, place]:
            open_word = False
            continue
        if starts[row, place] or not open_word:
            words.append([])
        words[-1].append(place)
        open_word = True
    return words


def test_whole_words_equal_a_plain_loop_over_words_in_random_order():
    """Words are taken in the drawn order, those that would overshoot passed over: nothing that still fits is left."""
    ids, segments, starts = rows = random_rows(4, 64, 48, word=0.4)
    _, positions, labels = mask(rows, settings("whole_word", 0.2, 20))
    for row in range(64):
        chosen = set(positions[row][labels[row] != IGNORED])
        words = whole_words(ids, segments, starts, row)
        budget = min(max(1, round(0.2 * sum(map(len, words)))), 20)
        room = budget - len(chosen)
        assert room >= 0 or len(words) == 1 or min(map(len, words)) > budget
        assert not any(len(word) <= room for word in words if not set(word) & chosen)


def plain_spans(ids, segments, starts, row, order, drawn, budget, slots):
    """Span masking of one row as a plain loop over its words, by the same draws: [(begin, end)]."""
    words = [(word[0], word[-1] + 1) for word in whole_words(ids, segments, starts, row)]
    if not words:
        return []
    left, taken = max(budget, min(end - begin for begin, end in words)), set()
    spans = []
    for first in sorted(range(len(words)), key=lambda i: (order[words[i][0]] >> 1, i)):
        if first in taken or words[first][1] - words[first][0] > left:
            continue
        begin = words[first][0]
        last = first
        for following in range(first + 1, min(first + drawn[begin], len(words))):
            touching = words[following][0] == words[following - 1][1]
            if not touching or following in taken or words[following][1] - begin > left:
                break
            last = following
        taken |= set(range(first, last + 1))
        left -= words[last][1] - begin
        spans.append((begin, words[last][1]))
    return [(begin, end) for begin, end in spans if len(spans) > 1 or end - begin <= slots] or [
        (spans[0][0], spans[0][0] + slots)
    ]


@pytest.mark.parametrize(("prob", "slots"), [(0.15, 8), (0.4, 40), (0.2, 3)])
def test_spans_equal_a_plain_loop_over_words(prob, slots):
    ids, segments, starts = rows = random_rows(11, 48, 64, word=0.6)
    masked, positions, labels = mask(rows, settings("span", prob, slots), seed=9, step=4)
    numbers = jnp.arange(48)
    order = np.asarray(row_bits(stream(9, 4, Purpose.MASK_ORDER), numbers, (64,))).astype(np.int64)
    drawn = np.asarray(span_words(row_bits(stream(9, 4, Purpose.SPAN_LENGTH), numbers, (64,))))
    kinds = np.asarray(row_bits(stream(9, 4, Purpose.MASK_KIND), numbers, (64,)))
    lengths = []
    for row in range(48):
        total = maskable(ids, segments)[row].sum()
        budget = min(max(1, int(np.round(np.float32(total) * np.float32(prob)))), slots)
        spans = plain_spans(ids, segments, starts, row, order[row], drawn[row], budget, slots)
        expected = sorted(place for begin, end in spans for place in range(begin, end))
        assert positions[row][labels[row] != IGNORED].tolist() == expected
        for begin, end in spans:  # one fate for a span, and no border crossed
            assert len(set(segments[row][begin:end])) == 1
            assert (masked[row][begin:end] == MASK).all() == (kinds[row][begin] < 0.8 * 2**32)
            if kinds[row][begin] >= 0.9 * 2**32:
                assert not np.isin(masked[row][begin:end], SPECIALS).any()
        lengths += [end - begin for begin, end in spans]
    assert max(lengths) > 3 or slots == 3


def test_lengths_of_spans_are_geometric():
    """The first span of a long row is cut by nothing: its words follow 0.2 * 0.8^(n - 1), n up to 10, mean 3.8."""
    probabilities = 0.2 * 0.8 ** np.arange(10) / (1 - 0.8**10)
    assert probabilities @ np.arange(1, 11) == pytest.approx(3.797, abs=1e-3)  # the mean that SpanBERT states
    ids = np.full((20_000, 80), 20, np.int32)
    ids[:, 0], ids[:, -1] = CLS, SEP
    segments = np.ones_like(ids)
    _, positions, labels = mask((ids, segments, segments), settings("span", 10 / 78, 10))
    assert ((labels != IGNORED).sum(1) == 10).all()  # the budget is spent to the last token
    order = np.asarray(row_bits(stream(1, 0, Purpose.MASK_ORDER), jnp.arange(20_000), (80,)))
    first = 1 + np.argmin(order[:, 1:-1] >> 1, axis=1)
    whole = first < 69
    chosen = np.zeros((20_000, 91), bool)
    np.put_along_axis(chosen, positions, True, 1)
    drawn = np.asarray(span_words(row_bits(stream(1, 0, Purpose.SPAN_LENGTH), jnp.arange(20_000), (80,))))
    lengths = drawn[np.arange(20_000), first][whole]
    reach = first[whole, None] + np.arange(10)
    inside = np.take_along_axis(chosen[whole], reach, 1)
    assert (inside | (np.arange(10) >= lengths[:, None])).all()
    counts = np.bincount(lengths, minlength=11)[1:]
    expected = whole.sum() * probabilities
    assert (abs(counts - expected) < 5 * np.sqrt(expected)).all()


@pytest.mark.parametrize("masking", ["token", "whole_word"])
def test_every_word_has_the_same_chance(masking):
    """Evenly over the row, also where the slots are fewer than the rate asks for."""
    ids = np.full((20_000, 20), 20, np.int32)
    ids[:, 0], ids[:, -1] = CLS, SEP
    segments = np.ones_like(ids)
    _, positions, labels = mask((ids, segments, segments), settings(masking, 0.5, 4))
    counts = np.bincount(positions[labels != IGNORED], minlength=20)
    assert counts[[0, 19]].sum() == 0
    expected = 20_000 * 4 / 18
    assert abs(counts[1:19] - expected).max() < 5 * np.sqrt(expected)


def test_eighty_ten_ten_and_replacements_drawn_evenly():
    ids = np.full((30_000, 12), 20, np.int32)
    ids[:, 0], ids[:, -1] = CLS, SEP
    segments = np.ones_like(ids)
    masked, positions, labels = mask((ids, segments, segments), settings(prob=0.4, slots=4))
    assert (labels != IGNORED).all()
    seen = np.take_along_axis(masked, positions, 1).ravel()
    total = len(seen)
    random_tokens = seen[(seen != MASK) & (seen != 20)]
    share = np.sqrt(0.2 * 0.8 / total)
    assert abs((seen == MASK).mean() - 0.8) < 5 * share
    assert abs((seen == 20).mean() - (0.1 + 0.1 / 45)) < 5 * share
    counts = np.bincount(random_tokens, minlength=50)
    assert set(np.flatnonzero(counts)) == set(range(50)) - set(SPECIALS.tolist()) - {20}
    assert abs(counts[counts > 0] - counts.sum() / 44).max() < 5 * np.sqrt(counts.sum() / 44)


def test_masks_depend_on_seed_step_and_row_number_alone():
    rows = random_rows(5, 8, 32)
    whole = mask(rows, settings())
    some = [array[[6, 2]] for array in rows]
    for found, expected in zip(mask(some, settings(), numbers=np.array([6, 2], np.int32)), whole, strict=True):
        np.testing.assert_array_equal(found, expected[[6, 2]])
    for changed in (mask(rows, settings(), step=1), mask(rows, settings(), seed=2)):
        assert not np.array_equal(changed[1], whole[1])
    same_text = [np.repeat(array[:1], 8, 0) for array in rows]
    assert len(np.unique(mask(same_text, settings())[1], axis=0)) > 4


def test_rows_of_padding_have_nothing_to_predict():
    empty = np.zeros((2, 16), np.int32)
    for masking in ("token", "whole_word", "span"):
        masked, _, labels = mask((empty, empty, empty), settings(masking))
        assert (labels == IGNORED).all() and (masked == 0).all()
