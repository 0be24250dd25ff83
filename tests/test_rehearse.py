"""The rehearsal keeps what goes wrong on a pod, and really stops and goes on; names of hardware."""

import dataclasses
import json
import math
import os
import subprocess
import sys

import pytest
import training_runs as runs
from hypothesis import given
from hypothesis import strategies as st

from bert_jax import rehearse as rehearse_module
from bert_jax.config import (
    Config,
    DataConfig,
    ExtendConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PhaseConfig,
    TrainConfig,
    to_dict,
)
from bert_jax.config_check import check
from bert_jax.model.choices import chosen
from bert_jax.rehearse import RehearsalFailed, rehearse, shrink, shrink_mesh
from bert_jax.sharding import check_mesh_sizes
from bert_jax.topology import parse_topology
from data_prep.errors import InputError

PHASES = (PhaseConfig(900, 128, 512), PhaseConfig(90, 512, 256, 1e-3, 10), PhaseConfig(9, 64, 256))


@given(st.tuples(*[st.integers(0, 6).map(lambda power: 2**power) | st.sampled_from([3, 6])] * 3))
def test_every_axis_above_1_is_kept_on_at_most_eight_devices(sizes):
    small = shrink_mesh(sizes)
    assert math.prod(small) <= 8
    for before, after in zip(sizes, small, strict=True):
        assert (after > 1) == (before > 1) and after <= before


@pytest.mark.parametrize("sizes", [(256, 1, 1), (8, 8, 4), (1, 256, 1), (64, 1, 4)])
def test_the_small_recipe_fits_its_mesh_and_keeps_the_rest(sizes):
    config = Config(
        data=DataConfig(corpus="c", objective="sop", masking="span"),
        train=TrainConfig(accumulation=4, phases=PHASES),
        optimizer=OptimizerConfig(name="lamb", schedule="wsd"),
    )
    mesh = shrink_mesh(sizes)
    small = shrink(config, mesh)
    check(small)
    check_mesh_sizes(small, mesh)
    assert small.num_steps() == 20
    assert [(phase.seq_len, phase.learning_rate) for phase in small.phases()] == [(128, 0), (512, 1e-3), (64, 0)]
    assert (small.data, small.train.accumulation) == (config.data, 4)
    assert (small.optimizer.name, small.optimizer.schedule) == ("lamb", "wsd")


@pytest.mark.parametrize(
    "fields",
    [
        dict(init="hf", extend=ExtendConfig(positions=True, vocabulary=True)),
        dict(model=ModelConfig(embedding_size=768)),
        dict(model=ModelConfig(family="electra", embedding_size=128), data=DataConfig(corpus="c", objective="mlm")),
        dict(model=ModelConfig(attention="pallas")),
        dict(model=ModelConfig(attention="cudnn", attention_dropout_rate=0.0)),
    ],
)
def test_what_the_full_size_alone_has_is_left_out(fields):
    config = dataclasses.replace(Config(data=DataConfig(corpus="c")), **fields)
    check(config)
    small = shrink(config, (2, 2, 2))
    check(small)
    assert chosen(small.model, 128, "cpu").attention == "einsum"
    assert small.model.embedding_size == (128 if config.model.family == "electra" else 0)


def test_a_failure_is_one_line_that_says_what_failed(tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "config.json"
    recipe.write_text(json.dumps(to_dict(Config(data=DataConfig(corpus="c")))))

    def fails(*arguments):
        raise ValueError("what is wrong\nand more of it")

    monkeypatch.setattr("bert_jax.train.pretrain", fails)
    assert rehearse_module._child(str(recipe), str(tmp_path / "run"), "0") == 1
    assert capsys.readouterr().err == "ValueError: what is wrong\n"
    monkeypatch.setattr(rehearse_module, "_LIMIT", 0.06)
    with pytest.raises(RehearsalFailed, match=r"^the run after the stop was not done after 0.001 minutes$"):
        rehearse_module._run(recipe, tmp_path / "run", 1, None, 0)


def test_a_rehearsal_stops_resumes_and_says_so(tmp_path):
    recipe = runs.make_recipe(tmp_path, runs.make_corpus(tmp_path))
    words = ["pretrain", "--config", recipe, "--workdir", tmp_path / "run", "--config.mesh.fsdp=2"]
    done = subprocess.run(
        [sys.executable, "-m", "bert_jax", *map(str, words), "--rehearse", "v5e:2x2"],
        env=os.environ | {"PYTHONPATH": str(runs.ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["mesh"] == told["rehearsed_mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    assert told["steps"] == 20 and 6 < told["stopped_and_resumed_at_step"] < 20
    assert told["last_loss"] < told["first_loss"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("device", "mesh", "message"),
    [
        ("v5e:16x16", MeshConfig(), "global_batch_size=64 is not divisible by data\\*fsdp=256"),
        ("v5e:16x16", MeshConfig(data=32, fsdp=16, dcn=2), "global_batch_size=64 is not divisible by data\\*fsdp=512"),
        ("v5e:4x4", MeshConfig(tensor=5), "16 devices are not divisible by 5"),
        ("v5e", MeshConfig(), "write v5e:4x4"),
        ("v4:4x4", MeshConfig(), "no shape of 3 dimensions; write v4:4x4x4"),
        ("v5:4x4", MeshConfig(), "did you mean v5"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(device, mesh, message):
    config = Config(data=DataConfig(corpus="c"), train=TrainConfig(global_batch_size=64), mesh=mesh)
    with pytest.raises(InputError, match=message) as caught:
        rehearse(config, device)
    assert "\n" not in str(caught.value)


def test_topologies_know_their_slices():
    assert parse_topology("v5e:16x16").accelerator_type == "v5litepod-256"
    assert parse_topology("v4:4x4x8").accelerator_type == "v4-256"
    assert parse_topology("v4:4x4x8").devices == 128
