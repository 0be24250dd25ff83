"""A run planned for hardware that is not here: the real step compiled ahead of time, its memory, time and cost.

libtpu compiles for TPUs without having any. Memory is the compiler's own account. Time is the sum of the cycles that
the compiler estimates for every operation, a loop's body counted once for each trip, and what a rule of thumb gives for
communication: what is started and waited for apart hides behind computing as far as it can, the rest comes on top. The
host comes on top of that. For GPUs the step is compiled for as many devices of the CPU, and time is a roofline's.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from bert_jax import roofline
from bert_jax.collectives import Collective, collectives, sent_by_kind
from bert_jax.compiled_step import CompiledStep, compile_step
from bert_jax.config import Config, max_predictions, with_vocabulary
from bert_jax.data.plan import RowSettings
from bert_jax.evaluate import open_corpora
from bert_jax.metrics import peak_flops, step_flops
from bert_jax.model.choices import explained
from bert_jax.plan_advice import advice, loading
from bert_jax.program_cycles import program_cycles
from bert_jax.sharding import check_mesh, make_mesh, mesh_sizes
from bert_jax.topology import PRICES, Topology
from data_prep.errors import InputError
from data_prep.files import whole_file

USUAL_VOCABULARY = 30_522  # BERT's, where neither recipe nor corpus says
OPTIMISM = (
    "an estimate: cycles by the compiler, Pallas kernels at twice their bound (by the compiler's schedule of its "
    "instructions the attention kernel with dropout takes two to three times that on a v4), communication by bytes "
    "over links, host time left out; not compared with real devices"
)
ROOFLINE = (
    "a rule of thumb: memory and exchanges by the same step's program for CPUs, computing by FLOPs at peak or by bytes "
    "at the memory's full rate, host time left out; not compared with real devices"
)
TIMES = ("step_seconds", "tokens_per_second", "mfu", "hours", "cost", "communication_share")


def plan_run(
    config: Config, topology: Topology, dollars: float | None = None, dump: Path | None = None
) -> dict[str, Any]:
    """Compiles every phase's step for a topology.

    Args:
      config: the run's; without a vocabulary's size and a corpus, BERT's is taken.
      topology: the hardware.
      dollars: a chip-hour; the list price unless given.
      dump: a directory for the optimised programs' text and the account of their memory.

    Returns:
      fits, bytes_per_device (of the largest phase), step_seconds, tokens_per_second, mfu (each over the whole run),
      hours, cost (dollars), communication_share (of the time, had it nothing to hide behind), rows_per_second_per_host
      (what the loader must give), loader (the cores that this takes, and whether a host has them), price (dollars a
      chip-hour, and where from), advice (sentences), and of each phase the same with its memory by what holds it and
      its collective operations. Where a phase does not fit, times are null.

    Raises:
      InputError: the recipe does not fit the mesh, libtpu knows no such topology, or the compiler lacks fast memory.
    """
    config = planned_vocabulary(config)
    data, _, _ = mesh_sizes(config.mesh, topology.devices)
    if topology.is_gpu:  # the pretended devices have no hosts
        if data % topology.slices:
            raise InputError(
                f"config.mesh.data={data} is not divisible by the {topology.slices} hosts of {topology.name}"
            )
        config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, dcn=1))
    compiling = config  # kernels of GPUs are not to be had on the CPU's devices
    if topology.is_gpu:
        compiling = dataclasses.replace(config, model=dataclasses.replace(config.model, attention="einsum"))
    mesh = make_mesh(config.mesh, absent_devices(topology))
    check_mesh(compiling, mesh)
    phases = []
    for number in range(len(config.phases())):
        step = compile_step(compiling, number, mesh)
        if dump is not None:
            _dump(step, dump, f"phase-{number}-seq-{config.phases()[number].seq_len}")
        phases.append(_phase(config, number, step, topology, mesh.shape["tensor"]))
    fits = all(phase["fits"] for phase in phases)
    result = {"fits": fits, "bytes_per_device": max(phase["bytes_per_device"] for phase in phases)}
    result |= _times(phases, topology, dollars) if fits else dict.fromkeys((*TIMES, "rows_per_second_per_host"))
    result |= {"price": price(topology, dollars), "loader": loading(topology, phases) if fits else None}
    result |= {"device": topology.name, "mesh": dict(mesh.shape)}
    result["note"] = ROOFLINE if topology.is_gpu else OPTIMISM
    return result | {"advice": advice(config, topology, dict(mesh.shape), phases), "phases": phases}


def absent_devices(topology: Topology, single_cores: bool = False) -> list[jax.Device]:
    """The devices of a topology, as its compiler describes them; for GPUs devices of the CPU.

    Args:
      topology: the hardware.
      single_cores: every core of a chip as a device of its own, as no run has them; else as `Generation.devices` says.

    Raises:
      InputError: libtpu knows no such topology.
    """
    if topology.is_gpu:
        return list(jax.devices("cpu")[: topology.devices])
    options: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if topology.generation.cores > topology.generation.devices and not single_cores:
        options["chip_config_name"] = "megacore"
    try:
        return list(topologies.get_topology_desc(topology.name, "tpu", **options).devices)
    except Exception as error:  # whatever libtpu says
        raise InputError(f"libtpu knows no {topology.name}: {str(error).splitlines()[0]}") from None


def planned_vocabulary(config: Config) -> Config:
    """The config with a vocabulary's size in it: its own, its corpus's, or BERT's."""
    size = config.model.vocab_size
    if not size and config.data.corpus:
        size = open_corpora(config)[0].vocab_size
    if not size:
        size = USUAL_VOCABULARY
        print(f"no corpus given: planning for a vocabulary of {size}", file=sys.stderr)
    return dataclasses.replace(config, model=with_vocabulary(config.model, size, pad_id=1))


