"""The run, from config to trained model, read from top to bottom; the only place with side effects.

A run is determined by config, corpus and seed. It may be stopped at any time: SIGTERM and SIGINT save and exit with 75,
and the same command goes on from the newest checkpoint with the very rows, pairs and masks that would have come.
"""

import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from bert_jax import checkpoint, cluster
from bert_jax.compile_cache import CompileCache
from bert_jax.config import Config, with_vocabulary
from bert_jax.config_check import check
from bert_jax.convert.initialise import initial_params
from bert_jax.cpu_advice import dtype_advice
from bert_jax.data.load import Loader
from bert_jax.endings import Ended, ending
from bert_jax.evaluate import open_corpora
from bert_jax.ledger import Ledger
from bert_jax.loop import DIVERGED, DONE, Programs, train
from bert_jax.metrics import duration
from bert_jax.model.choices import explained
from bert_jax.profiling import PROFILE, Profile
from bert_jax.reporting import Reporter, say
from bert_jax.run_checkpoints import Checkpoints, CheckpointsDamaged
from bert_jax.run_directory import RunCard, check_same_run, prepare
from bert_jax.run_store import RunStore, StoreRefused
from bert_jax.sharding import check_mesh, make_mesh, state_shardings
from bert_jax.stopping import StopSignal
from bert_jax.supervisor import STOPPED
from bert_jax.train_state import TrainState, abstract_state, create_state
from bert_jax.watchdog import Watchdog
from data_prep.corpus import Corpus
from data_prep.errors import InputError
from data_prep.storage import is_url
from data_prep.tokenizer import Tokenizer, load_tokenizer


def pretrain(
    config: Config,
    workdir: str | Path,
    stop: StopSignal,
    change: Sequence[str] = (),
    profile: tuple[int, int] | None = None,
) -> int:
    """Trains, or goes on training, the run in `workdir`.

    Args:
      config: checked.
      workdir: new, or of the same run; may be a URL of an object store.
      stop: tells when a signal asks to stop.
      change: fields that the run in `workdir` may have otherwise, see `run_directory.CHANGEABLE`.
      profile: first and last step of which a profile is written.

    Returns:
      0 finished; 75 stopped by a signal, a full disk or a store that refuses, with a good checkpoint: the same command
      goes on; 3 the loss is not a number any more, and going back to the last checkpoint did not help.

    Raises:
      InputError: something the user gave is wrong; nothing has been overwritten.
    """
    cluster.join(config.watchdog.peer_seconds)
    watchdog = Watchdog(config.watchdog, f"[host {jax.process_index()}] " if jax.process_count() > 1 else "")
    watchdog.at("start", 0)
    local = Path(workdir)
    try:
        store = None
        if is_url(workdir):
            with cluster.agreeing("found", local, str(workdir)):
                store = RunStore(str(workdir))
                local = store.mirror
        run = _prepared(config, local, str(workdir), store, change, profile)
        return DONE if run is None else _train(run, watchdog, stop)
    except Exception as error:
        end = ending(error, local, str(workdir))
        if jax.process_count() == 1 and end.code == 2:
            raise InputError(end.text.removeprefix("error: ")) from error
        if jax.process_count() == 1 and end.code == 1:
            raise
        say(end.text)
        return cluster.leave(end.code, together=isinstance(error, Ended | CheckpointsDamaged))
    finally:
        watchdog.close()


@dataclasses.dataclass(frozen=True)
class _Run:
    """What is known of a run before it touches its state: all of it is right, and the run directory is there."""

    config: Config
    workdir: Path
    name: str  # what the user calls it: the same, or a URL
    store: RunStore | None
    corpora: list[Corpus]
    tokenizer: Tokenizer
    mesh: Mesh
    given: Any  # parameters to start from, or None
    cache: CompileCache
    card: RunCard
    profile: Profile


def _prepared(
    config: Config,
    workdir: Path,
    name: str,
    store: RunStore | None,
    change: Sequence[str],
    profiled: tuple[int, int] | None,
) -> _Run | None:
    """Checks everything that the user gave and makes the run directory; None where the run is finished."""
    agreeing = functools.partial(cluster.agreeing, workdir=workdir, name=name)
    leader = jax.process_index() == 0
    with agreeing("opened"):
        check(config)
        corpora = open_corpora(config)
        tokenizer = load_tokenizer(corpora[0].tokenizer_dir)
        config = _fill_vocabulary(config, tokenizer)
        if store is not None and leader:
            store.fetch(leader=True)
    with agreeing("checked"):  # a half-prepared directory would be taken for something else by a slower host
        if store is not None and not leader:  # after the leader, which mends what is damaged
            store.fetch(leader=False)
        changes = check_same_run(config, corpora, workdir, change)
        total = config.num_steps()
        if profiled is not None and profiled[1] >= total:
            raise InputError(f"--profile {profiled[0]}:{profiled[1]}: the run has steps 0 to {total - 1}")
        steps = checkpoint.saved_steps(workdir)
        finished = steps[-1:] == [total] and checkpoint.damage(workdir / "checkpoints" / str(total)) is None
        if not finished:
            mesh = make_mesh(config.mesh)
            check_mesh(config, mesh)
            for corpus in corpora:
                _check_size(corpus, config)
            given = None if steps else initial_params(config, tokenizer)
    if finished:
        print(f"{name} is finished: {total} steps; checkpoint {total}", file=sys.stderr)
        return None
    cache = CompileCache(workdir / "compile_cache")
    with agreeing("prepared"):
        if leader:
            prepare(config, corpora, workdir, changes)
            if store is not None:
                store.begin()
            cache.sweep()
        card = RunCard(workdir, config, corpora)
    profile = Profile(workdir.absolute() / PROFILE, profiled)
    return _Run(config, workdir, name, store, corpora, tokenizer, mesh, given, cache, card, profile)


