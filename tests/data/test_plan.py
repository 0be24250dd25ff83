"""The sampler's promises, checked against plain loops over what a plan says."""

import bisect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import FakeSplit, random_split

from bert_jax.data import keyed
from bert_jax.data.plan import IGNORED, RowSettings, _block_records, num_blocks, pack, plan_block
from data_prep.errors import InputError

SMALL = dict(packing=True, short_seq_prob=0.1, block_tokens=1500)


OBJECTIVES = ["nsp", "sop", "mlm", "across"]


def settings(**changes):
    """`across` is objective mlm with chunks across documents."""
    if changes.get("objective") == "across":
        changes |= {"objective": "mlm", "mlm_documents": "across"}
    return RowSettings(**{"seq_len": 32, "objective": "nsp", **SMALL, **changes})


def borders_inside(plan, part):
    offsets = plan.token_offsets.tolist()
    return len(set(offsets[bisect.bisect_right(offsets, part.start) : bisect.bisect_left(offsets, part.stop)]))


def plans_of_epoch(split, rows, seed=0, epoch=0):
    return [plan_block(split, rows, seed, epoch, block) for block in range(num_blocks(split, rows))]


def example_parts(plan):
    for i in range(len(plan.row)):
        yield (
            i,
            range(plan.a_start[i], plan.a_start[i] + plan.a_length[i]),
            range(plan.b_start[i], plan.b_start[i] + plan.b_length[i]),
        )


splits = st.builds(
    random_split,
    st.integers(0, 10**6),
    documents=st.integers(2, 40),
    sentences=st.sampled_from([(1, 1), (1, 3), (1, 12), (5, 40)]),
    tokens=st.sampled_from([(1, 3), (1, 30), (20, 80)]),
    pieces=st.sampled_from([0.0, 0.5, 1.0]),
)


@given(splits, st.sampled_from(OBJECTIVES), st.sampled_from([8, 32, 64]), st.booleans(), st.integers(0, 9))
def test_every_token_stands_once_in_an_a_or_a_true_b(split, objective, seq_len, packing, epoch):
    rows = settings(objective=objective, seq_len=seq_len, packing=packing)
    seen = []
    for block, plan in enumerate(plans_of_epoch(split, rows, epoch=epoch)):
        covered = np.zeros(plan.token_offsets[-1], int)
        for i, a, b in example_parts(plan):
            covered[a] += 1
            if not (objective == "nsp" and plan.label[i] == 1):
                covered[b] += 1
        records, _, planned = _block_records(split, rows, 0, epoch, block)
        own = plan.token_offsets[planned]
        np.testing.assert_array_equal(covered[:own], 1)
        np.testing.assert_array_equal(covered[own:], 0)
        seen += records[:planned].tolist()
    assert sorted(seen) == list(range(split.num_kept))


@given(splits, st.sampled_from(OBJECTIVES), st.sampled_from([8, 32, 64]), st.booleans())
def test_rows_hold_whole_examples_side_by_side(split, objective, seq_len, packing):
    rows = settings(objective=objective, seq_len=seq_len, packing=packing)
    for plan in plans_of_epoch(split, rows):
        for row in range(plan.num_rows):
            examples = range(plan.row_offsets[row], plan.row_offsets[row + 1])
            assert 1 <= len(examples) <= (rows.max_examples if packing else 1)
            place = 0
            for i in examples:
                assert plan.row[i] == row
                assert plan.offset[i] == place
                assert plan.a_length[i] > 0
                a = range(plan.a_start[i], plan.a_start[i] + plan.a_length[i])
                separators = borders_inside(plan, a)
                assert separators == 0 or rows.mlm_documents == "across"
                place += plan.a_length[i] + separators + 2 + (plan.b_length[i] + 1 if plan.b_length[i] else 0)
            assert place <= seq_len


@given(splits, st.sampled_from([8, 32, 64]))
def test_random_b_comes_from_another_document_and_not_from_its_beginning(split, seq_len):
    for plan in plans_of_epoch(split, settings(seq_len=seq_len)):
        index = split.index(plan.records)
        for i, a, b in example_parts(plan):
            record_a = np.searchsorted(plan.token_offsets, a.start, "right") - 1
            assert a.stop <= plan.token_offsets[record_a + 1]
            if plan.label[i] == IGNORED:
                assert plan.b_length[i] == 0
            elif plan.label[i] == 0:
                assert b.start == a.stop
                assert b.stop <= plan.token_offsets[record_a + 1]
            else:
                record_b = np.searchsorted(plan.token_offsets, b.start, "right") - 1
                assert index.document[record_b] != index.document[record_a]
                assert b.stop <= plan.token_offsets[record_b + 1]
                assert not (index.first[record_b] and b.start == plan.token_offsets[record_b])


