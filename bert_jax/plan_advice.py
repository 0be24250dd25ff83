"""What a planned run could do better on its hardware, in sentences that name the field to change and the reason."""

from typing import Any

from bert_jax.config import Config
from bert_jax.topology import Topology

# What a host's core plans of all rows, and assembles of its own, a second, rows of 128: `benchmarks/loader.py` in
# November 2026, from its `loader` (31,650 rows a core, all of them planned and assembled), `plan` (169,935) and
# `pod_host` (1,435, where 64 are planned for each that is assembled).
PLANNED_ROWS_A_CORE = 95_000
ASSEMBLED_ROWS_A_CORE = 39_000
_HOST_CORES = 28  # a quarter of a v5e machine's with four chips (Google's page "TPU v5e"); the rest is the runtime's


def advice(config: Config, topology: Topology, mesh: dict[str, int], phases: list[dict[str, Any]]) -> list[str]:
    """What to change, dearest first; empty where nothing stands out.

    Args:
      config: the run's.
      topology: the hardware.
      mesh: devices an axis.
      phases: of the plan, each with fits, bytes_per_device, memory and, where it fits, its times.
    """
    if not all(phase["fits"] for phase in phases):
        return _to_fit(config, topology, mesh, phases)
    said = [*_memory(config, topology, mesh, phases), *_communication(mesh, phases)]
    loader = loading(topology, phases)
    if not loader["keeps_up"]:
        said.append(
            f"the rows of a step take {loader['cores_per_host']:.0f} cores of each host to plan and assemble; longer "
            "rows or fewer chips take less"
        )
    return said


def loading(topology: Topology, phases: list[dict[str, Any]]) -> dict[str, Any]:
    """The cores of a host that the loader takes in the phase that wants most, and whether it has so many, by what is
    assumed of it."""
    cores = max(host_cores(phase, topology) for phase in phases)
    return {"cores_per_host": cores, "cores_assumed": _HOST_CORES, "keeps_up": cores <= _HOST_CORES}


def host_cores(phase: dict[str, Any], topology: Topology) -> float:
    """Cores of each host that planning all rows of a phase and assembling its own takes."""
    rows = phase["rows"] * phase["seq_len"] / 128 / phase["step_seconds"]
    return rows / PLANNED_ROWS_A_CORE + rows / topology.hosts / ASSEMBLED_ROWS_A_CORE


def _to_fit(config: Config, topology: Topology, mesh: dict[str, int], phases: list[dict[str, Any]]) -> list[str]:
    worst = max(phases, key=lambda phase: phase["bytes_per_device"])
    over = f"{_giga(worst['bytes_per_device'])} of {_giga(topology.generation.memory)} GB a device are wanted"
    ways = []
    if config.model.remat != "full":
        ways.append(f"config.model.remat={'dots' if config.model.remat == 'none' else 'full'} keeps fewer activations")
    share = worst["rows"] // (mesh["data"] * mesh["fsdp"] * config.train.accumulation)
    if share > 1:
        ways.append(f"config.train.accumulation={config.train.accumulation * 2} halves the rows that are held at once")
    if mesh["data"] > 1:
        ways.append("config.mesh.fsdp=-1 with config.mesh.data=1 shares out parameters and optimizer among all devices")
    elif mesh["tensor"] == 1:
        ways.append("config.mesh.tensor=2 cuts activations within layers too")
    return [f"{over}: {'; '.join(ways)}" if ways else f"{over}: more chips, or ones with more memory, are needed"]


def _memory(config: Config, topology: Topology, mesh: dict[str, int], phases: list[dict[str, Any]]) -> list[str]:
    said = []
    room = topology.generation.memory - max(phase["bytes_per_device"] for phase in phases)
    temporary = max(phase["memory"]["temporary"] for phase in phases)
    if temporary < room and room >= topology.generation.memory / 4:  # else it is near enough to full
        if config.train.accumulation > 1:
            less = config.train.accumulation // 2
            said.append(f"there is room for twice the rows at once: config.train.accumulation={less}")
        elif config.model.remat != "none" and 2 * temporary < room:
            said.append(f"{_giga(room)} GB a device are free: with config.model.remat=none nothing is computed twice")
        else:
            said.append(
                f"{_giga(room)} GB a device are free: a larger global_batch_size, or fewer chips, use them better"
            )
    held = phases[0]["memory"]["parameters"] + phases[0]["memory"]["optimizer"]
    if mesh["fsdp"] == 1 and mesh["data"] > 1 and held > topology.generation.memory / 4:
        said.append(
            f"{_giga(held)} GB a device are copies of parameters and optimizer: config.mesh.fsdp shares them out"
        )
    return said


def _communication(mesh: dict[str, int], phases: list[dict[str, Any]]) -> list[str]:
    worst = max(phases, key=lambda phase: phase["communication_seconds"] / phase["step_seconds"])
    share = worst["communication_seconds"] / (worst["communication_seconds"] + worst["computing_seconds"])
    if share < 0.25:
        return []
    if mesh["tensor"] > 1:
        return [
            f"communication is {share:.0%} of the work with rows of {worst['seq_len']}: config.mesh.fsdp instead of "
            "tensor sends weights once a layer rather than activations four times"
        ]
    return [
        f"communication is {share:.0%} of the work with rows of {worst['seq_len']}: a larger global_batch_size does "
        "more between two exchanges"
    ]


def _giga(size: float) -> str:
    return f"{size / 2**30:.1f}"
