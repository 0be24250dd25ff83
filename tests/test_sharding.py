"""Meshes and what fits them: mistakes end in one line with the value and what to do."""

import dataclasses
import types

import jax
import numpy as np
import pytest
import small_bert
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, PartitionSpec

from bert_jax.config import MeshConfig
from bert_jax.model.partitioning import RULES, partition_spec
from bert_jax.sharding import check_mesh, make_mesh
from data_prep.errors import InputError


class FakeMesh:
    def __init__(self, data=1, fsdp=1, tensor=1):
        self.shape = {"data": data, "fsdp": fsdp, "tensor": tensor}
        self.devices = np.array([types.SimpleNamespace(platform="tpu")])


def test_mesh_fills_up_and_has_auto_axes():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert mesh.axis_types == (AxisType.Auto,) * 3


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((3, 1, 1), "takes 3 devices, and there are 1"),
        ((-1, 2, 1), "1 devices are not divisible by 2"),
        ((-1, -1, 1), "at most one"),
        ((0, 1, 1), "positive"),
        ((1, 1, 1, 2), "config.mesh.dcn=2 and data=1, but the devices lie in 1 hosts; give dcn that number"),
    ],
)
def test_mesh_that_does_not_fit_the_devices(sizes, said):
    with pytest.raises(InputError, match=said):
        make_mesh(MeshConfig(*sizes), jax.devices()[:1])


@pytest.mark.parametrize(
    ("mesh", "changes", "said"),
    [
        (FakeMesh(data=3), {}, "global_batch_size=8 is not divisible by data\\*fsdp=3; use a multiple, say 6 or 9"),
        (FakeMesh(data=4, fsdp=4), {}, "data\\*fsdp=16; use a multiple, say 16"),
        (FakeMesh(data=4), {"accumulation": 4}, "data\\*fsdp=4 times accumulation=4"),
        (FakeMesh(tensor=4), {}, "num_heads=2 is not divisible by config.mesh.tensor=4"),
        (FakeMesh(fsdp=8), {"hidden_size": 12}, "hidden_size=12 is not divisible by config.mesh.fsdp=8"),
        (FakeMesh(tensor=2), {"intermediate_size": 25}, "intermediate_size=25 .* say 1"),
        (FakeMesh(tensor=3), {"num_heads": 3, "hidden_size": 24}, "padded|rounded up to a multiple of 128"),
    ],
)
def test_what_the_mesh_does_not_divide_is_said(mesh, changes, said):
    config = small_bert.run_config(**changes)
    with pytest.raises(InputError, match=said) as caught:
        check_mesh(config, mesh)
    assert "\n" not in str(caught.value)


def test_a_kernel_that_the_devices_do_not_have_or_the_rows_do_not_fit_is_said():
    config = small_bert.run_config(attention="pallas", dtype="bfloat16", hidden_size=256, num_heads=4)
    with pytest.raises(InputError, match="up to 512, not 16"):
        check_mesh(config, FakeMesh())
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, seq_len=128))
    check_mesh(config, FakeMesh(tensor=2))
    with pytest.raises(InputError, match="not 1 of 64 features, as"):
        check_mesh(config, FakeMesh(tensor=4))
    with pytest.raises(InputError, match="it is for tpu devices, and these are cpu"):
        check_mesh(config, make_mesh(MeshConfig(), jax.devices()[:1]))


def test_what_fits_passes():
    check_mesh(small_bert.run_config(accumulation=2), FakeMesh(data=2, fsdp=2, tensor=2))


@given(
    shape=st.lists(st.integers(1, 48), min_size=1, max_size=3),
    names=st.lists(st.sampled_from(sorted(RULES)), min_size=3, max_size=3),
    fsdp=st.integers(1, 4),
    tensor=st.integers(1, 4),
)
def test_specs_always_divide_and_use_an_axis_once(shape, names, fsdp, tensor):
    sizes = {"data": 1, "fsdp": fsdp, "tensor": tensor}
    spec = partition_spec(shape, names[: len(shape)], sizes)
    used = []
    for size, entry in zip(shape, spec, strict=True):
        ways = 1
        for axis in (entry,) if isinstance(entry, str) else entry or ():
            ways *= sizes[axis]
            used.append(axis)
        assert size % ways == 0
    assert len(used) == len(set(used))


def test_kernels_are_cut_over_both_axes():
    sizes = {"data": 2, "fsdp": 2, "tensor": 4}
    assert partition_spec((3, 8, 16), ("layers", "embed", "mlp"), sizes) == PartitionSpec(None, ("fsdp",), ("tensor",))
    assert partition_spec((8,), ("embed_vector",), sizes) == PartitionSpec(("fsdp", "tensor"))
    assert partition_spec((6,), ("embed_vector",), sizes) == PartitionSpec(("fsdp",))
