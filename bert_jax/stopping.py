"""When to stop: a signal at one host, and one step at which all of them stop."""

import signal
import sys
from typing import Any


class StopSignal:
    """SIGTERM or SIGINT was received; with several processes, all of them agree at which step to stop.

    Made before jax is imported, so that a signal in the first seconds of a run ends it with 75 as well.

    Args:
      several: this is one of several processes; then jax's preemption service owns SIGTERM once it has started.
    """

    def __init__(self, several: bool = False) -> None:
        self._received, self._several = False, several
        signal.signal(signal.SIGINT, self._receive)
        if not several:
            signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, number: int, frame: Any) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait
        self._received = True
        print(f"{signal.Signals(number).name}: finishing this step, then saving", file=sys.stderr)

    def before_the_first_step(self) -> bool:
        """Whether to stop before compiling anything; several processes have no way to agree yet."""
        return self._received and not self._several

    def agreed(self, updates: int) -> bool:
        """Whether to stop after this update."""
        if not self._several:
            return self._received
        from jax.experimental import multihost_utils

        return bool(multihost_utils.reached_preemption_sync_point(updates))
