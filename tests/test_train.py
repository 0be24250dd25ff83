"""The run as a user runs it: stopped in every way and gone on, on one process and two, and refused where it is
wrong."""

import json
import math
import signal
import socket

import jax
import numpy as np
import pytest
import training_runs as runs
from small_corpora import tree

from bert_jax import checkpoint
from bert_jax.config_file import load
from bert_jax.data.load import Loader
from bert_jax.evaluate import open_corpora
from data_prep.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    return runs.make_recipe(folder, runs.make_corpus(folder))


@pytest.fixture(scope="module")
def whole(recipe):
    """The uninterrupted run, with a profile of some steps; those that are compared with it have none."""
    workdir = recipe.parent / "whole"
    code, said = runs.train(recipe, workdir, "--profile", "10:12")
    assert code == 0, said
    return workdir


def assert_same_run(one, two):
    assert runs.numbers(one) == runs.numbers(two)
    left, right = (checkpoint.load_model(run).params for run in (one, two))
    assert jax.tree.all(jax.tree.map(np.array_equal, left, right))
    for run in (one, two):
        assert runs.card(run)["ended"] == "finished"


def test_a_whole_run_learns_and_logs_every_step(whole):
    lines = runs.numbers(whole)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(24))
    assert [line["step"] for line in lines if "eval/mlm_loss" in line] == [9, 18, 24]
    for line in steps:
        assert line["loss"] == pytest.approx(line["mlm_loss"] + line["nsp_loss"], rel=1e-6)
        k = line["step"]
        rate = 1e-3 * ((k + 1) / 5 if k < 5 else (24 - k) / 19)
        assert line["learning_rate"] == pytest.approx(rate, rel=1e-6)
    held_out = [line["eval/mlm_loss"] for line in lines if "eval/mlm_loss" in line]
    assert held_out[-1] < held_out[0] < steps[0]["mlm_loss"]
    assert checkpoint.saved_steps(whole) == [0, 15, 20, 24]
    tokens = np.array([line["tokens"] for line in steps])
    padding = np.array([line["padding"] for line in steps])
    np.testing.assert_allclose(np.diff(tokens, prepend=0), np.round((1 - padding) * 8 * 32), atol=1e-3)


def test_a_profile_holds_the_steps_asked_for_and_no_others(whole):
    (trace,) = (whole / "profile").rglob("*.xplane.pb")
    profile = jax.profiler.ProfileData.from_file(str(trace))
    events = [event for plane in profile.planes for line in plane.lines for event in line.events]
    steps = [dict(event.stats)["step_num"] for event in events if event.name == "train"]
    assert sorted(steps) == [10, 11, 12]
    assert any("train_step" in event.name for event in events)


@pytest.mark.parametrize("step", [pytest.param(2, marks=pytest.mark.long), 11])
def test_killed_and_gone_on_equals_uninterrupted(recipe, whole, tmp_path, step):
    process = runs.start(recipe, tmp_path / "run")
    runs.wait_for_step(process, tmp_path / "run", step)
    process.kill()
    process.communicate()
    assert len(runs.numbers(tmp_path / "run")) < len(runs.numbers(whole))
    killed = runs.card(tmp_path / "run")
    assert killed["ended"] == "running" and killed.get("best", {}).get("step") == (9 if step > 9 else None)
    code, said = runs.train(recipe, tmp_path / "run")
    assert code == 0 and "resuming" in said
    assert_same_run(whole, tmp_path / "run")


def test_on_other_devices_memory_may_be_saved_and_the_run_stays_the_same_to_rounding(recipe, whole, tmp_path):
    process = runs.start(recipe, tmp_path / "run")
    runs.wait_for_step(process, tmp_path / "run", 11)
    process.kill()
    process.communicate()
    fields = {"train.accumulation": (2, 4), "model.remat": ("none", "full")}
    words = [word for name, (_, new) in fields.items() for word in (f"--config.{name}={new}", "--change", name)]
    code, said = runs.train(recipe, tmp_path / "run", *words)
    assert code == 0, said
    changes = runs.card(tmp_path / "run")["changes"]
    assert {change["field"]: (change["old"], change["new"]) for change in changes} == fields
    for line, other in zip(runs.numbers(whole), runs.numbers(tmp_path / "run"), strict=True):
        assert line.keys() == other.keys()
        for name, value in line.items():
            assert other[name] == pytest.approx(value, rel=5e-5, abs=5e-6), (line["step"], name)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGINT])
