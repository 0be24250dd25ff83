"""The run, from config to trained model, read from top to bottom; the only place with side effects.

A run is determined by config, corpus and seed. It may be stopped at any time: SIGTERM and SIGINT save and exit with 75,
and the same command goes on from the newest checkpoint with the very rows, pairs and masks that would have come.
"""

import contextlib
import dataclasses
import errno
import functools
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from bert_jax import checkpoint, cluster
from bert_jax.config import Config, check, max_predictions
from bert_jax.convert.initialise import initial_params
from bert_jax.data.load import Loader, Position
from bert_jax.data.plan import RowSettings
from bert_jax.evaluate import make_evaluate, open_corpora
from bert_jax.masking import MaskSettings, make_mask_fn
from bert_jax.metrics import MetricsFile, Progress, duration, peak_flops, step_flops
from bert_jax.run_checkpoints import Checkpoints, DiskFull
from bert_jax.run_directory import RunCard, check_same_run, log_position, prepare
from bert_jax.sharding import batch_sharding, check_mesh, make_mesh, state_shardings
from bert_jax.stopping import StopSignal
from bert_jax.train_state import abstract_state, create_state
from bert_jax.train_step import make_train_step
from data_prep.corpus import Corpus
from data_prep.errors import InputError
from data_prep.tokenizer import Tokenizer, load_tokenizer

DONE, DIVERGED, STOPPED = 0, 3, 75


