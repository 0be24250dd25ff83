"""A run planned for hardware that is not here: the real step compiled ahead of time, its memory, time and cost.

libtpu compiles for TPUs without having any. Memory is the compiler's own account. Time is the sum of the cycles that
the compiler estimates for every operation, a loop's body counted once for each trip: what a device computes and copies.
Communication that does not hide behind it, and the host, come on top, so take it for a lower bound.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from bert_jax.ahead_of_time import absent_devices, compile_step, lower_step
from bert_jax.config import Config, max_predictions
from bert_jax.data.plan import RowSettings
from bert_jax.evaluate import open_corpora
from bert_jax.metrics import peak_flops, step_flops
from bert_jax.program_cycles import program_cycles
from bert_jax.sharding import check_mesh, make_mesh, mesh_sizes
from bert_jax.topology import Topology
from data_prep.files import whole_file

USUAL_VOCABULARY = 30_522  # BERT's, where neither recipe nor corpus says


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
    mesh = make_mesh(config.mesh, absent_devices(topology))
    check_mesh(config, mesh)
    phases = []
    for number, phase in enumerate(config.phases()):
        program = compile_step(lower_step(config, number, mesh))
        told: dict[str, Any] = {
            "fits": program.text is not None and program.device_bytes <= topology.generation.memory,
            "bytes_per_device": program.device_bytes,
        }
        if program.text is not None:
            cycles = program_cycles(program.text, topology.generation.rates)
            told["step_seconds"] = cycles / topology.generation.hertz
            if dump is not None:
                dump.mkdir(parents=True, exist_ok=True)
                with whole_file(dump / f"phase-{number}-seq-{phase.seq_len}.txt") as partial:
                    partial.write_text(program.text)
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
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=size))
