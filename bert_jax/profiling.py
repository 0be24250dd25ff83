"""A profile of some steps of a run, for xprof or TensorBoard's profile plugin."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from bert_jax.reporting import say
from data_prep.errors import InputError

PROFILE, STEP = "profile", "train"  # the folder in the run directory, and what a step is called in it


def parse_steps(text: str) -> tuple[int, int]:
    """`A:B` as two numbers.

    Raises:
      InputError: it is none, or B comes before A.
    """
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None or int(found[2]) < int(found[1]):
        raise InputError(f"--profile {text}: write FIRST:LAST, two steps counted from 0, as in --profile 100:104")
    return int(found[1]), int(found[2])


class Profile:
    """Traces host and devices from the dispatch of one step to the end of another; each process of a run its own.

    Args:
      folder: where traces go, each start of a run in a folder of its own below it.
      steps: first and last, both included; None: nothing is traced.
    """

    def __init__(self, folder: Path, steps: tuple[int, int] | None = None):
        self._folder, self._steps = folder, steps
        self._tracing = False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around the dispatch of a step; a run that begins among the steps traces from there."""
        if self._steps is not None and not self._tracing and self._steps[0] <= number <= self._steps[1]:
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True
        with jax.profiler.StepTraceAnnotation(STEP, step_num=number) if self._tracing else contextlib.nullcontext():
            yield

    def after(self, number: int, results: Any) -> None:
        """Once step `number` is dispatched: waits for the results of the last one, and writes the trace."""
        if self._tracing and self._steps is not None and number >= self._steps[1]:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Writes what has been traced, if the run ends among the steps."""
        if self._tracing:
            self._tracing, self._steps = False, None
            jax.profiler.stop_trace()
            say(f"profile written to {self._folder}: xprof --logdir {self._folder}, or TensorBoard's profile plugin")