def test_a_signal_saves_and_exits_75_and_the_same_command_goes_on(recipe, whole, tmp_path, number):
    process = runs.start(recipe, tmp_path / "run")
    runs.wait_for_step(process, tmp_path / "run", 6)
    process.send_signal(number)
    code, said = runs.finish(process)
    assert code == 75 and "run the same command again" in said
    stopped = checkpoint.saved_steps(tmp_path / "run")[-1]
    assert runs.numbers(tmp_path / "run")[-1]["step"] in (stopped - 1, stopped)
    assert runs.card(tmp_path / "run")["ended"] == "stopped by a signal"
    assert runs.train(recipe, tmp_path / "run")[0] == 0
    assert_same_run(whole, tmp_path / "run")


def test_a_signal_at_an_evaluation_does_not_lose_it(recipe, tmp_path):
    """The resumed run begins after it, so nobody else would make it."""
    process = runs.start(recipe, tmp_path / "run", "--config.train.eval_every=1")
    runs.wait_for_step(process, tmp_path / "run", 4)
    process.send_signal(signal.SIGTERM)
    assert runs.finish(process)[0] == 75
    stopped = checkpoint.saved_steps(tmp_path / "run")[-1]
    evaluated = [line["step"] for line in runs.numbers(tmp_path / "run") if "eval/mlm_loss" in line]
    assert evaluated == list(range(1, stopped + 1))


def test_the_best_checkpoint_stays_also_between_the_others_and_when_a_skipped_update_is_better(recipe, tmp_path):
    """Checkpoints at 5, 10, 15, 20, 24, evaluations every 4 updates. The one after 8 is the lowest of all, but
    update 8 was skipped, so nothing is saved there; the one after 4 is the lowest of the others."""
    fault = {"held_out": [3.0, 2.0, 4.0], "spike": [7, math.nan]}
    code, said = runs.train(
        recipe, tmp_path / "run", "--config.train.eval_every=4", "--config.checkpoint.keep=1", FAULT=json.dumps(fault)
    )
    assert code == 0, said
    assert runs.card(tmp_path / "run")["skipped_updates"] == 1
    assert runs.card(tmp_path / "run")["best"] == {"step": 4, "phase": 0, "loss": 3.0}
    assert checkpoint.saved_steps(tmp_path / "run") == [0, 4, 24]


def test_a_finished_run_is_left_as_it_is(recipe, whole):
    before = tree(whole)
    code, said = runs.train(recipe, whole)
    assert code == 0 and "is finished" in said
    assert tree(whole) == before