def _train(run: _Run, watchdog: Watchdog, stop: StopSignal) -> int:
    """Trains from the newest checkpoint, or from the start, and says how it ended."""
    config, leader, total = run.config, jax.process_index() == 0, run.config.num_steps()
    checkpoints = Checkpoints((run.workdir / "checkpoints").absolute(), config.checkpoint, run.store)
    began = time.monotonic()
    try:
        abstract = _placed(config, run.mesh)
        restored = checkpoints.restore_newest(abstract)
        start = int(restored[0].step) if restored else 0
        reporter = Reporter(run.workdir, config, run.corpora, start)
        if restored:
            state, ledger = restored
            reporter.position(start, ledger.position)
            say(f"resuming {run.name} at step {start}", leader)
        else:
            state = create_state(config, run.mesh, run.given)
            ledger = Ledger(Loader(config, run.corpora, run.tokenizer).start())
            reporter.position(0, ledger.position)
            checkpoints.save(0, state, ledger, checkpoint.config_json(config), only_best=False)
        run.card.end("running", ledger)
        platform, tensor = run.mesh.devices.flat[0].platform, run.mesh.shape["tensor"]
        for seq_len in sorted({phase.seq_len for phase in config.phases()}):
            say(explained(config.model, seq_len, platform, tensor), leader)
        if start == 0 and platform == "cpu" and (advice := dtype_advice(config.model)):
            say(advice, leader)
        device = f"{jax.device_count()} {jax.devices()[0].device_kind} device(s)"
        say(f"training {total - start} steps on {device}; the first step compiles", leader)
        programs = Programs(config, run.mesh, run.corpora, run.tokenizer, run.cache)
        ended, ledger = train(
            programs, checkpoints, reporter, run.card, watchdog, stop, run.profile, abstract, state, ledger
        )
        reporter.close()
    except Exception as error:
        how = ending(error, run.workdir, run.name).how
        if how == "disk full":
            checkpoints.discard_unfinished()
        if how:
            with contextlib.suppress(OSError):
                run.card.end(how)
        raise
    finally:
        run.profile.close()
    checkpoints.close()
    with cluster.agreeing("ended", run.workdir, run.name):
        _tell_the_end(run, ended, ledger, time.monotonic() - began)
    return ended


def _tell_the_end(run: _Run, ended: int, ledger: Ledger, seconds: float) -> None:
    """The run card and one line."""
    leader = jax.process_index() == 0
    good = str(max(checkpoint.saved_steps(run.workdir), default="none"))  # of hosts without a copy none speaks
    if ended == DIVERGED:
        run.card.end("diverged", ledger)
        say(
            f"error: the loss is not a number any more, also after going back; checkpoint {good} in {run.name} is the "
            "last good one. Lower config.optimizer.learning_rate or lengthen warmup_steps, and start a new --workdir",
            leader,
        )
    elif ended == STOPPED:
        run.card.end("stopped by a signal", ledger)
        say(f"stopped; checkpoint {good} is saved: run the same command again to go on", leader)
    else:
        run.card.end("finished", ledger)
        total = run.config.num_steps()
        say(f"finished: {total} steps in {duration(seconds)}; the model is in {run.name}", leader)
    if run.store is not None and leader:
        try:
            run.store.upload_logs()
        except StoreRefused as error:
            if ended == DONE:
                raise
            say(ending(error, run.workdir, run.name).text)


def _placed(config: Config, mesh: Mesh) -> TrainState:
    """The state's shapes, each with the sharding that it has on this mesh."""
    abstract = abstract_state(config)

    def place(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(place, abstract, state_shardings(mesh, abstract))


def _fill_vocabulary(config: Config, tokenizer: Tokenizer) -> Config:
    """The config with the vocabulary's size in it, and where positions begin."""
    size = config.model.vocab_size or tokenizer.vocab_size
    if size != tokenizer.vocab_size:
        raise InputError(
            f"config.model.vocab_size={size}, but the corpus's tokenizer has {tokenizer.vocab_size} entries; leave it 0"
        )
    model = with_vocabulary(config.model, size, tokenizer.pad_id)
    if model.position_offset not in (0, tokenizer.pad_id + 1):
        raise InputError(
            f"config.model.position_offset={model.position_offset}, but [PAD] of the corpus's tokenizer is "
            f"{tokenizer.pad_id}, and positions begin after it; leave it 0"
        )
    return dataclasses.replace(config, model=model)


def _check_size(corpus: Corpus, config: Config) -> None:
    split = corpus.split("train")
    if split.num_kept == 0:
        raise InputError(f"{corpus.path} has no training documents; build it from more text")
    if config.data.objective == "nsp" and corpus.split("validation").kept_documents == 1:
        raise InputError(
            f"{corpus.path} has one validation document, and objective nsp needs two to draw random next sentences "
            "from; build the corpus with another --validation-share, or set config.data.objective to sop or mlm"
        )
    phase = config.phases()[0]
    if split.kept_tokens < phase.global_batch_size * phase.seq_len:
        print(
            f"warning: {corpus.path} has {split.kept_tokens} training tokens, less than one batch of "
            f"{phase.global_batch_size} rows of {phase.seq_len}: a batch repeats text",
            file=sys.stderr,
        )
