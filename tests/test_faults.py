"""A run that is killed, starved, poisoned or made to hang, and what the same command makes of it afterwards.

Everything at once is in the run: packed rows, dropout, accumulation, evaluations, two corpora, two phases.
"""

import json
import re
import resource
import signal
import subprocess

import numpy as np
import pytest
import training_runs as runs

from bert_jax import checkpoint
from bert_jax.data.load import Loader
from bert_jax.evaluate import open_corpora
from bert_jax.inspect_batches import batches
from bert_jax.metrics import read_lines
from bert_jax.reporting import rows_as_text
from data_prep.tokenizer import load_tokenizer

KILLED = -signal.SIGKILL


def train(recipe, workdir, *overrides, fault=None, **environment):
    if fault is not None:
        environment["FAULT"] = json.dumps(fault)
    return runs.train(recipe, workdir, *overrides, **environment)


@pytest.fixture(scope="module")
def recipe(full_recipe):
    return full_recipe


@pytest.fixture(scope="module")
def whole(full_run):
    return full_run[0]


def test_each_phase_compiles_once(full_run):
    workdir, said = full_run
    assert len(re.findall(r"Compiling jit\(train_step\)", said)) == 2
    assert len(re.findall(r"Compiling jit\(eval_step\)", said)) == 2
    assert [line["step"] for line in runs.numbers(workdir) if "loss" in line] == list(range(24))


def test_a_restart_compiles_nothing_that_the_run_has_compiled(recipe, tmp_path):
    """By the cache in the run directory, where no variable names another."""
    run, own = tmp_path / "run", {"JAX_COMPILATION_CACHE_DIR": None, "JAX_LOG_COMPILES": "1"}
    found = r"Persistent compilation cache hit for 'jit_train_step'"
    for nth, found_there in ((5, False), (2, True)):
        code, said = train(recipe, run, fault={"where": "step", "nth": nth, "what": "kill"}, **own)
        assert code == KILLED and bool(re.search(found, said)) == found_there, said[-3000:]
        assert len(list((run / "compile_cache").glob("jit_train_step-*-cache"))) == 1


def test_killed_at_every_kind_of_moment_equals_uninterrupted(recipe, whole, tmp_path):
    """One run, killed again and again, each time somewhere else."""
    moments = [
        ("compile", 1),
        ("step", 5),  # between checkpoints
        ("save", 2),  # files being written
        ("seal", 2),  # all written, not yet visible
        ("evaluate", 1),
        ("compile", 2),  # at the border of the phases
        ("evaluate", 2),  # at the end: when checkpoint 21 was begun, the one of step 18 was on disk
    ]
    ends = []
    for where, nth in moments:
        code, said = train(recipe, tmp_path / "run", fault={"where": where, "nth": nth, "what": "kill"})
        assert code == KILLED, (where, code, said)
        ends.append(max(checkpoint.saved_steps(tmp_path / "run"), default=-1))
    assert ends == sorted(ends) and ends[-1] > 16, ends  # the last ones were in the second phase
    assert train(recipe, tmp_path / "run")[0] == 0
    assert runs.same_to_the_last_bit(whole, tmp_path / "run")


def test_borders_were_crossed(recipe, whole):
    """What the test above rests on: both corpora cross blocks and an epoch within the run."""
    ends = read_lines(whole / "positions.jsonl")[-1]["position"]
    assert ends["phase"] == 1 and all(place["epoch"] >= 1 for place in ends["corpora"])


def test_a_full_disk_leaves_the_last_checkpoint_whatever_is_written(recipe, whole, tmp_path):
    """Files may not grow beyond a limit: what the file system says then is told apart from a full disk by its number
    only."""
    run = tmp_path / "run"
    assert train(recipe, run, fault={"where": "step", "nth": 6, "what": "kill"})[0] == KILLED
    before = checkpoint.saved_steps(run)
    for limit, overrides in (
        (100, ()),  # not even the config
        (6_000, ("--config.train.checkpoint_every=100", "--config.train.eval_every=0")),  # only logs are written
        (20_000, ()),
    ):
        process = runs.start(recipe, run, *overrides, PYTHONDONTWRITEBYTECODE="1")
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        code, said = runs.finish(process)
        assert code == 75 and "is full" in said and f"checkpoint {before[-1]} is the last good one" in said, said
        assert "Traceback" not in said
    assert checkpoint.saved_steps(run) == before and checkpoint.damage(run / "checkpoints" / str(before[-1])) is None
    assert not list((run / "checkpoints").glob("*tmp*"))
    assert runs.card(run)["ended"] == "disk full"
    assert train(recipe, run)[0] == 0
    assert runs.same_to_the_last_bit(whole, run)


