"""Checkpoints of a run, whatever happens to their files, to the disk and to the arrays that were saved."""

import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import checkpoint, run_checkpoints
from bert_jax.config import CheckpointConfig, Config
from bert_jax.data.load import Position
from bert_jax.ledger import Best, Ledger
from bert_jax.run_checkpoints import Checkpoints, CheckpointsDamaged, DiskFull, NotSaved
from bert_jax.train_state import TrainState

DEFAULT = CheckpointConfig()
CONFIG = checkpoint.config_json(Config())


def state_at(step):
    values = jnp.arange(4096, dtype=jnp.float32).reshape(64, 64) + step
    return TrainState(jnp.int32(step), {"layer": {"kernel": values}}, {"mu": values * 2, "count": jnp.int32(step)})


def abstract():
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state_at(0))


def ledger_at(step, best=None):
    return Ledger(Position(), tokens=step, best=best and Best(best, 0, 1.0))


def save_all(run, steps, settings=DEFAULT, best=None, only_best=()):
    checkpoints = Checkpoints(run / "checkpoints", settings)
    for step in steps:
        checkpoints.save(step, state_at(step), ledger_at(step, best), CONFIG, only_best=step in only_best)
    checkpoints.wait()
    checkpoints.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    save_all(run, [0, 5, 10])
    return run


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def files(step):
    return [path for path in sorted(step.rglob("*")) if path.is_file()]


def largest(step, below):
    return max(files(step / below), key=lambda path: path.stat().st_size)