def _phase(config: Config, number: int, step: CompiledStep, topology: Topology, tensor: int) -> dict[str, Any]:
    phase = config.phases()[number]
    settings = RowSettings.of(config.data, phase.seq_len)
    slots = max_predictions(config.data, phase.seq_len)
    told: dict[str, Any] = {
        "choices": explained(config.model, phase.seq_len, "gpu" if topology.is_gpu else "tpu", tensor),
        "steps": phase.num_steps,
        "seq_len": phase.seq_len,
        "rows": phase.global_batch_size,
        "flops": step_flops(config, phase.seq_len, phase.global_batch_size, slots, settings.max_examples),
        "tokens": phase.global_batch_size * phase.seq_len,
        "fits": step.text is not None and step.bytes_per_device <= topology.generation.memory,
        "bytes_per_device": step.bytes_per_device,
        "memory": step.memory,
    }
    if step.text is None:
        return told
    operations = collectives(step.text)
    if topology.is_gpu:
        peak = peak_flops(topology.generation.kind)
        assert peak is not None
        share = told["flops"] / topology.devices
        computing = roofline.computing_seconds(share, step.text, peak, topology.generation.bandwidth)
    else:
        computing = computing_seconds(step.text, topology)
    alone, hidden = communication_seconds(operations, topology)
    alone += between_slices(step.memory["parameters"], topology)
    return told | {
        "step_seconds": alone + max(computing, hidden),
        "computing_seconds": computing,
        "communication_seconds": alone + hidden,
        "collectives": sent_by_kind(operations),
    }


def computing_seconds(text: str, topology: Topology) -> float:
    """How long a compiled step computes on a device of a topology, by the compiler's estimates."""
    return program_cycles(text, topology.generation.rates) / topology.generation.hertz


def communication_seconds(operations: list[Collective], topology: Topology) -> tuple[float, float]:
    """How long a step's collective operations take on the rings of a slice: those that the device waits for, and those
    that go on while it computes."""
    seconds = [one.sent / topology.generation.ring for one in operations]
    alone = sum(time for time, one in zip(seconds, operations, strict=True) if not one.overlaps)
    return alone, sum(seconds) - alone


def between_slices(parameters: int, topology: Topology) -> float:
    """Seconds in which the slices sum their gradients, each device those of the `parameters` (bytes) that it holds."""
    share = (topology.slices - 1) / topology.slices
    return 2 * share * parameters / topology.generation.dcn


def _times(phases: list[dict[str, Any]], topology: Topology, dollars: float | None) -> dict[str, float | None]:
    def total(name: str) -> float:
        return sum(phase["steps"] * phase[name] for phase in phases)

    seconds, steps = total("step_seconds"), sum(phase["steps"] for phase in phases)
    peak = peak_flops(topology.generation.kind)
    assert peak is not None
    hourly = price(topology, dollars)["dollars_per_chip_hour"]
    communicating = total("communication_seconds")
    return {
        "step_seconds": seconds / steps,
        "tokens_per_second": total("tokens") / seconds,
        "mfu": total("flops") / seconds / (peak * topology.devices),
        "hours": seconds / 3600,
        "cost": None if hourly is None else seconds / 3600 * topology.chips * hourly,
        "communication_share": communicating / (communicating + total("computing_seconds")),
        "rows_per_second_per_host": max(phase["rows"] / phase["step_seconds"] for phase in phases) / topology.hosts,
    }


def price(topology: Topology, dollars: float | None) -> dict[str, Any]:
    """Dollars a chip-hour, those given or else of the list, and where they are from."""
    if dollars is not None:
        return {"dollars_per_chip_hour": dollars, "source": "--price"}
    known = topology.generation.dollars
    return {"dollars_per_chip_hour": known, "source": None if known is None else PRICES}


def _dump(step: CompiledStep, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / f"{name}-memory.json") as partial:
        partial.write_text(json.dumps({"bytes_per_device": step.bytes_per_device, **step.memory}, indent=2) + "\n")
    if step.text is not None:
        with whole_file(folder / f"{name}.txt") as partial:
            partial.write_text(step.text)