def test_a_full_disk_waits_for_the_checkpoint_that_is_being_finished(recipe, tmp_path):
    """The disk is full for the logs while the files of checkpoint 3 are being sealed."""
    code, said = train(recipe, tmp_path / "run", fault={"full": 3, "sealing": 3})
    assert code == 75 and "is full; checkpoint 3 is the last good one" in said and "Traceback" not in said, said
    assert checkpoint.saved_steps(tmp_path / "run") == [0, 3]
    assert checkpoint.damage(tmp_path / "run" / "checkpoints" / "3") is None
    assert not list((tmp_path / "run" / "checkpoints").glob("*tmp*"))


def test_one_bad_batch_is_left_out_counted_and_named_and_a_spike_is_told(recipe, whole, tmp_path):
    run = tmp_path / "run"
    code, said = train(recipe, run, fault={"poison": [[0, 0, 1, 3, 3]], "spike": [14, 2.0]})
    assert code == 0, said
    event, spike = read_lines(run / "events.jsonl")
    assert (spike["step"], spike["event"]) == (14, "spike")
    config = checkpoint.read_config(run)
    corpora = open_corpora(config)
    loader = Loader(config, corpora, load_tokenizer(corpora[0].tokenizer_dir))
    position = loader.start()
    for step in range(14):
        position = loader.skip(position, step)
    assert [tuple(rows) for rows in spike["rows"]] == loader.rows_of_step(position, 14)
    assert "warning: step 14: the loss is " in said and rows_as_text(loader.rows_of_step(position, 14)) in said
    assert event["event"] == "not finite" and runs.card(run)["skipped_updates"] == 1
    step = event["step"]
    assert any(epoch == 0 and block == 1 and first <= 3 <= last for _, epoch, block, first, last in event["rows"])
    assert f"warning: step {step}: the loss (nan)" in said and f"inspect --step {step}" in said
    lines = {line["step"]: line for line in runs.numbers(run) if "learning_rate" in line}
    good = {line["step"]: line for line in runs.numbers(whole) if "learning_rate" in line}
    assert [k for k in range(step) if lines[k] != good[k]] == []
    assert lines[step]["loss"] is None and lines[step]["tokens"] == good[step]["tokens"]
    assert all(lines[k]["loss"] is not None and lines[k]["skipped"] == 1 for k in range(step + 1, 24))
    assert [lines[k]["learning_rate"] for k in range(24)] == [good[k]["learning_rate"] for k in range(24)]
    model = checkpoint.load_model(run)
    assert all(np.isfinite(leaf).all() for leaf in runs.jax.tree.leaves(model.params))


def test_many_bad_batches_are_gone_back_from_and_passed_over_also_when_killed(recipe, whole, tmp_path):
    fault = {"poison": [[0, 0, 1, 0, 1000]]}
    overrides = ("--config.train.max_skipped=2",)
    code, said = train(recipe, tmp_path / "run", *overrides, fault=fault)
    assert code == 0 and "going back here" in said, said
    events = read_lines(tmp_path / "run" / "events.jsonl")
    (back,) = [event for event in events if event["event"] == "went back"][-1:]
    first = back["skipped_steps"][0]
    assert back["step"] <= first and len(back["skipped_steps"]) == 2
    config = checkpoint.read_config(tmp_path / "run")
    for step in (first, first + 1):
        (skipped,), _ = batches(config, tmp_path / "run", step, 1, unskipped=True)
        (was,), _ = batches(config, whole, step, 1)
        (now,), _ = batches(config, tmp_path / "run", step, 1)
        assert all(np.array_equal(skipped[name], was[name]) for name in was)
        assert not np.array_equal(now["input_ids"], was["input_ids"])

    code, said = train(
        recipe, tmp_path / "killed", *overrides, fault=fault | {"where": "save", "nth": 6, "what": "kill"}
    )
    assert code == KILLED
    assert train(recipe, tmp_path / "killed", *overrides, fault=fault)[0] == 0
    assert runs.same_to_the_last_bit(tmp_path / "run", tmp_path / "killed")
    assert read_lines(tmp_path / "killed" / "events.jsonl") == events


