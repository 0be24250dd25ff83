"""One recipe on one kind of hardware, over batch sizes, rematerialisation and meshes: which runs fastest and fits."""

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

from bert_jax.compiled_step import NoFastMemory
from bert_jax.config import Config, MeshConfig
from bert_jax.plan_run import TIMES, plan_run, planned_vocabulary
from bert_jax.sharding import check_mesh_sizes, mesh_sizes
from bert_jax.topology import Topology
from data_prep.errors import InputError

_FACTORS = (0.5, 1, 2, 4)  # of the recipe's batch


def sweep(config: Config, topology: Topology, dollars: float | None = None) -> dict[str, Any]:
    """Plans the recipe with half to four times its batch, on several meshes, with as little remat as fits.

    More remat than fits needs only costs time, so each batch on each mesh is tried with `none`, then `dots`, then
    `full`, until one fits; and where none does, no larger batch is tried there.

    Returns:
      device, and rows: one for each candidate that was compiled, those that fit first, most tokens a second first; and
      best, the first of them, None where nothing fits.

    Raises:
      InputError: no mesh of that hardware fits the recipe.
    """
    config = planned_vocabulary(config)
    rows: list[dict[str, Any]] = []
    meshes = list(candidate_meshes(config, topology.devices))
    for mesh in meshes:
        for factor in _FACTORS:
            batched = with_batch(dataclasses.replace(config, mesh=mesh), factor)
            if batched is None or not _divides(batched, topology):
                continue
            tried: list[dict[str, Any]] = []
            for remat in ("none", "dots", "full"):
                candidate = dataclasses.replace(batched, model=dataclasses.replace(batched.model, remat=remat))
                try:
                    tried.append(_row(candidate, topology, dollars))
                except NoFastMemory as error:
                    print(f"passed over: {error}", file=sys.stderr)
                    continue
                if tried[-1]["fits"]:
                    break
            rows += tried
            if tried and not tried[-1]["fits"]:
                break
    if not rows:
        raise InputError(f"no mesh of {topology.name} divides the recipe's batch and model; change global_batch_size")
    rows.sort(key=lambda row: (not row["fits"], -(row["tokens_per_second"] or 0)))
    return {"device": topology.name, "best": rows[0] if rows[0]["fits"] else None, "rows": rows}


def candidate_meshes(config: Config, devices: int) -> Iterator[MeshConfig]:
    """The recipe's own mesh; all devices on data; all on fsdp; eight ways of fsdp; two of tensor; each once, and over
    as many slices as the recipe's."""
    seen, dcn = set(), config.mesh.dcn
    for mesh in (
        config.mesh,
        MeshConfig(data=-1, fsdp=1, tensor=1, dcn=dcn),
        MeshConfig(data=1, fsdp=-1, tensor=1, dcn=dcn),
        MeshConfig(data=-1, fsdp=8, tensor=1, dcn=dcn),
        MeshConfig(data=-1, fsdp=1, tensor=2, dcn=dcn),
    ):
        try:
            sizes = mesh_sizes(mesh, devices)
        except InputError:
            if mesh is config.mesh:
                raise
            continue
        if sizes not in seen:
            seen.add(sizes)
            yield mesh


def with_batch(config: Config, factor: float) -> Config | None:
    """The recipe with `factor` times the rows in every phase, None where that is no whole number."""
    sizes = [phase.global_batch_size * factor for phase in config.phases()]
    if any(size != int(size) or size < 1 for size in sizes):
        return None
    if not config.train.phases:
        return dataclasses.replace(config, train=dataclasses.replace(config.train, global_batch_size=int(sizes[0])))
    phases = tuple(
        dataclasses.replace(phase, global_batch_size=int(size))
        for phase, size in zip(config.train.phases, sizes, strict=True)
    )
    return dataclasses.replace(config, train=dataclasses.replace(config.train, phases=phases))


def _divides(config: Config, topology: Topology) -> bool:
    sizes = mesh_sizes(config.mesh, topology.devices)
    try:
        check_mesh_sizes(config, sizes)
    except InputError:
        return False
    return sizes[0] % topology.slices == 0  # a slice, or a host of GPUs, holds a part of the data axis


def _row(config: Config, topology: Topology, dollars: float | None) -> dict[str, Any]:
    batch = [phase.global_batch_size for phase in config.phases()]
    print(f"trying batch {batch}, remat {config.model.remat}, mesh {dataclasses.asdict(config.mesh)}", file=sys.stderr)
    told = plan_run(config, topology, dollars)
    return {
        "global_batch_size": batch,
        "remat": config.model.remat,
        "mesh": told["mesh"],
        "fits": told["fits"],
        "bytes_per_device": told["bytes_per_device"],
        **{name: told[name] for name in TIMES},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text, in their order."""
    lines = [
        f"{'batch':>14} {'remat':>5} {'data,fsdp,tensor':>16} {'GB':>6} "
        f"{'tokens/s':>12} {'MFU':>6} {'comm.':>6} {'hours':>9} {'$':>10}"
    ]
    for row in rows:
        batch = ",".join(map(str, row["global_batch_size"]))
        mesh = ",".join(map(str, row["mesh"].values()))
        start = f"{batch:>14} {row['remat']:>5} {mesh:>16} {row['bytes_per_device'] / 2**30:>6.1f}"
        if not row["fits"]:
            lines.append(f"{start} does not fit")
            continue
        cost = "" if row["cost"] is None else f"{row['cost']:,.0f}"
        lines.append(
            f"{start} {row['tokens_per_second']:>12,.0f} {row['mfu']:>6.1%} {row['communication_share']:>6.1%} "
            f"{row['hours']:>9.1f} {cost:>10}"
        )
    return "\n".join(lines)
