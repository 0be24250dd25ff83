"""The loop of updates: batches in, checkpoints and reports out; and the way back when losses are no numbers.

Metrics of step k are fetched after step k + 1 is dispatched, so the device never waits. Everything that is decided here
follows from what is the same on every host: the metrics, the config, and a signal on which all agree.
"""

import contextlib
import dataclasses
import functools
import itertools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax import checkpoint, cluster
from bert_jax.compile_cache import CompileCache
from bert_jax.config import Config
from bert_jax.data.load import Loader, Position
from bert_jax.evaluate import Evaluate, make_evaluate
from bert_jax.ledger import NOT_FINITE, SPIKE, Ledger
from bert_jax.masking import MaskSettings, make_mask_fn
from bert_jax.profiling import Profile
from bert_jax.reporting import Reporter, Rows, rows_as_text
from bert_jax.run_checkpoints import Checkpoints
from bert_jax.run_directory import RunCard
from bert_jax.sharding import batch_sharding
from bert_jax.stopping import StopSignal
from bert_jax.supervisor import STOPPED
from bert_jax.train_state import TrainState
from bert_jax.train_step import make_train_step
from bert_jax.watchdog import Watchdog
from data_prep.corpus import Corpus
from data_prep.tokenizer import Tokenizer

DONE, DIVERGED = 0, 3


