"""Permutations and draws against what they must be: bijections, even, and different for every key."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bert_jax.data import keyed


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_permutation_hits_every_place_once(size, key):
    assert sorted(keyed.permute(np.arange(size), size, key)) == list(range(size))


def test_permutation_is_computed_place_by_place():
    whole = keyed.permute(np.arange(1000), 1000, 7)
    some = np.array([3, 999, 0, 500])
    np.testing.assert_array_equal(keyed.permute(some, 1000, 7), whole[some])


def test_permutations_of_two_keys_have_little_in_common():
    one, two = (keyed.permute(np.arange(10_000), 10_000, key) for key in (1, 2))
    assert (one == two).sum() < 10
    assert abs(np.corrcoef(one, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05


def test_draws_are_even_and_independent():
    bits = keyed.draw(1, np.arange(200_000), 3)
    counts = np.bincount(keyed.below(bits, 20), minlength=20)
    assert abs(counts - 10_000).max() < 5 * 100  # five deviations
    assert abs(keyed.chance(bits, 0.3).mean() - 0.3) < 0.006
    other = keyed.draw(1, np.arange(200_000), 4)
    assert abs(np.corrcoef(keyed.below(bits, 1000), keyed.below(other, 1000))[0, 1]) < 0.012


def test_a_draw_after_its_first_words_is_the_whole_draw():
    some = np.arange(5)
    np.testing.assert_array_equal(keyed.draw(9, after=keyed.draw(7, some)), keyed.draw(7, some, 9))


def test_draws_do_not_change_between_versions():
    """A run that resumes after an update must see the same rows: these numbers are for ever."""
    assert keyed.draw(0, 1, 2).tolist() == GOLDEN_DRAW
    assert keyed.permute(np.arange(8), 1000, 42).tolist() == GOLDEN_PERMUTATION


GOLDEN_DRAW = 6768782832058643234
GOLDEN_PERMUTATION = [828, 857, 487, 780, 384, 778, 116, 756]
