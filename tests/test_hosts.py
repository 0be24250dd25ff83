"""Several hosts, each a process here: they see and compute the same, stop together, and nobody waits for the dead."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import training_runs as runs
from compiling import QUICK

from bert_jax import checkpoint
from bert_jax.data.plan import RowSettings, num_blocks, plan_block
from bert_jax.evaluate import open_corpora

PROGRAM = Path(__file__).with_name("placement_program.py")
REFERENCE = "1x1x1x1"
# Processes, devices of each, and meshes with accumulation and, last, the groups of devices that a slow network joins.
PLACEMENTS = [(1, 8, (REFERENCE, "2x1x1x1", "1x4x1x2", "8x1x1x1")), (2, 2, ("1x2x2x1", "1x1x4x2", "2x1x2x1x2"))]
MORE_PLACEMENTS = [
    (1, 8, ("1x2x1x1", "4x1x1x2", "1x4x2x1", "1x8x1x1", "2x2x2x2", "4x1x2x2")),
    (2, 1, ("2x1x1x1", "1x2x1x2", "1x1x2x1")),
    (2, 2, ("2x2x1x1", "1x4x1x1", "2x1x2x2")),
    (4, 1, ("4x1x1x2", "1x4x1x1", "2x2x1x1", "2x1x2x1", "1x1x4x2")),
    (4, 2, ("2x2x2x1", "4x2x1x1")),
]
INTEGERS = ("step", "tokens", "examples", "eval/tokens", "eval/examples")


def place(recipe, output, processes, devices, meshes):
    """What the program found on each mesh."""
    words = [sys.executable, str(PROGRAM), str(recipe), str(output), *meshes]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{QUICK} --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(runs.ROOT),
    }
    started = [
        subprocess.Popen(words, env=environment | host, stderr=subprocess.PIPE, text=True)
        for host in (runs.cluster(processes) if processes > 1 else [{}])
    ]
    for process in started:
        _, said = process.communicate(timeout=500)
        assert process.returncode == 0, said[-3000:]
    return json.loads(output.read_text())


def same_placement(found, expected, name):
    assert found["batches"] == expected["batches"], name  # integers: rows, pairs, packing, masks
    for k, (got, want) in enumerate(zip(found["metrics"], expected["metrics"], strict=True)):
        assert got.keys() == want.keys()
        for key, value in want.items():
            assert got[key] == pytest.approx(value, rel=(3e-6, 1e-5, 3e-5)[k], abs=1e-7), (name, k, key)
    for key, value in expected["evaluation"].items():
        if key in ("tokens", "examples"):
            assert found["evaluation"][key] == value
        else:
            assert found["evaluation"][key] == pytest.approx(value, rel=3e-6), (name, key)


@pytest.fixture(scope="module")
def placements(full_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("placements")
    return {
        processes: place(full_recipe, folder / f"{processes}.json", processes, devices, meshes)
        for processes, devices, meshes in PLACEMENTS
    }


@pytest.mark.parametrize(
    ("processes", "mesh"), [(n, mesh) for n, _, meshes in PLACEMENTS for mesh in meshes if mesh != REFERENCE]
)
def test_rows_masks_and_losses_do_not_depend_on_where_they_are_computed(placements, processes, mesh):
    same_placement(placements[processes][mesh], placements[1][REFERENCE], mesh)


@pytest.mark.long
@pytest.mark.parametrize(("processes", "devices", "meshes"), MORE_PLACEMENTS)
def test_nor_on_any_other_placement(placements, full_recipe, tmp_path, processes, devices, meshes):
    found = place(full_recipe, tmp_path / "out.json", processes, devices, meshes)
    for mesh in meshes:
        same_placement(found[mesh], placements[1][REFERENCE], (processes, devices, mesh))


def test_an_evaluation_looks_at_the_whole_validation_split_once(placements, full_run):
    config = checkpoint.read_config(full_run[0])
    settings = RowSettings.of(config.data, config.phases()[0].seq_len)
    counts = {"tokens": 0, "examples": 0}
    for corpus in open_corpora(config):
        split = corpus.split("validation")
        for block in range(num_blocks(split, settings)):
            plan = plan_block(split, settings, config.seed, 0, block)
            for name in counts:
                counts[name] += plan.counts[name]
    found = placements[1][REFERENCE]["evaluation"]
    assert {name: found[name] for name in counts} == counts and counts["examples"] % 24


def assert_same_to_rounding(one, two):
    for alone, other in zip(runs.numbers(one), runs.numbers(two), strict=True):
        assert alone.keys() == other.keys()
        for name, value in alone.items():
            if name in INTEGERS:
                assert other[name] == value
            else:
                assert other[name] == pytest.approx(value, rel=5e-5, abs=5e-6), (alone["step"], name)


@pytest.fixture(scope="module")
def stopped_by_four(full_recipe, tmp_path_factory):
    """A run of four hosts, stopped: the notice that a host is to go comes as SIGTERM at that host only."""
    workdir = tmp_path_factory.mktemp("four") / "run"
    devices = f"{QUICK} --xla_force_host_platform_device_count=2"
    mesh = [f"--config.mesh.{name}=2" for name in ("data", "fsdp", "tensor")]
    hosts = runs.start_hosts(4, full_recipe, workdir, *mesh, XLA_FLAGS=devices)
    runs.wait_for_step(hosts[0], workdir, 4)
    hosts[2].send_signal(signal.SIGTERM)
    ends = [runs.finish(host) for host in hosts]
    assert [code for code, _ in ends] == [75] * 4, ends
    return workdir


def test_four_hosts_stop_together_when_one_is_told_to(stopped_by_four):
    stopped = checkpoint.saved_steps(stopped_by_four)[-1]
    assert 4 <= stopped < 24 and runs.numbers(stopped_by_four)[-1]["step"] in (stopped - 1, stopped)
    card = runs.card(stopped_by_four)
    assert (card["processes"], card["devices"]["count"], card["ended"]) == (4, 8, "stopped by a signal")


@pytest.mark.parametrize("hosts", [1, pytest.param(3, marks=pytest.mark.long)])
def test_what_four_hosts_began_fewer_go_on_with(stopped_by_four, full_recipe, full_run, tmp_path, hosts):
    stopped = checkpoint.saved_steps(stopped_by_four)[-1]
    workdir = shutil.copytree(stopped_by_four, tmp_path / "run")
    if hosts == 1:
        ends = [runs.train(full_recipe, workdir)]
    else:
        started = runs.start_hosts(hosts, full_recipe, workdir)
        ends = [runs.finish(host) for host in started]
    assert [code for code, _ in ends] == [0] * hosts and f"at step {stopped}" in ends[0][1], ends
    assert_same_to_rounding(full_run[0], workdir)


@pytest.mark.parametrize(
    ("what", "host"),
    [
        ("kill", 1),
        pytest.param("kill", 0, marks=pytest.mark.long),
        pytest.param("raise", 1, marks=pytest.mark.long),
        pytest.param("hang", 1, marks=pytest.mark.long),
        pytest.param("freeze", 1, marks=pytest.mark.long),
    ],
)
def test_when_one_host_dies_or_hangs_the_others_end_with_75_in_time(full_recipe, tmp_path, what, host):
    limits = ["--config.watchdog.peer_seconds=10", "--config.watchdog.stop_seconds=20"]
    fault = json.dumps({"where": "step", "nth": 6, "what": what})
    environments = [{"FAULT": fault} if i == host else {} for i in range(2)]
    hosts = runs.start_hosts(2, full_recipe, tmp_path / "run", *limits, environments=environments)
    runs.wait_for_step(hosts[0], tmp_path / "run", 4 if host else 3)
    began = time.monotonic()
    codes = []
    for i in sorted(range(2), key=lambda i: i == host):
        code, said = runs.finish(hosts[i])
        codes.append(code)
        if i != host:
            assert time.monotonic() - began < 90
            assert "run the same command again" in said, said
            last = [line for line in said.splitlines() if line][-1]
            assert last.startswith("error: ") or "[host" in last, said
    assert codes[0] == 75 and codes[1] == (1 if what == "raise" else 75)
    assert (
        checkpoint.damage(tmp_path / "run" / "checkpoints" / str(checkpoint.saved_steps(tmp_path / "run")[-1])) is None
    )


@pytest.mark.parametrize("host", [0, 1])
def test_a_host_that_finds_no_other_ends_with_75_in_time(full_recipe, tmp_path, host):
    """The one that the others look for, and one that looks for it."""
    began = time.monotonic()
    process = runs.start(full_recipe, tmp_path / "run", "--config.watchdog.peer_seconds=2", **runs.cluster(2)[host])
    code, said = runs.finish(process)
    assert code == 75 and time.monotonic() - began < 90, said
    last = [line for line in said.splitlines() if line][-1]
    assert last.startswith("error: ") and "run the same command again on all hosts" in last
    assert not (tmp_path / "run").exists()


def test_a_wrong_input_ends_all_hosts_with_2_and_the_same_line_also_the_late_ones(full_recipe, tmp_path):
    """A run is refused where another one lies; the host that is there first waits for the other, and says so."""
    (tmp_path / "letters.txt").write_text("dear")
    late = [{}, {"FAULT": json.dumps({"late": 9})}]
    hosts = runs.start_hosts(2, full_recipe, tmp_path, "--config.watchdog.warn_seconds=1", environments=late)
    ends = [runs.finish(host) for host in hosts]
    assert [code for code, _ in ends] == [2, 2], ends
    for _, said in ends:
        assert said.splitlines()[-1] == f"error: {tmp_path} is not empty and holds no run; name a new --workdir", said
        assert "Traceback" not in said
    assert "[host 0] warning: step 0: start has taken" in ends[0][1]


def test_numbers_that_are_compared_differ_at_all(placements):
    """A step does something, and masks change from step to step."""
    first, second, third = placements[1][REFERENCE]["metrics"]
    assert len({first["loss"], second["loss"], third["loss"]}) == 3
    masked = [batch["masked_lm_positions"] for batch in placements[1][REFERENCE]["batches"]]
    assert len(set(masked)) == 3 and np.isfinite(third["loss"])
