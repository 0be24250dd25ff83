"""When to stop: a signal at one host, and one step at which all of them stop."""

import signal
import sys
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """SIGTERM or SIGINT was received; with several processes, all of them agree at which step to stop."""

    def __init__(self) -> None:
        self._received = False
        signal.signal(signal.SIGINT, self._receive)
        # With several processes jax's preemption service owns SIGTERM.
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, number: int, frame: Any) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait
        self._received = True
        print(f"{signal.Signals(number).name}: finishing this step, then saving", file=sys.stderr)

    def agreed(self, updates: int) -> bool:
        """Whether to stop after this update."""
        if jax.process_count() == 1:
            return self._received
        return bool(multihost_utils.reached_preemption_sync_point(updates))