@given(splits)
def test_sentence_order_swaps_what_stood_side_by_side(split):
    for plan in plans_of_epoch(split, settings(objective="sop")):
        for i, a, b in example_parts(plan):
            if plan.label[i] == 0:
                assert a.stop == b.start
            elif plan.label[i] == 1:
                assert b.stop == a.start


@given(splits, st.sampled_from([8, 32]), st.sampled_from(["mlm", "across"]))
def test_cuts_are_at_sentence_borders_or_for_long_sentences_at_word_borders(split, seq_len, objective):
    for plan in plans_of_epoch(split, settings(seq_len=seq_len, objective=objective)):
        index = split.index(plan.records)
        sentence_starts = np.concatenate([[0], np.cumsum(index.sentence_lengths)])
        for _, a, _ in example_parts(plan):
            if a.start in sentence_starts:
                continue
            sentence = np.searchsorted(sentence_starts, a.start, "right") - 1
            assert index.sentence_lengths[sentence] > seq_len - 3
            word_before = index.word_starts[a.start - (seq_len - 3) + 1 : a.start + 1]
            assert index.word_starts[a.start] or not word_before.any()


def test_chunks_equal_those_of_a_plain_loop():
    split = random_split(3, documents=30, tokens=(1, 29))
    rows = settings(block_tokens=10**9)
    plan = plan_block(split, rows, seed=5, epoch=2, block=0)
    key = int(keyed.draw(5, 2, 0))
    expected = set()
    for place, record in enumerate(plan.records):
        lengths = split.records[record][2]
        starts = plan.token_offsets[place] + np.concatenate([[0], np.cumsum(lengths)])
        cursor, turn = 0, 0
        while cursor < len(lengths):
            target = 29
            if keyed.chance(keyed.draw(2, key, record, turn), 0.1):
                target = 2 + keyed.below(keyed.draw(1, key, record, turn), 28)
            end, total = cursor, 0
            while end < len(lengths) and (end == cursor or total + lengths[end] <= target):
                total += lengths[end]
                end += 1
            label, border = IGNORED, end
            if end - cursor > 1:
                border = cursor + 1 + int(keyed.below(keyed.draw(3, key, record, turn), end - cursor - 1))
                label = int(keyed.chance(keyed.draw(4, key, record, turn), 0.5))
            expected.add((starts[cursor], starts[border], starts[end] - starts[border], label))
            cursor = border if label == 1 else end
            turn += 1
    assert plan.counts["negatives_without_donor"] == 0 == plan.counts["negatives_shortened"]
    found = set(zip(plan.a_start, plan.a_start + plan.a_length, plan.b_length, plan.label, strict=True))
    assert found == expected


@pytest.mark.parametrize("seed", range(4))
def test_chunks_across_documents_equal_those_of_a_plain_loop(seed):
    """Sentence after sentence through the block; a separator between two records counts as a token."""
    split = random_split(seed, documents=30, tokens=(1, 29))
    plan = plan_block(split, settings(block_tokens=10**9, objective="across"), seed=5, epoch=2, block=0)
    key = int(keyed.draw(5, 2, 0))
    sentences = []  # (start, end, opens a record)
    for place, record in enumerate(plan.records):
        ends = plan.token_offsets[place] + np.cumsum(split.records[record][2])
        sentences += [
            (end - length, end, i == 0)
            for i, (length, end) in enumerate(zip(split.records[record][2], ends, strict=True))
        ]
    expected, turn = set(), 0
    while sentences:
        target = 29
        if keyed.chance(keyed.draw(2, key, turn), 0.1):
            target = 2 + keyed.below(keyed.draw(1, key, turn), 28)
        begin, end, _ = sentences.pop(0)
        total = end - begin
        while sentences and total + sentences[0][1] - sentences[0][0] + sentences[0][2] <= target:
            total += sentences[0][1] - sentences[0][0] + sentences[0][2]
            end = sentences.pop(0)[1]
        expected.add((begin, end - begin))
        turn += 1
    assert set(zip(plan.a_start, plan.a_length, strict=True)) == expected
    assert (plan.label == IGNORED).all() and not plan.b_length.any()
    crossing = sum(borders_inside(plan, a) > 0 for _, a, _ in example_parts(plan))
    assert crossing > 5


