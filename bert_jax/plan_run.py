"""A run planned for hardware that is not here: the real step compiled ahead of time, its memory, time and cost.

libtpu compiles for TPUs without having any. Memory is the compiler's own account. Time is the sum of the cycles that
the compiler estimates for every operation, a loop's body counted once for each trip: what a device computes and copies.
Communication that does not hide behind it, and the host, come on top, so take it for a lower bound.
"""

import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

from bert_jax.config import Config, max_predictions, with_vocabulary
from bert_jax.data.load import ROW_ARRAYS
from bert_jax.data.plan import RowSettings
from bert_jax.evaluate import open_corpora
from bert_jax.masking import MaskSettings, make_mask_fn
from bert_jax.metrics import peak_flops, step_flops
from bert_jax.sharding import batch_sharding, check_mesh, make_mesh, mesh_sizes, state_shardings
from bert_jax.topology import Topology
from bert_jax.train_state import abstract_state
from bert_jax.train_step import make_train_step
from data_prep.errors import InputError
from data_prep.files import whole_file

USUAL_VOCABULARY = 30_522  # BERT's, where neither recipe nor corpus says
_NO_ESTIMATE = 2**62  # the compiler's "unknown" lies near 2**63


def plan_run(
    config: Config, topology: Topology, dollars: float | None = None, dump: Path | None = None
) -> dict[str, Any]:
    """Compiles every phase's step for a topology.

    Args:
      config: the run's; without a vocabulary's size and a corpus, BERT's is taken.
      topology: the hardware.
      dollars: a chip-hour; the list price unless given.
      dump: a directory for the optimised programs' text.

    Returns:
      fits, bytes_per_device (of the largest phase), step_seconds, tokens_per_second, mfu (each over the whole run),
      hours, cost (dollars), and the same of each phase. Where a phase does not fit, times are null.

    Raises:
      InputError: the recipe does not fit the mesh, or libtpu knows no such topology.
    """
    config = _with_vocabulary(config)
    mesh_sizes(config.mesh, topology.devices)
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology.name).devices
    except Exception as error:  # whatever libtpu says
        raise InputError(f"libtpu knows no {topology.name}: {str(error).splitlines()[0]}") from None
    mesh = make_mesh(config.mesh, devices)
    check_mesh(config, mesh)
    phases = []
    for number, phase in enumerate(config.phases()):
        lower = _lowered(config, number, mesh)
        told, text = _compiled(lower, topology)
        if text is not None:
            told["step_seconds"] = program_cycles(text) / topology.generation.hertz
            if dump is not None:
                dump.mkdir(parents=True, exist_ok=True)
                with whole_file(dump / f"phase-{number}-seq-{phase.seq_len}.txt") as partial:
                    partial.write_text(text)
        settings = RowSettings.of(config.data, phase.seq_len)
        slots = max_predictions(config.data, phase.seq_len)
        flops = step_flops(config, phase.seq_len, phase.global_batch_size, slots, settings.max_examples)
        tokens = phase.global_batch_size * phase.seq_len
        phases.append({"steps": phase.num_steps, "flops": flops, "tokens": tokens, **told})
    fits = all(phase["fits"] for phase in phases)
    result = {"fits": fits, "bytes_per_device": max(phase["bytes_per_device"] for phase in phases)}
    result |= _times(phases, topology, dollars) if fits else dict.fromkeys(_TIMES)
    return result | {"device": topology.name, "phases": phases}


_TIMES = ("step_seconds", "tokens_per_second", "mfu", "hours", "cost")


def _times(phases: list[dict[str, Any]], topology: Topology, dollars: float | None) -> dict[str, float]:
    def total(name: str) -> float:
        return sum(phase["steps"] * phase[name] for phase in phases)

    seconds, steps = total("step_seconds"), sum(phase["steps"] for phase in phases)
    peak = peak_flops(topology.generation.kind)
    assert peak is not None
    price = topology.generation.dollars if dollars is None else dollars
    return {
        "step_seconds": seconds / steps,
        "tokens_per_second": total("tokens") / seconds,
        "mfu": total("flops") / seconds / (peak * topology.devices),
        "hours": seconds / 3600,
        "cost": seconds / 3600 * topology.chips * price,
    }