DAMAGES = {
    "a bit of the parameters": lambda step: flip_a_bit(largest(step, "params")),
    "a bit of the optimizer": lambda step: flip_a_bit(largest(step, "opt_state")),
    "a bit of the position": lambda step: flip_a_bit(step / "loader" / "metadata"),
    "a bit of the checksums": lambda step: flip_a_bit(step / "checksums.json"),
    "truncated": lambda step: largest(step, "params").write_bytes(largest(step, "params").read_bytes()[:-1]),
    "empty file": lambda step: largest(step, "opt_state").write_bytes(b""),
    "every second file gone": lambda step: [path.unlink() for path in files(step)[::2]],
    "the other files gone": lambda step: [path.unlink() for path in files(step)[1::2]],
    "checksums gone": lambda step: (step / "checksums.json").unlink(),
    "an item gone": lambda step: shutil.rmtree(step / "opt_state"),
    "all gone": lambda step: [shutil.rmtree(step), step.mkdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_said_in_one_line_and_the_one_before_is_taken(saved, tmp_path, capsys, damage):
    run = tmp_path / "run"
    shutil.copytree(saved, run)
    DAMAGES[damage](run / "checkpoints" / "10")
    checkpoints = Checkpoints(run / "checkpoints", DEFAULT)
    state, ledger = checkpoints.restore_newest(abstract())
    checkpoints.close()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "10 is damaged (" in said and "10.damaged" in said
    assert ledger.tokens == 5
    for found, expected in zip(jax.tree.leaves(state), jax.tree.leaves(state_at(5)), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert checkpoint.saved_steps(run) == [0, 5]
    assert (run / "checkpoints" / "10.damaged").is_dir()


def test_every_file_of_a_checkpoint_is_watched(saved, tmp_path):
    """All but what Orbax writes for itself after the last moment at which we can look."""
    step = tmp_path / "10"
    shutil.copytree(saved / "checkpoints" / "10", step)
    watched = set(json.loads((step / "checksums.json").read_text())["files"])
    there = {path.relative_to(step).as_posix() for path in files(step)}
    assert there - watched == {"checksums.json", "_CHECKPOINT_METADATA", "commit_success.txt"}
    for name in ("_CHECKPOINT_METADATA", "commit_success.txt"):
        (step / name).unlink()
    shutil.copytree(step, tmp_path / "run" / "checkpoints" / "10")
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", CheckpointConfig())
    state, _ = checkpoints.restore_newest(abstract())  # and they are not needed
    checkpoints.close()
    assert int(state.step) == 10


def test_all_damaged_is_no_new_start(saved, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(saved, run)
    for step in (0, 5, 10):
        flip_a_bit(largest(run / "checkpoints" / str(step), "params"))
    checkpoints = Checkpoints(run / "checkpoints", DEFAULT)
    with pytest.raises(CheckpointsDamaged, match=r"none of the checkpoints .* is sound"):
        checkpoints.restore_newest(abstract())
    checkpoints.close()
    assert capsys.readouterr().err.count("\n") == 3


def test_checkpoints_of_the_format_before_checksums_are_read(saved, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(saved, run)
    newest = run / "checkpoints" / "10"
    (newest / "checksums.json").unlink()
    (newest / "config" / "metadata").write_text(json.dumps(CONFIG | {"format_version": 1}))
    loader = json.loads((newest / "loader" / "metadata").read_text())
    old = {name: loader[name] for name in ("position", "tokens", "examples")}
    (newest / "loader" / "metadata").write_text(json.dumps(old))
    checkpoints = Checkpoints(run / "checkpoints", DEFAULT)
    state, ledger = checkpoints.restore_newest(abstract())
    checkpoints.close()
    assert int(state.step) == 10 and ledger == ledger_at(10)


@pytest.mark.parametrize(
    ("settings", "best", "only_best", "expected"),
    [
        (CheckpointConfig(keep=2), None, (), [0, 25, 30]),
        (CheckpointConfig(keep=1, keep_every=10), None, (), [0, 10, 20, 30]),
        (CheckpointConfig(keep=2), 5, (), [0, 5, 25, 30]),
        (CheckpointConfig(keep=2), 15, (15, 30), [0, 15, 20, 25]),
    ],
)
def test_which_checkpoints_stay(tmp_path, settings, best, only_best, expected):
    save_all(tmp_path, range(0, 31, 5), settings, best, only_best)
    assert checkpoint.saved_steps(tmp_path) == expected


def test_what_stays_does_not_depend_on_restarts(tmp_path):
    save_all(tmp_path, [0, 5, 10, 15], CheckpointConfig(keep=2), 10, (10,))
    save_all(tmp_path, [20, 25], CheckpointConfig(keep=2), 20, (20,))
    assert checkpoint.saved_steps(tmp_path) == [0, 15, 20, 25]


def test_arrays_may_be_donated_while_they_are_being_saved(tmp_path):
    update = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 0 + 1, state), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path / "checkpoints", CheckpointConfig())
    state = state_at(3)
    checkpoints.save(3, state, ledger_at(3), CONFIG, only_best=False)
    for _ in range(3):
        state = jax.block_until_ready(update(state))
    checkpoints.wait()
    found, _ = checkpoints.restore_newest(abstract())
    checkpoints.close()
    np.testing.assert_array_equal(found.params["layer"]["kernel"], state_at(3).params["layer"]["kernel"])


def test_no_room_is_seen_before_anything_is_written(saved, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(saved, run)
    checkpoints = Checkpoints(run / "checkpoints", DEFAULT)
    monkeypatch.setattr(run_checkpoints.shutil, "disk_usage", lambda path: SimpleNamespace(free=30_000))
    with pytest.raises(DiskFull):
        checkpoints.save(15, state_at(15), ledger_at(15), CONFIG, only_best=False)
    checkpoints.close()
    assert checkpoint.saved_steps(run) == [0, 5, 10]


def test_a_checkpoint_that_was_being_written_does_not_count(saved, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(saved, run)
    half = run / "checkpoints" / "15.orbax-checkpoint-tmp"
    shutil.copytree(run / "checkpoints" / "10", half)
    checkpoints = Checkpoints(run / "checkpoints", DEFAULT)
    state, _ = checkpoints.restore_newest(abstract())
    checkpoints.close()
    assert int(state.step) == 10 and not half.exists()


def test_a_save_that_is_declined_is_an_error(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", DEFAULT)
    checkpoints.save(10, state_at(10), ledger_at(10), CONFIG, only_best=False)
    with pytest.raises(NotSaved, match=r"checkpoint 5 was not saved: .* has one of step 10 already"):
        checkpoints.save(5, state_at(5), ledger_at(5), CONFIG, only_best=False)
    checkpoints.close()
    assert checkpoint.saved_steps(tmp_path) == [10]