def test_labels_are_balanced_and_lengths_tell_nothing_about_them():
    split = random_split(1, documents=400, sentences=(3, 60), tokens=(3, 40), pieces=0.1)
    plans = plans_of_epoch(split, settings(seq_len=128, block_tokens=100_000))
    a, b, label = (
        np.concatenate([getattr(plan, name) for plan in plans]) for name in ("a_length", "b_length", "label")
    )
    first, second = label == 0, label == 1
    total = first.sum() + second.sum()
    assert total > 3000
    assert abs(first.sum() / total - 0.5) < 4 * 0.5 / np.sqrt(total)
    for lengths in (a, b, a + b):
        # The largest distance between the two distributions (Kolmogorov-Smirnov) stays below its 0.1 % point.
        grid = np.arange(129)
        distance = abs(
            np.searchsorted(np.sort(lengths[first]), grid, "right") / first.sum()
            - np.searchsorted(np.sort(lengths[second]), grid, "right") / second.sum()
        ).max()
        assert distance < 1.95 * np.sqrt(1 / first.sum() + 1 / second.sum())


def test_two_documents_lend_to_each_other_across_blocks():
    """Two long documents of many records: a block may hold pieces of one alone, and borrows of the other."""
    records = [(document, piece == 0, [7] * 30, [True] * 210) for document in (0, 1) for piece in range(40)]
    plans = plans_of_epoch(FakeSplit(records), settings(block_tokens=420))
    assert len(plans) == 40
    labels = np.concatenate([plan.label for plan in plans])
    assert (labels == 1).sum() > 0.4 * (labels >= 0).sum()
    assert all(plan.counts["negatives_without_donor"] == 0 for plan in plans)


def test_without_a_second_sentence_elsewhere_a_stands_alone():
    split = FakeSplit([(0, True, [3] * 40, [True] * 120), (1, True, [4], [True] * 4), (2, True, [4], [True] * 4)])
    plan = plan_block(split, settings(), 0, 0, 0)
    assert (plan.label != 1).all()
    assert plan.counts["negatives_without_donor"] > 0


def test_epochs_and_seeds_differ_and_repeat():
    split = random_split(2, documents=40)
    rows = settings(block_tokens=10**9)
    one, again = plan_block(split, rows, 0, 0, 0), plan_block(split, rows, 0, 0, 0)
    for name in ("records", "row", "offset", "a_start", "b_start", "b_length", "label"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    for other in (plan_block(split, rows, 1, 0, 0), plan_block(split, rows, 0, 1, 0)):
        assert not np.array_equal(one.records, other.records)


def test_packing_leaves_little_padding():
    split = random_split(4, documents=300, sentences=(1, 8), tokens=(3, 40), pieces=0.0)
    packed, alone = (
        plan_block(split, settings(seq_len=128, packing=packing, block_tokens=10**9), 0, 0, 0)
        for packing in (True, False)
    )
    assert packed.counts["tokens"] / (packed.num_rows * 128) > 0.97
    assert alone.counts["tokens"] / (alone.num_rows * 128) < 0.8
    assert alone.num_rows == len(alone.row)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(1, 6))
def test_pack_is_best_fit(lengths, max_items):
    rows = []  # [room left, items, when last used]
    expected = []
    for now, length in enumerate(lengths):
        fitting = [
            row for row in range(len(rows)) if length <= rows[row][0] and rows[row][0] and rows[row][1] < max_items
        ]
        if fitting:
            best = min(fitting, key=lambda row: (rows[row][0], -rows[row][2]))
        else:
            rows.append([20, 0, now])
            best = len(rows) - 1
        rows[best] = [rows[best][0] - length, rows[best][1] + 1, now]
        expected.append(best)
    assert pack(np.array(lengths), 20, max_items).tolist() == expected


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (FakeSplit([]), "no documents"),
        (FakeSplit([(0, True, [5, 5], [True] * 10), (0, False, [5], [True] * 5)]), "at least two documents"),
    ],
)
def test_what_cannot_be_sampled_is_said(split, message):
    with pytest.raises(InputError, match=message):
        plan_block(split, settings(), 0, 0, 0)