def pretrain(config: Config, workdir: Path) -> int:
    """Trains, or goes on training, the run in `workdir`.

    Returns:
      0 finished; 75 stopped by a signal or a full disk with a good checkpoint on disk: the same command goes on; 3 the
      loss is not a number any more.

    Raises:
      InputError: something the user gave is wrong; nothing has been overwritten.
    """
    cluster.join()
    check(config)
    corpora = open_corpora(config)
    tokenizer = load_tokenizer(corpora[0].tokenizer_dir)
    config = _fill_vocabulary(config, tokenizer)
    check_same_run(config, corpora, workdir)
    if checkpoint.saved_steps(workdir)[-1:] == [config.num_steps()]:
        print(f"{workdir} is finished: {config.num_steps()} steps; checkpoint {config.num_steps()}", file=sys.stderr)
        return DONE
    mesh = make_mesh(config.mesh)
    check_mesh(config, mesh)
    for corpus in corpora:
        _check_size(corpus, config)

    given = None if checkpoint.saved_steps(workdir) else initial_params(config, tokenizer)
    leader = jax.process_index() == 0
    if leader:
        prepare(config, corpora, workdir)
    _barrier("workdir")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str((workdir / "compile_cache").absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

    loader = Loader(config, corpora, tokenizer)
    checkpoints = Checkpoints((workdir / "checkpoints").absolute(), config.checkpoint.keep)
    abstract = abstract_state(config)
    placed = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        state_shardings(mesh, abstract),
    )
    restored = checkpoints.restore_newest(placed)
    if restored is None:
        state = create_state(config, mesh, given)
        start, position, tokens, examples = 0, loader.start(), 0, 0
        checkpoints.save(0, state, _loader_json(position, tokens, examples), checkpoint.config_json(config))
        log_position(workdir, 0, position, leader)
    else:
        state, saved = restored
        start = int(state.step)
        position, tokens, examples = Position.from_json(saved["position"]), saved["tokens"], saved["examples"]
        _say(f"resuming {workdir} at step {start}", leader)

    stop = StopSignal()
    writer = MetricsFile(workdir, start) if leader else None
    run_card = RunCard(workdir, config, corpora, leader)
    progress = Progress()
    sharding = batch_sharding(mesh)
    rows_of = functools.partial(cluster.local_rows, sharding)
    phases, total = config.phases(), config.num_steps()
    peak = peak_flops(jax.devices()[0].device_kind)
    steps: dict[int, Any] = {}  # by phase, compiled once
    evaluates: dict[int, Any] = {}
    pending: tuple[int, int, dict[str, jax.Array]] | None = None
    clock = began = time.monotonic()
    ended = DONE

    def report(step: int, phase: int, metrics: dict[str, jax.Array]) -> bool:
        """Takes in the metrics of a step that has been computed; False where its loss is no number."""
        nonlocal tokens, examples, clock
        values = {name: value.item() for name, value in jax.device_get(metrics).items()}
        now = time.monotonic()
        seconds, clock = now - clock, now
        step_tokens = values["tokens"]
        tokens, examples = tokens + step_tokens, examples + values["examples"]
        if not math.isfinite(values["loss"]):
            return False
        if leader and (step % config.train.log_every == 0 or step + 1 == total):
            settings = RowSettings.of(config.data, phases[phase].seq_len)
            slots = max_predictions(config.data, settings.seq_len)
            flops = step_flops(config, settings.seq_len, phases[phase].global_batch_size, slots, settings.max_examples)
            values |= {"tokens": tokens, "examples": examples}
            values |= {"tokens_per_second": step_tokens / seconds, "step_seconds": seconds}
            values["mfu"] = flops / seconds / (peak * jax.device_count()) if peak else None
            assert writer is not None
            writer.write({"step": step, **values})
        left = (now - began) / max(1, step + 1 - start) * (total - step - 1)
        if leader:
            progress.show(
                f"step {step + 1}/{total}  loss {values['loss']:.4f}  mlm {values['mlm_loss']:.4f}  "
                f"{step_tokens / seconds:,.0f} tokens/s  {duration(left)} left",
                last=step + 1 == total,
            )
        return True

    _say(
        f"training {total - start} steps on {jax.device_count()} {jax.devices()[0].device_kind} device(s); "
        f"the first step compiles",
        leader,
    )
    try:
        for step, (arrays, after) in enumerate(loader.batches(position, start, rows_of), start):
            phase = after.phase
            if phase not in steps:
                mask_fn = make_mask_fn(MaskSettings.of(config.data, phases[phase].seq_len, tokenizer))
                steps[phase] = make_train_step(config, mesh, mask_fn)
            size = phases[phase].global_batch_size
            batch = cluster.to_devices(arrays, arrays["rows"], size, sharding)
            state, metrics = steps[phase](state, batch)
            if pending is not None and not report(*pending):
                ended = DIVERGED
                break
            pending = (step, phase, metrics)
            position, updates = after, step + 1

            stopping = updates < total and stop.agreed(updates)
            evaluating = updates == total or (config.train.eval_every and updates % config.train.eval_every == 0)
            saving = stopping or updates == total or updates % config.train.checkpoint_every == 0
            if not (evaluating or saving):
                continue
            if not report(*pending):
                ended = DIVERGED
                break
            pending = None
            if evaluating:  # before the save: a resumed run begins after both
                if phase not in evaluates:
                    evaluates[phase] = make_evaluate(config, phase, mesh, corpora, tokenizer)
                held_out = evaluates[phase](state.params)
                if writer is not None and held_out["examples"]:
                    writer.write({"step": updates, **{f"eval/{name}": value for name, value in held_out.items()}})
                    _say(f"step {updates}: held-out mlm loss {held_out['mlm_loss']:.4f}", leader)
            if saving:
                checkpoints.save(
                    updates, state, _loader_json(position, tokens, examples), checkpoint.config_json(config)
                )
                log_position(workdir, updates, position, leader)
            clock = time.monotonic()
            if stopping:
                ended = STOPPED
                break
        checkpoints.wait()
    except (DiskFull, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        good = checkpoint.saved_steps(workdir)[-1]
        _say(
            f"error: the disk of {workdir} is full; checkpoint {good} is the last good one: "
            "free some space and run the same command again",
            leader,
        )
        with contextlib.suppress(OSError):
            run_card.end("disk full")
        return STOPPED
    finally:
        if writer is not None:
            writer.close()
    checkpoints.close()
    updates = checkpoint.saved_steps(workdir)[-1]
    if ended == DIVERGED:
        run_card.end("diverged")
        _say(
            f"error: the loss is not a number any more; checkpoint {updates} in {workdir} is the last good one. "
            "Lower config.optimizer.learning_rate or lengthen warmup_steps, and start a new --workdir",
            leader,
        )
    elif ended == STOPPED:
        run_card.end("stopped by a signal")
        _say(f"stopped at step {updates} and saved; run the same command again to go on", leader)
    else:
        run_card.end("finished")
        _say(f"finished: {total} steps in {duration(time.monotonic() - began)}; the model is in {workdir}", leader)
    return ended


def _say(text: str, leader: bool) -> None:
    if leader:
        print(text, file=sys.stderr, flush=True)


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _fill_vocabulary(config: Config, tokenizer: Tokenizer) -> Config:
    """The config with the vocabulary's size in it."""
    size = config.model.vocab_size or tokenizer.vocab_size
    if size != tokenizer.vocab_size:
        raise InputError(
            f"config.model.vocab_size={size}, but the corpus's tokenizer has {tokenizer.vocab_size} entries; leave it 0"
        )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=size))


def _check_size(corpus: Corpus, config: Config) -> None:
    split = corpus.split("train")
    if split.num_kept == 0:
        raise InputError(f"{corpus.path} has no training documents; build it from more text")
    phase = config.phases()[0]
    if split.kept_tokens < phase.global_batch_size * phase.seq_len:
        print(
            f"warning: {corpus.path} has {split.kept_tokens} training tokens, less than one batch of "
            f"{phase.global_batch_size} rows of {phase.seq_len}: a batch repeats text",
            file=sys.stderr,
        )


def _loader_json(position: Position, tokens: int, examples: int) -> dict[str, Any]:
    return {"position": position.to_json(), "tokens": tokens, "examples": examples}
