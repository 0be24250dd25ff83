"""What a run tells about itself: the metrics of steps, held-out losses, progress, and what was out of the ordinary.

One process of a run, the leader, writes; the others call the same and nothing comes of it.
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from bert_jax.config import Config, max_predictions
from bert_jax.data.load import Position
from bert_jax.data.plan import RowSettings
from bert_jax.ledger import Ledger
from bert_jax.metrics import MetricsFile, Progress, cut_lines, duration, peak_flops, step_flops
from bert_jax.mixture import corpus_totals
from data_prep.corpus import Corpus

POSITIONS, EVENTS = "positions.jsonl", "events.jsonl"
Rows = list[tuple[int, int, int, int, int]]  # corpus, epoch, block, first row, last row


def say(text: str, leader: bool = True) -> None:
    """A line on stderr."""
    if leader:
        print(text, file=sys.stderr, flush=True)


class Reporter:
    """Writes `metrics.jsonl` and TensorBoard, `positions.jsonl`, `events.jsonl`, and shows progress.

    `positions.jsonl` says where the run read after some steps, so that `inspect` reaches any step at the cost of a plan
    or two; `events.jsonl` has a line for each step that was skipped, was a spike, or was gone back to.

    Args:
      workdir: the run directory.
      config: the run's, with the vocabulary's size in it.
      corpora: the run's; of several, it is told how much of each has been read.
      start: updates done; lines about later ones are cut, so that all files go on like an uninterrupted run's.
    """

    def __init__(self, workdir: Path, config: Config, corpora: Sequence[Corpus], start: int):
        self._workdir, self._config, self._corpora = workdir, config, corpora
        self.leader = jax.process_index() == 0
        self._progress = Progress()
        self._peak = peak_flops(jax.devices()[0].device_kind)
        self._metrics: MetricsFile | None = None
        self.restart(start)

    def restart(self, start: int) -> None:
        """Goes on from `start` updates: what was written about later ones is cut, and where the run reads at `start`,
        which `position` is to say anew: it may have gone back there and passed rows over, and now not do so."""
        if self.leader:
            if self._metrics is not None:
                self._metrics.close()
            self._metrics = MetricsFile(self._workdir, start)
            for name in (POSITIONS, EVENTS):
                cut_lines(self._workdir / name, start)
        self._start, self._began = start, time.monotonic()
        self._clock = self._began

    def tick(self) -> None:
        """The time until now belongs to no step."""
        self._clock = time.monotonic()

    def step(self, step: int, phase: int, values: dict[str, float], ledger: Ledger) -> None:
        """Takes in a step that was computed: `values` are its metrics, `ledger` counts it already."""
        config, total = self._config, self._config.num_steps()
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        tokens = values["tokens"]
        if not self.leader:
            return
        if step % config.train.log_every == 0 or step + 1 == total:
            of_phase = config.phases()[phase]
            settings = RowSettings.of(config.data, of_phase.seq_len)
            slots = max_predictions(config.data, settings.seq_len)
            flops = step_flops(config, settings.seq_len, of_phase.global_batch_size, slots, settings.max_examples)
            line = _as_json(values)
            line |= {"tokens": ledger.tokens, "examples": ledger.examples}
            line |= {"tokens_per_second": tokens / seconds, "step_seconds": seconds}
            line["mfu"] = flops / seconds / (self._peak * jax.device_count()) if self._peak else None
            if ledger.losses.skipped:
                line["skipped"] = ledger.losses.skipped
            if len(self._corpora) > 1:
                line |= corpus_totals(self._corpora, ledger.position)
            assert self._metrics is not None
            self._metrics.write({"step": step, **line})
        left = (now - self._began) / max(1, step + 1 - self._start) * (total - step - 1)
        self._progress.show(
            f"step {step + 1}/{total}  loss {values['loss']:.4f}  mlm {values['mlm_loss']:.4f}  "
            f"{tokens / seconds:,.0f} tokens/s  {duration(left)} left",
            last=step + 1 == total,
        )

    def held_out(self, updates: int, values: dict[str, float]) -> None:
        """Takes in an evaluation, unless it had nothing to look at."""
        if self._metrics is not None and values["examples"]:
            line = {f"eval/{name}": value for name, value in _as_json(values).items()}
            self._metrics.write({"step": updates, **line})
            say(f"step {updates}: held-out mlm loss {values['mlm_loss']:.4f}")

    def event(self, step: int, what: str, text: str, rows: Rows, **details: Any) -> None:
        """Something out of the ordinary: a line to read, and one in `events.jsonl`."""
        if self.leader:
            say(f"warning: step {step}: {text}")
            self._append(EVENTS, {"step": step, "event": what, **details, "rows": rows})

    def position(self, updates: int, position: Position) -> None:
        """Where the run reads after so many updates. Called before their checkpoint is saved, which may take the logs
        along."""
        if self._metrics is not None:
            self._append(POSITIONS, {"step": updates, "position": position.to_json()})

    def _append(self, name: str, line: dict[str, Any]) -> None:
        with (self._workdir / name).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Closes the files; a full disk has been told already."""
        if self._metrics is not None:
            with contextlib.suppress(OSError):
                self._metrics.close()


def _as_json(values: dict[str, float]) -> dict[str, Any]:
    """Values as JSON has them: null for what is no number."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def rows_as_text(rows: Rows) -> str:
    """Rows of blocks as people read them."""
    several = len({corpus for corpus, *_ in rows}) > 1
    return ", ".join(
        (f"corpus {corpus} " if several else "") + f"epoch {epoch} block {block} rows {first}-{last}"
        for corpus, epoch, block, first, last in rows
    )
