"""Which mesh axes hold which dimension: of a parameter at rest, of a parameter in use, of an activation.

Parameters name their dimensions once, where they are declared (`layers.parameter`). At rest everything sizable is cut
over both `fsdp` and `tensor`. In use a layer's weights are gathered over `fsdp` and stay cut over `tensor`, so that at
most one layer is whole at a time. Activations are cut over `data` and `fsdp` by rows.
"""

import math
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import PartitionSpec

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

# Names ending in _vector are the dimensions of biases and norms, which have no second dimension to be cut along.
RULES: dict[str, tuple[str, ...]] = {
    "layers": (),
    "vocab": ("tensor",),
    "vocab_vector": ("tensor", "fsdp"),
    "position": ("tensor",),
    "token_type": (),
    "embed": ("fsdp",),
    "embed_out": ("tensor",),
    "embed_vector": ("fsdp", "tensor"),
    "heads": ("tensor",),
    "head": (),
    "head_vector": ("fsdp",),
    "mlp": ("tensor",),
    "mlp_vector": ("tensor", "fsdp"),
    "label": (),
}

# Of parameters in use; names that are missing here are whole.
COMPUTE_RULES: dict[str, tuple[str, ...]] = {
    "vocab": ("tensor",),
    "vocab_vector": ("tensor",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "mlp_vector": ("tensor",),
    "batch": BATCH_AXES,
}


def partition_spec(
    shape: Sequence[int],
    axes: Sequence[str | None],
    sizes: Mapping[str, int],
    rules: Mapping[str, tuple[str, ...]] = RULES,
) -> PartitionSpec:
    """The spec of an array whose dimensions have these logical names.

    A mesh axis that does not divide the dimension is left out (small arrays of odd sizes stay whole), and none is used
    twice.

    Args:
      shape: of the array.
      axes: a logical name a dimension; None is whole.
      sizes: devices a mesh axis.
      rules: logical name to mesh axes.
    """
    used: set[str] = set()
    entries: list[tuple[str, ...] | None] = []
    for size, name in zip(shape, axes, strict=True):
        chosen: list[str] = []
        for axis in rules.get(name, ()) if name else ():
            ways = math.prod(sizes[taken] for taken in chosen) * sizes[axis]
            if axis not in used and sizes[axis] > 1 and size % ways == 0:
                chosen.append(axis)
                used.add(axis)
        entries.append(tuple(chosen) or None)
    return PartitionSpec(*entries)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Asks the compiler to hold x like this in use; without a mesh around (one device, tests) x itself."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    spec = partition_spec(x.shape, axes, dict(mesh.shape), COMPUTE_RULES)
    return jax.lax.with_sharding_constraint(x, spec)
