"""A rehearsal before paying: the recipe's run in small, on fake devices, with a stop and a resume in the middle.

What is kept is what goes wrong on a pod: the corpus, the objective, the phases, accumulation, and a mesh with every
axis that the real one has, at most eight devices in all. What shrinks is the model, the batch and the number of steps.
The full mesh is compiled by `bert-jax plan`.
"""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bert_jax.config import Config, ExtendConfig, MeshConfig, from_dict, to_dict
from bert_jax.metrics import is_evaluation, read_lines
from bert_jax.sharding import check_mesh_sizes, mesh_sizes
from bert_jax.topology import parse_topology
from data_prep.errors import InputError

FAKE_DEVICES = 8
STEPS = 20
STOPPED_AFTER = 6  # steps
_CLUSTERS = ("SLURM_", "OMPI_", "TPU_WORKER", "MEGASCALE_", "JAX_NUM", "JAX_PROCESS", "JAX_COORDINATOR")
_LIMIT = 1800.0  # seconds for one half of it


def rehearse(config: Config, device: str) -> dict[str, Any]:
    """Trains 20 small steps of a recipe, stopped by SIGTERM after some and gone on with by the same command.

    Args:
      config: the real run's.
      device: the hardware, as in v5e:16x16.

    Returns:
      What was done: the device, the real mesh and the rehearsed one, steps, the step of the stop, the losses.

    Raises:
      InputError: the mesh does not fit that hardware, or the recipe does not fit the mesh.
      RehearsalFailed: a half did not end as it should.
    """
    topology = parse_topology(device, config.mesh.dcn)
    sizes = mesh_sizes(config.mesh, topology.devices)
    if config.model.vocab_size == 0:  # any will do here: the table is padded to a multiple of 128
        check_mesh_sizes(dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=1)), sizes)
    else:
        check_mesh_sizes(config, sizes)
    small_sizes = shrink_mesh(sizes)
    small = shrink(config, small_sizes)
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        workdir = Path(folder) / "run"
        recipe = Path(folder) / "config.json"
        recipe.write_text(json.dumps(to_dict(small)))
        _run(recipe, workdir, math.prod(small_sizes), STOPPED_AFTER, 75)
        stopped = max(line["step"] for line in read_lines(workdir / "metrics.jsonl")) + 1
        _run(recipe, workdir, math.prod(small_sizes), None, 0)
        lines = [line for line in read_lines(workdir / "metrics.jsonl") if not is_evaluation(line)]
    if [line["step"] for line in lines] != list(range(small.num_steps())):
        raise RehearsalFailed(f"the log has the steps {[line['step'] for line in lines]}, not each once")
    names = ("data", "fsdp", "tensor")
    return {
        "device": device,
        "mesh": dict(zip(names, sizes, strict=True)),
        "rehearsed_mesh": dict(zip(names, small_sizes, strict=True)),
        "phases": len(small.phases()),
        "steps": len(lines),
        "stopped_and_resumed_at_step": stopped,
        "first_loss": lines[0]["loss"],
        "last_loss": lines[-1]["loss"],
        "next": f"bert-jax plan --device {device} compiles the full mesh",
    }


class RehearsalFailed(Exception):
    """A half of the rehearsal did not end as it should."""


def shrink_mesh(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """At most eight devices, every axis above 1 kept above 1: twos, doubled while there is room."""
    small = [min(size, 2) for size in sizes]
    for axis in range(len(small)):
        while math.prod(small) * 2 <= FAKE_DEVICES and small[axis] * 2 <= sizes[axis]:
            small[axis] *= 2
    return tuple(small)


def shrink(config: Config, mesh: tuple[int, ...]) -> Config:
    """The recipe in small: two layers, few features, a row a device and microbatch, 20 steps over the same phases."""
    data, fsdp, tensor = mesh
    model = dataclasses.replace(
        config.model,
        hidden_size=8 * FAKE_DEVICES,
        num_layers=2,
        num_heads=FAKE_DEVICES,
        intermediate_size=16 * FAKE_DEVICES,
        embedding_size=0 if config.model.embedding_size == config.model.hidden_size else config.model.embedding_size,
        attention="auto",  # the kernels take neither these heads nor this device
    )
    given = config.phases()
    rows = data * fsdp * config.train.accumulation
    phases = tuple(
        dataclasses.replace(
            phase,
            num_steps=max(1, (i + 1) * STEPS // len(given) - i * STEPS // len(given)),
            global_batch_size=rows,
            warmup_steps=min(phase.warmup_steps, 2),
        )
        for i, phase in enumerate(given)
    )
    return dataclasses.replace(
        config,
        init="",
        extend=ExtendConfig(),
        model=model,
        mesh=MeshConfig(data, fsdp, tensor),
        train=dataclasses.replace(config.train, phases=phases, log_every=1, eval_every=0, checkpoint_every=10),
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=min(config.optimizer.warmup_steps, 2)),
    )


def _run(recipe: Path, workdir: Path, devices: int, stop_after: int | None, expected: int) -> None:
    """One start of the small run in a process of its own, which must end with the expected code."""
    # Also inside a job of several tasks: the rehearsal is one process.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_CLUSTERS)}
    environment |= {
        "JAX_PLATFORMS": "cpu",
        # Compiled in a hurry: nothing here has to be fast.
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0",
    }
    words = [sys.executable, "-m", "bert_jax.rehearse", str(recipe), str(workdir), str(stop_after or 0)]
    half = f"the run {'to be stopped' if stop_after else 'after the stop'}"
    try:
        done = subprocess.run(words, env=environment, stderr=subprocess.PIPE, text=True, timeout=_LIMIT)
    except subprocess.TimeoutExpired:
        raise RehearsalFailed(f"{half} was not done after {_LIMIT / 60:g} minutes") from None
    if done.returncode == expected:
        return
    said = done.stderr.strip().splitlines()
    if done.returncode == 2 and said:
        raise InputError(said[-1].removeprefix("error: "))
    last = said[-1] if said else "it said nothing"
    raise RehearsalFailed(f"{half} ended with code {done.returncode}, not {expected}: {last}")


def _stop_after(workdir: Path, step: int) -> None:
    """Sends this process SIGTERM, as a scheduler would, once a step is in the log."""
    metrics = workdir / "metrics.jsonl"
    while not (metrics.exists() and any(line["step"] >= step for line in read_lines(metrics))):
        time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGTERM)


def _child(recipe: str, workdir: str, stop_after: str) -> int:
    from bert_jax.stopping import StopSignal
    from bert_jax.train import pretrain

    config = from_dict(Config, json.loads(Path(recipe).read_text()))
    if int(stop_after):
        threading.Thread(target=_stop_after, args=(Path(workdir), int(stop_after)), daemon=True).start()
    try:
        return pretrain(config, Path(workdir), StopSignal())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:  # its first line, because the last one of a traceback may be anything
        print(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(_child(*sys.argv[1:]))