# Rows of blocks 1 and 3: steps 2 and 3 are no numbers, and after going back the steps 5 and 6.
TWO_BAD_STRETCHES = {"poison": [[0, 0, 1, 0, 1000], [0, 0, 3, 0, 29]]}
NO_CHECKPOINTS = ("--config.train.checkpoint_every=100", "--config.train.eval_every=0")


def test_going_back_twice_without_a_checkpoint_ends_with_3_also_when_stopped_in_between(recipe, tmp_path):
    """The checkpoint that the signal asks for lies between the two."""
    overrides = ("--config.train.max_skipped=2", *NO_CHECKPOINTS)
    assert train(recipe, tmp_path / "whole", *overrides, fault=TWO_BAD_STRETCHES)[0] == 3
    stop = {"where": "step", "nth": 8, "what": "stop"}
    assert train(recipe, tmp_path / "run", *overrides, fault=TWO_BAD_STRETCHES | stop)[0] == 75
    assert checkpoint.saved_steps(tmp_path / "run") == [0, 5]
    code, said = train(recipe, tmp_path / "run", *overrides, fault=TWO_BAD_STRETCHES)
    assert code == 3, said


def test_inspect_shows_what_was_trained_when_a_restart_does_not_go_back(recipe, tmp_path):
    """Killed after going back to step 0, and gone on with where so few bad steps are borne."""
    run, kill = tmp_path / "run", {"where": "step", "nth": 7, "what": "kill"}
    code, said = train(recipe, run, "--config.train.max_skipped=2", *NO_CHECKPOINTS, fault=TWO_BAD_STRETCHES | kill)
    assert code == KILLED and "going back here" in said, said
    more = ("--config.train.max_skipped=9", "--change", "train.max_skipped", *NO_CHECKPOINTS)
    code, said = train(recipe, run, *more, fault=TWO_BAD_STRETCHES | kill)
    assert code == KILLED and "going back here" not in said, said
    config = checkpoint.read_config(run)
    (shown,), _ = batches(config, run, 3, 1)
    (trained,), _ = batches(config, None, 3, 1)
    assert all(np.array_equal(shown[name], trained[name]) for name in trained)


def test_a_checkpoint_that_is_declined_ends_with_75_and_the_same_command_goes_on(recipe, whole, tmp_path):
    code, said = train(recipe, tmp_path / "run", fault={"decline": 3})
    assert code == 75 and "Traceback" not in said, said
    last = [line for line in said.splitlines() if line][-1]
    assert last.startswith("error: checkpoint 6 was not saved") and "run the same command again" in last
    assert runs.card(tmp_path / "run")["ended"] == "not saved"
    assert train(recipe, tmp_path / "run")[0] == 0
    assert runs.same_to_the_last_bit(whole, tmp_path / "run")


def test_a_hang_ends_with_75_and_names_step_and_stage(recipe, tmp_path):
    code, said = train(
        recipe,
        tmp_path / "run",
        "--config.watchdog.warn_seconds=2",
        "--config.watchdog.stop_seconds=8",
        fault={"where": "data", "nth": 6, "what": "hang"},
    )
    assert code == 75, said
    assert re.search(r"warning: step 5: data has taken \d+ seconds so far", said), said
    assert re.search(r"error: step 5: data has taken \d+ seconds, more than .* run the same command again", said), said


def test_a_signal_in_the_first_seconds_ends_with_75_too(recipe, tmp_path):
    process = runs.start(recipe, tmp_path / "run")
    while not (tmp_path / "run" / "config.json").exists():
        assert process.poll() is None
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(signal.SIGTERM)
    code, said = runs.finish(process)
    assert code == 75 and checkpoint.saved_steps(tmp_path / "run")[-1] <= 1, said
