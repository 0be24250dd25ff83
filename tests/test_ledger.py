"""What counts as a spike, what is remembered of losses, and the best evaluation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_jax.data.load import Position
from bert_jax.data.read import Place
from bert_jax.ledger import FINE, NOT_FINITE, SPIKE, Best, Ledger, Losses


def go_through(losses, phase=0, start=None):
    watch, verdicts = start or Losses(), []
    for loss in losses:
        watch, what = watch.after(phase, loss, 1.0)
        verdicts.append(what)
    return watch, verdicts


NOISY = 5 + 0.05 * np.random.default_rng(0).standard_normal(400)


def test_ordinary_noise_and_ordinary_learning_are_no_spikes():
    assert set(go_through(NOISY)[1]) == {FINE}
    assert set(go_through(NOISY + 6 * np.exp(-np.arange(400) / 50))[1]) == {FINE}


def test_mean_and_variance_are_those_of_the_first_steps():
    watch, _ = go_through(NOISY[:90])
    assert watch.mean == pytest.approx(NOISY[:90].mean(), rel=1e-9)
    assert watch.variance == pytest.approx(NOISY[:90].var(), rel=1e-9)


def test_a_jump_is_a_spike_and_does_not_hide_the_next():
    losses = NOISY.copy()
    losses[200], losses[203] = 9.0, 9.0
    assert [k for k, what in enumerate(go_through(losses)[1]) if what == SPIKE] == [200, 203]


def test_a_phase_has_losses_of_its_own():
    watch, _ = go_through(NOISY)
    assert set(go_through(NOISY + 3, phase=1, start=watch)[1]) == {FINE}


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_no_numbers_are_counted_and_leave_the_mean_alone(loss, norm):
    watch, _ = go_through(NOISY)
    for k in range(3):
        after, what = watch.after(0, loss, norm)
        assert what == NOT_FINITE and (after.skipped, after.skipped_in_a_row) == (k + 1, k + 1)
        assert (after.mean, after.variance, after.seen) == (watch.mean, watch.variance, watch.seen)
        watch = after
    after, _ = watch.after(0, 5.0, 1.0)
    assert (after.skipped, after.skipped_in_a_row) == (3, 0)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 5))), st.floats(0, 10), st.integers(0, 10**9), st.booleans()
)
def test_a_ledger_survives_its_json(skip, mean, tokens, went_back):
    position = Position(1, (Place(1, 2, 3), Place(4, 5, 6)), tuple(skip))
    ledger = Ledger(position, tokens, 5, Losses(1, 7, mean, mean / 3, 2, 1), Best(5, 0, mean), went_back)
    assert Ledger.from_json(ledger.to_json()) == ledger


def test_the_best_evaluation_is_of_the_phase_at_hand():
    ledger = Ledger(Position(0))
    for step, loss, expected in ((5, 3.0, 5), (10, 2.0, 10), (15, 2.5, 10), (20, math.nan, 10)):
        ledger = ledger.with_evaluation(step, {"mlm_loss": loss, "nsp_loss": 0.0})
        assert ledger.best.step == expected
    later = Ledger(Position(1), best=ledger.best).with_evaluation(25, {"mlm_loss": 4.0})
    assert later.best == Best(25, 1, 4.0)


def test_rows_to_be_passed_over_are_told_apart_by_phase():
    ledger = Ledger(Position()).passing_over(7, 5, [10, 30])
    assert ledger.position.skip == ((7, 3), (10, 2))
    assert ledger.passing_over(12, 2, [10, 30]).position.skip == ((7, 3), (10, 2), (12, 2))