@pytest.mark.long  # test_run_checkpoints.py has every kind of damage
def test_a_truncated_newest_checkpoint_is_said_and_the_one_before_taken(recipe, whole, tmp_path):
    workdir = tmp_path / "run"
    process = runs.start(recipe, workdir)
    runs.wait_for_step(process, workdir, 12)
    process.send_signal(signal.SIGTERM)
    runs.finish(process)
    newest = checkpoint.saved_steps(workdir)[-1]
    largest = max((workdir / "checkpoints" / str(newest) / "params").rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    code, said = runs.train(recipe, workdir)
    warnings = [line for line in said.splitlines() if "warning" in line]
    assert code == 0 and len(warnings) == 1 and f"{newest}.damaged" in warnings[0]
    assert "Traceback" not in said
    assert_same_run(whole, workdir)


@pytest.mark.long  # test_hosts.py and test_run_at_url.py have several hosts in every run of the tests
def test_two_processes_train_the_same_run_as_one(recipe, whole, tmp_path):
    """And stop together when one of them is told to, and go on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    def start_both():
        return [
            runs.start(
                recipe,
                tmp_path / "run",
                JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
                JAX_NUM_PROCESSES="2",
                JAX_PROCESS_ID=str(i),
            )
            for i in range(2)
        ]

    pair = start_both()
    runs.wait_for_step(pair[0], tmp_path / "run", 6)
    pair[1].send_signal(signal.SIGTERM)
    codes = [runs.finish(process) for process in pair]
    assert [code for code, _ in codes] == [75, 75], codes
    codes = [runs.finish(process) for process in start_both()]
    assert [code for code, _ in codes] == [0, 0], codes
    assert runs.card(tmp_path / "run")["processes"] == 2
    integers = ("step", "tokens", "examples", "eval/tokens", "eval/examples")
    for alone, together in zip(runs.numbers(whole), runs.numbers(tmp_path / "run"), strict=True):
        assert alone.keys() == together.keys()
        for name, value in alone.items():
            if name in integers:
                assert together[name] == value
            else:
                assert together[name] == pytest.approx(value, rel=2e-5, abs=2e-6), name


def border_of_blocks(path):
    """(step, batch size) with which the step begins at the head of a block that is not the first."""
    for size in range(6, 30):
        config = load(str(path), [f"--config.train.global_batch_size={size}"])
        corpora = open_corpora(config)
        loader = Loader(config, corpora, load_tokenizer(corpora[0].tokenizer_dir))
        position = loader.start()
        for step in range(16):
            if step >= 4 and position.corpora[0].row == 0:
                return step, size
            position = loader.skip(position, step)
    raise AssertionError("no batch size divides the rows of the first blocks")


def test_two_phases_alike_are_one_phase_of_their_steps(recipe, tmp_path):
    """To the last bit: optimizer and schedule go on over the border, which is one of blocks, so that no row is left
    out."""
    path = tmp_path / "one.py"
    text = (
        recipe.read_text().replace("block_tokens=4000", "block_tokens=1024").replace("accumulation=2", "accumulation=1")
    )
    path.write_text(text)
    step, size = border_of_blocks(path)
    parts = ", ".join(f"dict(num_steps={n}, seq_len=32, global_batch_size={size})" for n in (step, 5))
    (tmp_path / "two.py").write_text(text.replace("    return", f"    config.train.phases = [{parts}]\n    return"))
    steps = (f"--config.train.num_steps={step + 5}", f"--config.train.global_batch_size={size}")
    assert runs.train(path, tmp_path / "one", *steps)[0] == 0
    code, said = runs.train(tmp_path / "two.py", tmp_path / "two")
    assert code == 0, said
    assert runs.difference(tmp_path / "one", tmp_path / "two") is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.seed=1"], "config.seed=0"),
        (["--config.model.hidden_size=64"], "config.model.hidden_size=32"),
        (["--config.train.num_steps=50"], "config.train.num_steps=24"),
        (["--config.mesh.tensor=3"], "config.mesh"),
    ],
)
def test_another_config_in_the_same_workdir_is_refused(recipe, whole, overrides, message):
    before = tree(whole)
    code, said = runs.train(recipe, whole, *overrides)
    if "mesh" in message:  # may change, but a finished run has nothing left to do with it
        assert code == 0
    else:
        assert code == 2 and message in said and said.count("\n") == 1, said
    assert tree(whole) == before


def test_another_corpus_or_tokenizer_is_refused(recipe, whole, tmp_path):
    other = runs.make_corpus(tmp_path / "other", documents=30, seed=5)
    code, said = runs.train(recipe, whole, f"--config.data.corpus={other}")
    assert code == 2 and "another corpus" in said and said.count("\n") == 1
    vocabulary = tmp_path / "other" / "tokenizer" / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text() + "extra\n")
    runs.build_corpus([str(tmp_path / "other" / "text.jsonl")], vocabulary.parent, tmp_path / "third", workers=1)
    code, said = runs.train(recipe, whole, f"--config.data.corpus={tmp_path / 'third'}")
    assert code == 2 and ("another tokenizer" in said or "vocab_size" in said) and said.count("\n") == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.train.global_batch_size=9", "--config.train.accumulation=1"], None),
        (["--config.data.corpus=nowhere"], "nowhere is no corpus"),
        (["--config.model.num_heads=5"], "num_heads=5"),
        (["--config.model.hiden_size=5"], "did you mean config.model.hidden_size"),
        (["--config.data.max_predictions=x"], "max_predictions=x"),
        (["--config.init=nowhere"], "nowhere"),
        (["--profile", "23:24"], "--profile 23:24: the run has steps 0 to 23"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(recipe, tmp_path, overrides, message):
    flags = "--xla_force_host_platform_device_count=2"
    code, said = runs.train(recipe, tmp_path / "run", *overrides, XLA_FLAGS=flags)
    message = message or "global_batch_size=9 is not divisible by data*fsdp=2"
    assert code == 2 and message in said and said.count("\n") == 1, said
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_loss_that_is_no_number_stops_with_3_and_keeps_the_last_checkpoint(recipe, tmp_path):
    code, said = runs.train(recipe, tmp_path / "run", "--config.optimizer.learning_rate=1e30")
    assert code == 3 and "not a number" in said and "Traceback" not in said
    model = checkpoint.load_model(tmp_path / "run")
    assert jax.tree.all(jax.tree.map(lambda leaf: np.isfinite(leaf).all(), model.params))
    assert runs.card(tmp_path / "run")["ended"] == "diverged"


def test_two_documents_are_needed_for_nsp_and_said(recipe, tmp_path):
    text = tmp_path / "one.jsonl"
    text.write_text('{"text": "The house. The river. The bird walked over the old stone."}\n')
    runs.build_corpus([str(text)], recipe.parent / "tokenizer", tmp_path / "one", workers=1, validation_share=0.0)
    code, said = runs.train(recipe, tmp_path / "run", f"--config.data.corpus={tmp_path / 'one'}")
    assert code == 2 and "at least two documents" in said and "mlm" in said and "Traceback" not in said
