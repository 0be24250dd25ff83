"""A run whose directory is a URL: killed, moved to other machines, damaged, refused, on two hosts, read.

`file://` goes the way of every store and is seen by several processes; a machine is a `BERT_JAX_CACHE`.
"""

import dataclasses
import json
import shutil
import signal

import jax
import numpy as np
import pytest
import training_runs as runs

from bert_jax import checkpoint, checksums, cli
from bert_jax.convert.importing import open_model
from bert_jax.convert.initialise import initial_params
from bert_jax.metrics import read_lines
from bert_jax.run_store import stored_steps
from data_prep.storage import Folder
from data_prep.tokenizer import load_tokenizer

KILLED = -signal.SIGKILL
INTEGERS = ("step", "tokens", "examples", "eval/tokens", "eval/examples")


def train(recipe, store, machine, fault=None):
    environment = {"FAULT": json.dumps(fault)} if fault else {}
    return runs.train(recipe, f"file://{store}", BERT_JAX_CACHE=str(machine), **environment)


def steps_of(store):
    return stored_steps(list(Folder(f"file://{store}").sizes()))


def flip_a_bit(folder):
    path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.fixture(scope="module")
def moved(full_recipe, tmp_path_factory):
    """A run that was killed twice on one machine, stopped on another, and finished on a third, to which a damaged
    checkpoint was left: where it lies, the step of that checkpoint, and what the last command said. As it was stopped,
    it lies in `stopped` beside it."""
    folder = tmp_path_factory.mktemp("moved")
    store = folder / "store" / "run"
    # All of step 6 was uploaded, and is not visible.
    assert train(full_recipe, store, folder / "one", {"where": "commit", "nth": 3, "what": "kill"})[0] == KILLED
    assert steps_of(store) == [0, 3] and (store / "checkpoints" / "6" / "params").is_dir()
    # On this machine, too: what its mirror has of step 6 is not thrown away.
    assert train(full_recipe, store, folder / "one", {"where": "upload", "nth": 2, "what": "kill"})[0] == KILLED
    assert steps_of(store)[:3] == [0, 3, 6]
    code, said = train(full_recipe, store, folder / "two", {"where": "step", "nth": 13, "what": "stop"})
    assert code == 75 and f"resuming file://{store} at step" in said, said
    newest = steps_of(store)[-1]
    assert 18 < newest < 24 and runs.card(store)["ended"] == "stopped by a signal"
    assert runs.numbers(store)[-1]["step"] in (newest - 1, newest)
    shutil.copytree(store, store.with_name("stopped"))
    flip_a_bit(store / "checkpoints" / str(newest) / "opt_state")
    code, said = train(full_recipe, store, folder / "three")
    assert code == 0, said
    return store, newest, said


def test_a_run_moved_from_machine_to_machine_equals_an_uninterrupted_local_one(moved, full_run):
    store, _, _ = moved
    assert runs.same_to_the_last_bit(full_run[0], store)
    for name in ("positions.jsonl", "events.jsonl"):
        assert (store / name).exists() == (full_run[0] / name).exists()
    assert read_lines(store / "positions.jsonl")[-1] == read_lines(full_run[0] / "positions.jsonl")[-1]
    assert steps_of(store) == checkpoint.saved_steps(full_run[0])  # old ones are gone there, too
    assert list((store / "tensorboard").iterdir())
    assert (runs.card(store)["ended"], runs.card(store)["best"]) == ("finished", runs.card(full_run[0])["best"])


def test_a_damaged_checkpoint_in_the_store_is_said_in_one_line_and_moved_aside_there(moved):
    store, newest, said = moved
    warnings = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and f"file://{store}/checkpoints/{newest} is damaged (opt_state/" in warnings[0]
    assert (store / "checkpoints" / f"{newest}.damaged" / "params").is_dir() and "Traceback" not in said
    for step in steps_of(store):
        assert checksums.damage(store / "checkpoints" / str(step)) is None
    assert {path.name for path in (store / "checkpoints").iterdir()} == {
        *map(str, steps_of(store)),
        f"{newest}.damaged",
    }