class Programs:
    """The compiled step and evaluation of each phase, made when first asked for.

    Args:
      config, mesh, corpora, tokenizer: the run's.
      cache: where compiled programs are kept.
    """

    def __init__(self, config: Config, mesh: Mesh, corpora: list[Corpus], tokenizer: Tokenizer, cache: CompileCache):
        self.config, self.mesh = config, mesh
        self.corpora, self.tokenizer = corpora, tokenizer
        self._steps: dict[int, Any] = {}
        self._evaluations: dict[int, Evaluate] = {}
        self._cache, self._sealed = cache, 0

    def has_step(self, phase: int) -> bool:
        """Whether the step of a phase has been compiled."""
        return phase in self._steps

    def step(self, phase: int) -> Any:
        """The update of a phase."""
        if phase not in self._steps:
            seq_len = self.config.phases()[phase].seq_len
            mask_fn = make_mask_fn(MaskSettings.of(self.config.data, seq_len, self.tokenizer))
            self._steps[phase] = make_train_step(self.config, self.mesh, mask_fn)
        return self._steps[phase]

    def evaluate(self, phase: int) -> Evaluate:
        """The evaluation of a phase."""
        if phase not in self._evaluations:
            args = (self.config, phase, self.mesh, self.corpora, self.tokenizer)
            self._evaluations[phase] = make_evaluate(*args)
        return self._evaluations[phase]

    def keep(self) -> None:
        """Called after a program has run: where it was a new one, it is in the cache now, whole."""
        made = len(self._steps) + len(self._evaluations)
        if made != self._sealed and jax.process_index() == 0:
            self._cache.seal()
        self._sealed = made


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A step that was dispatched, and whose metrics have not been fetched: it read from `before` to `after`."""

    step: int
    metrics: dict[str, jax.Array]
    before: Position
    after: Position


@dataclasses.dataclass(frozen=True)
class _Stuck:
    """Too many updates in a row were skipped: the rows of these steps."""

    rows: dict[int, Rows]


def train(
    programs: Programs,
    checkpoints: Checkpoints,
    reporter: Reporter,
    card: RunCard,
    watchdog: Watchdog,
    stop: StopSignal,
    profile: Profile,
    abstract: TrainState,
    state: TrainState,
    ledger: Ledger,
) -> tuple[int, Ledger]:
    """Trains from a state to the end of the run, or until something stops it.

    Where `config.train.max_skipped` updates in a row had to be skipped, it goes back to the newest checkpoint and on
    from there without the rows of those steps. That the same happens again before another checkpoint ends the run.

    Args:
      programs: the compiled functions, with the config.
      checkpoints, reporter, card, watchdog, stop, profile: the run's.
      abstract: the state's shapes and shardings, to restore onto.
      state: donated.
      ledger: belongs to the state.

    Returns:
      the exit code, 0, 3 (losses are no numbers) or 75 (stopped), and the ledger at the end.
    """
    config = programs.config
    while True:
        start = int(state.step)
        ended, ledger = _advance(programs, checkpoints, reporter, card, watchdog, stop, profile, state, ledger, start)
        if not isinstance(ended, _Stuck):
            watchdog.at("save", config.num_steps())
            checkpoints.wait()
            return ended, ledger
        watchdog.at("start", start)
        checkpoints.wait()
        restored = checkpoints.restore_newest(abstract)
        assert restored is not None  # step 0 always is
        first, again = min(ended.rows), ledger.went_back
        state, ledger = restored
        start = int(state.step)
        if again:
            return DIVERGED, ledger
        ends = list(itertools.accumulate(phase.num_steps for phase in config.phases()))
        ledger = ledger.passing_over(first, len(ended.rows), ends)
        reporter.restart(start)
        reporter.position(start, ledger.position)
        reporter.event(
            start,
            "went back",
            f"going back here from step {max(ended.rows)}, and on without the rows of steps {first} to "
            f"{max(ended.rows)}: {rows_as_text([rows for each in ended.rows.values() for rows in each])}; "
            f"see bert-jax inspect --step {first} --unskipped",
            [rows for each in ended.rows.values() for rows in each],
            skipped_steps=sorted(ended.rows),
        )


def _advance(
    programs: Programs,
    checkpoints: Checkpoints,
    reporter: Reporter,
    card: RunCard,
    watchdog: Watchdog,
    stop: StopSignal,
    profile: Profile,
    state: TrainState,
    ledger: Ledger,
    start: int,
) -> tuple[int | _Stuck, Ledger]:
    config = programs.config
    total, sharding = config.num_steps(), batch_sharding(programs.mesh)
    loader = Loader(config, programs.corpora, programs.tokenizer)
    pending: _Pending | None = None
    bad: dict[int, Rows] = {}

    def take(done: _Pending) -> None:
        """Waits for a step and takes in its metrics."""
        nonlocal ledger
        # One by one: for ten numbers jax.device_get takes four times as long.
        values = {name: np.asarray(value).item() for name, value in done.metrics.items()}
        losses, what = ledger.losses.after(done.after.phase, values["loss"], values["grad_norm"])
        tokens, examples = ledger.tokens + values["tokens"], ledger.examples + values["examples"]
        usual = ledger.losses.mean
        ledger = dataclasses.replace(ledger, position=done.after, tokens=tokens, examples=examples, losses=losses)
        reporter.step(done.step, done.after.phase, values, ledger)
        if what != NOT_FINITE:
            bad.clear()
        if what in (NOT_FINITE, SPIKE):
            # A loader of its own: the other one reads ahead in a thread.
            rows = Loader(config, programs.corpora, programs.tokenizer).rows_of_step(done.before, done.step)
            named = f"its rows: {rows_as_text(rows)}; see bert-jax inspect --step {done.step}"
            if what == NOT_FINITE:
                bad[done.step] = rows
                text = f"the loss ({values['loss']}) or gradient ({values['grad_norm']}) is no number, nothing updated"
                reporter.event(done.step, what, f"{text}; {named}", rows)
            else:
                text = f"the loss is {values['loss']:.3f} after {usual:.3f} on average"
                reporter.event(done.step, what, f"{text}; {named}", rows, loss=values["loss"], usual=usual)

    before = ledger.position
    rows_of = functools.partial(cluster.local_rows, sharding)
    to_devices = functools.partial(cluster.to_devices, sharding=sharding)
    with contextlib.closing(loader.batches(before, start, rows_of, to_devices)) as batches:
        for step in range(start, total):
            if step == start and stop.before_the_first_step():
                return STOPPED, ledger
            watchdog.at("data", step)
            batch, after = next(batches)
            watchdog.at("step" if programs.has_step(after.phase) else "compile", step)
            with profile.step(step):
                state, metrics = programs.step(after.phase)(state, batch)
            profile.after(step, metrics)
            programs.keep()
            watchdog.at("step", step)
            if pending is not None:
                take(pending)
                if len(bad) >= config.train.max_skipped:
                    return _Stuck(bad), ledger
            pending, before = _Pending(step, metrics, before, after), after

            updates = step + 1
            last = updates == total
            stopping = not last and stop.agreed(updates)
            evaluating = last or (config.train.eval_every > 0 and updates % config.train.eval_every == 0)
            saving = last or updates % config.train.checkpoint_every == 0
            if not (evaluating or saving or stopping):
                continue
            take(pending)
            pending = None
            if len(bad) >= config.train.max_skipped:
                return _Stuck(bad), ledger
            best = False
            if evaluating:  # before the save: a resumed run begins after both
                watchdog.at("evaluate", step)
                going_on = functools.partial(watchdog.at, "evaluate", step)
                held_out = programs.evaluate(after.phase)(state.params, going_on)
                programs.keep()
                reporter.held_out(updates, held_out)
                # Only what is saved below may be the best: it is what stays.
                if held_out["examples"] and (last or not bad):
                    ledger = ledger.with_evaluation(updates, held_out)
                    best = ledger.best is not None and ledger.best.step == updates
            # While losses are no numbers, the newest checkpoint must stay one from before.
            if last or ((saving or best or stopping) and not bad):
                watchdog.at("save", step)
                if saving or best:  # a signal changes nothing of what the run does
                    ledger = dataclasses.replace(ledger, went_back=False)
                reporter.position(updates, ledger.position)
                card.end("running", ledger)
                only_best = not (saving or stopping)
                checkpoints.save(updates, state, ledger, checkpoint.config_json(config), only_best=only_best)
            reporter.tick()
            if stopping:
                return STOPPED, ledger
    return DONE, ledger
