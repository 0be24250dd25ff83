"""Batches against the slow obvious way to make them, and the promises about positions, hosts, mixtures and phases."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from property_tests import examples
from synthetic import FakeTokenizer, random_split

from bert_jax.config import Config, DataConfig, PhaseConfig, TrainConfig, corpus_weights
from bert_jax.data.load import Loader, Position
from bert_jax.data.plan import RowSettings, num_blocks, plan_block
from bert_jax.data.read import Place, RowReader, validation_batches
from data_prep.errors import InputError

TOKENIZER = FakeTokenizer()
DATA = DataConfig(corpus="c", seq_len=32, block_tokens=1500)


def corpus(split, validation=None):
    return SimpleNamespace(split=lambda name: validation if name == "validation" else split)


def loader(split, size=8, steps=1000, data=DATA, phases=(), more=()):
    train = TrainConfig(num_steps=steps, global_batch_size=size, phases=phases)
    return Loader(Config(seed=3, data=data, train=train), [corpus(split), *map(corpus, more)], TOKENIZER)


def slow_row(split, plan, row, seq_len, slots):
    """A row, token by token. Ids say their record and place."""
    arrays = {name: [] for name in ("input_ids", "token_type_ids", "position_ids", "segment_ids", "word_starts")}
    cls_positions, labels = [], []
    tokens = np.concatenate([split.read([record])[0] for record in plan.records])
    for example in range(plan.row_offsets[row], plan.row_offsets[row + 1]):
        a = tokens[plan.a_start[example] :][: plan.a_length[example]].tolist()
        b = tokens[plan.b_start[example] :][: plan.b_length[example]].tolist()
        length = len(a)
        for border in plan.token_offsets[::-1]:  # from the back, so that places in front stay where they are
            if 0 < border - plan.a_start[example] < length:
                a.insert(border - plan.a_start[example], TOKENIZER.sep_id)
        ids = [TOKENIZER.cls_id, *a, TOKENIZER.sep_id] + ([*b, TOKENIZER.sep_id] if b else [])
        cls_positions.append(len(arrays["input_ids"]))
        labels.append(plan.label[example])
        arrays["input_ids"] += ids
        arrays["token_type_ids"] += [0] * (len(a) + 2) + [1] * (len(ids) - len(a) - 2)
        arrays["position_ids"] += range(len(ids))
        arrays["segment_ids"] += [len(labels)] * len(ids)
        arrays["word_starts"] += [1] * len(ids)
    padding = seq_len - len(arrays["input_ids"])
    for name, values in arrays.items():
        values += [TOKENIZER.pad_id if name == "input_ids" else 0] * padding
    arrays["cls_positions"] = cls_positions + [0] * (slots - len(labels))
    arrays["next_sentence_labels"] = labels + [-100] * (slots - len(labels))
    return arrays


def slow_rows(split, settings, seed, epoch):
    for block in range(num_blocks(split, settings)):
        plan = plan_block(split, settings, seed, epoch, block)
        for row in range(plan.num_rows):
            yield slow_row(split, plan, row, settings.seq_len, settings.max_examples)


@pytest.mark.parametrize("objective", ["nsp", "mlm", "across"])
@pytest.mark.parametrize("packing", [True, False])
def test_batches_are_the_rows_of_the_plans_in_order(objective, packing):
    """Over borders of blocks and of an epoch, no row dropped."""
    split = random_split(0, documents=30)
    data = dataclasses.replace(DATA, objective=objective, packing=packing)
    if objective == "across":
        data = dataclasses.replace(data, objective="mlm", mlm_documents="across")
    settings = RowSettings.of(data, 32)
    reader_seed = loader(split, data=data).readers(0)[0]._seed
    expected = itertools.chain(slow_rows(split, settings, reader_seed, 0), slow_rows(split, settings, reader_seed, 1))
    found = loader(split, data=data)
    position = found.start()
    step = 0
    while position.corpora[0].epoch == 0:
        arrays, position = found.batch(position, step, np.arange(8))
        for row in range(8):
            slow = next(expected)
            for name, values in slow.items():
                np.testing.assert_array_equal(arrays[name][row], values, err_msg=name)
        step += 1
    assert step > 5 and num_blocks(split, settings) > 1


@given(st.integers(1, 40), st.integers(1, 13))
def test_going_on_from_a_stored_position_gives_the_same_batches(steps, size):
    split = random_split(1, documents=20)
    through = list(itertools.islice(loader(split, size).batches(Position(), 0, np.arange), steps + 2))
    position = Position.from_json(through[steps - 1][1].to_json())
    resumed = list(itertools.islice(loader(split, size).batches(position, steps, np.arange), 2))
    for (expected, at), (found, also_at) in zip(through[steps:], resumed, strict=True):
        assert at == also_at
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)


def test_hosts_see_their_rows_of_the_same_batch():
    split = random_split(2, documents=20)
    whole, half, other = loader(split), loader(split), loader(split)
    positions = [Position()] * 3
    for step in range(12):
        everything, positions[0] = whole.batch(positions[0], step, np.arange(8))
        left, positions[1] = half.batch(positions[1], step, np.array([0, 1, 4, 5]))
        right, positions[2] = other.batch(positions[2], step, np.array([2, 3, 6, 7]))
        assert positions[0] == positions[1] == positions[2]
        for name, values in everything.items():
            np.testing.assert_array_equal(left[name], values[[0, 1, 4, 5]])
            np.testing.assert_array_equal(right[name], values[[2, 3, 6, 7]])


def test_no_block_is_planned_twice(monkeypatch):
    """Also where a batch lies over several blocks: every host plans all of them, so this is what planning costs."""
    planned = []

    def counting(split, settings, seed, epoch, block):
        planned.append((epoch, block))
        return plan_block(split, settings, seed, epoch, block)

    monkeypatch.setattr("bert_jax.data.read.plan_block", counting)
    split = random_split(2, documents=60)
    found, position = loader(split, size=200), Position()
    for step in range(6):
        _, position = found.batch(position, step, np.arange(0, 200, 50))
    assert position.corpora[0].epoch * found.readers(0)[0].num_blocks + position.corpora[0].block > 12
    assert len(planned) == len(set(planned))


def test_going_on_plans_no_block_before_its_own_however_far_the_run_is(monkeypatch):
    split, planned = random_split(2, documents=60), []
    walking = loader(split)
    position = walking.start()
    for step in range(100):
        position = walking.skip(position, step)
    assert position.corpora[0].epoch >= 1 or position.corpora[0].block > 5

    def counting(split, settings, seed, epoch, block):
        planned.append((epoch, block))
        return plan_block(split, settings, seed, epoch, block)

    monkeypatch.setattr("bert_jax.data.read.plan_block", counting)
    batches = loader(split).batches(position, 100, np.arange)
    arrays, _ = next(batches)
    batches.close()
    at = position.corpora[0]
    assert planned and min(planned) >= (at.epoch, at.block)  # how many more depends on how far the thread reads ahead
    expected, _ = walking.batch(position, 100, np.arange(8))
    assert all(np.array_equal(arrays[name], expected[name]) for name in expected)


def test_a_corpus_smaller_than_a_batch_repeats_in_new_pairs():
    split = random_split(5, documents=3, sentences=(2, 4))
    arrays, position = loader(split, size=64).batch(Position(), 0, np.arange(64))
    assert position.corpora[0].epoch > 1
    assert len(np.unique(arrays["input_ids"], axis=0)) > position.corpora[0].epoch


def test_mixture_keeps_the_weights_and_each_corpus_its_own_place():
    splits = [random_split(seed, documents=40) for seed in (1, 2)]
    data = dataclasses.replace(DATA, corpus=[{"path": "a", "weight": 3.0}, {"path": "b", "weight": 1.0}])
    mixed = loader(splits[0], size=40, data=data, more=[splits[1]])
    position = mixed.start()
    taken = np.zeros(2)
    for step in range(25):
        before = position
        arrays, position = mixed.batch(position, step, np.arange(40))
        owner = mixed.owners(step, 40)
        taken += np.bincount(owner, minlength=2)
        for i in range(2):
            alone = RowReader(splits[i], RowSettings.of(data, 32), mixed.readers(0)[i]._seed, TOKENIZER)
            stretches, after = alone.advance(before.corpora[i], int((owner == i).sum()))
            assert after == position.corpora[i]
            expected = np.concatenate(
                [alone.assemble(stretch.plan, stretch.rows)["input_ids"] for stretch in stretches]
            )
            np.testing.assert_array_equal(arrays["input_ids"][owner == i], expected)
        assert mixed.skip(before, step) == position
    assert abs(taken[0] / taken.sum() - 0.75) < 0.002


@given(
    weights=st.lists(st.floats(0.05, 10), min_size=2, max_size=4),
    size=st.integers(1, 64),
    first=st.integers(0, 10**6),
)
def test_shares_of_rows_converge_to_the_weights(weights, size, first):
    """From any step on: after n rows no corpus is more than a few rows off."""
    data = dataclasses.replace(DATA, corpus=[{"path": str(i), "weight": w} for i, w in enumerate(weights)])
    splits = [random_split(i, documents=2) for i in range(len(weights))]
    mixed = loader(splits[0], size=size, data=data, more=splits[1:])
    owners = np.concatenate([mixed.owners(step, size) for step in range(first, first + 200)])
    counts = np.cumsum(owners[:, None] == np.arange(len(weights)), 0)
    rows = np.arange(1, len(owners) + 1)[:, None]
    assert (np.abs(counts - rows * np.array(weights) / sum(weights)) <= 8).all()


def test_a_corpus_that_ends_its_epochs_does_not_disturb_the_other():
    """The large corpus gives the same rows beside a small one as beside another one, and counts are of what it gave."""
    data = dataclasses.replace(DATA, corpus=[{"path": "a", "weight": 1.0}, {"path": "b", "weight": 1.0}])
    large = random_split(1, documents=40)
    pairs = [loader(large, 16, data=data, more=[random_split(2, documents=n, sentences=(2, 4))]) for n in (3, 60)]
    positions = [mixed.start() for mixed in pairs]
    rows = np.zeros((2, 2), int)
    tokens = np.zeros((2, 2), int)
    for step in range(30):
        owner = pairs[0].owners(step, 16)
        found = []
        for i, mixed in enumerate(pairs):
            arrays, positions[i] = mixed.batch(positions[i], step, np.arange(16))
            found.append(arrays["input_ids"][owner == 0])
            for corpus in range(2):
                rows[i, corpus] += (owner == corpus).sum()
                tokens[i, corpus] += (arrays["segment_ids"][owner == corpus] > 0).sum()
        np.testing.assert_array_equal(*found)
    assert positions[0].corpora[1].epoch > 10 > positions[1].corpora[1].epoch
    assert positions[0].corpora[0] == positions[1].corpora[0]
    for i, position in enumerate(positions):
        assert [place.rows for place in position.corpora] == rows[i].tolist()
        assert [place.tokens for place in position.corpora] == tokens[i].tolist()
        assert Position.from_json(position.to_json()).corpora[1].tokens == tokens[i, 1]


@given(steps=st.integers(1, 20), size=st.integers(2, 9), hosts=st.integers(1, 3))
def test_a_mixture_is_the_same_on_any_hosts_and_from_any_position(steps, size, hosts):
    data = dataclasses.replace(DATA, corpus=[{"path": "a", "weight": 2.0}, {"path": "b", "weight": 1.0}])
    splits = [random_split(1, documents=20), random_split(2, documents=4)]

    def mixed():
        return loader(splits[0], size, data=data, more=[splits[1]])

    through = list(itertools.islice(mixed().batches(mixed().start(), 0, np.arange), steps + 1))
    (_, position), (expected, after) = through[-2:]
    position = Position.from_json(position.to_json())
    for host in range(min(hosts, size)):
        mine = np.arange(host, size, hosts)
        arrays, found = mixed().batch(position, steps, mine)
        assert found.to_json() == after.to_json()
        for name, values in expected.items():
            np.testing.assert_array_equal(arrays[name], values[mine])


def test_phases_change_length_and_batch_and_go_on_in_the_next_block():
    split = random_split(6, documents=60)
    phases = (PhaseConfig(3, 32, 8), PhaseConfig(2, 64, 4))
    batches = list(loader(split, phases=phases).batches(Position(), 0, np.arange))
    assert [arrays["input_ids"].shape for arrays, _ in batches] == [(8, 32)] * 3 + [(4, 64)] * 2
    assert [position.phase for _, position in batches] == [0, 0, 0, 1, 1]
    first, last = batches[2][1].corpora[0], batches[3][1].corpora[0]
    assert last == Place(first.epoch, first.block + 1, 4)
    resumed = list(loader(split, phases=phases).batches(batches[2][1], 3, np.arange))
    for (expected, _), (found, _) in zip(batches[3:], resumed, strict=True):
        np.testing.assert_array_equal(found["input_ids"], expected["input_ids"])


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_validation_rows_come_once_each_whatever_the_batch(size):
    split = random_split(7, documents=12)
    settings = RowSettings.of(DATA, 32)
    expected = list(slow_rows(split, settings, 0, 0))
    found = list(validation_batches(split, settings, 0, TOKENIZER, size, np.arange))
    ids = np.concatenate([arrays["input_ids"] for arrays in found])
    segments = np.concatenate([arrays["segment_ids"] for arrays in found])
    rows = np.concatenate([arrays["rows"] for arrays in found])
    assert all(len(arrays["input_ids"]) == size for arrays in found)
    np.testing.assert_array_equal(ids[: len(expected)], [row["input_ids"] for row in expected])
    np.testing.assert_array_equal(rows, np.arange(len(rows)))
    assert (segments[len(expected) :] == 0).all() and len(rows) - len(expected) < size


BAD_WEIGHTS = [[{"path": "a", "weight": weight}] for weight in ("much", float("nan"), float("inf"), True, None)]


@pytest.mark.parametrize("bad", ["", [], [{"path": "a"}], [{"path": "a", "weight": 0.0}], ["a"], *BAD_WEIGHTS])
def test_what_is_no_corpus_is_said(bad):
    with pytest.raises(InputError, match=r"config\.data\.corpus"):
        corpus_weights(bad)


@settings(max_examples=examples(20))
@given(st.integers(0, 6), st.integers(1, 4), st.integers(0, 3))
def test_rows_that_are_passed_over_are_those_of_the_steps_named_and_nothing_else_changes(first, count, again):
    """Also a second time at the same step, and from a stored position."""
    split, other = random_split(8, documents=40), random_split(9, documents=30)
    data = dataclasses.replace(DATA, corpus=[{"path": "a", "weight": 2.0}, {"path": "b", "weight": 1.0}])
    found = loader(split, data=data, more=[other])
    plain = [found.start()]
    for step in range(20):
        plain.append(found.skip(plain[-1], step))
    skip = ((first, count), *[(first, again)] * (again > 0))
    position = dataclasses.replace(found.start(), skip=skip)
    rows = []
    for step in range(first + 2):
        position = Position.from_json(position.to_json())
        rows.append(found.rows_of_step(position, step))
        arrays, after = found.batch(position, step, np.arange(8))
        assert after == found.skip(position, step) and len(arrays["rows"]) == 8
        position = after
    assert rows[:first] == [found.rows_of_step(plain[step], step) for step in range(first)]
    # What is read at the step is what lies after the rows that were passed over: shares go by the step that read them.
    expected = plain[first]
    for passed in [*range(first, first + count), *range(first, first + again)]:
        expected = found.skip(dataclasses.replace(expected, skip=()), passed)
    assert rows[first] == found.rows_of_step(expected, first)


def test_rows_passed_over_at_the_border_of_phases():
    split = random_split(6, documents=60)
    phases = (PhaseConfig(3, 32, 8), PhaseConfig(3, 64, 4))
    plain = list(loader(split, phases=phases).batches(Position(), 0, np.arange))
    skipping = list(loader(split, phases=phases).batches(Position(skip=((2, 1), (3, 1))), 0, np.arange))
    for step in (0, 1):
        np.testing.assert_array_equal(skipping[step][0]["input_ids"], plain[step][0]["input_ids"])
    np.testing.assert_array_equal(skipping[3][0]["input_ids"], plain[4][0]["input_ids"])
    assert not np.array_equal(skipping[2][0]["input_ids"], plain[2][0]["input_ids"])


@pytest.mark.parametrize(("objective", "documents"), [("nsp", "within"), ("mlm", "within"), ("mlm", "across")])
def test_a_plan_knows_the_tokens_of_its_rows(objective, documents):
    split, data = random_split(3, documents=30), dataclasses.replace(DATA, objective=objective, mlm_documents=documents)
    reader = RowReader(split, RowSettings.of(data, 32), 0, TOKENIZER)
    plan = reader.plan(0, 0)
    arrays = reader.assemble(plan, np.arange(plan.num_rows))
    assert (np.diff(plan.token_offsets) > 0).sum() > 10
    np.testing.assert_array_equal(plan.row_tokens, (arrays["segment_ids"] > 0).sum(1))