def run_command(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    out, said = capsys.readouterr()
    assert ended.value.code == 0, said
    return out


def test_readers_take_the_url(moved, full_run, tmp_path, capsys):
    store, (whole, _) = moved[0], full_run
    url = f"file://{store}"
    look = ["--step", "19"]
    assert run_command(capsys, "inspect", url, *look) == run_command(capsys, "inspect", str(whole), *look)
    found = json.loads(run_command(capsys, "evaluate", url, "--step", "21"))
    logged = next(line for line in runs.numbers(whole) if line["step"] == 21 and "eval/tokens" in line)
    for name in ("mlm_loss", "nsp_loss", "tokens", "examples"):
        assert found[name] == pytest.approx(logged[f"eval/{name}"], rel=1e-5)
    run_command(capsys, "convert", "to-hf", url, str(tmp_path / "hf"))
    exported, expected = open_model(tmp_path / "hf").params, checkpoint.load_model(whole).params
    assert jax.tree.all(jax.tree.map(np.array_equal, exported, expected))
    run_command(capsys, "report", url, str(whole), "--output", str(tmp_path / "page.html"))
    assert "whole" in (tmp_path / "page.html").read_text()
    table = tmp_path / "table.tsv"
    table.write_text("text\tlabel\nthe house\t0\nthe river\t1\nthe bird\t0\nthe stone\t1\n")
    tune = ["--task", "classification", "--train", str(table), "--dev", str(table), "--epochs", "1"]
    run_command(capsys, "finetune", *tune, "--init", url, "--workdir", str(tmp_path / "tuned"))
    assert checkpoint.load_model(tmp_path / "tuned").objective == "classification"
    assert not list(tmp_path.glob("file:*"))


def test_a_run_may_start_from_a_url(moved, full_run):
    config = checkpoint.read_config(full_run[0])
    tokenizer = load_tokenizer(full_run[0] / "tokenizer")
    there, here = (
        initial_params(dataclasses.replace(config, init=str(init)), tokenizer)
        for init in (f"file://{moved[0]}", full_run[0])
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, there, here))


def test_a_store_that_refuses_ends_in_one_line_and_nothing_is_lost(full_recipe, full_run, tmp_path):
    store = tmp_path / "run"
    code, said = train(full_recipe, store, tmp_path / "machine", {"refuse": 3})
    assert code == 75 and "Traceback" not in said, said
    error = said.splitlines()[-1]
    assert error.startswith("error: ") and "the store refused (a fault)" in error and "same command again here" in error
    assert steps_of(store) == [0, 3]
    code, said = train(full_recipe, store, tmp_path / "machine")
    assert code == 0 and f"resuming file://{store} at step 6" in said, said  # it was in the mirror
    assert runs.same_to_the_last_bit(full_run[0], store)


def test_two_hosts_that_share_no_disk_go_on_with_it(moved, full_recipe, full_run, tmp_path):
    _, stopped, _ = moved
    store = shutil.copytree(moved[0].with_name("stopped"), tmp_path / "run")
    hosts = runs.start_hosts(
        2,
        full_recipe,
        f"file://{store}",
        "--config.mesh.fsdp=2",
        environments=[{"BERT_JAX_CACHE": str(tmp_path / f"machine{i}")} for i in range(2)],
    )
    ends = [runs.finish(host) for host in hosts]
    assert [code for code, _ in ends] == [0, 0], ends
    assert f"resuming file://{store} at step {stopped}" in ends[0][1] and runs.card(store)["processes"] == 2
    assert steps_of(store) == [0, *sorted({18, stopped, 21, 24})[-3:]]  # the newest three, also those of before
    for alone, together in zip(runs.numbers(full_run[0]), runs.numbers(store), strict=True):
        assert alone.keys() == together.keys()
        for name, value in alone.items():
            if name in INTEGERS:
                assert together[name] == value
            else:
                assert together[name] == pytest.approx(value, rel=5e-5, abs=5e-6), (alone["step"], name)
    left, right = (checkpoint.load_model(run).params for run in (full_run[0], store))
    for one, two in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)
    assert not list((tmp_path / "machine1").glob("runs/*/run/checkpoints/24"))  # the leader alone wrote it


@pytest.mark.long
@pytest.mark.parametrize("machines", [("one", "two"), ("one", "one")])
def test_two_hosts_go_back_from_bad_batches_in_a_store_as_in_a_directory(full_recipe, tmp_path, machines):
    """Each with a mirror of its own, or two processes of one machine with one."""
    fault = {"FAULT": json.dumps({"poison": [[0, 0, 1, 0, 1000]]})}
    for workdir in (tmp_path / "directory", f"file://{tmp_path / 'store'}"):
        hosts = runs.start_hosts(
            2,
            full_recipe,
            workdir,
            "--config.train.max_skipped=2",
            environments=[{"BERT_JAX_CACHE": str(tmp_path / machine)} for machine in machines],
            **fault,
        )
        ends = [runs.finish(host) for host in hosts]
        assert [code for code, _ in ends] == [0, 0] and "going back here" in ends[0][1], ends
    assert runs.same_to_the_last_bit(tmp_path / "directory", tmp_path / "store")
    assert read_lines(tmp_path / "directory" / "events.jsonl") == read_lines(tmp_path / "store" / "events.jsonl")
    assert len(list(tmp_path.glob("*/runs/*/store/checkpoints"))) == len(set(machines))
