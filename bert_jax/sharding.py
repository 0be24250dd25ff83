"""The mesh, and where every array of a state lives on it."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bert_jax.config import Config, MeshConfig, ModelConfig
from bert_jax.model.bert import logical_axes
from bert_jax.model.choices import check_attention
from bert_jax.model.partitioning import BATCH_AXES, MESH_AXES, RULES, partition_spec
from data_prep.errors import InputError

__all__ = [
    "RULES",
    "batch_sharding",
    "check_mesh",
    "check_mesh_sizes",
    "make_mesh",
    "mesh_sizes",
    "replicated",
    "state_shardings",
]


def mesh_sizes(config: MeshConfig, count: int) -> tuple[int, int, int]:
    """Devices an axis (data, fsdp, tensor) for `count` devices.

    Raises:
      InputError: the sizes do not multiply to that number.
    """
    sizes = [config.data, config.fsdp, config.tensor]
    shown = ", ".join(f"{name}={size}" for name, size in zip(MESH_AXES, sizes, strict=True))
    if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
        raise InputError(f"config.mesh has {shown}; give positive sizes, and -1 to at most one of them")
    if -1 in sizes:
        fixed = math.prod(size for size in sizes if size != -1)
        if count % fixed:
            raise InputError(f"config.mesh has {shown}, but {count} devices are not divisible by {fixed}")
        sizes[sizes.index(-1)] = count // fixed
    if math.prod(sizes) != count:
        raise InputError(
            f"config.mesh has {shown}, which takes {math.prod(sizes)} devices, and there are {count}; "
            "give one axis -1 to fill up"
        )
    return sizes[0], sizes[1], sizes[2]


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh (data, fsdp, tensor) over the devices.

    With `config.dcn` above 1 each slice holds a part of the data axis and whole fsdp and tensor axes, so that only
    gradients travel between slices, once a step.

    Args:
      config: devices an axis; one of them may be -1, which takes what the others leave.
      devices: all of jax's unless given.

    Raises:
      InputError: the sizes do not multiply to the number of devices, or the slices are others than `config.dcn`.
    """
    devices = list(jax.devices() if devices is None else devices)
    data, fsdp, tensor = sizes = mesh_sizes(config, len(devices))
    types = (AxisType.Auto,) * len(MESH_AXES)
    if config.dcn == 1:
        return jax.make_mesh(sizes, MESH_AXES, axis_types=types, devices=devices)
    slices = {getattr(device, "slice_index", None) for device in devices}
    by_process = len(slices) == 1  # such as GPUs, which know of no slices: there a host is one
    count = len({device.process_index for device in devices}) if by_process else len(slices)
    if count != config.dcn or data % count:
        raise InputError(
            f"config.mesh.dcn={config.dcn} and data={data}, but the devices lie in {count} "
            f"{'hosts' if by_process else 'slices'}; give dcn that number, and data a multiple of it"
        )
    placed = mesh_utils.create_hybrid_device_mesh(
        (data // count, fsdp, tensor), (count, 1, 1), devices, process_is_granule=by_process
    )
    return Mesh(placed, MESH_AXES, axis_types=types)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows (the leading axis) over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def _axes_by_path() -> dict[tuple[str, ...], tuple[str, ...]]:
    # Names do not depend on sizes, and the smallest model that has every parameter tells them all.
    smallest = ModelConfig(
        vocab_size=1, hidden_size=1, embedding_size=2, num_layers=1, num_heads=1, intermediate_size=1,
        tie_word_embeddings=False,
    )  # fmt: skip
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        logical_axes(smallest, "nsp"), is_leaf=lambda node: isinstance(node, tuple)
    )
    return {tuple(entry.key for entry in path): axes for path, axes in leaves}


def state_shardings(mesh: Mesh, abstract_state: Any) -> Any:
    """Where every array of a state (or of params, or of an optimizer's state) lives.

    A leaf is known by the end of its path, so the moments of a parameter lie where the parameter does. What is not a
    pretraining parameter (counters, the small heads of tasks) has a copy on every device.

    Args:
      mesh: the devices.
      abstract_state: a tree of arrays or jax.ShapeDtypeStruct.

    Returns:
      the same tree of NamedSharding.
    """
    known = _axes_by_path()

    def place(path, leaf) -> NamedSharding:
        names = tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))
        for start in range(len(names)):
            axes = known.get(names[start:])
            if axes is not None and len(axes) == len(leaf.shape):
                return NamedSharding(mesh, partition_spec(leaf.shape, axes, dict(mesh.shape)))
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def check_mesh(config: Config, mesh: Mesh) -> None:
    """Raises InputError where the batch or the model cannot be cut over the mesh, or its devices have not what the
    config names: the value and what to do."""
    sizes = (mesh.shape["data"], mesh.shape["fsdp"], mesh.shape["tensor"])
    check_mesh_sizes(config, sizes, mesh.devices.flat[0].platform)


def check_mesh_sizes(config: Config, sizes: tuple[int, int, int], platform: str | None = None) -> None:
    """`check_mesh` for a mesh that need not exist.

    Args:
      config: the run.
      sizes: devices an axis (data, fsdp, tensor).
      platform: of the devices, as jax names it; None: whichever has what the config names.

    Raises:
      InputError: as `check_mesh`.
    """
    data, fsdp, tensor = sizes
    rows = data * fsdp
    accumulation = config.train.accumulation
    for phase in config.phases():
        size = phase.global_batch_size
        if size % (rows * accumulation):
            times = f"data*fsdp={rows}" + (f" times accumulation={accumulation}" if accumulation > 1 else "")
            below = size // (rows * accumulation) * rows * accumulation
            above = below + rows * accumulation
            near = f"{below} or {above}" if below else f"{above}"
            raise InputError(f"global_batch_size={size} is not divisible by {times}; use a multiple, say {near}")
    model = config.model
    for name, size, axis, ways in (
        ("hidden_size", model.hidden_size, "fsdp", fsdp),
        ("num_heads", model.num_heads, "tensor", tensor),
        ("hidden_size", model.hidden_size, "tensor", tensor),
        ("intermediate_size", model.intermediate_size, "tensor", tensor),
        ("vocab_size (rounded up to a multiple of 128)", model.padded_vocab_size, "tensor", tensor),
    ):
        if size % ways:
            raise InputError(
                f"config.model.{name}={size} is not divisible by config.mesh.{axis}={ways}; "
                f"choose a mesh with {axis} a divisor of it, say {math.gcd(size, ways)}"
            )
    for phase in config.phases():
        check_attention(model, phase.seq_len, platform, tensor)