def _with_vocabulary(config: Config) -> Config:
    size = config.model.vocab_size
    if not size and config.data.corpus:
        size = open_corpora(config)[0].vocab_size
    if not size:
        size = USUAL_VOCABULARY
        print(f"no corpus given: planning for a vocabulary of {size}", file=sys.stderr)
    return dataclasses.replace(config, model=with_vocabulary(config.model, size, pad_id=1))


def _lowered(config: Config, number: int, mesh: jax.sharding.Mesh) -> Any:
    """The step of one phase, traced for arrays that do not exist."""
    phase = config.phases()[number]
    settings = RowSettings.of(config.data, phase.seq_len)
    specials, vocabulary = np.arange(5, dtype=np.int32), config.model.vocab_size  # which ids they are costs nothing
    masks = MaskSettings(
        config.data.masking,
        config.data.mask_prob,
        max_predictions(config.data, phase.seq_len),
        4,
        specials,
        np.arange(5, vocabulary, dtype=np.int32),
    )
    rows, where = phase.global_batch_size, batch_sharding(mesh)
    shapes: dict[str, tuple[int, ...]] = {name: (rows, phase.seq_len) for name in ROW_ARRAYS}
    shapes |= {name: (rows, settings.max_examples) for name in ("cls_positions", "next_sentence_labels")}
    shapes["rows"] = (rows,)
    batch = {name: jax.ShapeDtypeStruct(shape, np.int32, sharding=where) for name, shape in shapes.items()}
    abstract = abstract_state(config)
    state = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        state_shardings(mesh, abstract),
    )
    step: Any = make_train_step(config, mesh, make_mask_fn(masks))
    return step.lower(state, batch)


def _compiled(lowered: Any, topology: Topology) -> tuple[dict[str, Any], str | None]:
    """Whether it fits and in how many bytes a device, and the optimised program's text, None where it does not."""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = bytes_wanted(str(error))
        if needed is None:
            raise
        return {"fits": False, "bytes_per_device": needed}, None
    memory = compiled.memory_analysis()
    used = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    return {"fits": used <= topology.generation.memory, "bytes_per_device": used}, compiled.as_text()


def bytes_wanted(message: str) -> int | None:
    """How much memory a program would take, by the compiler's refusal (`Used 20.33G of 15.75G hbm`)."""
    found = re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm", message)
    return round(float(found[1]) * 1024 ** " KMGT".index(found[2] or " ")) if found else None


def program_cycles(text: str) -> int:
    """Cycles of an optimised program, by the estimates in its text.

    Raises:
      ValueError: a loop whose number of trips cannot be read.
    """
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            lines = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        else:
            lines.append(line)
    known: dict[str, int] = {}

    def cycles(name: str) -> int:
        if name not in known:
            known[name] = sum(_instruction_cycles(line, computations, cycles) for line in computations[name])
        return known[name]

    return cycles(entry)


def _instruction_cycles(line: str, computations: dict[str, list[str]], cycles: Callable[[str], int]) -> int:
    loop = re.search(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)
    if loop:
        return _trips(line, computations[loop[1]]) * (cycles(loop[2]) + cycles(loop[1]))
    estimate = re.search(r'"estimated_cycles":"(\d+)"', line)
    if estimate and int(estimate[1]) < _NO_ESTIMATE:
        return int(estimate[1])
    called = re.search(r" call\(.*to_apply=%?([\w.\-]+)", line)
    if called:
        return cycles(called[1])
    branches = re.search(r" conditional\(.*branch_computations=\{([^}]*)\}", line)
    return max(cycles(name.strip().lstrip("%")) for name in branches[1].split(",")) if branches else 0


def _trips(line: str, condition: list[str]) -> int:
    """A scan counts from 0 to a constant, which the compiler notes at the loop or leaves in its condition."""
    noted = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
    if noted:
        return int(noted[1])
    constants = [found[1] for found in (re.search(r"s32\[\].* constant\((\d+)\)", each) for each in condition) if found]
    if len(constants) != 1:
        raise ValueError(f"a loop of unknown length: {line.strip()[:200]}")
    return int(constants[0])
