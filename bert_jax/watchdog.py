"""Says which stage of which step takes unusually long, and ends a process that hangs."""

import os
import sys
import threading
import time

from bert_jax.config import WatchdogConfig
from bert_jax.supervisor import STOPPED

_COMPILING = 5.0  # compiling and loading take that many times as long before anybody worries
_SLOW_STAGES = ("start", "compile")


class Watchdog:
    """A thread that looks at the clock while the run says what it is doing.

    Args:
      settings: after how many seconds of one stage to warn, and after how many to exit with 75.
      name: of this process, put before what is said (which host it is); may be empty.
    """

    def __init__(self, settings: WatchdogConfig, name: str = ""):
        self._settings, self._name = settings, name
        self._now: tuple[str, int, float] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)
        self._thread.start()

    def at(self, stage: str, step: int) -> None:
        """The run is now in this stage of this step: start, data, compile, step, evaluate, save."""
        self._now = (stage, step, time.monotonic())

    def close(self) -> None:
        """Nobody looks any more."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        warned: tuple[str, int, float] | None = None
        warn_at = 0.0
        while not self._over.wait(min(1.0, self._settings.warn_seconds / 4)):
            now = self._now
            if now is None:
                continue
            stage, step, since = now
            patience = _COMPILING if stage in _SLOW_STAGES else 1.0
            seconds = time.monotonic() - since
            if warned != now:
                warned, warn_at = now, self._settings.warn_seconds * patience
            if self._settings.stop_seconds and seconds > self._settings.stop_seconds * patience:
                self._say(
                    f"error: step {step}: {stage} has taken {seconds:.0f} seconds, more than "
                    "config.watchdog.stop_seconds allows; the last checkpoint is good, run the same command again"
                )
                os._exit(STOPPED)  # whatever hangs will not end by itself
            if seconds > warn_at:
                self._say(f"warning: step {step}: {stage} has taken {seconds:.0f} seconds so far")
                warn_at *= 2

    def _say(self, text: str) -> None:
        # One write: other threads speak too.
        sys.stderr.write(f"{self._name}{text}\n")
        sys.stderr.flush()
