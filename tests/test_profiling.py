"""Which steps a profile is of."""

import pytest

from bert_jax import profiling
from bert_jax.profiling import Profile, parse_steps
from data_prep.errors import InputError


def test_steps_are_two_numbers_in_order():
    assert parse_steps("7:7") == (7, 7) and parse_steps("100:104") == (100, 104)
    for wrong in ("7", "8:7", "a:b", "-1:3", "1:2:3", ":"):
        with pytest.raises(InputError, match="FIRST:LAST"):
            parse_steps(wrong)


@pytest.mark.parametrize(
    ("steps", "run", "traced"),
    [
        ((2, 4), range(10), [2, 3, 4]),
        ((2, 4), range(3, 10), [3, 4]),  # resumed among them
        ((2, 4), range(5, 10), []),  # and after them
        ((2, 4), range(4), [2, 3]),  # stopped by a signal
        ((2, 4), [*range(6), *range(1, 6)], [2, 3, 4]),  # gone back to a checkpoint: only once
        (None, range(10), []),
    ],
)
def test_what_is_traced(tmp_path, monkeypatch, steps, run, traced):
    tracing, seen, calls = [False], [], []

    def set_tracing(on):
        calls.append(on)
        tracing[0] = on

    monkeypatch.setattr(profiling.jax.profiler, "start_trace", lambda folder: set_tracing(True))
    monkeypatch.setattr(profiling.jax.profiler, "stop_trace", lambda: set_tracing(False))
    profile = Profile(tmp_path, steps)
    for step in run:
        with profile.step(step):
            seen += [step] if tracing[0] else []
        profile.after(step, {})
    profile.close()
    assert seen == traced
    assert calls == ([True, False] if traced else [])
